"""Run folders without runs: written by hand, so that every number in them is known."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from src import __version__
from src.commands.compare.records import RunRecord
from src.loggers.metrics_csv import write_metrics
from src.runs.run import Run
from tests.helpers.tiny import saved_config

LOSS = {"_target_": "src.diffusion.losses.MSE", "weighting": {"_target_": "src.diffusion.weightings.v_weighting"}}
CONFIG: dict[str, Any] = {
    "name": "sine_ddpm",
    "seed": 0,
    "resume": None,
    "module": {"loss": LOSS, "seed": 0},
    "condition": {"_target_": "src.diffusion.conditions.NoCondition"},
    "data": {"_target_": "src.data.sine.Sine", "n": 1000, "batch_size": 64, "seed": 0},
    "net": {"_target_": "src.nets.unet.UNet", "width": 48, "channels": 1},
    "schedule": {"_target_": "src.diffusion.beta_schedules.CosineSchedule", "steps": 1000},
    "weighting": LOSS["weighting"],
    "loss": LOSS,
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001},
    "sampler": {"_target_": "src.samplers.ancestral.DDPM", "steps": 50},
    "guidance": {"_target_": "src.diffusion.guidance.NoGuidance"},
    "trainer": {"max_steps": 100, "accumulate_grad_batches": 1},
    "callbacks": {"progress": {"unit": "samples"}, "graceful_stop": {"run": "PLACE"}},
}


def config(**changes: Any) -> dict[str, Any]:
    """The config with `key__below=value` set, everywhere that `${key}` would take it."""
    cfg = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = cfg
        for parent in parents:
            node = node[parent]
        node[last] = value
    cfg["module"] |= {"loss": cfg["loss"], "seed": cfg["seed"]}
    cfg["data"]["seed"] = cfg["seed"]
    cfg["loss"] = {**cfg["loss"], "weighting": cfg["weighting"]} if "weighting" in cfg["loss"] else cfg["loss"]
    return cfg


@pytest.fixture
def write_run(tmp_path):
    """`write_run("sweep/0", typed=["seed=1"], seed=1)` writes a run folder and gives its record."""

    def write(
        name: str,
        typed: tuple[str, ...] = (),
        losses: tuple[float, ...] = (0.5, 0.25),
        finished: bool = True,
        checkpoint: bool = True,
        seconds: float = 10.0,
        evaluations: dict[str, dict] | None = None,
        **changes: Any,
    ) -> RunRecord:
        folder: Path = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        paths = {"run": str(folder), "outputs": str(tmp_path), "data": f"{tmp_path}/data"}
        least, cfg = saved_config("", ""), config(**changes) | {"paths": paths}
        cfg = least | cfg | {part: least[part] | cfg[part] for part in ("data", "module", "trainer")}
        cfg["callbacks"]["graceful_stop"]["run"] = str(folder)
        (folder / "config.yaml").write_text(yaml.safe_dump({"version": __version__} | cfg))
        facts: dict[str, Any] = {"overrides": list(typed), "parameters": 1234}
        steps = 50 * len(losses)
        if finished:
            facts["results"] = {"steps": steps, "seconds": seconds, "samples_per_second": steps * 64 / seconds}
        (folder / "run.json").write_text(json.dumps(facts))
        rows = [{"step": 50 * (i + 1), "train/loss": v + 0.1, "val/loss_ema": v} for i, v in enumerate(losses)]
        write_metrics(folder / "metrics.csv", rows, ["step", "train/loss", "val/loss_ema"])
        if checkpoint:
            (folder / "checkpoints/best.ckpt").write_bytes(b"weights")
        for place, evaluation in (evaluations or {}).items():
            (folder / "evaluations" / place).mkdir(parents=True)
            (folder / "evaluations" / place / "metrics.json").write_text(json.dumps(evaluation))
        return RunRecord(Run(folder), name)

    return write


def evaluation(value: float, low: float | None = None, high: float | None = None, **changes: Any) -> dict[str, Any]:
    """A metrics.json."""
    metric = {
        "name": "Fréchet distance",
        "value": value,
        "low": low,
        "high": high,
        "real_baseline": 1.0,
        "better": "lower",
    }
    base = {
        "n": 1000,
        "seed": 0,
        "source": "best.ckpt",
        "sampler": {"_target_": "src.samplers.ancestral.DDPM", "steps": 50},
        "guidance": None,
        "features": "classifier",
        "data": "abc",
        "nfe": 50.0,
        "seconds": 5.0,
        "metrics": {"frechet_distance": metric},
    }
    return base | changes
