"""Tar shards in the format of webdataset: samples of files that share a key, such as 0001.jpg and 0001.cls.

The library expands patterns of shard names. It is not used to stream them, since its order depends on the number of
processes and begins at the start of a shard only; instead the offset of each image is stored.
"""

import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from src.data.image_files import ArchiveFiles, entry_kind, split_names
from src.data.index import mtime_and_size
from src.data.names import PassedOver, part_of_shard, tidy
from src.data.workers import cpus, map_in_workers
from src.utils.errors import UserError
from src.utils.images import ENDINGS, is_hidden, is_image

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
BLOCK = 512  # bytes; a tar file ends with blocks of zeros
HEADER = 1 << 20  # largest size of the header of a member, in bytes


def find_shards(path: Path, key: str) -> list[Path]:
    """Find the tar files of a path: one file, train-*.tar, train-{00..09}.tar, or a folder; none for other paths.

    Raises:
        UserError: if some do not exist, or the library is not installed.
    """
    if path.is_dir():
        return _shards_in(path)
    if not path.name.endswith(TAR_ENDINGS):
        return []
    if re.match(r"\w\w+:", str(path)):
        raise UserError(f"{key} must be a path on a disk, got {path}; download the shards first")
    names = map(Path, _webdataset().shardlists.expand_urls(str(path)))
    paths = [p for name in names for p in (sorted(name.parent.glob(name.name)) if "*" in name.name else [name])]
    if not paths:
        raise UserError(f"{key}={path} matches no file; set {key} to tar files, or to a folder of them")
    lacking = [path for path in paths if not path.is_file()]
    if lacking:
        raise UserError(
            f"{key}={path}: {len(lacking)} of {len(paths)} shards do not exist, such as {lacking[0]}; add them"
        )
    return paths


def _shards_in(folder: Path) -> list[Path]:
    """The tar files in a folder; none if it also contains images or folders."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry_kind(entry) == "folder" or is_image(entry.name):
                return []
            if entry.name.endswith(".tar") and not is_hidden(entry.name):
                found.append(folder / entry.name)
    return sorted(found)


def _webdataset() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise UserError("tar shards need the library webdataset: pip install 'diffusion-lab[webdataset]'") from error
    return webdataset


def scan_shards(paths: Sequence[Path], root: Path, key: str) -> ArchiveFiles:
    """Find the images in tar shards, in order; the last of several with one name in a shard, as when unpacked.

    Raises:
        UserError: if a shard is damaged or has no image, or only some images have labels.
    """
    _webdataset()
    listed = (
        [root] if root.is_dir() else [root.parent] if "*" in root.name else []
    )  # a new shard there changes the folder
    stamps = {str(path.absolute()): mtime_and_size(path) for path in [*paths, *listed]}
    workers = min(cpus(), 8, len(paths)) if len(paths) > 1 else 0
    shards: list[_Shard] = []
    with tqdm(total=len(paths), desc="Scanning the shards", delay=2, leave=False) as bar:
        for shard in map_in_workers(_scan, paths, workers):
            if shard.wrong:
                raise UserError(f"{key}: {paths[len(shards)]} {shard.wrong}")
            shards.append(shard)
            bar.update()
    names = [prefix + name for prefix, shard in zip(_prefixes(paths), shards, strict=True) for name in shard.names]
    where = torch.cat([shard.where for shard in shards])
    where[:, 0] = torch.arange(len(shards)).repeat_interleave(torch.tensor([len(shard.names) for shard in shards]))
    label = torch.cat([shard.label for shard in shards])
    lacking = (label < 0).nonzero()[:, 0].tolist()
    if 0 < len(lacking) < len(label):
        name = f"{paths[int(where[lacking[0], 0])].name}/{names[lacking[0]]}"
        raise UserError(
            f"{key}: all images or none must have a .cls file, but {len(lacking)} have none, such as {name}; add them"
        )
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    archives = [str(path.absolute().relative_to(folder)) for path in paths]
    beside = PassedOver()
    for shard in shards:
        beside.kinds.update(shard.beside.kinds)
    label_of = None if lacking else label
    return ArchiveFiles(
        folder, *split_names(names), stamps, label_of, passed_over=str(beside), archives=archives, where=where
    )


def _prefixes(paths: Sequence[Path]) -> list[str]:
    """The folder assigned to each shard: its part of the data, if the names of shards contain both train and val."""
    parts = [part_of_shard(path.name) for path in paths]
    split = "train" in parts and ("val" in parts or "test" in parts)
    return [f"{part or 'other'}/" if split else "" for part in parts]


@dataclass
class _Shard:
    """The contents of a shard: names of images, their rows of ArchiveFiles.where, labels or -1; or the error."""

    names: list[str] = field(default_factory=list)
    where: Tensor = field(default_factory=lambda: torch.empty(0, 4, dtype=torch.int64))
    label: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    wrong: str | None = None
    beside: PassedOver = field(default_factory=PassedOver)


class _Headers(FileIO):
    """A tar file that is read header by header; larger reads raise ReadError."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return super().read(size)


def _scan(path: Path) -> _Shard:
    found: dict[str, tuple[int, int, int, int]] = {}
    classes: dict[str, int] = {}
    beside = PassedOver()
    try:
        with _Headers(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # it would grow with every member
                name = tidy(member.name)
                if member.isdir() or any(map(is_hidden, name.split("/"))):
                    continue
                if not member.isreg():
                    beside.count("links or devices", is_image(name))
                elif name.lower().endswith(".cls"):
                    file.seek(member.offset_data)
                    classes[name[:-4]] = _class(file.read(min(member.size, BLOCK)), name)
                elif is_image(name):
                    beside.count("older images of the same name", found.pop(name, None) is not None)
                    found[name] = (0, member.offset_data, member.size, 0)
                else:
                    beside.add(name)
            file.seek(tar.offset)
            if file.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError("it is truncated")
    except _NoClass as error:
        return _Shard(wrong=f"cannot be used: {error}")
    except Exception as error:  # damaged files raise anything
        return _Shard(wrong=f"is damaged, or compressed ({error or type(error).__name__}); copy or unpack it again")
    fields = _further_fields(found)
    beside.count("further images of a sample, as 1.mask.png is beside 1.png", len(fields))
    rows = {name: row for name, row in found.items() if name not in fields}
    if not rows:
        others = f", but {beside}" if str(beside) else ""
        return _Shard(wrong=f"holds no image{others}; add files named KEY{', KEY'.join(ENDINGS)}")
    label = [classes.get(name.rpartition(".")[0], classes.get(_key(name), -1)) for name in rows]
    return _Shard([*rows], torch.tensor([*rows.values()]), torch.tensor(label), beside=beside)


def _key(name: str) -> str:
    """The webdataset key of a file: its path up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _further_fields(names: Iterable[str]) -> set[str]:
    """Select images such as 1.mask.png beside 1.png; other names with dots are samples of their own."""
    dotted = {name for name in names if name.count(".", name.rfind("/") + 1) > 1}
    samples = {_key(name) for name in names if name not in dotted} if dotted else set()
    return {name for name in dotted if _key(name) in samples}


class _NoClass(Exception):
    """A .cls file without a class number."""


def _class(content: bytes, name: str) -> int:
    number = content.strip()
    if not number.isdigit() or len(number) > 18:
        raise _NoClass(f"{name} must hold a class number")
    return int(number)
