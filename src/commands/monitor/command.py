"""Monitor a run: compare new data with those that it was trained on, and write a report, JSON and metrics."""

import time
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.commands.cli import to_container
from src.commands.inputs import load_data
from src.commands.monitor.findings import Findings
from src.commands.monitor.new_data import read_new
from src.commands.monitor.page import data_gauges, drift_section, write_page
from src.commands.options import MonitorOptions
from src.data.samples import Batch
from src.metrics.base import EvalContext, Metric
from src.metrics.drift import Drift
from src.metrics.features.base import ReferenceData
from src.runs.check_config import check_config, check_options
from src.runs.run import Run
from src.utils.atomic import write_json, write_text
from src.utils.console import key_value_table, log, start_logging, tolerating
from src.utils.errors import UserError, config_errors
from src.utils.folders import check_out, make_out
from src.utils.paths import check_writable


class Monitoring:
    """A run to be watched.

    Attributes:
        cfg: the settings of the command.
        run: the run folder.
        drift: the tests.
        metrics: by name, computed of the new data beside the tests.
        reference: the data of the run.
        new: the new data.
    """

    def __init__(
        self, cfg: DictConfig, run: Run, drift: Drift, metrics: dict[str, Metric], reference: ReferenceData, new: Batch
    ):
        self.cfg, self.run, self.drift, self.metrics = cfg, run, drift, metrics
        self.reference, self.new = reference, new
        self.time = time.time()

    # ---- before ----

    @classmethod
    def prepare(cls, cfg: DictConfig) -> "Monitoring":
        """Check the settings, and read the data of the run and the new ones.

        Raises:
            UserError: for every mistake in the settings.
        """
        start_logging(None)
        check_options(to_container(cfg), MonitorOptions)
        if cfg.run is None:
            raise UserError("run=RUN must be given: a run folder, or run=latest for the newest run")
        if cfg.new is None:
            raise UserError(
                "new=DATA must be given: a folder of pictures, an array, or a file that the data of the run read"
            )
        check_config({key: to_container(cfg)[key] for key in ("drift", "features", "metrics")})
        run = Run.find(str(cfg.run), cfg.paths.outputs)
        check_out(cfg.out or run.path / "monitoring")
        if cfg.textfile is not None:
            check_writable("textfile", Path(str(cfg.textfile)).parent)
        with config_errors("drift"):
            drift = instantiate(cfg.drift)
        with config_errors("metrics"):
            metrics = {name: instantiate(node) for name, node in cfg.metrics.items()}
        data = load_data(run.config().data, run)
        new = read_new(Path(str(cfg.new)), data, class_names(data, run))
        if len(new["x"]) < drift.min_group:
            raise UserError(
                f"new={cfg.new} must hold at least {drift.min_group} samples, got {len(new['x'])}; collect more"
            )
        return cls(cfg, run, drift, metrics, ReferenceData(data, instantiate(cfg.features)), new)

    # ---- the work ----

    def look(self) -> Findings:
        """Compare the new data with those of the run."""
        tests = self.drift(self.new, self.reference, self.cfg.seed)
        found = Findings(len(self.new["x"]), tests, [test for test in tests if self.drift.differs(test)])
        found.sections["drift"] = drift_section(found, self.drift, self.new, self.reference)
        nothing = cast(Any, None)  # no pipeline: metrics of samples alone do not look at it
        context = EvalContext(
            self.new["x"], None, self.reference, nothing, self.run, from_file=True, seed=self.cfg.seed
        )
        for name, metric in self.metrics.items():
            if context.kind in metric.kinds and metric.min_samples_for(context) <= context.n:
                with tolerating(f"metrics.{name}", but=UserError), config_errors(f"metrics.{name}", (ValueError,)):
                    found.sections[name] = metric(context)
        return found

    # ---- after ----

    def write(self, found: Findings) -> None:
        """Write the report, the metrics for Prometheus and monitor.json, and print the result."""
        make_out(self.out)
        record = self.record(found)
        write_page(self.out, record, found)
        text = data_gauges(record, found)
        write_text(self.out / "monitor.prom", text)
        if self.cfg.textfile is not None:
            write_text(Path(str(self.cfg.textfile)), text)
        write_json(self.out / "monitor.json", record)  # last: if it exists, the other files do, too
        rows = [(test.name, f"{test.value.text}, p = {test.adjusted:.2g}") for test in found.differing]
        log.info(f"\n{key_value_table([*rows, ('result', found.verdict), ('report', str(self.out / 'report.html'))])}")

    def record(self, found: Findings) -> dict[str, Any]:
        """The content of monitor.json."""
        used = vars(self.reference).get("features")
        return {
            "run": str(self.run.path),
            "name": self.run.metadata().get("name"),
            "new": str(self.cfg.new),
            "time": self.time,
            "n": found.n,
            "features": None if used is None else used.name,
            "data": self.reference.data.source,
            "data_warning": self.reference.data.warning,
            "seed": self.cfg.seed,
            "false_alarm_rate": self.drift.false_alarm_rate,
            "drift": bool(found.differing),
            "exit_code": found.exit_code,
            "result": found.verdict,
            "tests": [
                {
                    "measure": test.measure, "group": test.group, "n": test.n, **test.value.to_dict(),
                    "limit": test.limit, "p": test.p, "adjusted_p": test.adjusted, "differs": self.drift.differs(test),
                }
                for test in found.tests
            ],
            "metrics": {k: v.to_dict() for s in found.sections.values() for k, v in s.values.items()},
        }  # fmt: skip

    @property
    def out(self) -> Path:
        """The output folder; by default one named after the time."""
        if self.cfg.out is not None:
            return Path(str(self.cfg.out))
        return self.run.path / "monitoring" / time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(self.time))


def class_names(data: Any, run: Run) -> list[str]:
    """The names of the classes of a run, by which folders are known; numbers if it has none."""
    names = run.metadata().get("classes") or []
    return list(names) if len(names) == data.num_classes else [*map(str, range(data.num_classes))]
