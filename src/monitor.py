"""Monitor a run: python -m src.monitor run=latest new=FOLDER service=URL"""

import sys

from omegaconf import DictConfig

from src.commands.main import run_command


def monitor(cfg: DictConfig) -> None:
    """Compare new data with those of a run, look at its service, write a report, and exit with a code that says all."""
    from src.commands.monitor.command import Monitoring  # imports torch, which --help does not need

    monitoring = Monitoring.prepare(cfg)
    findings = monitoring.look()
    monitoring.write(findings)
    sys.exit(findings.exit_code)


if __name__ == "__main__":
    run_command(monitor, "monitor")
