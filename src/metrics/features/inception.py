"""Inception features, in which FID, KID and the Inception score are published."""

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from src.metrics.features.base import Features, ReferenceData
from src.metrics.features.trained import content_hash, load_images
from src.utils.console import progress_bar
from src.utils.errors import UserError
from src.utils.files import cached
from src.utils.ranges import PositiveInt

WIDTH = 2048


class Inception(Features):
    """The 2,048 features of the last pooling layer of Inception-v3, trained on ImageNet.

    Images are resized to 299 pixels, and gray ones converted to RGB. Meaningful for photographs, hardly for digits. The
    features of the real data are cached.

    Args:
        reference: the real data.
        cache: cache folder.
        weights: file of the weights; by default torch-fidelity downloads them.
        batch_size: images per forward pass.

    Raises:
        UserError: if torch-fidelity is not installed, or its weights are not available.

    Source: Szegedy et al. 2016, arXiv:1512.00567; Heusel et al. 2017, arXiv:1706.08500.
    """

    width = WIDTH
    metric_names = ("FID (Fréchet distance)", "KID (kernel distance)", "Inception score")

    def __init__(self, reference: ReferenceData, cache: str, weights: str | None = None, batch_size: PositiveInt = 50):
        if reference.kind != "images":
            raise UserError(
                f"features=inception must be of images, got data of kind {reference.kind}; use metrics without features"
            )
        self.batch_size, self.name = batch_size, f"Inception-v3 of ImageNet, {WIDTH:,} features"
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self.net = load_inception(weights).to(device or torch.device("cpu"))
        (x, _), (x_test, _) = load_images(reference.train), load_images(reference.test)
        file = Path(cache) / f"inception_{content_hash('inception', x, x_test)}.pt"
        expected = {"train": Tensor, "test": Tensor}
        saved = cached(file, lambda: {"train": self.extract(x), "test": self.extract(x_test)}, expected)
        self.train, self.test = saved["train"], saved["test"]

    def __call__(self, x: Tensor) -> Tensor:
        return self.extract((x.clamp(0, 1) * 255).round().to(torch.uint8))

    def logits(self, features: Tensor) -> Tensor:
        """Logits of the ImageNet classes, without their biases, as in the published Inception scores."""
        return features @ self.net.fc.weight.detach().T.to(features)  # type: ignore[union-attr, operator]

    @torch.no_grad()
    def extract(self, x: Tensor) -> Tensor:
        """Compute the features (N, 2048) of images (N, C, H, W) uint8."""
        device = next(self.net.parameters()).device
        parts = []
        with progress_bar(len(x), "Inception", unit="image", leave=False, delay=2) as bar:
            for part in x.split(self.batch_size):
                parts.append(self.net(part.expand(-1, 3, -1, -1).to(device)).float().cpu())
                bar.update(len(part))
        return torch.cat(parts)


def load_inception(weights: str | None) -> torch.nn.Module:
    """Load the network, with weights from a file or downloaded.

    Raises:
        UserError: if it is not available.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    if weights is not None and not Path(weights).is_file():
        raise UserError(
            f"features.weights={weights} does not exist; use the file of the Inception weights of torch-fidelity"
        )
    try:
        return NoTrainInceptionV3("inception-v3-compat", [str(WIDTH)], weights)
    except ImportError as error:
        raise UserError(
            "features=inception needs torch-fidelity: pip install 'diffusion-lab[inception]' (or torch-fidelity); "
            "or use features=auto"
        ) from error
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of features=inception are not available ({error}); download them and set "
            "features.weights=FILE, or use features=auto"
        ) from error
