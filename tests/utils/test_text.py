import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.utils.text import decode_text, encode_text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), min_size=1, max_size=3))
def test_texts_come_back(texts):
    assert decode_text(encode_text(texts, 40)) == texts


def test_bytes_are_padded():
    assert encode_text(["é7", ""], 4).tolist() == [[0xC3, 0xA9, 0x37, -1], [-1] * 4]
    assert encode_text(["a"], 1).dtype == torch.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a bold 7", r"at most 5 bytes, got 8: 'a bold 7'"),
        ("ééé", r"at most 5 bytes, got 6"),
        ("x" * 100, r"got 100: 'x{57}\.\.\.'$"),
        ("\udcff", r"must be UTF-8, got '\\udcff'"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        encode_text([text], 5)
