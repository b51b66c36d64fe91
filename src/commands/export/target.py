"""The folder that an export is written to: a new one, or an earlier export whose files alone are replaced."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.utils.atomic import remove, replace
from src.utils.errors import UserError
from src.utils.files import read_json
from src.utils.model_folder import RECORD, sha256_of
from src.utils.paths import check_writable

ADVICE = "Name another folder, out=FOLDER"


class Target:
    """The folder of an export.

    Args:
        folder: the folder.
        overwrite: True to replace an earlier export there.
    """

    def __init__(self, folder: Path, overwrite: bool):
        self.folder, self.overwrite = folder, overwrite

    def check(self) -> None:
        """Refuse a folder that cannot be written to, or that holds files which would be lost.

        Raises:
            UserError: naming one of them.
        """
        folder = check_writable("out", self.folder, "give another out=FOLDER")
        there = sorted(path for path in folder.rglob("*") if not path.is_dir()) if folder.is_dir() else []
        if not there:
            return
        if not self.overwrite:
            raise UserError(f"{folder} exists; add overwrite=true to replace it, or name another, out=FOLDER")
        recorded = self.recorded()
        for path in there:
            name = path.relative_to(folder).as_posix()
            if name != RECORD and sha256_of(path) != recorded.get(name):
                what = "was changed since it was exported" if name in recorded else "was not written by an export"
                raise UserError(f"{path} {what}, and would be lost; move it away, or name another folder, out=FOLDER")

    def recorded(self) -> dict[str, str]:
        """The digests of the files of an earlier export."""
        file = self.folder / RECORD
        return read_json(file, {"files": {"*": str}}, ADVICE)["files"] if file.exists() else {}

    @contextmanager
    def replaced(self) -> Iterator[Path]:
        """Yield a new folder to write to, which takes the place of the old one when the block ends without an error."""
        new = self.folder.with_name(f".{self.folder.name}.partial")
        remove(new)
        new.mkdir(parents=True)
        try:
            yield new
            self.check()  # again, for the work took a while
            replace(new, self.folder)
        finally:
            remove(new)
