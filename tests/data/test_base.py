"""The order of the batches, the flips, and the splits."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.data.base import DataModule
from src.data.batch_sampler import EpochBatchSampler, shuffled_order
from src.data.samples import TensorSamples, labels_or_none, split, val_count
from src.utils.errors import UserError
from tests.helpers.properties import examples


def walk(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return [indices.tolist() for _, indices in sampler]


@st.composite
def orders(draw):
    """The settings of a sampler: n, batch_size, shuffle, seed, shards and their window."""
    n, shuffle = draw(st.integers(1, 60)), draw(st.booleans())
    shards = draw(st.none() | st.lists(st.integers(0, 5), min_size=n, max_size=n).map(torch.tensor))
    settings = {"batch_size": draw(st.integers(1, n)), "seed": draw(st.integers(0, 2**40))}
    return {"n": n, "shuffle": shuffle, "shards": shards, "shuffle_window": draw(st.integers(1, 4)), **settings}


@given(how=orders(), epoch=st.integers(0, 99), world_size=st.integers(1, 5), data=st.data())
def test_an_epoch(how, epoch, world_size, data):
    """A permutation by seed and epoch alone; ranks share out each batch, and a resumed run gives the rest of them."""
    n, batch_size = how["n"], how["batch_size"]
    whole = walk(EpochBatchSampler(**how), epoch)
    once = list(chain(*whole))
    assert len(set(once)) == len(once) == (n - n % batch_size if how["shuffle"] else n)
    assert set(once) <= set(range(n)) and len(whole) == len(EpochBatchSampler(**how))
    assert all(len(batch) == batch_size for batch in whole[:-1])
    assert how["shuffle"] or once == list(range(n))
    # Nothing that ran before matters.
    used = EpochBatchSampler(**how)
    walk(used, epoch + 1)
    assert walk(used, epoch) == whole

    ranks = [walk(EpochBatchSampler(**how, rank=r, world_size=world_size), epoch) for r in range(world_size)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        assert sorted(chain(*shares)) == sorted(batch)
        assert all(share == batch[rank::world_size] for rank, share in enumerate(shares))

    start = data.draw(st.integers(0, len(whole)), "start")
    resumed = EpochBatchSampler(**how, epoch=epoch, start=start)
    assert walk(resumed, epoch) == whole[start:] and len(resumed) == len(whole)
    assert walk(resumed, epoch + 1) == walk(EpochBatchSampler(**how), epoch + 1)
    repeated = EpochBatchSampler(**how, repeat=True)
    assert walk(repeated, epoch) == walk(repeated) == walk(EpochBatchSampler(**how))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [walk(EpochBatchSampler(50, 10, True, seed), epoch) for seed in range(5) for epoch in range(5)]
    assert len({str(order) for order in orders}) == 25
    assert walk(EpochBatchSampler(50, 10, True)) == orders[0], "that of seed 0"


@given(how=orders(), epoch=st.integers(0, 99), rank=st.integers(0, 2))
@examples(0.5)
def test_flips_depend_on_seed_epoch_and_index_only(how, epoch, rank):
    """Not on the batch, nor on the process, whose share has the flips of the whole."""
    x = torch.arange(how["n"] * 6, dtype=torch.float32).view(-1, 1, 2, 3)
    data = TensorSamples(x, flip=True, seed=how["seed"])
    flipped = data[epoch, torch.arange(how["n"])]["x"]
    mirrored = (flipped == x.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped, torch.where(mirrored[:, None, None, None], x.flip(-1), x))
    sampler = EpochBatchSampler(**how, rank=rank, world_size=3)
    sampler.set_epoch(epoch)
    for where in sampler:
        assert torch.equal(data[where]["x"], flipped[where[1]])


def test_half_of_the_images_are_flipped_others_in_each_epoch():
    x = torch.arange(400 * 2.0).view(400, 1, 1, 2)
    flipped = torch.stack([
        (TensorSamples(x, flip=True, seed=seed)[epoch, torch.arange(400)]["x"] != x).flatten(1).any(1).float()
        for seed in range(3) for epoch in range(3)
    ])  # fmt: skip
    assert ((flipped.mean(1) - 0.5).abs() < 5 * 0.5 / 20).all()
    assert (torch.corrcoef(flipped) - torch.eye(9)).abs().max() < 5 / 20


@given(how=orders(), epoch=st.integers(0, 9))
@examples(0.2)
def test_workers_give_the_batches_of_the_process(how, epoch):
    """A loader hands out whole batches of the sampler, so that workers cannot change them."""
    data = Toy(1, [1], batch_size=how["batch_size"], seed=how["seed"])
    data.train_set = data.val_set = TensorSamples(torch.arange(float(how["n"])).view(-1, 1, 1))
    loader = data.train_dataloader()
    assert loader.batch_size is None and isinstance(loader.sampler, EpochBatchSampler)
    loader.sampler.set_epoch(epoch)
    batches = [batch["x"].flatten().int().tolist() for batch in loader]
    assert batches == walk(EpochBatchSampler(how["n"], how["batch_size"], True, how["seed"]), epoch)


def test_uint8_becomes_the_unit_range():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)
    out = TensorSamples(x)[0, torch.tensor([2, 0, 1])]["x"]
    torch.testing.assert_close(out.flatten(), torch.tensor([1.0, -1.0, -0.6]))
    assert x.dtype == torch.uint8


@given(n=st.integers(1, 500), share=st.floats(0, 1), seed=st.integers(0, 2**40))
def test_split_is_a_partition(n, share, seed):
    n_val = round(share * n)
    train, val = split(n, n_val, seed)
    assert len(val) == n_val and sorted(torch.cat([train, val]).tolist()) == list(range(n))
    assert torch.equal(val, split(n, n_val, seed)[1])


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
