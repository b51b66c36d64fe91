"""Parts of a user's own work like ours: trained, drawn from, evaluated; or are refused before the training."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from src.api import load
from src.runs.own_code import same_code_after
from src.utils.errors import UserError
from tests.end_to_end.preparing import changed, composed, mistake, prepare_training

BASE = [
    "experiment=digits_ddpm", "net=own", "data=own", "trainer=cpu", "trainer.precision=32", "trainer.max_steps=4",
    "trainer.val_check_interval=4", "trainer.log_every_n_steps=1", "sampler.steps=2", "callbacks.sample_images.n=4",
    "logger=csv",
]  # fmt: skip
BARE = "callbacks.sample_images=null"
NODES = {
    "net": {"_target_": "tests.helpers.own_parts.Plain", "channels": "${data.channels}"},
    "data": {
        "_target_": "tests.helpers.own_parts.Fields", "channels": 2, "size": [8, 8], "num_classes": 0, "batch_size": 8,
        "seed": "${seed}",
    },
    "loss": {"_target_": "tests.helpers.own_parts.Uncertain", "weighting": "${weighting}"},
    "lr_schedule": {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 2, "gamma": 0.5},
}  # fmt: skip


@pytest.fixture
def own(tmp_path, command):
    """`own(words..., data={...})` trains with the parts above and what is changed of them."""

    def run(*words, **changes):
        for group, node in NODES.items():
            file = tmp_path / "conf" / group / "own.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(node | changes.get(group, {})))
        outcome = command(
            "train", "--config-dir", str(tmp_path / "conf"), *BASE, *words, f"hydra.run.dir={tmp_path / 'run'}"
        )
        assert outcome.code == 0, outcome.error

    return run


@pytest.fixture
def prepare(tmp_path):
    """`prepare(words..., data={...})` prepares a training with them, without the command."""

    def run(*words, **changes):
        cfg = changed(composed("train", "experiment=digits_ddpm", "trainer=cpu"), *words, "logger=csv", BARE)
        for group in ("net", "data", *changes):
            cfg[group] = NODES[group] | changes.get(group, {})
        prepare_training(cfg, tmp_path / "run")

    yield run
    assert not (tmp_path / "run" / "config.yaml").exists()


def drawn(command, folder, *words):
    outcome = command(
        "sample", "trust=true", f"run={folder}", "sampler.steps=2", f"out={folder / 'drawn'}", *(words or ["n=4"])
    )
    assert outcome.code == 0, outcome.error
    return np.load(folder / "drawn" / "samples.npz")["x"]


@pytest.mark.most(1)
@pytest.mark.parametrize(
    "shape", [(1,), (3, 16), (2, 8, 6), (2, 4, 6, 8), pytest.param((1, 8, 8), marks=pytest.mark.slow)], ids=str
)
def test_every_shape_in_its_own_units(own, command, tmp_path, shape):
    """Points, signals, fields and volumes: drawn, with pictures, and neither scaled nor clipped."""
    data = {"channels": shape[0], "size": list(shape[1:]), "scale": 30.0}
    own("parameterization=x0", data=data, net={"bias": -20.0})  # the net predicts about -20 everywhere
    assert list((tmp_path / "run" / "samples").glob("*_ema.png"))
    x = drawn(command, tmp_path / "run")
    assert x.shape == (4, *shape) and np.abs(x + 20).max() < 3


def test_images_are_drawn_in_0_to_1(own, command, tmp_path):
    data = {"_target_": "tests.helpers.own_parts.Pictures", "channels": 1, "scale": 0.1}
    own("parameterization=x0", BARE, data=data, net={"bias": 20.0})
    assert (drawn(command, tmp_path / "run") == 1).all()


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (
            {"_target_": "tests.helpers.own_parts.Pictures"},
            ["images must lie in [-1, 1]", "Pictures.train_set reaches"],
        ),
        ({"holes": True}, ["Fields.train_set must be finite, got NaN or infinity"]),
    ],
)
def test_data_that_are_not_what_they_say(prepare, data, parts):
    with mistake("train", *parts):
        prepare(data=data)


def test_labels(own, command, tmp_path):
    """The net learns from the condition how many there are, of which the data need not hold all."""
    own("condition=labels", "condition.dropout=0.5", BARE, data={"num_classes": 100})
    drawn(command, tmp_path / "run", "n=5")
    label = np.load(tmp_path / "run" / "drawn" / "samples.npz")["label"]
    assert label.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("net", "parts"),
    [
        ({"_target_": "tests.helpers.own_parts.Unconditional"}, ["no argument `num_classes`", "or condition=none"]),
        ({"num_classes": 5}, ["net.num_classes follows from the condition; leave it out"]),
    ],
)
def test_labels_that_the_net_does_not_take(prepare, net, parts):
    with mistake("train", *parts):
        prepare("condition=labels", data={"num_classes": 5}, net=net)


def test_a_net_that_cannot_be_made_is_named_with_its_line(prepare):
    line = "net: AttributeError: cannot assign module before Module.__init__() call (own_parts.py, line"
    with mistake("train", line):
        prepare(net={"_target_": "tests.helpers.own_parts.Unready"})


def test_parameters_of_a_loss_are_trained_and_resumed(own, command, tmp_path):
    def learned():
        state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return torch.cat([state[f"loss.log_variance.{name}"].flatten() for name in ("weight", "bias")])

    own("loss=own", "trainer.max_steps=2", BARE)
    early = learned()
    conf = ["--config-dir", str(tmp_path / "conf")]
    outcome = command("train", "trust=true", *conf, f"resume={tmp_path / 'run'}", "trainer.max_steps=6")
    assert outcome.code == 0, outcome.error
    assert (early != learned()).all()


def test_parameters_that_nobody_would_train_are_refused(prepare):
    with mistake("train", "Forgetful.log_variance", "class Forgetful(nn.Module, Loss)"):
        prepare(loss={"_target_": "tests.helpers.own_parts.Forgetful"})


def test_a_schedule_of_torch(own, tmp_path):
    own("lr_schedule=own", BARE, "optimizer.lr=0.1")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["lr_schedulers"][0]["_last_lr"] == [pytest.approx(0.1 * 0.5**2)]


@pytest.mark.parametrize(
    "node",
    [
        {"step_size": None, "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "gamma": None},
        {"_target_": "torch.optim.lr_scheduler.StepLR", "step": 3},
    ],
    ids=["no schedule by steps", "an argument that it has not"],
)
def test_a_schedule_that_cannot_be_made(prepare, node):
    with mistake("train", "lr_schedule"):
        prepare(lr_schedule=node)


# ---- own code travels with the run ----

NET = """
from torch import nn
from my_lab import act


class Net(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(nn.functional.one_hot(nn.Parameter().new_zeros(1).long(), channels).float())

    def forward(self, x, c_noise, cond=None):
        return act(x * self.scale.mean())
"""


@pytest.fixture
def moved(tmp_path, command, monkeypatch):
    """A run with a net and a choice of its own, in another place, and without the folder that they came from."""
    source = tmp_path / "source"
    (source / "choices/net").mkdir(parents=True)
    (source / "travelling.py").write_text(NET)
    (source / "my_lab.py").write_text("from torch import tanh as act\n")
    (source / "choices/net/travelling.yaml").write_text("_target_: travelling.Net\nchannels: ${data.channels}\n")
    words = ["experiment=mixture_ddpm", "net=travelling", "trainer=cpu", "debug=two_steps", "logger=csv", BARE]
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(source))
        done = command("train", "--config-dir", f"{source}/choices", *words, f"hydra.run.dir={tmp_path / 'run'}")
        assert done.code == 0, done.error
    for name in ("travelling", "my_lab"):
        sys.modules.pop(name)
    shutil.rmtree(source)
    return Path(shutil.move(tmp_path / "run", tmp_path / "elsewhere"))


SAMPLES = ["n=20", "sampler.steps=2"]


@pytest.mark.parametrize(
    "uses",
    [
        {"sample": SAMPLES, "train": ["trainer.max_steps=4"]},
        pytest.param(
            {"evaluate": [*SAMPLES, "metrics=[sliced_wasserstein]"], "compare": ["samplers=[ddim]", "steps=[1]"]},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["sample, train", "evaluate, compare"],
)
def test_a_run_is_self_contained(command, moved, uses):
    """It is used and resumed with the code in its folder, if trust=true, and that is said once."""
    names = {file.relative_to(moved / "code").as_posix() for file in (moved / "code").rglob("*.py")}
    assert names == {"travelling.py", "my_lab.py"}
    said = ""
    for name, words in uses.items():
        run = f"{'resume' if name == 'train' else 'run'}={moved}"
        refused = command(name, run, *words)
        assert refused.code == 1 and "travelling.Net is neither a part" in refused.error
        done = command(name, run, *words, "trust=true")
        assert done.code == 0, done.error
        said += done.out
        assert "travelling" not in sys.modules and str(moved / "code") not in sys.path
    assert said.count(f"code from {moved / 'code'} runs (my_lab, travelling)") == 1
    steps = torch.load(moved / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert steps == (4 if "train" in uses else 2)


def test_a_run_is_self_contained_in_python(moved):
    """Also what the net imports when it is called comes from the folder of the run."""
    (moved / "code/travelling.py").write_text(NET.replace("from my_lab", "").replace(" import act", "").replace(
        "        return act(", "        from my_lab import act\n\n        return act("))  # fmt: skip
    with pytest.raises(UserError, match=r"travelling\.Net is neither a part"):
        load(moved)
    with same_code_after():
        assert load(moved, "sampler.steps=2", trust=True).sample(3).shape == (3, 2)
        assert Path(sys.modules["my_lab"].__file__).parent == moved / "code"
    assert "my_lab" not in sys.modules


@pytest.mark.slow
def test_a_run_is_self_contained_in_processes_of_their_own(moved, tmp_path):
    def sample(*words):
        line = [sys.executable, "-m", "src.sample", f"run={moved}", "n=2", "sampler.steps=2", *words]
        return subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})

    refused = sample()
    assert refused.returncode == 1 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    done = sample("trust=true")
    assert done.returncode == 0, done.stderr
    said = f"WARNING: trust=true: code from {moved / 'code'} runs (my_lab, travelling)"
    assert (done.stdout + done.stderr).splitlines().count(said) == 1
    (tmp_path / "travelling.py").write_text("class Net: pass\n")  # another one of that name is not used
    done = sample("trust=true")
    assert done.returncode == 0 and "; travelling on Python's path differs and is not used" in done.stdout
