"""What the words of a command line mean, before Hydra sees them."""

from pathlib import Path

from src.runs import SAMPLING, Run
from src.sweeping.jobs import SWEEP, Plan
from src.utils.errors import UserError

# What src.compare calls as a folder of conf/ is called, in which Hydra would look for choices.
CALLED = {"guidance=": "scales=", "sweep=": "sweep_folder="}


def words_of_training(words: list[str]) -> list[str]:
    """Those of a run, a sweep or a plan; what a run or sweep was started with comes before what resumes it.

    Hydra then composes the same groups again, so that what the resuming command line says of them is understood.
    """
    words = words_of_planning(words_of_sweep(words))
    if not (resume := value_of("resume", words)):
        return words
    saved = Run.find(resume).overrides()
    return words if words[: len(saved)] == saved else [*saved, *words]


def words_of_sampling(words: list[str]) -> list[str]:
    """Let words such as sampler.repeats=5 change the run's own sampler, whose settings Hydra does not know.

    `check_config` refuses those that it does not have.
    """
    words = words_of_sweep(words)
    chosen = {word.split("=")[0] for word in words}
    return ["++" + w if "." in w and (part := w.split(".")[0]) in SAMPLING and part not in chosen else w for w in words]


def words_of_comparison(words: list[str]) -> list[str]:
    """Let guidance=[0,1,3] be scales, and sweep=FOLDER a folder, and neither a choice of a group."""
    for name, key in CALLED.items():
        words = [key + word.removeprefix(name) if word.startswith(name) else word for word in words]
    return words


def words_of_sweep(words: list[str]) -> list[str]:
    """The words of a sweep that goes on: its own, where none are given but those that say so.

    Raises:
        UserError: where the folder is not one of a sweep.
    """
    if not (folder := value_of("sweep.resume", words)):
        return words
    if not (Path(folder) / SWEEP).is_file():
        raise UserError(f"sweep.resume={folder}: there is no sweep in that folder, since it holds no {SWEEP}")
    words = [word for word in words if word not in ("-m", "--multirun")]
    plan, given = Plan.read(Path(folder)), [word for word in words if not word.startswith("sweep.")]
    start = ("sweep.resume=", "sweep.retry=", "sweep.dry_run=")
    typed = [] if given else [*plan.hydra_words, *plan.words]
    own = [word for word in typed if not word.startswith(start) and word not in words]
    return ["-m", *own, *words, f"hydra.sweep.dir={Path(folder).absolute()}"]


def words_of_planning(words: list[str]) -> list[str]:
    """Let `plan=true`, or any setting of a plan, stand for one on the device at hand: a group has no choice `true`."""
    chosen = [word for word in words if word.startswith("plan=")]
    asked = any(word.startswith("plan.") for word in words)
    words = ["plan=here" if word == "plan=true" else word for word in words if word != "plan=false"]
    return words if chosen or not asked else [*words, "plan=here"]


def value_of(name: str, words: list[str]) -> str | None:
    """What the words of a command line say of a setting, where they say anything."""
    value = next((word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}=")), "")
    return value if value not in ("", "null") else None
