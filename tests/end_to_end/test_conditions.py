"""Conditions from the command line, clusters above all: found, trained with, drawn from, worked with, and measured."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import mse_loss

from src.runs.loading import load_denoiser
from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from src.utils.checkpoints import load_checkpoint

WORDS = [
    "experiment=digits_ddpm",
    "condition=clusters",
    "condition.num_clusters=6",
    "net.width=8",
    "trainer=cpu",
    "trainer.precision=32-true",
]


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    # Long enough that what the net is told makes a difference, of which it knows nothing at first.
    quick = ["trainer.max_steps=30", "trainer.val_check_interval=30", "callbacks.sample_images.n=10", "sampler.steps=2"]
    quick += ["callbacks=quality", "callbacks.quality.n=81", "callbacks.quality.steps=2", "optimizer.lr=0.01"]
    return make_run(tmp_path_factory.mktemp("clusters") / "run", *WORDS, *quick)


def test_raw_and_averaged_weights_know_the_same(run):
    state = load_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]
    for name in ("centers", "weights"):
        raw, average = (state[f"{model}.condition.{name}"] for model in ("denoiser", "ema.model"))
        assert torch.equal(raw, average) and raw.any()
    assert state["denoiser.net.condition_embedding.label.weight"].shape[0] == 7
    assert json.loads((run / "run.json").read_text())["results"]["quality/frechet_distance"] > 0


def test_new_samples_follow_their_clusters(command, run, tmp_path):
    """Whatever the number and the batch size; pushed towards them on request."""

    def draw(*words):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        done = command("sample", f"run={run}", f"out={out}", *words)
        assert done.code == 0, done.error
        with np.load(out / "samples.npz") as drawn:
            assert "label" not in drawn
            return drawn["x"], drawn["nfe"]

    (x, nfe), (part, _) = draw("n=9"), draw("n=5", "batch_size=2")
    np.testing.assert_allclose(part, x[:5], atol=1e-6)
    pushed, twice = draw("n=9", "guidance=cfg", "guidance.scale=3")
    assert (nfe, twice) == (2, 4) and np.abs(pushed - x).max() > 1e-4
    denoiser = load_denoiser(str(run))
    conds = []
    denoiser.net.register_forward_pre_hook(lambda net, args: conds.append(args[2]))
    pipeline = Pipeline(denoiser, DDIM(denoiser.schedule, 1), (1, 8, 8))
    pipeline.sample(9)
    assert torch.equal(conds[0], pipeline.conditions(range(9))) and len(conds[0].unique()) > 1


@pytest.mark.most(1)
@pytest.mark.parametrize("words", [["task=inpaint"], ["task=denoise", "task.noise_std=0.3"]])
def test_given_data_are_worked_on_without(command, run, tmp_path, words):
    done = command("sample", f"run={run}", "input=test", "n=2", "sampler.steps=2", f"out={tmp_path}", *words)
    assert done.code == 0, done.error


@pytest.mark.slow
def test_it_is_measured_and_compared(command, run, tmp_path):
    metrics = ["metrics=[samples,denoising,loss_by_noise]", "n=20", "metrics.denoising.n=8"]
    done = command("evaluate", f"run={run}", f"out={tmp_path / 'a'}", *metrics)
    assert done.code == 0, done.error
    done = command(
        "compare",
        f"run={run}",
        "guidance_scales=[1,2]",
        "n=70",
        "samplers=[ddim]",
        "steps=[2]",
        f"out={tmp_path / 'b'}",
    )
    assert done.code == 0, done.error


def test_another_run_begins_with_them(command, run, tmp_path):
    done = command("train", *WORDS, "debug=two_steps", "seed=7", f"init_from={run}", f"hydra.run.dir={tmp_path / 'b'}")
    assert done.code == 0, done.error
    a, b = (load_checkpoint(r / "checkpoints/last.ckpt")["state_dict"] for r in (run, tmp_path / "b"))
    assert mse_loss(a["denoiser.condition.centers"], b["denoiser.condition.centers"]) == 0


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["condition.num_clusters=1"], ["condition.num_clusters must be >= 2, got 1"]),
        (["condition.num_clusters=5000"], ["condition: num_clusters must be <= 1,", "training samples, got 5000"]),
        (["+net.num_classes=10"], ["net.num_classes follows from the condition; leave it out"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistakes(command, tmp_path, words, parts):
    done = command("train", *WORDS, *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 1 and "Traceback" not in done.error and len(done.error.strip().splitlines()) == 1, done.error
    assert all(part in done.error for part in parts), done.error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["data.num_classes=0"], ["condition: ", "data.num_classes is 0", "use condition=none"]),
        (["condition.num_classes=7"], ["condition.num_classes must be data.num_classes=10, got 7"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistakes_with_labels(command, tmp_path, words, parts):
    words = ["experiment=digits_ddpm", "condition=labels", "net.width=8", "trainer=cpu", *words]
    done = command("train", *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 1 and len(done.error.strip().splitlines()) == 1, done.error
    assert all(part in done.error for part in parts), done.error
    assert not (tmp_path / "run").exists()


def test_a_label_is_refused(command, run):
    done = command("sample", f"run={run}", "label=3")
    assert done.code == 1 and "trained with condition=labels" in done.error


@pytest.mark.slow
def test_paired_folders_of_classes(command, make_run, tmp_path):
    """Partners of another size; asked for by the name of a class and a file, and compared with their pairs."""
    g = np.random.default_rng(0)
    for i in range(24):
        kind = ("cat", "dog", "eel")[i % 3]
        for folder, size in (("photos", 8), ("sketches", 4)):
            (tmp_path / folder / kind).mkdir(parents=True, exist_ok=True)
            pixels = g.integers(0, 256, (size, size), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / kind / f"{i}.png")
    data = ["data=image_folder", f"data.root={tmp_path / 'photos'}", f"data.image={tmp_path / 'sketches'}"]
    data += ["data.image_shape=[1,4,4]", "data.channels=1", "data.size=[8,8]", "data.num_classes=3"]
    quick = ["trainer.max_steps=2", "trainer.val_check_interval=2", "data.batch_size=8", "data.val_fraction=0.3"]
    words = ["experiment=digits_ddpm", "net.width=8", "trainer=cpu", "condition=[labels,image]", "sampler.steps=2"]
    run = make_run(tmp_path / "run", *words, *data, *quick, "callbacks.sample_images.n=4")
    asked = ["condition.label=eel", f"condition.image={tmp_path / 'sketches/cat/0.png'}", "n=2"]
    done = command("sample", f"run={run}", *asked, f"out={tmp_path / 'out'}")
    assert done.code == 0, done.error
    drawn = np.load(tmp_path / "out/samples.npz")
    assert drawn["label"].tolist() == [2, 2] and drawn["image"].shape == (2, 1, 4, 4)
    done = command("evaluate", f"run={run}", "n=6", "metrics=[agreement]", f"out={tmp_path / 'ev'}")
    assert done.code == 0 and "PSNR to the paired data" in done.out + done.error, done.error
    done = command("sample", f"run={run}", "condition.label=dgo")
    assert done.code == 1 and done.error.strip().endswith("did you mean dog? The classes: cat, dog, eel")
    (tmp_path / "sketches/dog/1.png").unlink()
    done = command("train", *words, *data, *quick, f"hydra.run.dir={tmp_path / 'second'}")
    assert done.code == 1 and "have no partner of the same name, such as dog/1" in done.error
