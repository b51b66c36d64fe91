"""A run folder is found, moved, resumed and rebuilt from."""

import json
import os
import re
import tomllib
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from src import __version__
from src.commands.overrides import training_overrides
from src.diffusion import schedules
from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import X0
from src.diffusion.schedules import Schedule
from src.diffusion.variances import FixedSmallVariance, LearnedRangeVariance, LearnedVariance
from src.runs import folders, loading
from src.runs.folders import run_folder
from src.runs.loading import build_denoiser, load_weights, read_weights, strip_prefix
from src.runs.run import Run, relocate_paths, symlink_latest
from src.utils.errors import UserError
from tests.helpers.tiny import saved_config


def message_of(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIFFUSION_LAB_OUTPUTS")
    return Path("outputs")


def start(path: Path, overrides=(), **cfg) -> Run:
    run = Run(path)
    run.create(saved_config(str(path), "outputs", **cfg), list(overrides))
    return run


@pytest.mark.parametrize(("version", "named"), [("0.1.0", "0.1.0"), (None, "0.1"), ("0", "0"), ([], "damaged")])
def test_a_run_of_an_earlier_version_is_refused_in_one_line(outputs, version, named):
    run = start(outputs / "x", ["grid=karras"])
    cfg = yaml.safe_load((run.path / "config.yaml").read_text())
    assert cfg.pop("version") == __version__ and "version" not in run.config()
    (run.path / "config.yaml").write_text(yaml.safe_dump(cfg | ({} if version is None else {"version": version})))
    for load in (run.config, lambda: training_overrides([f"resume={run.path}"])):
        assert f"{run.path}" in message_of(load) and named in message_of(load)


def test_the_version_is_that_of_the_package():
    assert tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"] == __version__


# ---- finding ----


def test_a_run_is_found_by_its_folder(outputs):
    start(outputs / "train/x/1")
    assert Run.find("outputs/train/x/1").path == Path("outputs/train/x/1")
    assert Run.find(str(outputs.absolute() / "train/x/1")).config().name == "x"


def test_latest_is_the_newest(outputs):
    for i in (1, 2, 3):
        start(outputs / f"train/x/{i}")
    assert Run.find("latest").path == (outputs / "train/x/3").absolute()
    assert Run.find("latest", str(outputs)).path == (outputs / "train/x/3").absolute()
    start(outputs / "train/y/1")
    assert Run.find("latest").path == (outputs / "train/y/1").absolute()


def test_what_is_not_there(outputs):
    assert message_of(lambda: Run.find("nowhere")).startswith("there is no run folder nowhere; train one with ")
    assert message_of(lambda: Run.find("latest")).startswith("there is no run folder outputs/latest; train one with ")
    start(outputs / "train/x/1")
    start(outputs / "train/x/2")
    os.utime(outputs / "train/x/2/config.yaml", (0, 0))
    assert message_of(lambda: Run.find("nowhere")).endswith("; the newest is outputs/train/x/1")


def test_what_is_no_run(outputs):
    outputs.mkdir()
    assert message_of(lambda: Run.find("outputs")) == "outputs is not a run folder: it holds no config.yaml"
    (outputs / "file").touch()
    assert "no run folder" in message_of(lambda: Run.find("outputs/file"))


def test_checkpoints(outputs):
    run = start(outputs / "x")
    message = message_of(lambda: run.checkpoint("best"))
    assert message == "outputs/x holds no checkpoint best.ckpt; it was stopped before its first checkpoint"
    (run.checkpoints / "last.ckpt").touch()
    assert run.checkpoint("last") == Path("outputs/x/checkpoints/last.ckpt")
    assert message_of(lambda: run.checkpoint("best")).endswith("; it has last")
    for name in ("step_500", "step_1000"):
        (run.checkpoints / f"{name}.ckpt").touch()
    assert run.checkpoint("step_500") == Path("outputs/x/checkpoints/step_500.ckpt")
    assert message_of(lambda: run.checkpoint("best")).endswith("; it has last, step_500, step_1000")


def test_snapshots(outputs):
    run = start(outputs / "x")
    assert "outputs/x holds no snapshots" in message_of(run.snapshots) and "ema=power_function" in message_of(
        run.snapshots
    )
    (run.path / "snapshots").mkdir()
    (run.path / "snapshots/.step_000009.pt.partial").touch()
    assert "no snapshots" in message_of(run.snapshots)
    path = run.path / "snapshots/step_000005.pt"
    path.write_bytes(b"half")
    assert run.snapshots() == [path]
    message = message_of(lambda: read_weights(run, "best", 0.07))
    assert str(path) in message and "Delete it" in message


# ---- what a run holds ----


def test_the_config_survives_exactly(outputs):
    cfg = {"seed": 3, "lr": 1e-3, "size": [8, 8], "none": None, "on": True, "text": "no", "eps": 1.0e-8, "date": "1e3"}
    run = start(outputs / "x", **cfg)
    assert OmegaConf.to_container(run.config()) == {
        **saved_config(str(run.path.absolute()), "outputs"),
        **cfg,
    }


def test_paths_follow_a_folder_that_is_moved(outputs, tmp_path):
    folders = saved_config("", "")["data"] | {"_target_": "src.data.image_folder.ImageFolder", "root": "outputs"}
    folders |= {"channels": 3, "size": [8, 8]}
    run = start(outputs / "x", callbacks={"checkpoint": {"dirpath": "outputs/x/checkpoints"}}, data=folders)
    new = tmp_path / "elsewhere"
    run.path.rename(new)
    cfg = Run(new).config()
    assert cfg.paths.run == str(new)
    assert cfg.callbacks.checkpoint.dirpath == f"{new}/checkpoints"
    assert cfg.data.root == cfg.paths.outputs == "outputs"


def test_moved_changes_whole_names_only():
    node = {"a": "/r/1", "b": ["/r/1/x", "/r/12", "/r", "see /r/1/x"], "c": {"d": 3, "e": None}, "/r/1": True}
    expected = {"a": "/n", "b": ["/n/x", "/r/12", "/r", "see /r/1/x"], "c": {"d": 3, "e": None}, "/r/1": True}
    assert relocate_paths(node, "/r/1", "/n") == expected


def test_records_are_added_to(outputs):
    run = start(outputs / "x", ["seed=1"])
    run.update_metadata(a=1, path=Path("p"))
    run.update_metadata(a=2, b=[1])
    assert json.loads((run.path / "run.json").read_text()) == {"overrides": ["seed=1"], "a": 2, "path": "p", "b": [1]}


def test_the_words_are_remembered(outputs):
    run = start(outputs / "x", ["experiment=y", "seed=2"])
    assert run.overrides() == ["experiment=y", "seed=2"]
    assert Run(outputs / "nowhere").overrides() == []


# ---- names ----


def test_folders_never_collide(tmp_path, monkeypatch):
    class Clock:
        @staticmethod
        def now():
            return datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(folders, "datetime", Clock)
    names = []
    for _ in range(4):
        folder = Path(run_folder(None, str(tmp_path / "x")))
        assert folder.is_dir(), "made at once, so that no other process can take it"
        names.append(folder.name)
    assert names == ["2026-01-02_03-04-05", *(f"2026-01-02_03-04-05_{i}" for i in (2, 3, 4))]
    assert all(re.fullmatch(r"[\w-]+", name) for name in names)


def test_a_resumed_run_keeps_its_folder(outputs):
    start(outputs / "train/x/1")
    assert run_folder("outputs/train/x/1", "elsewhere") == "outputs/train/x/1"
    assert run_folder("latest", "elsewhere") == str((outputs / "train/x/1").absolute())
    assert "nowhere" in message_of(lambda: run_folder("nowhere", "elsewhere"))


def test_the_words_of_a_resumed_run_come_first(outputs):
    start(outputs / "x", ["experiment=y", "net=mlp"])
    words = ["resume=outputs/x", "trainer.max_steps=9"]
    completed = training_overrides(words)
    assert completed == ["experiment=y", "net=mlp", *words]
    assert training_overrides(completed) == completed, "a relaunched process repeats the completed words"
    assert training_overrides(["resume=latest"]) == ["experiment=y", "net=mlp", "resume=latest"]
    for others in ([], ["seed=1"], ["resume=null"], ["~resume"]):
        assert training_overrides(others) == others
    assert "nowhere" in message_of(lambda: training_overrides(["resume=nowhere"]))


# ---- the link ----


def test_the_link_is_relative_and_survives_a_move(tmp_path):
    target = tmp_path / "outputs/train/x/1"
    target.mkdir(parents=True)
    link = tmp_path / "outputs/latest"
    symlink_latest(link, target)
    assert link.readlink() == Path("train/x/1")
    (tmp_path / "outputs").rename(tmp_path / "moved")
    assert (tmp_path / "moved/latest").resolve() == (tmp_path / "moved/train/x/1").resolve()


def test_the_link_is_replaced_in_one_move(tmp_path, monkeypatch):
    """There is no moment at which `latest` points nowhere."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    link = tmp_path / "latest"
    symlink_latest(link, a)
    seen = []

    def watched(original):
        def call(self, *args, **kwargs):
            result = original(self, *args, **kwargs)
            seen.append(str(link.readlink()))
            return result

        return call

    for name in ("symlink_to", "replace", "unlink"):
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))
    symlink_latest(link, b)
    assert set(seen) == {"a", "b"} and seen == sorted(seen)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "latest"]


def test_without_links_there_is_none(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("links are not allowed here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    symlink_latest(tmp_path / "latest", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_named_latest_is_left_alone(tmp_path):
    (tmp_path / "latest/precious").mkdir(parents=True)
    symlink_latest(tmp_path / "latest", tmp_path)
    assert (tmp_path / "latest/precious").is_dir() and len(list(tmp_path.iterdir())) == 1


# ---- rebuilding ----

CFG = {
    "net": {"_target_": "src.nets.mlp.MLP", "channels": 1, "size": [4], "width": 8, "depth": 1},
    "data": {"channels": 1},
    "schedule": {"_target_": "src.diffusion.beta_schedules.LinearSchedule"},
    "parameterization": {"_target_": "src.diffusion.parameterizations.X0"},
    "variance": {"_target_": "src.diffusion.variances.FixedSmallVariance"},
    "condition": {"_target_": "src.diffusion.conditions.NoCondition"},
    "self_conditioning_prob": 0,
}
UNET = {"_target_": "src.nets.unet.UNet", "channels": 2, "size": [8, 12], "width": 8, "patch_size": 2}


def test_a_denoiser_is_rebuilt():
    denoiser = build_denoiser(CFG)
    assert isinstance(denoiser, Denoiser) and isinstance(denoiser.parameterization, X0)
    assert isinstance(denoiser.variance, FixedSmallVariance) and denoiser.self_conditioning_prob == 0
    assert denoiser.schedule.steps == 1000
    again = build_denoiser(OmegaConf.create(yaml.safe_load(yaml.safe_dump(CFG))))
    load_weights(again, denoiser.state_dict(), Path("x.ckpt"))
    x, t = torch.randn(2, 1, 4), torch.tensor(0.3, dtype=torch.float64)
    assert torch.equal(again(x, t).x_0, denoiser(x, t).x_0)


class StraightPaths(Schedule):
    """Ends without any signal, where the noise cannot be predicted from."""

    def alpha_sigma(self, t):
        return 1 - t, t.clone()


def test_parts_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(schedules, "flow_of_a_test", StraightPaths, raising=False)
    cfg = CFG | {
        "schedule": {"_target_": "src.diffusion.schedules.flow_of_a_test"},
        "parameterization": {"_target_": "src.diffusion.parameterizations.Eps"},
    }
    message = message_of(lambda: build_denoiser(cfg))
    assert message.startswith("denoiser: parameterization=eps divides by alpha") and "use parameterization=v" in message


@pytest.mark.parametrize("net", [CFG["net"], {**CFG["net"], "channels": 2, "size": []}, UNET])
@pytest.mark.parametrize(
    ("kind", "outputs"), [("FixedLargeVariance", 1), ("LearnedRangeVariance", 2), ("LearnedVariance", 2)]
)
@pytest.mark.parametrize("share", [0, 0.5])
def test_inputs_and_outputs_of_the_net_follow_from_the_other_parts(net, kind, outputs, share):
    """Nobody says them twice: they are not in the config, and the tensors have the sizes that the denoiser wants."""
    cfg = CFG | {
        "net": net, "data": {"channels": net["channels"]}, "self_conditioning_prob": share,
        "variance": {"_target_": f"src.diffusion.variances.{kind}"},
    }  # fmt: skip
    for config in (cfg, OmegaConf.create(cfg)):
        denoiser = build_denoiser(config)
        given = []
        denoiser.net.register_forward_pre_hook(lambda net, args, given=given: given.append(args[0]))
        x_t = torch.randn(3, net["channels"], *net["size"])
        said = denoiser.eval()(x_t, torch.tensor(0.3, dtype=torch.float64))
        assert said.x_0.shape == x_t.shape and denoiser.variance.outputs == outputs
        assert (said.variance is None) if outputs == 1 else said.variance.shape == x_t.shape
        assert len(given) == (2 if share else 1) and given[0].shape[1] == (2 if share else 1) * x_t.shape[1]
        assert not {"in_channels", "out_channels"} & set(config["net"])


class Bare(torch.nn.Module):
    """A net of a user that knows neither of self-conditioning nor of a second output."""

    def __init__(self, channels: int):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(channels, 1))

    def forward(self, x, c_noise, cond=None):
        return self.gain * x


def test_a_net_without_the_arguments(monkeypatch):
    """Is as good as any while they are not needed; then the message names net, argument and need."""
    monkeypatch.setattr(schedules, "BareNet", Bare, raising=False)
    cfg = CFG | {"net": {"_target_": "src.diffusion.schedules.BareNet", "channels": 1}}
    assert isinstance(build_denoiser(cfg).net, Bare)
    message = message_of(lambda: build_denoiser(cfg | {"self_conditioning_prob": 0.5}))
    assert message == (
        "net: src.diffusion.schedules.BareNet has no argument `in_channels`, which self_conditioning_prob needs; "
        "use net=unet or self_conditioning_prob=0"
    )
    for kind in (LearnedVariance, LearnedRangeVariance):
        variance = {"_target_": f"src.diffusion.variances.{kind.__name__}"}
        message = message_of(lambda variance=variance: build_denoiser(cfg | {"variance": variance}))
        assert message == (
            "net: src.diffusion.schedules.BareNet has no argument `out_channels`, which this variance needs; "
            "use net=unet or variance=fixed_small"
        )
    condition = {"_target_": "src.diffusion.conditions.Labels", "num_classes": 3}
    message = message_of(lambda: build_denoiser(cfg | {"condition": condition}))
    assert message == (
        "net: src.diffusion.schedules.BareNet has no argument `num_classes`, which this condition needs; "
        "use net=unet or condition=none"
    )


def test_an_impossible_share_of_self_conditioning():
    message = message_of(lambda: build_denoiser(CFG | {"self_conditioning_prob": 1.0}))
    assert "self_conditioning_prob must be in [0, 1), got 1.0" in message


def changed(weights: dict, **changes) -> dict:
    return {k: v for k, v in {**weights, **changes}.items() if v is not None}


def test_weights_of_another_architecture_are_refused():
    denoiser = build_denoiser(CFG)
    weights = denoiser.state_dict()
    before = {k: v.clone() for k, v in weights.items()}
    key = next(name for name, value in weights.items() if value.shape == (8, 4))
    source = Path("run/last.ckpt")

    def refusal(**changes) -> str:
        return message_of(lambda: load_weights(denoiser, changed(weights, **changes), source))

    message = refusal(**{key: torch.zeros(3, 4)})
    assert message.startswith(
        "run/last.ckpt is of another architecture (1 shapes differ, 0 tensors are missing, 0 are "
    )
    assert f"for example {key} has shape (3, 4), but must have shape (8, 4)" in message
    message = refusal(**{key: None})
    assert "(0 shapes differ, 1 tensors are missing" in message
    assert f"{key} is missing, but must have shape (8, 4)" in message
    message = refusal(foreign=torch.zeros(2))
    assert "1 are unknown; for example foreign has shape (2,), but is not in the model" in message
    assert all(torch.equal(v, before[k]) for k, v in denoiser.state_dict().items()), "nothing was loaded"


def test_submodule():
    state = {"denoiser.net.a": 1, "denoiser.b": 2, "ema.model.net.a": 3, "denoisers.c": 4}
    assert strip_prefix(state, "denoiser.") == {"net.a": 1, "b": 2}
    assert strip_prefix(state, "ema.model.") == {"net.a": 3}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    weights = build_denoiser(CFG).state_dict()
    name = next(key for key in weights if key.startswith("net."))
    weights[name] = weights[name].clone()
    weights[name].view(-1)[-1] = value
    said = message_of(lambda: load_weights(build_denoiser(CFG), weights, Path("x.ckpt")))
    assert said.startswith(f"x.ckpt holds numbers that are not finite: {name}")
    weights[name] = 3
    assert f"{name} is not a tensor" in message_of(lambda: load_weights(build_denoiser(CFG), weights, Path("x.ckpt")))


def test_infinite_numbers_may_stay_where_the_model_has_some():
    model = torch.nn.Module()
    model.register_buffer("edges", torch.tensor([1.0, float("inf")]))
    load_weights(model, {"edges": torch.tensor([2.0, float("inf")])}, Path("x.ckpt"))
    assert model.edges.tolist() == [2.0, float("inf")]


def test_a_model_is_loaded_with_the_weights_of_its_run(monkeypatch):
    """For guidance, as it is sampled from."""
    weights = {name: torch.full_like(value, 0.5) for name, value in build_denoiser(CFG).state_dict().items()}
    asked = []

    def read(run, ckpt, weighting):
        asked.append((ckpt, weighting))
        return weights, Path("last.ckpt")

    monkeypatch.setattr(loading, "read_weights", read)
    monkeypatch.setattr(loading.Run, "find", lambda name: SimpleNamespace(config=lambda: CFG))
    denoiser = loading.load_denoiser("a/run", "last", "raw")
    assert asked == [("last", "raw")] and not denoiser.training
    assert all(torch.equal(value, weights[name]) for name, value in denoiser.state_dict().items())
