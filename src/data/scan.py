"""Find the images in a folder, a zip file or tar shards."""

import os
from io import FileIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo, is_zipfile

import torch
from torch import Tensor

from src.data.image_files import ArchiveFiles, Files, entry_kind, split_names
from src.data.index import FileIndex, mtime_and_size, mtime_and_size_of
from src.data.names import PassedOver, tidy
from src.data.tar_shards import find_shards, scan_shards
from src.utils.budget import check_expansion
from src.utils.errors import UserError
from src.utils.images import ENDINGS, is_hidden, is_image


def find_images(root: str, key: str, index: FileIndex) -> Files:
    """Find the images in a folder, zip file or tar shards; messages name the config key `key`.

    Raises:
        UserError: if there are no images, or the root cannot be read.
    """
    path = Path(root).expanduser()
    files = index.load(path)
    if files is not None:
        return files
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(
            f"{key} must be a folder, or a zip or tar file, got a pipe, socket or device, {root}; set {key}=FOLDER"
        )
    shards = find_shards(path, key)
    if shards:
        return scan_shards(shards, path, key)
    if not path.exists():
        raise UserError(f"{key}={root} does not exist; set {key}=FOLDER, or a zip or tar file, with the images")
    if path.is_file() and not is_zipfile(path):
        raise UserError(f"{key} must be a folder, or a zip or tar file, got {root}; set {key}=FOLDER with the images")
    files = scan_zip(path, key) if path.is_file() else scan_folder(path, key)
    if not len(files):
        beside = f", but {files.passed_over}" if files.passed_over else ""
        raise UserError(f"{key}={root} holds no image{beside}; add files that end in {', '.join(ENDINGS)}")
    return files


def scan_folder(root: Path, key: str) -> Files:
    """Find the images below a folder, sorted by name.

    Links to folders are followed, but each folder is scanned once: under its own name if it is below the root, else
    under that of the first link. So a link to a parent folder adds nothing.
    """
    names, stamps, beside = [], {}, PassedOver()
    seen = {_identity(above.stat()) for above in root.resolve().parents}
    left, links = [""], list[str]()
    while left or links:
        folder = left.pop() if left else links.pop(links.index(min(links)))
        path = root / folder
        try:
            status = path.stat()
            if _identity(status) in seen:
                beside.count("links to folders that are seen anyway")
                continue
            seen.add(_identity(status))
            stamps[str(path.absolute())] = mtime_and_size_of(status)  # before it is listed, so that no change is missed
            with os.scandir(path) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    kind = entry_kind(entry)
                    if kind == "folder":
                        (links if entry.is_symlink() else left).append(f"{folder}{entry.name}/")
                    elif not is_image(entry.name):
                        beside.add(entry.name)
                    elif kind == "file":
                        names.append(folder + entry.name)
                    else:  # reading could block forever
                        beside.count("pipes, sockets or devices")
        except OSError as error:
            place = str(path) if len(str(path)) < 500 else f"{str(path)[:400]}..."
            raise UserError(f"{key}: {place} cannot be listed ({error.strerror}); repair or remove it") from error
    return Files(str(root.absolute()), *split_names(sorted(names)), stamps, passed_over=str(beside))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def scan_zip(path: Path, key: str) -> ArchiveFiles:
    """Find the images in a zip file, sorted by name; the last of several with one name, as when unpacked."""
    stamps = {str(path.absolute()): mtime_and_size(path)}
    beside = PassedOver()
    found: dict[str, ZipInfo] = {}
    try:
        with ZipFile(path) as archive:
            for info in archive.infolist():
                name = tidy(info.filename)
                if info.is_dir() or any(map(is_hidden, name.split("/"))):
                    continue
                if not is_image(name):
                    beside.add(name)
                    continue
                if name in found:
                    beside.count("older images of the same name")
                found[name] = info
        names = sorted(found)
        with path.open("rb", buffering=0) as file:
            rows = [_where(found[name], file, path, key) for name in names]
    except UserError:
        raise
    except Exception as error:  # damaged files raise anything
        raise UserError(f"{key}={path} is damaged ({error or type(error).__name__}); copy it again") from error
    where = torch.tensor(rows, dtype=torch.int64).view(-1, 4)
    _check_sizes(where, path, key)
    root = str(path.absolute().parent)
    return ArchiveFiles(root, *split_names(names), stamps, passed_over=str(beside), archives=[path.name], where=where)


def _where(info: ZipInfo, file: FileIO, path: Path, key: str) -> tuple[int, int, int, int]:
    """Compute a row of ArchiveFiles.where; the data follow a 30-byte header and two fields of variable length."""
    if info.flag_bits & 1 or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise UserError(
            f"{key}={path}: {info.filename} is encrypted or uses an unsupported compression; create the zip file again"
        )
    file.seek(info.header_offset + 26)
    lengths = file.read(4)
    start = info.header_offset + 30 + sum(int.from_bytes(part, "little") for part in (lengths[:2], lengths[2:]))
    return 0, start, info.compress_size, max(1, info.file_size) if info.compress_type == ZIP_DEFLATED else 0


def _check_sizes(where: Tensor, path: Path, key: str) -> None:
    """Raise UserError if images overlap or exceed the file, or unpack to far more than its size."""
    start, size, unpacked = where[:, 1:].unbind(1)
    order = start.argsort()
    end = torch.cat([start[order][1:], torch.tensor([path.stat().st_size])])
    if len(where) and ((start + size)[order] > end).any():
        raise UserError(f"{key}={path} is damaged (its members overlap or exceed its end); copy it again")
    check_expansion(int(size.sum()), int(unpacked.sum()), f"{key}={path}")
