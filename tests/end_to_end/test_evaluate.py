"""`python -m src.evaluate`: what is measured and written, and what a user gets wrong."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.end_to_end.test_mistakes import assert_one_line
from tests.plots.test_report import check

SMALL = ["trainer=cpu", "net.width=8", "callbacks.sample_images=null", "sampler.steps=2", "trainer.max_steps=4"]
FEW = ["metrics.distances.resamples=10", "features.width=8"]


@pytest.fixture(scope="module")
def digits(make_run, tmp_path_factory) -> Path:
    words = ["experiment=digits_ddpm", "condition=labels", "guidance=cfg"]
    return make_run(tmp_path_factory.mktemp("runs") / "digits", *words, *SMALL, "trainer.val_check_interval=2")


@pytest.fixture(scope="module")
def waves(make_run, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "waves", "experiment=sine_ddpm", *SMALL, "data.n=400")


@pytest.fixture(scope="module")
def points(make_run, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "points", "experiment=mixture_ddpm", *SMALL, "data.n=1000")


@pytest.fixture(scope="module")
def denoiser(make_run, tmp_path_factory) -> Path:
    words = ["experiment=sine_denoiser", *SMALL[:3], "trainer.max_epochs=1"]
    return make_run(tmp_path_factory.mktemp("runs") / "denoiser", *words)


@pytest.fixture
def evaluate(command, tmp_path):
    """`evaluate(run, *words)` gives (outcome, metrics.json, folder)."""

    def run(folder: Path, *words: str):
        out = tmp_path / "out"
        done = command("evaluate", f"run={folder}", f"out={out}", *words)
        file = out / "metrics.json"
        return done, json.loads(file.read_text()) if file.exists() else None, out

    return run


def test_images(evaluate, digits):
    """Everything that is for images, and a report that stands alone."""
    done, record, out = evaluate(digits, "n=100", *FEW)
    assert done.code == 0, done.error
    expected = {
        "frechet_distance",
        "kernel_distance",
        "precision",
        "recall",
        "density",
        "coverage",
        "confidence",
        "class_distance",
    }
    expected |= {"accuracy", "class_f1", "pair_distance", "ms_ssim", "nfe", "seconds_per_1000", "classifier_score"}
    assert expected <= set(record["metrics"])
    assert record["metrics"]["nfe"]["value"] == 4 and record["n"] == 100  # guidance evaluates twice
    assert all(np.isfinite(v["value"]) for v in record["metrics"].values())
    assert "classifier trained on the data of the run, 8 features" in record["features"]
    html = (out / "report.html").read_text("utf-8")
    check(html)
    for title in (
        "Distances to the data",
        "Classes",
        "Diversity",
        "Samples",
        "From noise to data",
        "Convergence",
    ):
        assert title in html
    kept = np.load(out / "samples.npz")
    assert kept["x"].shape == (100, 1, 8, 8) and (kept["label"] == np.arange(100) % 10).all()
    assert "Fréchet distance" in done.out and f"{out}/report.html" in done.out


def test_tensorboard_has_the_numbers_beside_the_curves(evaluate, digits):
    done, record, _ = evaluate(digits, "n=100", "metrics=[distances]", *FEW)
    assert done.code == 0, done.error
    events = EventAccumulator(str(digits)).Reload()
    last = events.Scalars("eval/frechet_distance")[-1]
    step = torch.load(digits / "checkpoints/best.ckpt", weights_only=True)["global_step"]
    assert last.value == pytest.approx(record["metrics"]["frechet_distance"]["value"], rel=1e-5) and last.step == step
    assert "val/loss_ema" in events.Tags()["scalars"]


def test_the_same_settings_give_the_same_numbers_and_no_new_samples(command, digits):
    words = [f"run={digits}", "n=40", "seed=3", "metrics=[distances]", *FEW]
    records = []
    for more in ([], [], ["n=41"]):
        done = command("evaluate", *words, *more)
        assert done.code == 0, done.error
        assert ("drawn with the same settings" in done.out) == (len(records) == 1)
        (file,) = (digits / "evaluations").glob(f"ddpm_2_n_{41 if more else 40}_seed_3_*/metrics.json")
        records.append(json.loads(file.read_text())["metrics"]["frechet_distance"])
    assert records[0] == records[1] != records[2]


def test_samples_from_a_file_are_measured_alike(evaluate, digits, tmp_path):
    done, drawn, out = evaluate(digits, "n=60", "metrics=[distances,diversity]", *FEW)
    assert done.code == 0, done.error
    words = ["metrics=[distances,diversity]", *FEW, f"out={tmp_path / 'again'}"]
    done, _, _ = evaluate(digits, f"samples_path={out / 'samples.npz'}", *words)
    assert done.code == 0, done.error
    read = json.loads((tmp_path / "again/metrics.json").read_text())
    for name, value in drawn["metrics"].items():
        assert read["metrics"][name]["value"] == pytest.approx(value["value"], rel=1e-4)
    assert read["nfe"] is None and read["n"] == 60


@pytest.mark.slow
def test_waves(evaluate, waves):
    done, record, out = evaluate(waves, "n=50", "metrics.sliced_wasserstein.resamples=10", "metrics.denoising.n=20")
    assert done.code == 0, done.error
    assert "sliced" in " ".join(record["metrics"]) and record["features"] is None
    check((out / "report.html").read_text("utf-8"))


@pytest.mark.slow
def test_points(evaluate, points):
    done, record, _ = evaluate(points, "n=50", "metrics.sliced_wasserstein.resamples=10", "metrics.denoising.n=20")
    assert done.code == 0, done.error
    assert "frechet" not in record["metrics"]


def test_a_plain_denoiser_is_measured_without_samples(evaluate, denoiser):
    done, record, out = evaluate(denoiser, "metrics.denoising.n=20")
    assert done.code == 0, done.error
    assert record["n"] == 0 and record["nfe"] is None and not (out / "samples.npz").exists()
    assert any(v["name"] == "squared error on test data" for v in record["metrics"].values())


def test_the_trajectory_is_drawn_where_it_is_missing(command, digits):
    """Samples that were kept without it are drawn once more, and are the same."""
    words = [f"run={digits}", "n=30", "seed=5"]
    kept = []
    for metrics in ("samples", "trajectory", "samples"):
        done = command("evaluate", *words, f"metrics=[{metrics}]")
        assert done.code == 0, done.error
        kept.append(dict(np.load(re.search(r"\S+/samples_\w+\.npz", done.out).group())))
    assert ["trajectory" in samples for samples in kept] == [False, True, True]
    assert (kept[0]["x"] == kept[1]["x"]).all() and (kept[0]["key"] == kept[2]["key"]).all()


@pytest.mark.slow
def test_likelihood_on_request(evaluate, waves):
    done, record, _ = evaluate(
        waves, "metrics=[likelihood]", "metrics.likelihood.n=2", "metrics.likelihood.tolerance=0.1"
    )
    assert done.code == 0, done.error
    assert any("bits" in v["name"] for v in record["metrics"].values())


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["run=RUN must be given"]),
        (
            ["run=RUN", "n=5"],
            ["metrics=distances needs n >= 65", "distances_random needs n >= 65, got n=5", "use n=65"],
        ),
        (["run=RUN", "metrics=[signals]"], ["metrics=signals does not apply to this run", "images"]),
        (["run=RUN", "metrics=[fid]"], ["metrics=fid", "no such choice", "distances"]),
        (["run=RUN", "samples_path=nowhere.npz"], ["samples_path=nowhere.npz does not exist"]),
        (["run=RUN", "samples_path=OTHER"], ["samples_path must have the shape 1 x 8 x 8", "got 1 x 9 x 9"]),
        (["run=RUN", "features=inception"], ["features=inception needs torch-fidelity"]),
        (["run=RUN", "human=nowhere.csv", "n=100", "metrics=[samples]"], ["nowhere.csv"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_line(command, digits, tmp_path, words, parts):
    np.save(tmp_path / "other.npy", np.zeros((3, 1, 9, 9), np.float32))
    words = [w.replace("RUN", str(digits)).replace("OTHER", str(tmp_path / "other.npy")) for w in words]
    assert_one_line(command("evaluate", *words), *parts)


def test_a_run_without_checkpoint(command, digits, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text((digits / "config.yaml").read_text())
    assert_one_line(command("evaluate", f"run={tmp_path / 'run'}"), "no checkpoint", "before its first checkpoint")


def test_nobody_is_asked_about_points_or_what_cannot_be_drawn(command, points, denoiser):
    assert_one_line(command("evaluate", f"run={points}", "human=true"), "human=True is for signals and images")
    assert_one_line(command("evaluate", f"run={denoiser}", "human=true"), "human=True needs samples")


def test_a_plain_denoiser_has_no_samples_to_measure(command, denoiser):
    assert_one_line(command("evaluate", f"run={denoiser}", "metrics=[sliced_wasserstein]"), "plain denoiser")


def test_a_sweep_over_samplers(command, points, tmp_path):
    """Each job is an evaluation of its own, and the one with the lowest metric is named."""
    words = [
        "-m",
        f"run={points}",
        "metrics=[sliced_wasserstein,sampling_cost]",
        "n=20",
        "sampler=ddim",
        "sampler.steps=2,9",
    ]
    done = command("evaluate", *words, f"paths.outputs={tmp_path}", "sweep.objective=sliced_wasserstein")
    assert done.code == 0, done.error
    records = [json.loads(file.read_text()) for file in points.glob("evaluations/ddim_*_n_20_*/metrics.json")]
    values = {r["sampler"]["steps"]: r["metrics"]["sliced_wasserstein"]["value"] for r in records}
    assert values.keys() == {2, 9}
    best = min(sorted(values), key=values.__getitem__)  # of equal ones the first job
    job = f"job {int(best == 9)}, sampler.steps={best}"
    assert f"lowest sliced_wasserstein: {values[best]:.5g}, {job}" in done.out
    (sweep,) = tmp_path.glob("sweeps/evaluate/*")
    again = command("evaluate", f"sweep.resume={sweep}")
    assert again.code == 0 and f"lowest sliced_wasserstein: {values[best]:.5g}, {job}" in again.out, again.error
    wrong = command("evaluate", *words, f"paths.outputs={tmp_path}", "sweep.objective=slised")
    assert wrong.code == 1 and "there is no such metric here. Choices: sliced_wasserstein" in wrong.out
