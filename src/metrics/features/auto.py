"""Features trained on the data of the run, chosen by whether the data have labels."""

from src.metrics.features.autoencoder import Autoencoder
from src.metrics.features.base import ReferenceData
from src.metrics.features.classifier import Classifier
from src.metrics.features.trained import TrainedFeatures
from src.utils.ranges import PositiveFloat, PositiveInt


def auto(
    reference: ReferenceData,
    cache: str,
    width: PositiveInt = 64,
    epochs: PositiveInt = 5,
    batch_size: PositiveInt = 128,
    lr: PositiveFloat = 4e-3,
) -> TrainedFeatures:
    """Features of a classifier for data with labels, of an autoencoder for data without."""
    kind = Classifier if reference.data.num_classes > 1 else Autoencoder
    return kind(reference, cache, width, epochs, batch_size, lr)
