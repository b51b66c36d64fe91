"""Monitor a run: compare new data with those that it was trained on, look at its service, and write what was found."""

import time
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.commands.cli import to_container
from src.commands.inputs import load_data
from src.commands.monitor.findings import Findings
from src.commands.monitor.new_data import read_new
from src.commands.monitor.page import drift_section, gauges_of, outputs_section, service_section, write_page
from src.commands.monitor.service import ServiceClient
from src.commands.monitor.watch import Watch
from src.commands.options import MonitorOptions
from src.data.base import DataModule
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
        new: the new data; None if only the service is looked at.
        watch: looks at the service; None without one.
    """

    def __init__(
        self, cfg: DictConfig, run: Run, drift: Drift, metrics: dict[str, Metric], reference: ReferenceData,
        new: Batch | None, watch: Watch | None,
    ):  # fmt: skip
        self.cfg, self.run, self.drift, self.metrics = cfg, run, drift, metrics
        self.reference, self.new, self.watch = reference, new, watch
        self.time = time.time()

    # ---- before ----

    @classmethod
    def prepare(cls, cfg: DictConfig) -> "Monitoring":
        """Check the settings, and read the data of the run and the new ones.

        Raises:
            UserError: for every mistake in the settings.
        """
        start_logging(None)
        plain = to_container(cfg)
        check_options(plain, MonitorOptions)
        if cfg.run is None:
            raise UserError("run=RUN must be given: a run folder, or run=latest for the newest run")
        if cfg.new is None and cfg.service is None:
            raise UserError("new=DATA, a folder of pictures, an array or a file of data, or service=URL must be given")
        check_config({key: plain[key] for key in ("drift", "features", "metrics")})
        client = None if cfg.service is None else ServiceClient.at(cfg.service, cfg.token)
        run = Run.find(str(cfg.run), cfg.paths.outputs)
        check_out(cfg.out or run.path / "monitoring")
        if cfg.textfile is not None:
            check_writable("textfile", Path(str(cfg.textfile)).parent)
        with config_errors("drift"):
            drift = instantiate(cfg.drift)
        with config_errors("metrics"):
            metrics = {name: instantiate(node) for name, node in cfg.metrics.items()}
        watch = None
        if client is not None:
            check_writable("run", run.path / "monitoring")
            watch = Watch(client, str(cfg.service), run.path / "monitoring", plain["limits"], cfg.outputs)
        data = load_data(run.config().data, run)
        reference = ReferenceData(data, instantiate(cfg.features))
        return cls(cfg, run, drift, metrics, reference, new_data(cfg, data, run, drift), watch)

    # ---- the work ----

    def look(self) -> Findings:
        """Compare the new data with those of the run, and look at the service."""
        found = Findings()
        if self.new is not None:
            found.n = len(self.new["x"])
            found.of_data = self.drift(self.new, self.reference, self.cfg.seed)
        if self.watch is not None:
            count = self.drift.permutations_for(len(found.of_data))
            found.checks = self.watch.look()
            found.of_outputs = self.watch.compare_outputs(self.reference, count, self.cfg.seed)
        found.decide(self.drift)
        if self.new is not None:
            found.sections["drift"] = drift_section(found, self.drift, self.new, self.reference)
            self.add_metrics(found, self.new)
        if self.watch is not None:
            found.sections["service"] = service_section(found, self.watch)
            found.sections["outputs"] = outputs_section(found, self.watch, self.reference)
        return found

    def add_metrics(self, found: Findings, new: Batch) -> None:
        """Compute those of the metrics of src.evaluate that fit the data and their number."""
        nothing = cast(Any, None)  # no pipeline: metrics of samples alone do not look at it
        context = EvalContext(new["x"], None, self.reference, nothing, self.run, from_file=True, seed=self.cfg.seed)
        for name, metric in self.metrics.items():
            if context.kind in metric.kinds and metric.min_samples_for(context) <= context.n:
                with tolerating(f"metrics.{name}", but=UserError), config_errors(f"metrics.{name}", (ValueError,)):
                    found.sections[name] = metric(context)

    # ---- after ----

    def write(self, found: Findings) -> None:
        """Write the report, the metrics for Prometheus and monitor.json, and print the result."""
        make_out(self.out)
        record = self.record(found)
        write_page(self.out, record, found)
        text = gauges_of(record, found)
        write_text(self.out / "monitor.prom", text)
        if self.cfg.textfile is not None:
            write_text(Path(str(self.cfg.textfile)), text)
        write_json(self.out / "monitor.json", record)  # last: if it exists, the other files do, too
        if self.watch is not None:
            self.watch.remember()
        rows = [(test.name, f"{test.value.text}, p = {test.adjusted:.2g}") for test in found.differing]
        log.info(f"\n{key_value_table([*rows, ('result', found.verdict), ('report', str(self.out / 'report.html'))])}")

    def record(self, found: Findings) -> dict[str, Any]:
        """The content of monitor.json."""
        used, cfg, data = vars(self.reference).get("features"), self.cfg, self.reference.data
        return {
            "run": str(self.run.path),
            "name": self.run.metadata().get("name"),
            "new": cfg.new,
            "service": cfg.service,
            "time": self.time,
            "n": found.n,
            "features": None if used is None else used.name,
            "data": data.source,
            "data_warning": data.warning,
            "seed": cfg.seed,
            "false_alarm_rate": self.drift.false_alarm_rate,
            "drift": bool(found.differing),
            "exit_code": found.exit_code,
            "result": found.verdict,
            "tests": [
                {
                    "measure": test.measure, "group": test.group, "n": test.n, **test.value.to_dict(),
                    "limit": test.limit, "p": test.p, "adjusted_p": test.adjusted, "differs": test in found.differing,
                }
                for test in found.tests
            ],
            "checks": {
                check.name: {"value": None if check.value != check.value else check.value, "limit": check.limit,
                             "failed": check.failed, "why": check.why}
                for check in found.checks
            },
            "metrics": {k: v.to_dict() for s in found.sections.values() for k, v in s.values.items()},
        }  # fmt: skip

    @property
    def out(self) -> Path:
        """The output folder; by default one named after the time."""
        if self.cfg.out is not None:
            return Path(str(self.cfg.out))
        return self.run.path / "monitoring" / time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(self.time))


def new_data(cfg: DictConfig, data: DataModule, run: Run, drift: Drift) -> Batch | None:
    """The data that new= names; None without.

    Raises:
        UserError: if they cannot be read, or are too few.
    """
    if cfg.new is None:
        return None
    names = run.metadata().get("classes") or []
    classes = list(names) if len(names) == data.num_classes else [*map(str, range(data.num_classes))]
    new = read_new(Path(str(cfg.new)), data, classes)
    least, there = drift.min_group, len(new["x"])
    if there < least:
        raise UserError(f"new={cfg.new} must hold at least {least} samples, got {there}; collect more")
    return new
