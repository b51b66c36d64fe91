"""Self-conditioning from the command line: trained, and sampled from at no more evaluations than without."""

import numpy as np
import pytest

LEARNED = ["loss=hybrid", "variance=learned_range"]


@pytest.mark.most(1)
@pytest.mark.parametrize(
    ("words", "nfe"),
    [
        (["experiment=digits_ddpm", "net.width=8", *LEARNED], 5),
        (["experiment=mixture_ddpm", "data.n=1000", "net.width=8", "sampler=heun"], 9),
    ],
    ids=["images, with a learned variance", "points, two evaluations a step"],
)
def test_it_is_trained_and_sampled_from(command, tmp_path, words, nfe):
    run, out, words = tmp_path / "run", tmp_path / "out", [*words]
    words += ["trainer=cpu", "debug=two_steps", "callbacks.sample_images=null", "logger=csv"]
    words += ["self_conditioning_prob=0.5", f"hydra.run.dir={run}"]
    done = command("train", *words)
    assert done.code == 0, done.error
    done = command("sample", f"run={run}", "sampler.steps=5", "n=3", "batch_size=2", f"out={out}")
    assert done.code == 0, done.error
    assert f"{nfe} evaluations each" in done.out
    with np.load(out / "samples.npz") as drawn:
        assert drawn["nfe"] == nfe and np.isfinite(drawn["x"]).all() and drawn["x"].std() > 0.01
