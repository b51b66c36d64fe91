"""IDX files, the format of MNIST: finding, reading, checking and downloading them."""

import gzip
import os
import time
import zlib
from collections.abc import Sequence
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from src.utils.errors import UserError

UBYTE = 8  # the code of the only type of number that these data sets use


class DownloadError(Exception):
    """No mirror gave the file; the message says why, mirror by mirror."""


def find(name: str, folders: Sequence[Path]) -> Path | None:
    """The first of NAME and NAME.gz in the folders, or None."""
    candidates = (folder / (name + ending) for folder in folders for ending in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read(path: Path, axes: int, checksum: str | None = None) -> Tensor:
    """The array of unsigned bytes in an IDX file, plain or gzipped.

    Args:
        path: of the file; it is unpacked where its name ends in .gz.
        axes: how many axes it must have: 3 for images (N, H, W), 1 for labels (N,).
        checksum: SHA-256 of its unpacked content, checked unless None.

    Raises:
        UserError: naming the file, where its type, length or checksum is wrong.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to have it downloaded again") from error
    x = _parse(content, axes, path)
    if checksum and sha256(content).hexdigest() != checksum:
        raise UserError(
            f"{path} is not the file expected: its unpacked content has another SHA-256 than data.sha256; "
            "delete it to have it downloaded again, or set data.sha256=null to accept it"
        )
    return x


def _parse(content: bytes, axes: int, path: Path) -> Tensor:
    """The header is 0, 0, type, number of axes, then the length of each axis in four bytes, high byte first."""
    start = 4 + 4 * axes
    if len(content) < start:
        raise UserError(f"{path} is truncated: {len(content)} bytes; delete it to have it downloaded again")
    if content[:4] != bytes([0, 0, UBYTE, axes]):
        magic, wanted = int.from_bytes(content[:4], "big"), 256 * UBYTE + axes
        raise UserError(
            f"{path} is no IDX file of {axes} axes of bytes: its magic number is {magic}, not {wanted}; "
            "check which files data.files names"
        )
    shape = np.frombuffer(content, ">u4", axes, offset=4).astype(int)
    if len(content) != start + shape.prod():
        raise UserError(
            f"{path} is truncated or damaged: {len(content):,} bytes where its header promises "
            f"{start + shape.prod():,}; delete it to have it downloaded again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def download(
    name: str,
    mirrors: Sequence[str],
    folder: Path,
    checksum: str | None = None,
    tries: int = 2,
    timeout: float = 10.0,
    pause: float = 1.0,
) -> None:
    """Put NAME, unpacked, into the folder, from the first mirror that gives NAME.gz whole.

    The file appears under its name only when it is complete and checked.

    Args:
        name: of the unpacked file.
        mirrors: addresses of folders, tried in turn.
        folder: made if it is not there.
        checksum: SHA-256 of the unpacked content, checked unless None.
        tries: rounds over the mirrors; one that answers that it has no such file is asked once.
        timeout: seconds without an answer after which a mirror is given up.
        pause: seconds between the rounds.

    Raises:
        DownloadError: where no mirror gave the file, or it cannot be written.
    """
    problems: dict[str, str] = {}
    mirrors = list(mirrors)
    for round_ in range(tries):
        if round_ and mirrors:
            time.sleep(pause)
        for mirror in list(mirrors):
            try:
                content = gzip.decompress(_fetch(f"{mirror.rstrip('/')}/{name}.gz", timeout))
                if checksum and sha256(content).hexdigest() != checksum:
                    raise ValueError("wrong checksum")
            except (OSError, HTTPException, EOFError, zlib.error, ValueError) as error:
                problems[mirror] = str(error.reason if type(error) is URLError else error) or type(error).__name__
                if isinstance(error, HTTPError) and 400 <= error.code < 500:
                    mirrors.remove(mirror)
            else:
                return _write(folder / name, content)
    why = "; ".join(f"{urlsplit(mirror).netloc or mirror}: {problem}" for mirror, problem in problems.items())
    raise DownloadError(f"{name}: {why or 'data.mirrors is empty'}")


def _fetch(url: str, timeout: float) -> bytes:
    name = url.rsplit("/", 1)[-1]
    with urlopen(url, timeout=timeout) as response:
        total = int(response.headers.get("Content-Length") or 0) or None
        with tqdm(desc=name, total=total, unit="B", unit_scale=True, leave=False, delay=0.5) as bar:
            chunks = []
            while chunk := response.read(1 << 18):
                chunks.append(chunk)
                bar.update(len(chunk))
    return b"".join(chunks)


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DownloadError(f"{path} cannot be written ({error.strerror})") from error
