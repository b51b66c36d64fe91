"""Captions of handwritten digits: phrases made from what they say, and what given phrases say."""

import re
from collections.abc import Sequence
from typing import NamedTuple

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOUNS = ("{}", "{}", "digit {}", "number {}", "handwritten {}")
# For each value, from the least to the greatest: words before the noun, and words after it.
THICKNESS = (
    (("thin", "light", "fine"), ("in thin strokes", "with a fine pen", "with light lines")),
    (("medium", "regular", "normal"), ("in medium strokes", "of normal weight", "with regular lines")),
    (("bold", "thick", "heavy"), ("in bold strokes", "with a thick pen", "with heavy lines")),
)
SLANT = (
    (("left-leaning", "left-slanted", "backslanted"), ("leaning left", "slanted to the left", "tilted left")),
    (("upright", "straight", "vertical"), ("standing upright", "straight up", "not slanted")),
    (("slanted", "right-leaning", "italic"), ("leaning right", "slanted to the right", "tilted right")),
)
LONGEST = 72  # bytes, in which every caption fits
DRAWS = 12  # numbers that choose the words of a caption
UNSAID = 0.2  # probability of leaving out the thickness, and of leaving out the slant
AFTER = 0.4  # probability of each to stand after the noun


class Caption(NamedTuple):
    """What a caption says of a digit; None for what it leaves out.

    Attributes:
        digit: 0 to 9.
        thickness: 0 for thin, 1 for medium, 2 for bold.
        slant: 0 for left, 1 for upright, 2 for right.
    """

    digit: int | None
    thickness: int | None = None
    slant: int | None = None


def phrase(digit: int, thickness: int, slant: int, u: Sequence[float]) -> str:
    """One of many captions of a digit, such as "a bold slanted 7" or "Three, in thin strokes.".

    Args:
        digit, thickness, slant: see `Caption`.
        u: DRAWS numbers in [0, 1) that choose the words.
    """
    sides: tuple[list[str], list[str]] = ([], [])
    for words, (leave_out, where, which) in ((THICKNESS[thickness], u[:3]), (SLANT[slant], u[3:6])):
        if leave_out >= UNSAID:
            side = int(where < AFTER)
            sides[side].append(pick(words[side], which))
    if u[6] < 0.5:
        for side_words in sides:
            side_words.reverse()
    before, after = sides
    text = " ".join([*before, pick(NOUNS, u[7]).format(digit if u[8] < 0.5 else DIGITS[digit])])
    text = pick(("", "the ", article(text), article(text)), u[9]) + text
    if after:
        text += (", " if u[10] < 0.5 else " ") + " and ".join(after)
    return text[0].upper() + text[1:] + "." if u[11] < 0.2 else text


def pick(choices: Sequence[str], u: float) -> str:
    """The choice at the fraction u in [0, 1) of them."""
    return choices[int(u * len(choices))]


def article(words: str) -> str:
    """The indefinite article before some words, with a space."""
    return "an " if words[0] in "aeiu8" else "a "


# ---- what a caption says ----

# Words for each value, from the least to the greatest. The first value of which a word is found counts, so that a
# slant without a direction is one to the right, as in italics.
THICKNESS_WORDS = ("thin|thinly|light|lightly|fine|slender", "medium|regular|normal", "bold|thick|heavy|fat")
SLANT_WORDS = (r"left|back\w*", "upright|straight|vertical|not slanted", r"right|slant\w*|ital\w*|lean\w*|tilt\w*")


def read_caption(text: str) -> Caption:
    """What a caption says, by the words in it that name a digit, a thickness and a slant."""
    lower = text.lower()
    found = re.search(rf"\b([0-9]|{'|'.join(DIGITS)})\b", lower)
    digit = None if found is None else int(found[1]) if found[1].isdigit() else DIGITS.index(found[1])
    return Caption(digit, first_value(THICKNESS_WORDS, lower), first_value(SLANT_WORDS, lower))


def first_value(words: Sequence[str], text: str) -> int | None:
    """The least value of which a word is in the text, or None."""
    return next((value for value, each in enumerate(words) if re.search(rf"\b(?:{each})\b", text)), None)
