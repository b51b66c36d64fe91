"""Data modules, by class name: ``from src.data import MNIST``."""

from src.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "ArrayData": "array",
        "DataModule": "base",
        "Digits": "digits",
        "GaussianField": "gaussian_field",
        "GaussianMixture": "gaussian_mixture",
        "HuggingFace": "huggingface",
        "ImageFolder": "image_folder",
        "Joined": "joined",
        "MNIST": "mnist",
        "MNISTAngle": "mnist_angle",
        "MNISTCaptions": "mnist_captions",
        "Sine": "sine",
        "TensorSamples": "samples",
    },
)
