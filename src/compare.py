"""Compare runs, or samplers on one run: python -m src.compare runs=[RUN,RUN] | sweep_dir=FOLDER | run=RUN"""

from omegaconf import DictConfig

from src.commands.main import run_command


def compare(cfg: DictConfig) -> None:
    """Compare runs, or samplers on one run, and write a table, plots and a report."""
    from src.commands.compare.command import choose  # imports torch, which --help does not need

    comparison = choose(cfg)
    comparison.sample()
    comparison.write()


if __name__ == "__main__":
    run_command(compare, "compare")
