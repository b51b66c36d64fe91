import itertools
import random

import pytest

from src.data.captions import AFTER, DRAWS, LONGEST, UNSAID, Caption, phrase, read_caption

SAID, BEFORE = 0.5, 0.9  # draws by which something is said, and before the noun
PLAIN = [SAID, BEFORE, 0, SAID, BEFORE, 0, 0.9, 0, 0, 0.9, 0, 0.9]  # the first words, in order, after an article


@pytest.mark.parametrize(
    ("values", "changes", "text"),
    [
        ((7, 2, 2), {}, "a bold slanted 7"),
        ((3, 0, 0), {}, "a thin left-leaning 3"),
        ((7, 2, 2), {8: 0.9}, "a bold slanted seven"),
        ((7, 2, 2), {0: 0.1}, "a slanted 7"),
        ((7, 2, 1), {3: 0.1, 7: 0.9}, "a bold handwritten 7"),
        ((7, 2, 1), {6: 0}, "an upright bold 7"),
        ((7, 2, 1), {1: 0, 4: 0}, "a 7, in bold strokes and standing upright"),
        ((7, 0, 1), {4: 0, 10: 0.9, 11: 0}, "A thin 7 standing upright."),
        ((8, 1, 1), {0: 0, 3: 0}, "an 8"),
        ((1, 1, 1), {0: 0, 3: 0, 8: 0.9}, "a one"),
        ((8, 1, 1), {0: 0, 3: 0, 9: 0.1}, "8"),
        ((8, 1, 1), {0: 0, 3: 0, 9: 0.3}, "the 8"),
    ],
)
def test_phrases(values, changes, text):
    assert phrase(*values, [changes.get(i, draw) for i, draw in enumerate(PLAIN)]) == text


def test_every_phrase_says_what_it_was_made_from():
    draws = random.Random(0)
    seen = set()
    for values in itertools.product(range(10), range(3), range(3)):
        for _ in range(30):
            u = [draws.random() for _ in range(DRAWS)]
            text = phrase(*values, u)
            said = Caption(values[0], values[1] if u[0] >= UNSAID else None, values[2] if u[3] >= UNSAID else None)
            assert read_caption(text) == said, text
            assert len(text.encode()) <= LONGEST
            seen.add(text)
    assert len(seen) > 2000


def test_the_longest_phrase_fits():
    """The longest words in every place."""
    low, high = 0.0, 1 - 1e-9
    longest = 0
    for places in itertools.product((low, AFTER, high), repeat=2):
        for words in itertools.product((low, 0.4, high), repeat=2):
            for noun in (low, 0.5, 0.7, high):
                u = [SAID, places[0], words[0], SAID, places[1], words[1], 0.9, noun, high, 0.3, 0.0, 0.0]
                longest = max([longest, *(len(phrase(d, t, s, u)) for d in (3, 7) for t in range(3) for s in range(3))])
    assert 60 < longest <= LONGEST


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A BOLD SLANTED SEVEN", Caption(7, 2, 2)),
        ("please draw a heavy 4 that leans to the left", Caption(4, 2, 0)),
        ("fat, italic nine!", Caption(9, 2, 2)),
        ("an upright two, drawn very lightly", Caption(2, 0, 1)),
        ("three", Caption(3)),
        ("bold", Caption(None, 2)),
        ("17", Caption(None)),
        ("", Caption(None)),
    ],
)
def test_free_texts(text, said):
    assert read_caption(text) == said
