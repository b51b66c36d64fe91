"""Compare runs, or samplers on one run: python -m src.compare runs=[RUN,RUN] | sweep=FOLDER | run=RUN"""

from omegaconf import DictConfig

from src.commands import run_command


def compare(cfg: DictConfig) -> None:
    """Read what runs came to, or sample one over a grid of samplers, and write a table, plots and a page."""
    from src.comparing.command import choose  # torch takes seconds to import, which --help need not wait for

    comparison = choose(cfg)
    comparison.sample()
    comparison.write()


# What the command line calls as a folder of conf/ is called, in which Hydra would look for choices.
CALLED = {"guidance=": "scales=", "sweep=": "sweep_folder="}


def words_of_comparison(words: list[str]) -> list[str]:
    """Let guidance=[0,1,3] be scales, and sweep=FOLDER a folder, and neither a choice of a group."""
    for name, key in CALLED.items():
        words = [key + word.removeprefix(name) if word.startswith(name) else word for word in words]
    return words


if __name__ == "__main__":
    run_command(compare, "compare", words_of_comparison)
