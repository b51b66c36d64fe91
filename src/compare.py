"""Compare runs, or samplers on one run: python -m src.compare runs=[RUN,RUN] | sweep_dir=FOLDER | run=RUN"""

from omegaconf import DictConfig

from src.commands.main import run_command


def compare(cfg: DictConfig) -> None:
    """Read what runs came to, or sample one over a grid of samplers, and write a table, plots and a page."""
    from src.commands.compare.command import choose  # torch takes seconds to import, which --help need not wait for

    comparison = choose(cfg)
    comparison.sample()
    comparison.write()


if __name__ == "__main__":
    run_command(compare, "compare")
