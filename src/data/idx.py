"""Find, read, check and download IDX files, the format of MNIST."""

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
UBYTE = 8  # the type code of unsigned bytes, the only type in these data sets


class DownloadError(Exception):
    """A failure of all mirrors; the message gives the reason for each."""


def find(name: str, folders: Sequence[Path]) -> Path | None:
    """Find the first of NAME and NAME.gz in the folders; None if there is none."""
    candidates = (folder / (name + ending) for folder in folders for ending in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, axes: int, checksum: str | None = None) -> Tensor:
    """Read the array of unsigned bytes in an IDX file, plain or gzipped.

    Args:
        path: path of the file, which is unpacked if its name ends in .gz.
        axes: required number of axes: 3 for images (N, H, W), 1 for labels (N,).
        checksum: SHA-256 of its unpacked content, checked unless None.

    Raises:
        UserError: if its type, length or checksum is wrong; the message names the file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = _read(cast(BinaryIO, file), axes, path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to have it downloaded again") from error
    if checksum and sha256(content).hexdigest() != checksum:
        raise UserError(
            f"the unpacked content of {path} must have the SHA-256 of data.sha256, got another; "
            "delete it to have it downloaded again, or set data.sha256=null to accept it"
        )
    shape = _shape(content, axes)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape))


def _shape(header: bytes | bytearray, axes: int) -> list[int]:
    """Read the length of each axis: big-endian, four bytes each, after 0, 0, the type and the number of axes."""
    return np.frombuffer(header, ">u4", axes, offset=4).tolist()


def _read(file: BinaryIO, axes: int, path: Path) -> bytearray:
    """Read the unpacked content, at most as much as the header states and a file of its size can hold."""
    header = file.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes:
        raise UserError(f"{path} is truncated: {len(header)} bytes; delete it to have it downloaded again")
    if header[:4] != bytes([0, 0, UBYTE, axes]):
        magic, wanted = int.from_bytes(header[:4], "big"), 256 * UBYTE + axes
        raise UserError(
            f"{path} must be an IDX file of bytes with {axes} axes, magic number {wanted}, got {magic}; "
            "check the names in data.files"
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
        f"{path} is truncated or damaged: its header states {promised:,} bytes, got {there}; "
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
    """Download NAME.gz from the first mirror that has it intact, and write it to the folder as NAME, unpacked.

    The file is written atomically, after its content is checked.

    Args:
        name: name of the unpacked file.
        mirrors: URLs of folders, tried in turn.
        folder: created if it does not exist.
        checksum: SHA-256 of the unpacked content, checked unless None.
        tries: rounds over the mirrors; one that does not have the file (HTTP 4xx) is asked once.
        timeout: seconds to wait for a response.
        pause: seconds between the rounds.

    Raises:
        DownloadError: if no mirror has the file intact, or it cannot be written.
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
    """Unpack a gzip file; ValueError if its content is far larger than that of real data."""
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
