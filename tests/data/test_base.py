"""The order of the batches, the flips, and the splits."""

from itertools import chain

import pytest
import torch

from src.data.base import DataModule
from src.data.batch_sampler import EpochBatchSampler, shuffled_order
from src.data.samples import TensorSamples, labels_or_none, split, val_count
from src.utils.errors import UserError


def walk(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return [indices.tolist() for _, indices in sampler]


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return walk(EpochBatchSampler(50, 10, shuffle=True, seed=seed), epoch)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) != order(2, 1)
    # Nothing that ran before matters: epoch 3 is the same, walked first or last.
    sampler = EpochBatchSampler(50, 10, shuffle=True, seed=1)
    assert [walk(sampler, epoch) for epoch in range(4)][3] == order(1, 3)


@pytest.mark.parametrize(("n", "batch_size"), [(50, 10), (53, 10), (10, 10), (7, 1)])
def test_every_sample_once_an_epoch(n, batch_size):
    shuffled = list(chain(*walk(EpochBatchSampler(n, batch_size, shuffle=True))))
    assert len(set(shuffled)) == len(shuffled) == n - n % batch_size
    assert list(chain(*walk(EpochBatchSampler(n, batch_size, shuffle=False)))) == list(range(n))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_partition_each_global_batch(shuffle, world_size):
    whole = walk(EpochBatchSampler(50, 12, shuffle, seed=3))
    parts = [walk(EpochBatchSampler(50, 12, shuffle, seed=3, rank=r, world_size=world_size)) for r in range(world_size)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(chain(*shares)) == sorted(batch)
        assert all(share == batch[rank::world_size] for rank, share in enumerate(shares))


def test_start_skips_batches_of_the_first_epoch_only():
    whole = EpochBatchSampler(50, 5, shuffle=True, seed=4)
    resumed = EpochBatchSampler(50, 5, shuffle=True, seed=4, epoch=2, start=3)
    assert walk(resumed, 2) == walk(whole, 2)[3:]
    assert walk(resumed, 3) == walk(whole, 3)
    assert len(resumed) == len(whole) == 10


def test_flips_depend_on_seed_epoch_and_index_only():
    x = torch.arange(40 * 6, dtype=torch.float32).view(40, 1, 2, 3)
    data = TensorSamples(x, flip=True, seed=5)

    def flipped(epoch, indices):
        out = data[epoch, indices]["x"]
        assert all(torch.equal(y, x[i]) or torch.equal(y, x[i].flip(-1)) for y, i in zip(out, indices, strict=True))
        return {int(i) for y, i in zip(out, indices, strict=True) if not torch.equal(y, x[i])}

    everything = torch.arange(40)
    assert 10 <= len(flipped(0, everything)) <= 30
    assert flipped(0, everything) != flipped(1, everything)
    assert flipped(0, torch.randperm(40)) == flipped(0, everything)
    assert flipped(0, everything[:7]) == flipped(0, everything) & set(range(7))
    assert TensorSamples(x, flip=True, seed=6)[0, everything]["x"].ne(data[0, everything]["x"]).any()


def test_flips_are_the_same_for_one_and_for_two_processes():
    data = TensorSamples(torch.randn(24, 3, 4, 5), flip=True, seed=5)
    whole = [data[where]["x"] for where in EpochBatchSampler(24, 8, shuffle=True, seed=5)]
    parts = [[data[where]["x"] for where in EpochBatchSampler(24, 8, True, 5, rank, 2)] for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(batch[0::2], first) and torch.equal(batch[1::2], second)


def test_uint8_becomes_the_unit_range():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)
    out = TensorSamples(x)[0, torch.tensor([2, 0, 1])]["x"]
    torch.testing.assert_close(out.flatten(), torch.tensor([1.0, -1.0, -0.6]))
    assert x.dtype == torch.uint8


@pytest.mark.parametrize(("n", "n_val"), [(10, 3), (1000, 200), (5, 5)])
def test_split_is_a_partition(n, n_val):
    train, val = split(n, n_val, seed=1)
    assert len(val) == n_val and sorted(torch.cat([train, val]).tolist()) == list(range(n))
    assert torch.equal(val, split(n, n_val, seed=1)[1])


@pytest.mark.parametrize(("n", "share", "count"), [(1000, 0.2, 200), (1797, 0.2, 359), (3, 0.01, 1), (2, 0.99, 1)])
def test_val_count(n, share, count):
    assert val_count(n, share) == count


@pytest.mark.parametrize(("n", "share"), [(10, 0.0), (10, 1.0), (10, -1.0), (1, 0.5)])
def test_val_count_refuses(n, share):
    with pytest.raises(UserError, match=r"val_fraction|at least 2"):
        val_count(n, share)


def test_labels_if_asked():
    label = torch.tensor([0, 2, 1], dtype=torch.uint8)
    assert labels_or_none(label, 0) is None
    assert labels_or_none(label, 3).dtype == torch.int64
    with pytest.raises(UserError, match=r"data\.num_classes must be 3, as the labels are 0 to 2, .*, got 10"):
        labels_or_none(label, 10)


class Toy(DataModule):
    loads = 0

    def load(self):
        self.loads += 1
        self.train_set = self.val_set = TensorSamples(torch.arange(10.0).view(10, 1, 1))


def test_setup_loads_once_and_loaders_walk_the_data():
    data = Toy(1, [1], batch_size=4)
    for stage in ("fit", "validate", None):
        data.setup(stage)
    assert data.loads == 1 and data.shape == (1, 1) and data.test_set is data.val_set
    assert [len(batch["x"]) for batch in data.train_dataloader()] == [4, 4]
    assert torch.cat([batch["x"] for batch in data.val_dataloader()]).flatten().tolist() == list(range(10))


def test_too_large_a_batch_is_refused():
    data = Toy(1, [1], batch_size=11)
    data.setup()
    with pytest.raises(UserError, match=r"data\.batch_size must be at most 10, the number of training samples, got 11"):
        data.train_dataloader()


def test_shards_are_walked_a_window_at_a_time():
    """The order differs in each epoch, and all samples within a window are mixed."""
    shards = torch.arange(60) // 6
    orders = [
        shuffled_order(60, torch.Generator().manual_seed(epoch), shards, shuffle_window=3) for epoch in range(100)
    ]
    for order in orders:
        assert sorted(order.tolist()) == list(range(60))
        sets = [set(shards[part].tolist()) for part in order.split(18)]
        assert [len(some) for some in sets] == [3, 3, 3, 1] and len(set.union(*sets)) == 10
    assert len({tuple(order.tolist()) for order in orders}) == 100
    assert len({int(shards[order[-1]]) for order in orders}) == 10, "every shard comes last at times"
    firsts = torch.stack([(shards[order[:18]] == shards[order[0]]).float() for order in orders]).mean(0)[1:]
    assert (firsts > 0).all(), "a shard is not read out before the next one of its window"


@pytest.mark.parametrize("shards", [None, torch.arange(50) % 7])
def test_resumed_or_shared_out_an_order_of_shards_is_the_same(shards):
    def batches(**more):
        return walk(EpochBatchSampler(50, 4, True, 5, shards=shards, shuffle_window=2, **more), epoch=3)

    assert batches(epoch=3, start=5) == batches()[5:]
    for rank in range(2):
        assert batches(rank=rank, world_size=2) == [batch[rank::2] for batch in batches()]
