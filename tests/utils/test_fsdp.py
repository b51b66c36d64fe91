"""A strategy that shares out the weights keeps digests of what it writes, and refuses what is damaged."""

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from src.utils.checkpoints import AtomicCheckpointIO, load_checkpoint
from src.utils.errors import UserError
from src.utils.fsdp import FSDP2Strategy
from src.utils.sharded import DIGESTS, checksums, shard_files
from tests.helpers.tiny import Memory, make_module

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.copied]


def train(steps: int, ckpt_path: Path | None = None, sharded: bool = True, checkpoint: bool = False) -> pl.Trainer:
    split = {"strategy": FSDP2Strategy(min_parameters=0, process_group_backend="gloo")}
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, num_sanity_val_steps=0, limit_val_batches=0,
        logger=False, use_distributed_sampler=False, enable_model_summary=False, enable_progress_bar=False,
        enable_checkpointing=False, **(split if sharded else {"plugins": [AtomicCheckpointIO()]}),
    )  # fmt: skip
    module = make_module(dropout=0.5)
    module.denoiser.net.checkpoint = checkpoint
    trainer.fit(module, Memory(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_activation_checkpointing_of_sharded_blocks():
    """Blocks gathered again for the backward pass have the same gradients."""
    plain, again = (
        [p.full_tensor().detach() for p in train(3, checkpoint=checkpoint).lightning_module.denoiser.parameters()]
        for checkpoint in (False, True)
    )
    assert all(map(torch.equal, plain, again))


def test_damage_to_a_folder_is_named(tmp_path):
    folder = tmp_path / "last.ckpt"
    trainer = train(2)
    trainer.save_checkpoint(folder)
    assert json.loads((folder / DIGESTS).read_text())["crc32"] == checksums(folder, shard_files(folder))
    assert train(3, folder).global_step == 3
    file = folder / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"__0_0\.distcp is damaged: it differs from its checksum") as caught:
        train(3, folder)
    assert caught.value.everywhere  # one process of several says it


def test_weights_that_are_not_finite_are_named(tmp_path):
    folder = tmp_path / "last.ckpt"
    trainer = train(2)
    name, lost = list(trainer.lightning_module.named_parameters())[-1]
    lost.data.fill_(torch.nan)
    trainer.save_checkpoint(folder)
    assert load_checkpoint(folder)["state_dict"][name].isnan().all()
    with pytest.raises(UserError, match=rf"last\.ckpt holds numbers that are not finite: {name}"):
        train(3, folder)


@pytest.mark.parametrize("damage", ["flipped", "incomplete", None])
def test_a_file_is_checked_as_without_the_strategy(tmp_path, damage):
    file = tmp_path / "last.ckpt"
    train(2, sharded=False).save_checkpoint(file)
    content = load_checkpoint(file)
    if damage == "incomplete":
        del content["optimizer_states"]
        torch.save(content, file)
    if damage == "flipped":
        weight = content["state_dict"]["denoiser.net.stem.1.weight"].numpy().tobytes()
        data = file.read_bytes()
        assert weight in data
        file.write_bytes(data.replace(weight, weight[:-1] + bytes([weight[-1] ^ 1])))
    if damage is None:
        assert train(3, file).global_step == 3
        return
    with pytest.raises(UserError, match=rf"{file} (is damaged: optimizer_states is missing|cannot be read: .*CRC)"):
        train(3, file)
