"""The grid of samplers: what is asked for is measured once, whatever stops it in between."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from src.commands.compare.sampler_benchmark import Combination, SamplerBenchmark
from src.utils.errors import UserError
from src.utils.paths import CONF
from tests.commands.compare.conftest import evaluation


class Counted:
    """Stands in for an evaluation, and notes which were made; one whose name `stops` holds breaks off."""

    made: list[str] = []  # noqa: RUF012 - emptied by the fixture
    stops: dict[str, BaseException] = {}  # noqa: RUF012

    def __init__(self, cfg):
        self.cfg, self.out = cfg, Path(cfg.out)

    @classmethod
    def prepare(cls, cfg, named, reference):
        assert {"sampler", "sampler.steps"} <= named
        return cls(cfg)

    def draw(self):
        if self.out.name in self.stops:
            raise self.stops[self.out.name]
        self.made.append(self.out.name)
        self.out.mkdir(parents=True, exist_ok=True)
        np.savez(self.out / "samples.npz", x=np.zeros((4, 1, 8), np.float32))
        return SimpleNamespace(reference="the data")

    def compute_metrics(self, context):
        return {"data": context.reference}

    def record(self, context, sections):
        assert sections == {"data": "the data"}
        steps = self.cfg.sampler.steps
        sampler = {"_target_": self.cfg.sampler._target_, "steps": steps}
        about = {"nfe": float(steps), "sampler": sampler, "n": self.cfg.n, "ckpt": "best", "weights": "ema"}
        return evaluation(10 / steps, 9 / steps, 11 / steps, **about)


@pytest.fixture
def made(monkeypatch):
    """The names of the cells that were sampled."""
    monkeypatch.setattr("src.commands.evaluation.Evaluation", Counted)
    monkeypatch.setattr(Counted, "made", [])
    monkeypatch.setattr(Counted, "stops", {})
    return Counted.made


LABELS = {"_target_": "src.diffusion.conditions.Labels", "num_classes": 10}


@pytest.fixture
def grid(write_run, made, tmp_path):
    """`grid(samplers="[ddim]")` samples over it and gives it."""
    write_run("run", data__size=[8], net__size=[8], data__num_classes=10, condition=LABELS)

    def run(**settings) -> SamplerBenchmark:
        words = {"samplers": "[ddim,heun]", "steps": "[5,10]"} | settings
        done = SamplerBenchmark.prepare(
            compose("compare", [f"run={tmp_path}/run", *(f"{k}={v}" for k, v in words.items())])
        )
        done.sample()
        return done

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield run


ALL = ["ddim_5", "heun_5", "ddim_10", "heun_10"]


def test_what_is_there_is_not_sampled_again(grid, made):
    first = grid()
    assert made == ALL
    second = grid()
    assert made == ALL and second.results == first.results and not second.skipped
    grid(steps="[5,10,20]", samplers="[heun]")
    assert made == [*ALL, "heun_20"], "a wider grid needs only what is new"


def test_it_goes_on_where_it_was_stopped(grid, made):
    Counted.stops["ddim_10"] = KeyboardInterrupt()
    with pytest.raises(UserError, match=r"2 of 4 combinations .* Repeat the command") as stopped:
        grid()
    assert stopped.value.exit_code == 130 and made == ALL[:2]
    Counted.stops.clear()
    assert len(grid().results) == 4 and made == ALL


@pytest.mark.slow
def test_other_settings_are_sampled_anew(grid, made):
    grid(steps="[5]")
    for changed in ({"n": 5}, {"seed": 1}, {"weights": "raw"}):
        made.clear()
        grid(steps="[5]", **changed)
        assert made == ALL[:2], changed
        grid(steps="[5]", **changed)
        assert made == ALL[:2], changed


def test_another_checkpoint_is_sampled_anew(grid, made, tmp_path):
    grid(steps="[5]")
    (tmp_path / "run/checkpoints/best.ckpt").write_bytes(b"trained further")
    grid(steps="[5]")
    assert made == ALL[:2] * 2


def test_a_cell_cut_off_while_written_is_sampled_again(grid, made):
    done = grid()
    (done.out / "heun_5" / "metrics.json").unlink()
    (done.out / "ddim_10" / "metrics.json").write_text('{"n":')
    grid()
    assert made == [*ALL, "heun_5", "ddim_10"]


def test_a_refused_cell_is_left_out(grid, made):
    Counted.stops["heun_5"] = UserError("sampler: too few steps")
    done = grid()
    assert [combination.name for combination in done.skipped] == ["heun_5"] and len(done.results) == 3
    done.write()
    page = (done.out / "table.md").read_text()
    assert "Skipped: heun in 5 steps; sampler: too few steps." in page
    assert (done.out / "comparison.html").read_text().count("<img") == 4


def test_nothing_left_is_an_error(grid, made):
    Counted.stops.update({name: UserError("no such thing") for name in ALL})
    with pytest.raises(UserError, match="no such thing"):
        grid()


def test_guidance_is_a_third_axis(grid, made):
    done = grid(samplers="[ddim]", steps="[5]", guidance_scales="[0,1,2.5]")
    assert made == ["ddim_5_guidance_0", "ddim_5_guidance_1", "ddim_5_guidance_2.5"]
    assert [done.config(combination)[0].guidance.scale for combination in done.combinations] == [0, 1, 2.5]
    assert done.combinations[2] == Combination("ddim", 5, 2.5) and done.combinations[2].series == "ddim, guidance 2.5"


def test_a_frontier_over_the_guidance(grid, made, monkeypatch):
    """Distance against recall, a line for each sampler by rising scale, whichever way it turns; real data a star."""
    figures = []
    picture = Image.new("RGB", (9, 9))
    monkeypatch.setattr("src.plots.guidance_frontier.to_picture", lambda f: figures.append(f) or picture)
    recalls = {0: 0.9, 1: 0.95, 2.5: 0.8}
    measured = Counted.record

    def record(self, context, sections):
        found = measured(self, context, sections)
        recall = {"name": "recall", "value": recalls[self.cfg.guidance.scale]}
        recall |= {"real_baseline": 0.97, "better": "higher"}
        return found | {"metrics": found["metrics"] | {"recall": recall}}

    monkeypatch.setattr(Counted, "record", record)
    done = grid(guidance_scales="[2.5,0,1]", steps="[5]")
    done.write()
    (axis,) = figures[0].axes
    lines = {line.get_label(): line for line in axis.lines}
    for name in ("ddim 5", "heun 5"):
        assert list(lines[name].get_xdata()) == [0.9, 0.95, 0.8] and list(lines[name].get_ydata()) == [2.0] * 3
    assert (*lines["real data"].get_xdata(), *lines["real data"].get_ydata()) == (0.97, 1.0)
    assert {text.get_text() for text in axis.texts} <= {"0", "1", "2.5"} and axis.texts
    assert axis.get_xlabel() == "recall (higher is better)" and (done.out / "guidance.png").exists()
    grid(guidance_scales="[1]", steps="[5]").write()
    assert len(figures) == 1, "one scale is no frontier"


def test_a_flow_map_has_its_sampler_among_them(grid, made, write_run, tmp_path):
    """With the settings of the run, on which its loss depends; other runs have the usual ones, all from one step on."""
    usual = ["ddpm", "ddim", "dpmpp_2m", "heun"]
    done = grid(samplers="null", steps="[1]")
    assert [combination.sampler for combination in done.combinations] == usual
    own = {"_target_": "src.samplers.flow_map.FlowMapSampler", "_partial_": True, "steps": 4, "gamma": 1.0}
    write_run("map", data__size=[8], net__size=[8], flow_map=True, sampler=own)
    done = grid(run=f"{tmp_path}/map", samplers="null", steps="[1]")
    assert [combination.sampler for combination in done.combinations] == ["flow_map", *usual]
    settings = [done.config(combination)[0].sampler for combination in done.combinations]
    assert [part.steps for part in settings] == [1] * 5
    assert settings[0].gamma == 1.0 and "gamma" not in settings[1]
    assert compose("compare", []).steps[0] == 1
