"""IDX files, the format of MNIST: finding, reading, checking and downloading them."""

import gzip
import time
import zlib
from collections.abc import Sequence
from hashlib import sha256
from http.client import HTTPException
from io import BytesIO
from math import prod
from pathlib import Path
from typing import BinaryIO, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from src.utils.atomic import atomic_write
from src.utils.budget import FREE, TIMES, check_expansion
from src.utils.errors import UserError

LARGEST = 1 << 30  # bytes of a download
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
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = _read(cast(BinaryIO, file), axes, path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to have it downloaded again") from error
    if checksum and sha256(content).hexdigest() != checksum:
        raise UserError(
            f"{path} is not the file expected: its unpacked content has another SHA-256 than data.sha256; "
            "delete it to have it downloaded again, or set data.sha256=null to accept it"
        )
    shape = _shape(content, axes)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape))


def _shape(header: bytes | bytearray, axes: int) -> list[int]:
    """The length of each axis, in four bytes, high byte first, behind 0, 0, the type and the number of axes."""
    return np.frombuffer(header, ">u4", axes, offset=4).tolist()


def _read(file: BinaryIO, axes: int, path: Path) -> bytearray:
    """The unpacked content, of which no more is read than its header promises, nor than a file of its size can hold."""
    header = file.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes:
        raise UserError(f"{path} is truncated: {len(header)} bytes; delete it to have it downloaded again")
    if header[:4] != bytes([0, 0, UBYTE, axes]):
        magic, wanted = int.from_bytes(header[:4], "big"), 256 * UBYTE + axes
        raise UserError(
            f"{path} is no IDX file of {axes} axes of bytes: its magic number is {magic}, not {wanted}; "
            "check which files data.files names"
        )
    n, promised = len(header), len(header) + prod(_shape(header, axes))
    size = path.stat().st_size
    if path.suffix == ".gz":
        check_expansion(size, promised, str(path))
    elif size != promised:
        raise _damaged(path, f"{size:,}", promised)
    content = bytearray(promised)
    content[:n] = header
    with memoryview(content) as view:
        while n < promised and (got := file.readinto(view[n:])):  # type: ignore[attr-defined]
            n += got
    if n < promised or file.read(1):
        raise _damaged(path, f"{n:,}" if n < promised else "more", promised)
    return content


def _damaged(path: Path, there: str, promised: int) -> UserError:
    return UserError(
        f"{path} is truncated or damaged: {there} bytes where its header promises {promised:,}; "
        "delete it to have it downloaded again"
    )


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
                content = _unpack(_fetch(f"{mirror.rstrip('/')}/{name}.gz", timeout))
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


def _unpack(packed: bytes) -> bytes:
    """The content of a gzip file, unless it is far more than any of real data."""
    most = max(FREE, TIMES * len(packed))
    with gzip.open(BytesIO(packed)) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"unpacks to more than {most:,} bytes")
    return content


def _fetch(url: str, timeout: float) -> bytes:
    name = url.rsplit("/", 1)[-1]
    with urlopen(url, timeout=timeout) as response:
        total = int(response.headers.get("Content-Length") or 0) or None
        with tqdm(desc=name, total=total, unit="B", unit_scale=True, leave=False, delay=0.5) as bar:
            chunks = []
            while chunk := response.read(1 << 18):
                chunks.append(chunk)
                bar.update(len(chunk))
                if len(chunks) > LARGEST >> 18:
                    raise ValueError(f"more than {LARGEST:,} bytes")
    return b"".join(chunks)


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise DownloadError(f"{path} cannot be written ({error.strerror})") from error
