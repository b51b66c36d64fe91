"""Compare runs, or samplers on one run: python -m src.compare runs=[RUN,RUN] | sweep=FOLDER | run=RUN"""

from omegaconf import DictConfig

from src.utils.cli import run_command


def compare(cfg: DictConfig) -> None:
    """Read what runs came to, or sample one over a grid of samplers, and write a table, plots and a page."""
    from src.comparing.command import choose  # torch takes seconds to import, which --help need not wait for

    comparison = choose(cfg)
    comparison.sample()
    comparison.write()


def words_of_comparison(words: list[str]) -> list[str]:
    """Let guidance=[0,1,3] be scales, where Hydra would look for choices of that name in conf/guidance."""
    return ["scales" + word.removeprefix("guidance") if word.startswith("guidance=") else word for word in words]


if __name__ == "__main__":
    run_command(compare, "compare", words_of_comparison)
