"""ImageNet features, in which distances are usually published."""

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from src.metrics.features.base import Features, Reference
from src.metrics.features.trained import digest, read
from src.utils.console import progress_bar
from src.utils.errors import UserError
from src.utils.files import cached
from src.utils.ranges import PositiveInt

WIDTH = 2048


class InceptionFeatures(Features):
    """The 2,048 features of the pooled last layer of Inception-v3, trained on ImageNet.

    Images are enlarged to 299 pixels, grey ones made RGB. They mean something on photographs, and little on digits.
    The features of the real data are kept in the cache.

    Args:
        reference: the data that are compared.
        cache: folder that keeps the features.
        weights: file of the weights; by default torch-fidelity downloads them.
        batch_size: images at a time.

    Raises:
        UserError: where torch-fidelity is not installed, or its weights cannot be had.

    Source: Szegedy et al. 2016, arXiv:1512.00567; Heusel et al. 2017, arXiv:1706.08500.
    """

    width = WIDTH

    def __init__(self, reference: Reference, cache: str, weights: str | None = None, batch_size: PositiveInt = 50):
        if reference.kind != "images":
            raise UserError(f"features=inception are of images, and this run is one of {reference.kind}")
        self.batch_size, self.name = batch_size, f"Inception-v3 of ImageNet, {WIDTH:,} features"
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self.net = load_inception(weights).to(device or torch.device("cpu"))
        (x, _), (x_test, _) = read(reference.train), read(reference.test)
        file = Path(cache) / f"inception_{digest('inception', x, x_test)}.pt"
        wanted = {"train": Tensor, "test": Tensor}
        kept = cached(file, lambda: {"train": self.see(x), "test": self.see(x_test)}, wanted)
        self.train, self.test = kept["train"], kept["test"]

    def __call__(self, x: Tensor) -> Tensor:
        return self.see((x.clamp(0, 1) * 255).round().to(torch.uint8))

    def logits(self, features: Tensor) -> Tensor:
        """Of ImageNet's classes, without their biases, as the published Inception scores."""
        return features @ self.net.fc.weight.detach().T.to(features)  # type: ignore[union-attr, operator]

    @torch.no_grad()
    def see(self, x: Tensor) -> Tensor:
        """Features (N, 2048) of images (N, C, H, W) uint8."""
        device = next(self.net.parameters()).device
        parts = []
        with progress_bar(len(x), "Inception", unit="image", leave=False, delay=2) as bar:
            for part in x.split(self.batch_size):
                parts.append(self.net(part.expand(-1, 3, -1, -1).to(device)).float().cpu())
                bar.update(len(part))
        return torch.cat(parts)


def load_inception(weights: str | None) -> torch.nn.Module:
    """The network, with weights from a file or downloaded.

    Raises:
        UserError: where it cannot be had.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    if weights is not None and not Path(weights).is_file():
        raise UserError(f"features.weights={weights} is not there; give the file of torch-fidelity's Inception weights")
    try:
        return NoTrainInceptionV3("inception-v3-compat", [str(WIDTH)], weights)
    except ImportError as error:
        raise UserError(
            "features=inception needs torch-fidelity: pip install 'diffusion-lab[inception]' (or torch-fidelity); "
            "or use features=trained"
        ) from error
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of features=inception cannot be had ({error}); download them and give "
            "features.weights=FILE, or use features=trained"
        ) from error
