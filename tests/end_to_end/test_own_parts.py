"""Parts of a user's own work like ours: trained, drawn from, evaluated; or are refused before the training."""

import numpy as np
import pytest
import torch
import yaml

from tests.end_to_end.test_mistakes import assert_one_line

BASE = [
    "experiment=digits_ddpm", "net=own", "data=own", "trainer=cpu", "trainer.precision=32", "trainer.max_steps=4",
    "trainer.val_check_interval=4", "trainer.log_every_n_steps=1", "sampler.steps=2", "callbacks.sample_images.n=4",
]  # fmt: skip
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
    """`own(words..., data={...})` trains with the parts above and what is changed of them; the outcome."""

    def run(*words, folder="run", **changes):
        for group, node in NODES.items():
            file = tmp_path / "conf" / group / "own.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(node | changes.get(group, {})))
        return command(
            "train", "--config-dir", str(tmp_path / "conf"), *BASE, *words, f"hydra.run.dir={tmp_path / folder}"
        )

    return run


def drawn(command, folder, *words):
    outcome = command(
        "sample", "trust=true", f"run={folder}", "sampler.steps=2", f"out={folder / 'drawn'}", *(words or ["n=4"])
    )
    assert outcome.code == 0, outcome.error
    return np.load(folder / "drawn" / "samples.npz")["x"]


@pytest.mark.parametrize("shape", [(1,), (3, 16), (1, 8, 8), (2, 8, 6), (2, 4, 6, 8)], ids=str)
def test_every_shape_in_its_own_units(own, command, tmp_path, shape):
    """Points, signals, fields and volumes: drawn, with pictures, and neither scaled nor clipped."""
    data = {"channels": shape[0], "size": list(shape[1:]), "scale": 30.0}
    outcome = own("parameterization=x0", data=data, net={"bias": -20.0})  # the net predicts about -20 everywhere
    assert outcome.code == 0, outcome.error
    assert list((tmp_path / "run" / "samples").glob("*_ema.png"))
    x = drawn(command, tmp_path / "run")
    assert x.shape == (4, *shape) and np.abs(x + 20).max() < 3


def test_images_are_drawn_in_0_to_1(own, command, tmp_path):
    data = {"_target_": "tests.helpers.own_parts.Pictures", "channels": 1, "scale": 0.1}
    for bias, expected in ((-20.0, 0.0), (20.0, 1.0)):
        outcome = own("parameterization=x0", folder=f"run{expected}", data=data, net={"bias": bias})
        assert outcome.code == 0, outcome.error
        assert (drawn(command, tmp_path / f"run{expected}") == expected).all()


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (
            {"_target_": "tests.helpers.own_parts.Pictures"},
            ["images must lie in [-1, 1]", "Pictures.train_set reaches"],
        ),
        ({"holes": True}, ["Fields.train_set must be finite, got NaN or infinity"]),
        ({"num_classes": 100}, None),
    ],
)
def test_data_that_are_not_what_they_say(own, tmp_path, data, parts):
    outcome = own(data=data)
    if parts is None:
        assert outcome.code == 0, outcome.error
    else:
        assert_one_line(outcome, *parts)
        assert not (tmp_path / "run" / "config.yaml").exists()


def test_labels(own, command, tmp_path):
    """The net learns from the condition how many there are."""
    outcome = own("condition=labels", "condition.dropout=0.5", data={"num_classes": 5})
    assert outcome.code == 0, outcome.error
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
def test_labels_that_the_net_does_not_take(own, tmp_path, net, parts):
    assert_one_line(own("condition=labels", data={"num_classes": 5}, net=net), *parts)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_parameters_of_a_loss_are_trained_and_resumed(own, command, tmp_path):
    def learned(outcome):
        assert outcome.code == 0, outcome.error
        state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return torch.cat([state[f"loss.log_variance.{name}"].flatten() for name in ("weight", "bias")])

    early = learned(own("loss=own", "trainer.max_steps=2", "callbacks.sample_images=null"))
    conf = ["--config-dir", str(tmp_path / "conf")]
    late = learned(command("train", "trust=true", *conf, f"resume={tmp_path / 'run'}", "trainer.max_steps=6"))
    assert (early != late).all()


def test_parameters_that_nobody_would_train_are_refused(own):
    outcome = own("loss=own", loss={"_target_": "tests.helpers.own_parts.Forgetful"})
    assert_one_line(outcome, "Forgetful.log_variance", "class Forgetful(nn.Module, Loss)")


def test_a_schedule_of_torch(own, tmp_path):
    assert own("lr_schedule=own", "callbacks.sample_images=null", "optimizer.lr=0.1").code == 0
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["lr_schedulers"][0]["_last_lr"] == [pytest.approx(0.1 * 0.5**2)]


@pytest.mark.parametrize(
    ("node", "part"),
    [
        ({"step_size": None, "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "gamma": None}, "lr_schedule"),
        ({"_target_": "torch.optim.lr_scheduler.StepLR", "step": 3}, "lr_schedule"),
    ],
)
def test_a_schedule_that_cannot_be_made(own, tmp_path, node, part):
    assert_one_line(own("lr_schedule=own", lr_schedule=node), part)
    assert not (tmp_path / "run" / "config.yaml").exists()
