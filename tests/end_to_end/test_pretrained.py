"""A run starts from a model of another library: it draws the same samples, is trained on, and exported back."""

import json

import pytest
import torch
from torch.testing import assert_close

from src.api import load
from src.runs.run import Run

diffusers = pytest.importorskip("diffusers")
NOTHING = [
    "experiment=digits_ddpm", "trainer=cpu", "trainer.precision=32-true", "logger=csv", "callbacks.sample_images=null",
]  # fmt: skip


def unet(**options):
    """A small network with random weights; none of them zero, so that it says something."""
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=options.pop("out_channels", 1), block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, norm_num_groups=4, **options,
    )  # fmt: skip


PIPELINES = {
    "ddim": lambda: diffusers.DDIMPipeline(unet(), diffusers.DDIMScheduler(1000)),
    "ddim trailing v": lambda: diffusers.DDIMPipeline(
        unet(),
        diffusers.DDIMScheduler(
            200, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
        ),
    ),
    "ddim unclipped offset": lambda: diffusers.DDIMPipeline(
        unet(), diffusers.DDIMScheduler(1000, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    ),
    "ddim zero snr": lambda: diffusers.DDIMPipeline(
        unet(),
        diffusers.DDIMScheduler(
            100, prediction_type="sample", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        ),
    ),
    "ddpm": lambda: diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler(40, beta_end=0.3)),
    "ddpm large": lambda: diffusers.DDPMPipeline(
        unet(), diffusers.DDPMScheduler(20, beta_end=0.3, variance_type="fixed_large", prediction_type="sample")
    ),
    "ddpm learned": lambda: diffusers.DDPMPipeline(
        unet(out_channels=2), diffusers.DDPMScheduler(20, beta_end=0.3, variance_type="learned_range")
    ),
}


def samples(pipeline, theirs, steps: int, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """n samples of a pipeline of ours and of theirs, from the same noise, in the units of the data."""
    generator, dtype = torch.Generator().manual_seed(5), theirs.unet.dtype
    x_t = torch.randn((n, *pipeline.shape), generator=generator, dtype=dtype)
    pipeline.sampler.steps = steps
    with pipeline.inference():
        *_, end = pipeline.sampler.trajectory(
            pipeline.denoise(range(n)), x_t, lambda x: torch.randn(x.shape, generator=generator, dtype=dtype)
        )
    theirs.set_progress_bar_config(disable=True)
    pictures = "np" if type(theirs).__name__ == "DDPMPipeline" else "pt"  # which DDPMPipeline has only as arrays
    given = {"generator": torch.Generator().manual_seed(5), "output_type": pictures, "return_dict": False}
    x = torch.as_tensor(theirs(batch_size=n, num_inference_steps=steps, **given)[0])
    return pipeline.to_units(end.x_t), x if pictures == "pt" else x.permute(0, 3, 1, 2)


@pytest.fixture
def taken_in(command, tmp_path):
    """`taken_in(pipeline, *words)`: the run that takes it in without any training."""

    def take_in(theirs, *words: str) -> Run:
        theirs.save_pretrained(tmp_path / "theirs")
        words = (f"init_from=diffusers:{tmp_path / 'theirs'}", f"hydra.run.dir={tmp_path / 'run'}", *words)
        done = command("train", *NOTHING, "trainer.max_steps=0", *words)
        assert done.code == 0, done.error
        return Run(tmp_path / "run")

    return take_in


@pytest.mark.parametrize("name", ["ddim", pytest.param("ddpm", marks=pytest.mark.slow)])
def test_the_same_pictures(name, taken_in):
    """As diffusers draws from the same noise. In more steps the network itself multiplies rounding errors by 1e4."""
    theirs = PIPELINES[name]()
    ours, x = samples(load(taken_in(theirs), "precision=32"), theirs, 5)
    assert ours.std() > 0.1 and 0.01 < ours.mean() < 0.99
    assert_close(ours, x, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_the_same_numbers(name, taken_in):
    """In float64, in all of the sampler's steps."""
    theirs = PIPELINES[name]()
    pipeline = load(taken_in(theirs, *(["loss=hybrid"] if "learned" in name else [])), "precision=32")
    pipeline.denoiser.double()
    theirs.unet.double()
    scheduler = theirs.scheduler
    for table in ("betas", "alphas", "alphas_cumprod", "final_alpha_cumprod"):
        if hasattr(scheduler, table):
            setattr(scheduler, table, getattr(scheduler, table).double())
    ours, x = samples(pipeline, theirs, pipeline.sampler.steps)
    assert ours.dtype == torch.float64 and ours.std() > 0.05
    assert_close(ours, x.double(), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_there_and_back(command, taken_in, tmp_path):
    """A pipeline is fine-tuned ten steps, exported as a plain pipeline, and says in diffusers what the run says."""
    theirs = PIPELINES["ddim"]()
    theirs.save_pretrained(tmp_path / "theirs")
    before = [p.clone() for p in theirs.unet.parameters()]
    run, words = tmp_path / "run", [f"init_from=diffusers:{tmp_path / 'theirs'}", "trainer.max_steps=10"]
    assert command("train", *NOTHING, *words, f"hydra.run.dir={run}").code == 0
    done = command("export", f"run={run}", "format=diffusers", f"out={tmp_path / 'back'}", "n=4")
    assert done.code == 0, done.error
    back = diffusers.DDIMPipeline.from_pretrained(tmp_path / "back")
    assert any(not torch.equal(a, b) for a, b in zip(before, back.unet.parameters(), strict=True))
    ours, x = samples(load(Run(run), "time_grid=trailing", "precision=32"), back, 5)
    assert_close(ours, x, rtol=0, atol=1e-5)
    again = tmp_path / "again"
    words = [f"init_from=diffusers:{tmp_path / 'back'}", "trainer.max_steps=0", f"hydra.run.dir={again}"]
    assert command("train", *NOTHING, *words).code == 0
    assert load(Run(again)).sampler.time_grid.func.__name__ == "trailing_time_grid"
    resumed = command("train", f"resume={run}", "trainer.max_steps=11", "trainer=cpu")
    assert resumed.code == 0, resumed.error


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        (lambda folder: folder.rename(folder.with_name("gone")), [], "there is no"),
        (lambda folder: (folder / "model_index.json").unlink(), [], "model_index.json is missing"),
        (lambda folder: rewrite(folder / "model_index.json", _class_name="DiTPipeline"), [], "holds a DiTPipeline"),
        (lambda folder: rewrite(folder / "unet/config.json", sample_size=16), [], "1 x 16 x 16, but data="),
        (lambda folder: pickled(folder / "unet"), [], "is a pickle, which is never loaded"),
        (lambda folder: None, ["net=unet"], "net= cannot be given"),
        (lambda folder: None, ["condition=labels"], "another architecture"),
    ],
)  # fmt: skip
def test_mistakes(command, tmp_path, spoil, words, said):
    PIPELINES["ddim"]().save_pretrained(tmp_path / "theirs")
    spoil(tmp_path / "theirs")
    words = [f"init_from=diffusers:{tmp_path / 'theirs'}", f"hydra.run.dir={tmp_path / 'run'}", *words]
    done = command("train", *NOTHING, *words)
    assert done.code == 1 and said in done.error and done.error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def rewrite(file, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def pickled(folder):
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")
