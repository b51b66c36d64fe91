import pytest
import torch
from torch.testing import assert_close

from src.diffusion.guidance import ClassifierFree, NoGuidance
from src.diffusion.schedules import match
from src.samplers.ancestral import DDIM

SHAPES = [(1, 7), (3, 5), (1, 4, 4), (3, 4, 6)]
MEANS = torch.tensor([0.1, -0.5, 0.3, 0.9], dtype=torch.float64)  # the first is that without a label


def conditional(schedule, stds):
    """The exact denoiser of N(mean, std^2), both given by the label; -1 is the first of each."""

    def denoise(x_t, t, cond):
        alpha, sigma = (match(v, x_t) for v in schedule.alpha_sigma(t))
        cond = torch.full((len(x_t),), -1) if cond is None else cond
        mean, std = match(MEANS[cond + 1], x_t), match(stds[cond + 1], x_t)
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    return denoise


SAME = torch.full((4,), 0.6, dtype=torch.float64)
OTHER = torch.tensor([0.7, 0.5, 0.6, 0.4], dtype=torch.float64)
LABEL = torch.tensor([0, 2, -1, 1, 0])


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("t", [torch.tensor(0.4).double(), torch.tensor([0.01, 0.2, 0.4, 0.7, 0.99]).double()])
class TestClassifierFree:
    def test_scale_one_leaves_and_zero_is_unconditional(self, data, t, schedule, randn):
        denoise, x_t = conditional(schedule, OTHER), randn(5, *data)
        assert_close(ClassifierFree(1)(denoise)(x_t, t, LABEL), denoise(x_t, t, LABEL), rtol=0, atol=0)
        assert_close(ClassifierFree(0)(denoise)(x_t, t, LABEL), denoise(x_t, t, None), rtol=0, atol=1e-15)
        assert_close(NoGuidance()(denoise)(x_t, t, LABEL), denoise(x_t, t, LABEL), rtol=0, atol=0)

    @pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 7.5])
    def test_score_is_tilted(self, data, t, scale, schedule, randn):
        """The score is that of p_t(x)^(1 - w) p_t(x|y)^w, another Gaussian, whose precision is the mixed one."""
        x_t = randn(5, *data)
        guided = ClassifierFree(scale)(conditional(schedule, OTHER))(x_t, t, LABEL)
        alpha, sigma = (match(v, x_t) for v in schedule.alpha_sigma(t))

        def moments(label):
            std = match(OTHER[label + 1], x_t)
            return alpha * match(MEANS[label + 1], x_t), alpha**2 * std**2 + sigma**2

        (m_u, v_u), (m_c, v_c) = moments(torch.full((5,), -1)), moments(LABEL)
        precision = (1 - scale) / v_u + scale / v_c
        mean = ((1 - scale) * m_u / v_u + scale * m_c / v_c) / precision
        score = (alpha * guided - x_t) / sigma**2
        assert_close(score, -precision * (x_t - mean), rtol=1e-6, atol=1e-9)

    def test_samples_without_a_label_are_left_alone(self, data, t, schedule, randn):
        denoise, x_t = conditional(schedule, OTHER), randn(5, *data)
        guided = ClassifierFree(4.0)(denoise)(x_t, t, LABEL)
        plain = denoise(x_t, t, LABEL)
        assert_close(guided[2], plain[2], rtol=0, atol=1e-14)
        assert (guided != plain).flatten(1).any(1).tolist() == [True, True, False, True, True]
        assert_close(ClassifierFree(4.0)(denoise)(x_t, t, None), denoise(x_t, t, None), rtol=0, atol=0)


def test_samples_of_the_tilted_gaussian(make_schedule, randn):
    """Among Gaussians of one variance the tilted one has the mean m_u + w (m_c - m_u), and the same variance."""
    schedule, label = make_schedule("trigonometric"), torch.tensor([0, 1, 2, -1])
    guided = ClassifierFree(3.0)(conditional(schedule, SAME))
    x_1 = randn(4, 1, 500)
    *_, end = DDIM(schedule, 400).trajectory(lambda x_t, t: guided(x_t, t, label), x_1, torch.randn_like)
    mean = MEANS[0] + 3 * (MEANS[label + 1] - MEANS[0])
    assert_close(end.x_t, mean.view(4, 1, 1) + 0.6 * x_1, rtol=0, atol=0.01)
