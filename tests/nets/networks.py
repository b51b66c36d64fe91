"""Small networks of every kind, data for them, and what their tests share."""

import torch

from src.nets import CNN, MLP, RNN, ConvAutoencoder, DiT, FourierEmbedding, JiT, LearnedEmbedding, UNet

SMALL = {"width": 8, "num_groups": 4, "num_heads": 2}


DATA = {
    "signal": (1, (16,)),
    "3-channel signal": (3, (8,)),
    "image": (1, (8, 8)),
    "wide color image": (3, (8, 16)),
    "volume": (2, (4, 8, 4)),
}


def unet(**options):
    return lambda channels, size, **more: UNet(channels, size, **SMALL, **options, **more)


def small(net, **options):
    return lambda channels, size, **more: net(channels, size, width=8, embed_dim=16, **options, **more)


def dit(**options):
    return lambda channels, size, **more: DiT(channels, size, width=16, depth=2, num_heads=2, **options, **more)


def jit(**options):
    return lambda channels, size, **more: JiT(channels, size, width=16, depth=2, num_heads=2, **options, **more)


NETS = {
    "unet": unet(),
    "unet patch": unet(patch_size=2),
    "unet attention": unet(attention_levels=(0, 1), num_blocks=2),
    "unet bare": unet(channel_mults=(1,), middle_attention=False),
    "unet deep": unet(channel_mults=(1, 2, 2), attention_levels=(2,)),
    "unet adding": unet(channel_mults=(1, 2), num_blocks=2, skip_mode="add"),
    "mlp": lambda channels, size, **more: MLP(channels, size, width=16, depth=2, **more),
    "mlp learned": lambda channels, size, **more: MLP(
        channels, size, width=16, depth=2, embed_dim=8, time_embedding=LearnedEmbedding, **more
    ),
    "cnn": small(CNN, depth=3, num_groups=4),
    "cnn fourier": small(CNN, depth=2, num_groups=4, patch_size=2, time_embedding=FourierEmbedding),
    "rnn": small(RNN, depth=2),
    "rnn lstm": small(RNN, depth=1, patch_size=2, cell=torch.nn.LSTM),
    "dit": dit(patch_size=2),
    "dit patch": dit(patch_size=4, mlp_ratio=1.5),
    "jit": jit(patch_size=2),
    "jit bottleneck": jit(patch_size=4, bottleneck=3, context_tokens=0),
    "conv_autoencoder": small(ConvAutoencoder, bottleneck=16),
    "conv_autoencoder tanh": small(ConvAutoencoder, bottleneck=16, tanh_output=True),
}


SIGNALS_ONLY = ("rnn", "rnn lstm")


def randomize_zeros(net):
    """Replace the parameters that start as zero, with which a network is mute, by small noise."""
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return net


def inputs(channels, size, randn, batch=4):
    return randn(batch, channels, *size), torch.tensor([1.0, 250.0, 600.0, 1000.0])[:batch]


def reach(net, at, size):
    """Whether each position of a signal, or image, moves the output at one position."""
    x = torch.zeros(1, 1, *size, dtype=torch.float64, requires_grad=True)
    output = randomize_zeros(net).double()(x, torch.tensor([500.0]))
    return torch.autograd.grad(output[(0, 0, *at)], x)[0][0, 0] != 0
