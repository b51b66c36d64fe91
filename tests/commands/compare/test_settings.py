"""What differs between configs is found once, in the words that were typed."""

import pytest

from src.commands.compare.settings import Setting, closest_option, differences, text
from tests.commands.compare.conftest import config

LINEAR = {
    "_target_": "src.diffusion.beta_schedules.LinearSchedule",
    "steps": 1000,
    "beta_min": 0.0001,
    "beta_max": 0.02,
}


def found(*runs: tuple[tuple[str, ...], dict]) -> tuple[dict, dict]:
    """The settings that are shown, and that follow, of (overrides, changes)."""
    typed = [dict(word.split("=", 1) for word in words) for words, _ in runs]
    shown, following = differences([config(**changes) for _, changes in runs], typed)
    return {s.key: s.values for s in shown}, {s.key: s.values for s in following}


def test_a_sweep_shows_what_was_swept():
    runs = [
        (
            (f"schedule={s}", f"optimizer.lr={lr}", f"seed={seed}"),
            {"optimizer__lr": lr, "seed": seed, **({"schedule": LINEAR} if s == "linear" else {})},
        )
        for s in ("linear", "cosine")
        for lr in (1e-4, 3e-4)
        for seed in (1, 2)
    ]
    shown, following = found(*runs)
    assert list(shown) == ["schedule", "optimizer.lr"] and not following
    assert shown["schedule"] == ("linear",) * 4 + ("cosine",) * 4
    assert shown["optimizer.lr"] == ("0.0001", "0.0001", "0.0003", "0.0003") * 2


def test_equal_runs_differ_in_nothing():
    assert found(((), {}), ((), {"seed": 3})) == ({}, {})


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"weighting": {"_target_": "src.diffusion.weightings.custom"}}, {"weighting": ("v", "custom")}),
        ({"net__width": 64}, {"net.width": ("48", "64")}),
        ({"schedule": LINEAR}, {"schedule": ("cosine", "linear")}),
        ({"schedule": LINEAR | {"steps": 500}}, {"schedule": ("cosine", "linear(steps=500)")}),
        ({"schedule__steps": 500}, {"schedule.steps": ("1000", "500")}),
        ({"guidance": None}, {}),
        ({"schedule": {"_target_": "mine.Power", "p": 2}}, {"schedule": ("cosine", "Power(p=2)")}),
    ],
    ids=str,
)
def test_once_and_by_its_shortest_name(changes, shown):
    """Also where it is passed on to other parts, and where nobody says what was typed."""
    assert found(((), {}), ((), changes))[0] == shown


def test_what_follows_from_what_was_typed():
    """An experiment changes many parts; its name tells them apart, unless a run was changed besides."""
    edm = {
        "name": "sine_edm",
        "schedule": {"_target_": "src.diffusion.discrete_schedules.EDMSchedule"},
        "net__width": 64,
    }
    shown, following = found((("experiment=sine_ddpm",), {}), (("experiment=sine_edm",), edm))
    assert shown == {"experiment": ("sine_ddpm", "sine_edm")}
    assert following == {"schedule": ("cosine", "edm"), "net.width": ("48", "64")}
    shown, following = found(
        (("experiment=sine_ddpm",), {}), (("experiment=sine_edm",), edm), ((), {"net__width": 64, "name": "sine_ddpm"})
    )
    assert shown == {"experiment": ("sine_ddpm", "sine_edm", "sine_ddpm"), "net.width": ("48", "64", "64")}
    assert list(following) == ["schedule"]


def test_all_that_was_typed_is_shown():
    """Even where two settings always change together, and have equal values."""
    words = ("optimizer.lr=0.002", "sampler.steps=20")
    shown, _ = found(((), {}), (words, {"optimizer__lr": 0.002, "sampler__steps": 20}))
    assert shown == {"optimizer.lr": ("0.001", "0.002"), "sampler.steps": ("50", "20")}


def test_copies_and_places_are_no_differences():
    """net.channels is data.channels; where a run is does not set it apart."""
    a, b = config(), config(data__channels=3, net__channels=3)
    a["data"]["channels"] = 1
    a["paths"], b["paths"] = {"run": "RUN"}, {"run": "ELSEWHERE"}
    shown, following = differences([a, b], [{}, {}])
    assert shown == [Setting("data.channels", ("1", "3"))] and not following


@pytest.mark.parametrize(
    ("group", "node", "name"),
    [
        ("schedule", {"_target_": "src.diffusion.beta_schedules.CosineSchedule", "steps": 7}, "cosine"),
        ("guidance", {"_target_": "src.diffusion.guidance.CFG", "scale": 2.0, "rescale": 0.0}, "cfg"),
        ("guidance", {"_target_": "src.diffusion.guidance.CFG", "scale": 3.0, "rescale": 0.7}, "rescale"),
        ("sampler", {"_target_": "src.samplers.multistep.DPMpp2M", "eta": 0.0}, "dpmpp_2m"),
        ("sampler", {"_target_": "my_parts.Sampler"}, "Sampler"),
        ("loss.features", {"_target_": "src.nets.random_features.Edges"}, "Edges"),
    ],
)
def test_the_name_of_a_choice(group, node, name):
    assert closest_option(group, node) == name


@pytest.mark.parametrize(
    ("value", "said"),
    [(1e-4, "0.0001"), (0.12345678, "0.12345678"), (None, "none"), (True, "true"), (0, "0"), ([1, 2.0], "[1, 2]")],
)
def test_values_as_one_would_type_them(value, said):
    assert text(value) == said
