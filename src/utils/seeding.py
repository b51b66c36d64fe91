"""Seeds derived from keys, so that no random draw depends on the draws before it.

The strings among the keys are part of the seeds: changing one changes all numbers drawn from it.
"""

from hashlib import blake2b

import torch


def derive_seed(*keys: int | str) -> int:
    """Hash keys to a seed in [0, 2^63); different keys give independent seeds."""
    return int.from_bytes(blake2b(repr(keys).encode(), digest_size=8).digest(), "big") >> 1


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded from `keys`."""
    return torch.Generator(device).manual_seed(derive_seed(*keys))
