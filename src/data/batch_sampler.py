"""The order of samples in training: batches as a function of (seed, epoch)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from src.utils.seeding import generator


def shuffled_order(n: int, draws: torch.Generator, shards: Tensor | None = None, shuffle_window: int = 1) -> Tensor:
    """Return a random order (n,) of the samples; with shards, `shuffle_window` shards at a time.

    Args:
        n: number of samples.
        draws: random number generator.
        shards: (n,) the shard of each sample. Shards follow each other in random order, and the samples of
            `shuffle_window` consecutive ones are shuffled together.
        shuffle_window: number of shards.
    """
    order = torch.randperm(n, generator=draws)
    if shards is None:
        return order
    turn = torch.randperm(int(shards.max()) + 1, generator=draws) // shuffle_window
    return order[turn[shards[order]].argsort(stable=True)]


class EpochBatchSampler(Sampler[tuple[int, Tensor]]):
    """The batches of an epoch, as (epoch, indices): this process's share of each global batch.

    Shuffled, the order is a function of (seed, epoch) and incomplete batches are left out; otherwise samples come in
    order and the last batch may be smaller. The first `start` batches of the first epoch are
    skipped, so that a resumed run continues within an epoch.

    Args:
        n: number of samples in the data set.
        batch_size: size of a global batch, over all processes.
        shuffle: True to shuffle.
        seed: seed of the order.
        rank, world_size: this process and their number; it takes every world_size-th sample.
        epoch, start: the epoch and the batch at which to begin.
        shards, shuffle_window: see `shuffled_order`, for data that should not be read at random.
        repeat: True to give every epoch the order and the augmentation of the first.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        start: int = 0,
        shards: Tensor | None = None,
        shuffle_window: int = 1,
        repeat: bool = False,
    ):
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.first_epoch, self.start = epoch, start
        self.epoch = epoch
        self.shards, self.shuffle_window, self.repeat = shards, shuffle_window, repeat

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n // self.batch_size if self.shuffle else -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        start = self.start if self.epoch == self.first_epoch else 0
        epoch = 0 if self.repeat else self.epoch
        order = torch.arange(self.n)
        if self.shuffle:
            order = shuffled_order(self.n, generator(self.seed, "order", epoch), self.shards, self.shuffle_window)
        for batch in range(start, len(self)):
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield epoch, indices[self.rank :: self.world_size]
