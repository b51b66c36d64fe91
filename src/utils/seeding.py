"""Seeds as functions of what they are for, so that no draw depends on what ran before it."""

from hashlib import blake2b

import torch


def derive_seed(*keys: int | str) -> int:
    """Mix any keys into one seed in [0, 2^63): equal keys give equal seeds, other keys unrelated ones."""
    return int.from_bytes(blake2b(repr(keys).encode(), digest_size=8).digest(), "big") >> 1


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded from `keys`."""
    return torch.Generator(device).manual_seed(derive_seed(*keys))
