"""What is frozen stays, what is not learns, and both are told."""

import pytest
import torch

from src.callbacks.checkpoint import BestLastCheckpoint
from src.callbacks.finetune import FineTune, layers_of, validation_mse
from src.nets.conv_autoencoder import ConvAutoencoder
from src.nets.mlp import MLP
from src.nets.unet import UNet
from src.utils.errors import UserError
from tests.helpers.tiny import fit, make_module, weights


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_only_the_last_layers_learn(tmp_path, layers):
    module = make_module()
    before = {name: p.detach().clone() for name, p in module.denoiser.net.named_parameters()}
    tune = FineTune(layers)
    module, trainer, _ = fit(tmp_path, module, callbacks=[tune], max_steps=4)
    moved = {n.rpartition(".")[0] for n, p in module.denoiser.net.named_parameters() if not torch.equal(p, before[n])}
    last = list(layers_of(module.denoiser.net))[-layers:]
    assert moved == set(last)
    (_, names), (_, error) = tune.report
    trained = sum(p.numel() for n, p in before.items() if n.rpartition(".")[0] in last)
    assert names == f"{', '.join(last)}: {trained:,} of {sum(p.numel() for p in before.values()):,} parameters"
    assert f"{tune.results['val/mse']:.5g} after" in error
    assert tune.results["val/mse"] == pytest.approx(validation_mse(trainer, module))
    assert tune.results["val/mse"] != tune.results["val/mse_before"]
    assert len(trainer.optimizers[0].param_groups[0]["params"]) == 2 * layers


def test_the_average_keeps_what_is_frozen(tmp_path):
    module = make_module(warmup=False, decay=0.5)
    start = {name: p.detach().clone() for name, p in module.ema.model.net.named_parameters()}
    module, _, _ = fit(tmp_path, module, callbacks=[FineTune(1)], max_steps=4)
    same = [torch.equal(p, start[n]) for n, p in module.ema.model.net.named_parameters()]
    assert same == [True] * (len(same) - 2) + [False, False]


def test_resuming_is_exact(tmp_path):
    def tuned(folder, **settings):
        folder.mkdir(exist_ok=True)
        callbacks = [FineTune(2), BestLastCheckpoint(str(folder / "checkpoints"))]
        module, _, _ = fit(folder, make_module(), callbacks=callbacks, val_check_interval=2, **settings)
        return module, callbacks[0]

    whole, told = tuned(tmp_path / "whole", max_steps=6)
    tuned(tmp_path / "parts", max_steps=4)
    resumed, told_again = tuned(tmp_path / "parts", max_steps=6, ckpt_path=tmp_path / "parts/checkpoints/last.ckpt")
    assert torch.equal(weights(whole), weights(resumed))
    assert told_again.results == told.results, "the error before is that before the whole run"


NETS = {
    "mlp": lambda: MLP(1, (8,), width=8, depth=1),
    "unet": lambda: UNet(1, (8, 8), width=8, num_groups=4, num_heads=2),
    "conv_autoencoder": lambda: ConvAutoencoder(1, (8, 8), width=8),
}


@pytest.mark.parametrize("net", NETS)
def test_layers_are_all_that_hold_parameters(net):
    net = NETS[net]()
    layers = layers_of(net)
    ours = [p for layer in layers.values() for p in layer.parameters(recurse=False)]
    assert {id(p) for p in ours} == {id(p) for p in net.parameters()}
    assert len(ours) == len(list(net.parameters()))
    assert list(layers)[-1].startswith("head"), "the last layer is the one that gives the result"


@pytest.mark.parametrize("layers", [0, 1000, -1])
def test_a_depth_that_the_net_does_not_have(layers):
    module = make_module()
    there = len(layers_of(module.denoiser.net))
    with pytest.raises(UserError, match=rf"callbacks\.finetune\.layers must be between 1 and {there}, .*got {layers}"):
        FineTune(layers).check(module)
