"""Export a run for use elsewhere: python -m src.export run=latest format=safetensors"""

from omegaconf import DictConfig

from src.commands.cli import overridden_keys
from src.commands.main import run_command
from src.commands.overrides import sampling_overrides


def export(cfg: DictConfig) -> None:
    """Write the model of a run in another format, verify it against the run, and upload or register it if asked to."""
    from src.commands.export.command import Exporting  # imports torch, which --help does not need

    exporting = Exporting.prepare(cfg, overridden_keys())
    exporting.write()
    exporting.push()
    exporting.register()


if __name__ == "__main__":
    run_command(export, "export", sampling_overrides)
