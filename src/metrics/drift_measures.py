"""What is compared to find drift: samples as vectors, and their groups by class and by condition."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from src.data.samples import Batch
from src.diffusion.conditions.text import decode_text
from src.metrics.features.base import ReferenceData
from src.statistics.pixels import radial_bands, summaries

MOST_SIDE = {1: 1024, 2: 32, 3: 16}  # elements along an axis that samples are compared at, by the number of axes
MOST_TEXTS = 12  # different texts that are groups of their own


class Sample(NamedTuple):
    """What one test compares: the new samples, the training data and the held-out data, as vectors (n, D) each."""

    new: Tensor
    train: Tensor
    test: Tensor

    def standardized(self) -> "Sample":
        """The vectors in standard deviations of all together, which no exchange of samples changes."""
        everything = torch.cat(self)
        scale = everything.std(0).clamp(min=1e-12)
        return Sample(*((part - everything.mean(0)) / scale for part in self))

    def of(self, rows: Sequence[Tensor]) -> "Sample":
        """Some rows of each."""
        return Sample(*(part[chosen] for part, chosen in zip(self, rows, strict=True)))


def measures_of(reference: ReferenceData, batches: Sequence[Batch]) -> dict[str, Sample]:
    """What is compared of all samples, as vectors; the first is also compared by class and by condition."""
    found: dict[str, Sample] = {}
    xs, images = [batch["x"] for batch in batches], reference.kind == "images"
    if images:
        found["features of the run"] = vectors = Sample(*map(reference.features, xs))
        logits = [reference.features.logits(part) for part in vectors]
        if "label" not in batches[0] and logits[0] is not None:
            found["predicted classes"] = one_hot([each.argmax(1) for each in logits if each is not None])
    elements = Sample(*map(as_vectors, xs))
    if reference.kind == "points":
        found["coordinates"] = elements.standardized()
    else:
        found["pixels" if images else "elements"] = elements
        name = f"{'brightness' if images else 'mean'}, contrast and spectrum"
        in_range = [reference.value_range.to_unit(x) for x in xs]
        found[name] = Sample(*map(sample_statistics, in_range)).standardized()
    for name in batches[0]:
        if name != "x":
            found["classes" if name == "label" else name] = condition_vectors([batch[name] for batch in batches])
    return found


def sample_statistics(x: Tensor) -> Tensor:
    """Means of the channels, contrast, shares at the ends of the range, and spectrum in dB, (N, D), of x (N, C, *S)."""
    rows = []
    for part in x.split(500):
        found = summaries(part)
        ends = torch.stack([found["histogram"][:, :2].sum(1), found["histogram"][:, -2:].sum(1)], 1)
        rows.append(
            torch.cat([found["channels"], found["contrast"][:, None], ends, radial_bands(found["power"])], 1).float()
        )
    return torch.cat(rows)


def as_vectors(x: Tensor) -> Tensor:
    """Samples (N, C, *S) as vectors (N, D), averaged over cells where they have many elements."""
    axes = x.ndim - 2
    if not axes:
        return x
    size = [min(s, MOST_SIDE[axes]) for s in x.shape[2:]]
    pool: Any = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[axes]
    return (x if size == list(x.shape[2:]) else pool(x, size)).flatten(1)


def one_hot(classes: Sequence[Tensor]) -> Sample:
    """Classes (n,), or -1, as vectors, whose energy distance is that between the shares, squared, times a constant."""
    count = int(max(part.max() for part in classes)) + 2
    return Sample(*(F.one_hot(part + 1, count).float() for part in classes))


def condition_vectors(values: Sequence[Tensor]) -> Sample:
    """The conditions (n, ...) of the samples as vectors."""
    if values[0].is_floating_point():
        return Sample(
            *(as_vectors(v.nan_to_num()) if v.ndim > 2 else v.reshape(len(v), -1).nan_to_num() for v in values)
        ).standardized()
    if values[0].ndim == 1:
        return one_hot(values)
    places = torch.cat(list(values)).unique(dim=0, return_inverse=True)[1]
    return one_hot(places.split([len(v) for v in values]))


def groups_of(reference: ReferenceData, batches: Sequence[Batch]) -> Iterator[tuple[str, list[Tensor]]]:
    """The groups of samples by class and by condition: a name, and the rows of each batch."""
    for name in batches[0]:
        values = [batch[name] for batch in batches]
        if name == "x" or values[0].ndim > 2:
            continue
        if values[0].is_floating_point():
            yield from by_quarter(reference, name, values)
        else:
            yield from (by_class if values[0].ndim == 1 else by_text)(reference, name, values)


def by_class(reference: ReferenceData, name: str, values: Sequence[Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
    """Integers: a group for each."""
    names = getattr(reference.data, "class_names", None) or []
    for k in values[0].unique().tolist():
        if k >= 0:
            title = names[k] if name == "label" and k < len(names) else str(k)
            yield f"{'class' if name == 'label' else name} {title}", [(v == k).nonzero()[:, 0] for v in values]


def by_text(reference: ReferenceData, name: str, values: Sequence[Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
    """Texts: a group for each of the most frequent."""
    texts, counts = values[0].unique(dim=0, return_counts=True)
    for i in counts.argsort(descending=True)[:MOST_TEXTS]:
        yield f"“{decode_text(texts[i : i + 1])[0]}”", [(v == texts[i]).all(1).nonzero()[:, 0] for v in values]


def by_quarter(reference: ReferenceData, name: str, values: Sequence[Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
    """Vectors: of each number four groups, between the quartiles of the training data."""
    names = getattr(reference.data, f"{name}_names", None) or []
    columns = [v.reshape(len(v), -1) for v in values]
    for i in range(columns[0].shape[1]):
        title = names[i] if i < len(names) else f"{name}[{i}]" if columns[0].shape[1] > 1 else name
        ends = columns[1][:, i].nanquantile(torch.tensor([0.25, 0.5, 0.75], dtype=columns[1].dtype))
        quarter = [torch.bucketize(column[:, i].contiguous(), ends) for column in columns]
        low, middle, high = (f"{end:.3g}" for end in ends.tolist())
        spans = f"up to {low}", f"{low} to {middle}", f"{middle} to {high}", f"above {high}"
        for k, span in enumerate(spans):
            yield f"{title} {span}", [(q == k).nonzero()[:, 0] for q in quarter]
