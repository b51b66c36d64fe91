"""Texts for the terminal."""

import pytest

from src.utils.console import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2e-6, "2 us"), (0.0123, "12.3 ms"), (5.4, "5.4 s"), (90, "1.5 min"), (5400, "1.5 h"), (180000, "2.08 days")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
