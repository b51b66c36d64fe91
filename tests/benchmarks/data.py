"""Speed of finding and reading images: `python -m tests.benchmarks.data ROOT...`.

For every root the seconds of a first and of a second start, and images a second of the loader alone, by number of
workers. With --step also those of the training step of folder_ddpm, which the loader has to keep up with.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from src.data.image_folder import ImageFolder
from src.data.workers import cpus
from src.runs.loading import build_denoiser
from src.utils.hardware import default_precision


def start(root: str, index: str, workers: int = 0) -> tuple[ImageFolder, float]:
    """The data, not kept in memory, and how long it took until they were ready."""
    data = ImageFolder(root, shuffle_window=8, cache_gb=0.0, index=index, batch_size=64, num_workers=workers)
    began = time.perf_counter()
    data.setup()
    return data, time.perf_counter() - began


def forget(data: ImageFolder) -> None:
    """Have the system drop the files from its memory, as if they were read for the first time."""
    files = data.train_set.x.part.files  # type: ignore[attr-defined]
    names = getattr(files, "archives", None) or map(files.name, range(len(files)))
    for name in names:
        fd = os.open(Path(files.root) / name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def loading_rate(data: ImageFolder, workers: int, batches: int) -> float:
    """Images a second, once the first batches are there."""
    data.num_workers = workers
    loader: Iterator = iter(data.train_dataloader())
    for _ in range(2 * workers + 1):  # those that workers have ready, and the time that they take to start
        next(loader)
    began = time.perf_counter()
    for _ in range(batches):
        next(loader)
    return batches * data.batch_size / (time.perf_counter() - began)


def training_rate(steps: int = 12, skip: int = 4) -> float:
    """Images a second of the arithmetic of folder_ddpm, on data that are there."""
    with initialize_config_dir(str(Path("conf").absolute()), version_base="1.3"):
        cfg = compose("train", ["experiment=folder_ddpm", "trainer=cpu", "data.root=none", "name=bench"])
    denoiser, loss, times = build_denoiser(cfg), instantiate(cfg.loss), instantiate(cfg.time_sampler)
    optimizer = instantiate(cfg.optimizer)(denoiser.parameters())
    x, draws, seconds = torch.rand(64, 3, 32, 32) * 2 - 1, torch.Generator().manual_seed(0), []
    for _ in range(steps):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=default_precision("cpu") == "bf16-mixed"):
            value = loss(denoiser, x, times(len(x), draws, denoiser.schedule), torch.randn_like(x)).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return len(x) / statistics.median(seconds[skip:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="none: only the starts are timed")
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--step", action="store_true")
    args = parser.parse_args()
    print(f"{cpus()} cores")
    for root in args.roots:
        with tempfile.TemporaryDirectory() as index:
            _, first = start(root, index)
            data, second = start(root, index)
        n = len(data.train_set) + len(data.val_set)
        print(f"{root}: {n:,} images found in {first:.2f} s, then in {second:.3f} s", flush=True)
        for workers in args.workers:
            warm = loading_rate(data, workers, args.batches)
            forget(data)
            cold = loading_rate(data, workers, args.batches)
            print(f"  {workers} workers: {warm:,.0f} images/s, {cold:,.0f} when read for the first time", flush=True)
    if args.step:
        print(f"the training step of folder_ddpm: {training_rate():,.0f} images/s on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
