"""Networks ``net(x, c_noise, cond)`` and their parts: plain torch, without knowledge of diffusion."""

from src.nets.auto import auto_net
from src.nets.base import Net
from src.nets.cnn import CNN
from src.nets.conv_autoencoder import ConvAutoencoder
from src.nets.diffusers import DiffusersNet
from src.nets.dit import DiT
from src.nets.jit import JiT
from src.nets.lucidrains import LucidrainsNet
from src.nets.mlp import MLP
from src.nets.random_features import RandomFeatures
from src.nets.rnn import RNN
from src.nets.time_embeddings import FourierEmbedding, LearnedEmbedding, SinusoidalEmbedding
from src.nets.unet import UNet

__all__ = [
    "CNN",
    "MLP",
    "RNN",
    "ConvAutoencoder",
    "DiT",
    "DiffusersNet",
    "FourierEmbedding",
    "JiT",
    "LearnedEmbedding",
    "LucidrainsNet",
    "Net",
    "RandomFeatures",
    "SinusoidalEmbedding",
    "UNet",
    "auto_net",
]
