"""Restoration as a task: what is measured of what, what each solver is given, and mistakes in one line."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch.testing import assert_close

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.guidance import CFG
from src.diffusion.operators import Blur, Downsample, Grayscale, Mask, filtered
from src.samplers.ancestral import DDIM, DDPM
from src.samplers.pipeline import Pipeline
from src.tasks.base import TaskInput
from src.tasks.inverse_problems import InverseProblem, colorize, deblur, inpaint, super_resolution, upsampled
from src.tasks.inverse_solvers import PosteriorGuided, RePaint, ddnm, dps, pigdm
from src.utils.errors import UserError
from tests.diffusion.reference import Oracle
from tests.samplers.test_pipeline import make_denoiser

pytestmark = pytest.mark.strength(1)

SOLVERS = {"ddnm": ddnm, "pigdm": pigdm, "dps": dps}
SIZES = [(1, 8), (2, 6), (1, 4, 6), (3, 4, 6), (2, 2, 4, 6)]


def guided(name="ddnm", sample=False, **settings) -> PosteriorGuided:
    return SOLVERS[name](**settings, sample=sample)


def make_model(shape=(1, 4, 6), steps=5, sampler=DDIM, **settings) -> Pipeline:
    """One that takes everything for noise of variance 1 around 0, where it is not given a denoiser."""

    def predict(x_t, t, cond=None):
        alpha, sigma = CosineSchedule().alpha_sigma(t)
        return alpha / (alpha**2 + sigma**2) * x_t

    denoiser = settings.pop("denoiser", None) or Oracle(predict, CosineSchedule())
    return Pipeline(denoiser, sampler(denoiser.schedule, steps), shape, **settings)


def run(task, model, x=None, truth=None):
    with model.count_nfe() as cost:
        return task(model, TaskInput(x, truth)), cost


@pytest.fixture
def draw():
    """`draw(n, *shape)`: float32 data."""
    g = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=g)


def tasks_for(shape, solver):
    """Every task that a run of this shape has, and the measurement that it should make."""
    half = torch.ones(shape[1:])
    half[..., shape[-1] // 2 :] = 0
    found = [
        (inpaint(solver), Mask(half)),
        (super_resolution(solver, 2), Downsample(2)),
        (deblur(solver, 0.5), Blur(0.5)),
    ]
    return [*found, (colorize(solver), Grayscale())] if shape[0] == 3 else found


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", SOLVERS)
def test_test_data_is_measured_and_restored(name, shape, draw):
    truth, model = draw(5, *shape), make_model(shape)
    settings = {"sigma_data": 1.0} if name != "dps" else {"scale": 1.0}
    for task, operator in tasks_for(shape, guided(name, **settings)):
        result, cost = run(task, model, truth=truth)
        y = operator(truth)
        assert result.x.shape == result.comparison["input"].shape == truth.shape and result.truth is truth
        assert cost.evaluations == 5 * 5
        if name != "dps":
            assert_close(operator(result.x), y, rtol=0, atol=2e-3)
        else:
            assert (operator(result.x) - y).norm() < 0.9 * y.norm(), "what is expected of no measurement is 0"


@pytest.mark.parametrize("shape", SIZES)
def test_what_is_given_is_what_was_measured(shape, draw):
    """The measurement itself gives the same as the truth does; and the data's shape is measured, where that differs."""
    truth, model = draw(3, *shape), make_model(shape)
    for task, operator in tasks_for(shape, guided()):
        expected, _ = run(task, model, truth=truth)
        found, _ = run(task, model, x=operator(truth))
        assert_close(found.x, expected.x, rtol=0, atol=1e-4)
        assert found.truth is None
        if operator(truth).shape != truth.shape:
            assert_close(run(task, model, x=truth)[0].x, expected.x, rtol=0, atol=1e-4)
        both = run(task, model, x=operator(truth), truth=truth)[0]
        assert both.truth is truth and torch.equal(both.x, found.x)


def test_what_a_mask_hides_is_not_looked_at(draw):
    model, picture = make_model(), draw(2, 1, 4, 6)
    other = picture.clone()
    other[..., 3:] = 100.0
    a, b = (run(inpaint(guided("dps")), model, x=x)[0] for x in (picture, other))
    assert torch.equal(a.x, b.x) and not b.comparison["input"][..., 3:].any()


def test_the_input_is_shown_at_full_size(draw):
    truth = draw(2, 3, 4, 6)
    shown = run(super_resolution(guided(), 2), make_model((3, 4, 6)), truth=truth)[0].comparison["input"]
    assert_close(shown, Downsample(2)(truth).repeat_interleave(2, 2).repeat_interleave(2, 3))
    shown = run(colorize(guided()), make_model((3, 4, 6)), truth=truth)[0].comparison["input"]
    assert_close(shown, Grayscale()(truth).expand(2, 3, 4, 6))


@pytest.mark.parametrize(("shape", "unit"), [((1, 400), 1.0), ((1, 20, 20), 2.0)])
def test_noise_is_in_the_units_of_the_data(shape, unit, draw):
    """Images being [0, 1]: twice as much in the model's [-1, 1]. The solver is calls."""
    calls = []

    def solver(model, rows, operator, y, noise):
        calls.append((y, noise))
        return torch.zeros(len(rows), *shape)

    truth = draw(4, *shape)
    run(super_resolution(solver, 2, noise_std=0.1), make_model(shape), truth=truth)
    run(super_resolution(solver, 2, noise_std=0.1), make_model(shape), x=Downsample(2)(truth))
    (noisy, noise), (given, again) = calls
    assert noise == again == 0.1 * unit
    assert_close((noisy - Downsample(2)(truth)).std(), torch.tensor(0.1 * unit), rtol=0.1, atol=0)
    assert_close(given, Downsample(2)(truth), msg="what is given has its noise already")


@pytest.mark.parametrize(
    "solver",
    [guided("pigdm", True, sigma_data=2.0), guided("ddnm", True), RePaint(2, 2)],
    ids=["pigdm", "ddnm", "repaint"],
)
def test_a_result_depends_on_seed_and_index_alone(solver, draw):
    truth, denoiser = draw(5, 2, 3, 4), make_denoiser()
    expected = run(inpaint(solver), make_model((2, 3, 4), denoiser=denoiser, sampler=DDPM), truth=truth)[0].x
    for n, batch_size in ((5, 2), (3, 3), (1, 1)):
        model = make_model((2, 3, 4), denoiser=denoiser, sampler=DDPM, batch_size=batch_size)
        assert_close(run(inpaint(solver), model, truth=truth[:n])[0].x, expected[:n], rtol=1e-4, atol=1e-4)
    other = make_model((2, 3, 4), denoiser=denoiser, sampler=DDPM, seed=1)
    assert (run(inpaint(solver), other, truth=truth)[0].x - expected).abs().max() > 0.1


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("share", [0.0, 0.5], ids=["", "self-conditioning"])
def test_labels_and_guidance_stay(name, share, draw):
    """The run's own guidance is inside, and a network with its self-conditioning is differentiated."""
    denoiser, truth = make_denoiser(num_classes=3, share=share), draw(3, 2, 3, 4)
    model = make_model((2, 3, 4), 4, denoiser=denoiser, cond=torch.tensor([2, 0, 1]), batch_size=2)
    model.guidance = CFG(2.0)
    result, cost = run(inpaint(guided(name)), model, truth=truth)
    assert [cond for _, cond, _ in denoiser.net.calls] == [[2, 0, -1, -1]] * 4 + [[1, -1]] * 4
    assert cost.evaluations == 2 * 4 * 3 and torch.equal(result.label, torch.tensor([2, 0, 1]))
    assert result.x.isfinite().all() and not result.x.requires_grad
    assert all(p.grad is None for p in denoiser.parameters())


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("name", ["ddnm", "pigdm"])
def test_what_is_expected_of_gaussian_data_is_the_posterior_mean(name, noise, draw):
    """Whatever the run's sampler and seed; of white data around 0 the smoothest that agrees with y."""
    truth, average = draw(4, 1, 4, 6), Downsample(2)
    task = super_resolution(guided(name, sigma_data=1.0), 2, noise)
    for sampler, seed in ((DDIM, 0), (DDPM, 1)):
        result, cost = run(task, make_model(sampler=sampler, seed=seed, steps=40), x=average(truth))
        expected = average.transpose(average.solve(average(truth), (2 * noise) ** 2))
        assert_close(result.x, expected, rtol=0, atol=0.02)
        assert cost.evaluations == 4 * 40
    samples = run(super_resolution(guided(name, sample=True, sigma_data=1.0), 2), make_model(), x=average(truth))[0].x
    assert 0.7 < (samples - average.pinv(average(truth))).std() / 0.75**0.5 < 1.3, "what is not measured is drawn"


# ---- masks and boxes ----


def mask_of(task, shape):
    return task.make_operator(shape).known


def test_a_mask_is_white_where_data_are_missing(tmp_path):
    white = np.zeros((4, 6), np.uint8)
    white[1:3, 2:] = 255
    Image.fromarray(white).save(tmp_path / "gray.png")
    Image.fromarray(np.stack([white, 0 * white, 0 * white], 2)).save(tmp_path / "red.png")
    np.save(tmp_path / "mask.npy", white > 0)
    for name in ("gray.png", "red.png", "mask.npy"):
        known = mask_of(inpaint(guided(), mask=str(tmp_path / name)), (3, 4, 6))
        assert torch.equal(known, torch.from_numpy(white == 0)[None, None].float())
    np.save(tmp_path / "signal.npy", np.array([0, 1, 1, 0]))
    known = mask_of(inpaint(guided(), mask=str(tmp_path / "signal.npy")), (2, 4))
    assert known.tolist() == [[[1, 0, 0, 1]]]


def test_boxes():
    def missing(shape, box=None):
        return (1 - mask_of(inpaint(guided(), box=box), shape))[0, 0].tolist()

    assert missing((1, 2, 4)) == [[0, 0, 1, 1]] * 2 and missing((1, 4)) == [0, 0, 1, 1]
    assert missing((3, 4, 4), [0.25, 0.5, 0.75, 1]) == [[0] * 4, [0, 0, 1, 1], [0, 0, 1, 1], [0] * 4]
    assert missing((1, 5), [0.2, 0.6]) == [0, 1, 1, 0, 0]
    known = mask_of(inpaint(guided(), box=[1 / 3, 1 / 3, 2 / 3, 2 / 3]), (1, 28, 28))
    assert known.sum() == 28 * 28 - 100


@pytest.mark.parametrize("name", ["size", "several", "missing"])
def test_mistakes_in_masks(name, tmp_path):
    np.save(tmp_path / "size.npy", np.zeros((4, 5)))
    np.save(tmp_path / "several.npy", np.zeros((2, 1, 4, 6)))
    message = {
        "size": r"size.npy must hold one mask of 4 x 6, got 1 of 4 x 5",
        "several": r"several.npy must hold one mask of 4 x 6, got 2 of 4 x 6",
        "missing": r"task.mask=.*missing.npy does not exist",
    }[name]
    with pytest.raises(UserError, match=message):
        mask_of(inpaint(guided(), mask=str(tmp_path / f"{name}.npy")), (1, 4, 6))


@pytest.mark.parametrize(
    ("task", "shape", "message"),
    [
        (
            lambda: inpaint(guided(), box=[0, 1]),
            (1, 4, 6),
            r"task.box must be \[top, left, bottom, right\] .*got \[0, 1\]",
        ),
        (lambda: inpaint(guided(), box=[0.5, 0.5]), (1, 8), r"task.box must be \[start, end\] .*got \[0.5, 0.5\]"),
        (lambda: inpaint(guided(), box=[0, 0, 14, 14]), (1, 4, 6), r"as fractions in \[0, 1\]"),
        (lambda: inpaint(guided(), mask="a.png", box=[0, 1]), (1, 4, 6), "task.mask and box exclude each other"),
        (
            lambda: super_resolution(guided(), 4),
            (1, 4, 6),
            "task.factor must be .* divide the size 4 x 6 of this run, got 4",
        ),
        (lambda: super_resolution(guided(), 1), (1, 4, 6), "task.factor must be >= 2 .*got 1"),
        (
            lambda: colorize(guided()),
            (1, 4, 6),
            "task.weights must be one for each of 1 channels, and of several, got 3",
        ),
        (lambda: colorize(guided(), [1.0]), (1, 4, 6), "for each of 1 channels, and of several, got 1"),
        (lambda: deblur(guided(), 0), (1, 4, 6), "task.width must be > 0, got 0"),
        (lambda: deblur(guided()), (2,), "trained on signals, images or volumes, got points"),
    ],
)
def test_mistakes(task, shape, message):
    with pytest.raises(UserError, match=message) as error:
        run(task(), make_model(shape), truth=torch.zeros(2, *shape))
    assert "\n" not in str(error.value)


def test_mistakes_in_inputs():
    for x in (torch.zeros(2, 1, 3, 3), torch.zeros(2, 3, 2, 3)):
        with pytest.raises(UserError, match=r"input must have the shape 1 x 2 x 3 for this task and run, got"):
            run(super_resolution(guided(), 2), make_model(), x=x)
    with pytest.raises(UserError, match="input=FILE is needed"):
        run(inpaint(guided()), make_model())
    with pytest.raises(ValueError, match=r"task\.noise_std must be >= 0, got -1"):
        inpaint(guided(), noise_std=-1)
    with pytest.raises(UserError, match="inverse_solver=repaint"):
        run(super_resolution(RePaint(), 2), make_model(), truth=torch.zeros(1, 1, 4, 6))


# ---- configs ----


@pytest.mark.parametrize("solver", ["ddnm", "pigdm", "dps", "repaint"])
@pytest.mark.parametrize("task", ["inpaint", "super_resolution", "colorize", "deblur"])
def test_every_pair_of_configs(task, solver, draw):
    files = {"task": f"conf/task/{task}.yaml", "inverse_solver": f"conf/inverse_solver/{solver}.yaml"}
    made = instantiate(OmegaConf.create({key: OmegaConf.load(Path(file)) for key, file in files.items()}).task)
    assert isinstance(made, InverseProblem)
    if solver != "repaint" or task == "inpaint":
        result, _ = run(made, make_model((3, 4, 8)), truth=draw(2, 3, 4, 8))
        assert result.x.isfinite().all()


def test_pigdm_on_correlated_fields_is_near_the_posterior_mean(caplog):
    """Of Gaussian fields of unit variance, whose largest direction varies 60 times as much as an element.

    With the standard deviation of an element of images the same diverges, and says so.
    """
    n, g = 16, torch.Generator().manual_seed(0)
    k = torch.fft.fftfreq(n) * n
    spectrum = (1 + (k[:, None] ** 2 + k**2) / 2) ** -2.5
    spectrum = spectrum / spectrum.mean()
    truth = filtered(torch.randn(6, 1, n, n, generator=g), spectrum.sqrt())
    unit = torch.eye(n * n).view(-1, 1, n, n)
    a, covariance = Downsample(2)(unit).flatten(1).T.double(), filtered(unit, spectrum).flatten(1).double()
    y = Downsample(2)(truth)
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + 1e-9 * torch.eye(len(a)))
    mean = (y.flatten(1).double() @ gain.T).view_as(truth)

    def predict(x_t, t, cond=None):
        alpha, sigma = CosineSchedule().alpha_sigma(t)
        return filtered(x_t, (alpha * spectrum / (alpha**2 * spectrum + sigma**2)).float())

    model = partial(make_model, (1, n, n), steps=25, denoiser=Oracle(predict, CosineSchedule()))
    found = run(super_resolution(guided("pigdm"), 2), model(kind="fields"), truth=truth)[0].x
    of_mean, of_blocks = ((x - mean).square().mean() for x in (found, upsampled(y, truth.shape[1:])))
    assert of_mean < 0.1 * of_blocks
    run(inpaint(guided("pigdm", sigma_data=0.1)), model(kind="fields"), truth=truth)
    assert "diverged" in caplog.text and "larger inverse_solver.sigma_data" in caplog.text
