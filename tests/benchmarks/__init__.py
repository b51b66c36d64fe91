"""Measurements, each a command."""

import src  # noqa: F401 - before torch: how its threads wait
