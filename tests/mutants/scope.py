"""What is mutated, and by which tests the mutants are to be killed."""

from pathlib import Path

# The mathematics, and all that decides whether a resumed run is the run that was stopped.
PACKAGES = ("diffusion", "samplers", "statistics", "optim")
RESUMING = (
    "src/module.py",
    "src/callbacks/checkpoint.py",
    "src/callbacks/graceful_stop.py",
    "src/commands/restoring.py",
    "src/commands/run_dir.py",
    "src/commands/training.py",
    "src/data/batch_sampler.py",
    "src/data/identity.py",
    "src/data/samples.py",
    "src/data/workers.py",
    "src/runs/data_identity.py",
    "src/runs/loading.py",
    "src/utils/checkpoints.py",
    "src/utils/loop_counters.py",
    "src/utils/seeding.py",
)

# Those of `make test` that read no source text, whose words any mutant changes.
TESTS = (
    "tests/callbacks", "tests/commands", "tests/data", "tests/diffusion", "tests/end_to_end", "tests/loggers",
    "tests/metrics", "tests/nets", "tests/optim", "tests/plots", "tests/runs", "tests/samplers", "tests/statistics",
    "tests/tasks", "tests/test_configs.py", "tests/test_module.py", "tests/test_signatures.py", "tests/utils",
)  # fmt: skip
# That read signatures, which executes no line of a function.
OF_SIGNATURES = ("tests/test_signatures.py",)
# Whose runs are in forks of the process, where the lines that they execute are not seen.
IN_FORKS = ("tests/end_to_end/test_train.py", "tests/end_to_end/test_preemption.py")


def mutated_files(paths: list[str]) -> list[str]:
    """The files below the paths given, or all that are mutated."""
    files = [str(path) for name in PACKAGES for path in sorted(Path("src", name).rglob("*.py"))]
    files = [file for file in [*files, *RESUMING] if Path(file).read_text().strip()]
    return [file for file in files if not paths or any(Path(file).is_relative_to(path) for path in paths)]


def files_of_tests() -> list[str]:
    """The files of the tests."""
    found = [Path(name) for name in TESTS]
    return [str(file) for path in found for file in (sorted(path.rglob("test_*.py")) if path.is_dir() else [path])]


def package_of(file: str) -> str:
    """The line of the table that a file belongs to."""
    name = Path(file).parts[1]
    return name if name in PACKAGES else "resuming"
