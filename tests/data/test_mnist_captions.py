import pytest
import torch

from src.data.captions import read_caption
from src.data.mnist_captions import MNISTCaptions
from src.diffusion.conditions.text import decode_text
from src.statistics.handwriting import slant, stroke_width
from src.utils.errors import UserError
from tests.data.test_mnist import mnist, write

ROWS = torch.arange(50)


def captions(tmp_path, **settings):
    data = mnist(write(tmp_path), kind=MNISTCaptions, **settings)
    data.setup()
    return data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The pictures are noise: thin, and of slants near zero."""
    return captions(tmp_path_factory.mktemp("mnist"), thickness=(2.35, 2.4), slant=(-0.3, 0.9))


def test_a_caption_says_what_is_measured(data):
    for part in (data.train_set, data.val_set, data.test_set):
        batch = part[0, torch.arange(len(part))]
        x = data.to_units(batch["x"])
        thickness = [(w >= 2.35) + (w >= 2.4) for w in stroke_width(x).tolist()]
        slants = [(s >= -0.3) + (s >= 0.9) for s in slant(x).tolist()]
        truth = list(zip(batch["label"].tolist(), thickness, slants, strict=True))
        said = [read_caption(text) for text in decode_text(batch["text"])]
        assert all(
            s in (t, None) for one, true in zip(said, truth, strict=True) for s, t in zip(one, true, strict=True)
        )
        assert [one.digit for one in said] == batch["label"].tolist()
        assert len({*thickness}) == 3 == len({*slants})
    assert batch["text"].dtype == torch.int64 and batch["text"].shape[1] == data.text_length == 72


def test_a_caption_depends_on_seed_epoch_and_index_alone(data, tmp_path):
    first = data.train_set[3, ROWS]["text"]
    again = captions(tmp_path, thickness=(2.35, 2.4), slant=(-0.3, 0.9)).train_set
    assert torch.equal(torch.cat([again[3, rows]["text"] for rows in ROWS.split(7)]), first)
    assert torch.equal(again[3, ROWS.flip(0)]["text"].flip(0), first)
    for other in (data.train_set[4, ROWS], captions(tmp_path, seed=1).train_set[3, ROWS]):
        assert (other["text"] != first).any(1).float().mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thickness": [3, 2]}, r"data\.thickness must be two increasing numbers, such as \[2, 3\], got \[3, 2\]"),
        ({"slant": [1]}, r"data\.slant must be two increasing numbers"),
        ({"text_length": 10}, r"data\.text_length must be >= 72, .* got 10"),
        ({"num_classes": 0}, r"data\.num_classes must be 10, since the captions name the digits, got 0"),
    ],
)
def test_what_is_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        captions(tmp_path, **settings)
