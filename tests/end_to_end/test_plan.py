"""A plan of a run: its estimate, its mistakes, and that it leaves nothing."""

import json
from dataclasses import replace

import pytest

from src.commands.plan.device import Plan

WORDS = ["experiment=digits_ddpm", "net=dit", "net.width=64", "net.depth=1", "trainer.max_steps=100"]


@pytest.fixture
def planned(command, tmp_path, monkeypatch):
    """`planned(*words)`: the estimate."""
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))

    def run(*words):
        done = command("train", *WORDS, *words, f"plan.out={tmp_path}/plan.json")
        assert done.code == 0, done.error
        assert not list(tmp_path.glob("outputs/train/*/*")), "a plan leaves no run folder"
        return json.loads((tmp_path / "plan.json").read_text()), done.out

    return run


@pytest.mark.slow
def test_on_many_devices(planned):
    """Each has all of it with DDP, its share with FSDP; a ring sends the gradients of 4 devices 2 * 3/4 times."""
    ddp, said = planned("plan=h100", "plan.devices=4", "plan.images=1000", "trainer.precision=bf16-mixed")
    p = ddp["costs"]["parameters"]
    assert ddp["layout"]["batch"] == 16 and ddp["length"]["images"] == 6400
    assert ddp["length"]["epochs"] == 6400 / 800, "a fifth of the images is kept for validation"
    assert ddp["checkpoint"] == pytest.approx(4 * 4 * p, rel=0.03)
    parts = ddp["memory"]["parts"]
    assert parts["weights"] == pytest.approx(4 * p, rel=0.03), "and a table of positions"
    assert parts["optimizer state"] == pytest.approx(8 * p, rel=0.03)
    assert ddp["time"]["communication"] == pytest.approx(2 * 4 * p * 0.75 / 450e9, rel=0.01)
    assert ddp["speed"]["flops"] == pytest.approx(0.3 * 989e12)
    assert ddp["grid"] == {"number": 1, "images": 64, "evaluations": 50}
    assert f"{p:,} parameters, bf16-mixed" in said and "6,400 images, 8 epochs" in said and "nothing is trained" in said
    assert ddp["time"]["run"] > 100 * (ddp["time"]["compute"] + ddp["time"]["communication"])
    fsdp, _ = planned("plan=h100", "plan.devices=4", "trainer=fsdp")
    for part in ("weights", "gradients", "optimizer state", "averaged weights"):
        assert fsdp["memory"]["parts"][part] == parts[part] / 4
    assert fsdp["memory"]["parts"]["activations"] == parts["activations"]
    assert fsdp["length"]["epochs"] is None and fsdp["grid"] is None
    assert fsdp["time"]["communication"] == pytest.approx(1.5 * ddp["time"]["communication"], rel=0.03)


def test_large_work_takes_as_long_as_its_flops(planned):
    """Where no operation has to wait to be started; each of two devices does half of the 64 images."""
    words = ["plan=a100", "plan.launch_overhead=0", "plan.mfu=0.5", "trainer.precision=bf16-mixed", "plan.devices=2"]
    two, _ = planned(*words)
    assert two["time"]["compute"] == pytest.approx(32 * two["costs"]["training"] / (0.5 * 312e12))


def test_on_the_device_at_hand(planned):
    """Its speed is that of this model, measured."""
    estimate, said = planned("plan=local", "trainer=cpu", "trainer.precision=32-true")
    assert estimate["speed"]["flops"] > 0 and "measured here" in said
    assert estimate["memory"]["total"] < estimate["plan"]["memory"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["plan=h100", "trainer=ddp"], "plan.devices=8"),
        (["plan=h100", "plan.devices=7"], "the 7 processes, got 64"),
        (["plan=h100", "trainer.max_epochs=2"], "plan.images=1000000"),
        (["plan=h100", "plan.mfu=30"], "plan.mfu must be in (0, 1], got 30"),
        (["plan=t4", "trainer.precision=bf16-mixed"], "NVIDIA T4"),
        (["plan=h100", "net.num_heads=7"], "net.num_heads must divide"),
    ],
    ids=" ".join,
)
def test_mistakes(command, words, named, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))
    done = command("train", *WORDS, *words)
    assert done.code == 1 and done.error.startswith("error: ") and named in done.error
    assert done.error.count("\n") == 1 and not list(tmp_path.glob("outputs/train/*/*"))


def test_a_ring_is_as_fast_as_its_slowest_link():
    plan = Plan("any", link_bandwidth=300e9, network_bandwidth=200e9, devices_per_node=4)
    assert [plan.bandwidth(devices) for devices in (2, 4, 8)] == [300e9, 300e9, 200e9]
    assert (
        replace(plan, network_bandwidth=900e9).bandwidth(8) == 300e9
        and replace(plan, link_bandwidth=None).bandwidth(8) is None
    )
