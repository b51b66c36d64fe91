"""Finding the images in a folder, a zip file or tar shards."""

import os
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

import torch

from src.data.image_files import Files, Packed, split_names
from src.data.index import Index, stamp
from src.data.tar_shards import find_shards, scan_shards
from src.utils.errors import UserError
from src.utils.pictures import ENDINGS, is_hidden, is_image


def find_images(root: str, key: str, index: Index) -> Files:
    """The images in a folder, zip file or tar shards; the key is the setting that errors name.

    Raises:
        UserError: where there is nothing to read, or what there is cannot be read.
    """
    path = Path(root).expanduser()
    files = index.load(path)
    if files is not None:
        return files
    shards = find_shards(path, key)
    if shards:
        return scan_shards(shards, path, key)
    if not path.exists():
        raise UserError(f"{key}={root} does not exist; set {key}=FOLDER, or a zip or tar file, with the images")
    if path.is_file() and not is_zipfile(path):
        raise UserError(f"{key}={root} is neither a folder nor a zip or tar file; set {key}=FOLDER with the images")
    files = scan_zip(path, key) if path.is_file() else scan_folder(path, key)
    if not len(files):
        raise UserError(f"{key}={root} holds no image; files that end in {', '.join(ENDINGS)} are looked for")
    return files


def scan_folder(root: Path, key: str) -> Files:
    """The images below a folder, in the order of their names."""
    names, stamps, left = [], {}, [""]
    while left:
        folder = left.pop()
        path = root / folder
        try:
            stamps[str(path.absolute())] = stamp(path)  # before it is listed, so that no change is missed
            with os.scandir(path) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if entry.is_dir():
                        left.append(f"{folder}{entry.name}/")
                    elif is_image(entry.name):
                        names.append(folder + entry.name)
        except OSError as error:
            raise UserError(f"{key}: {path} cannot be listed ({error.strerror}); mend or remove it") from error
    return Files(str(root.absolute()), *split_names(sorted(names)), stamps)


def scan_zip(path: Path, key: str) -> Packed:
    """The images in a zip file, in the order of their names."""
    stamps = {str(path.absolute()): stamp(path)}
    try:
        with path.open("rb") as file, ZipFile(file) as archive:
            images = (info for info in archive.infolist() if is_image(info.filename))
            infos = sorted(
                (info for info in images if not any(map(is_hidden, info.filename.split("/")))),
                key=lambda info: info.filename,
            )
            rows = [_where(info, file, path, key) for info in infos]
    except (OSError, BadZipFile) as error:
        raise UserError(f"{key}={path} is damaged ({error}); copy it again") from error
    where = torch.tensor(rows, dtype=torch.int64).view(-1, 4)
    names = split_names([info.filename for info in infos])
    return Packed(str(path.absolute().parent), *names, stamps, archives=[path.name], where=where)


def _where(info: ZipInfo, file: BinaryIO, path: Path, key: str) -> tuple[int, int, int, int]:
    """A row of Packed.where: the data lie behind a header of 30 bytes that ends with the lengths of two more parts."""
    if info.flag_bits & 1 or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise UserError(f"{key}={path}: {info.filename} is encrypted or packed unusually; make the zip file anew")
    file.seek(info.header_offset + 26)
    lengths = file.read(4)
    start = info.header_offset + 30 + sum(int.from_bytes(part, "little") for part in (lengths[:2], lengths[2:]))
    return 0, start, info.compress_size, int(info.compress_type == ZIP_DEFLATED)
