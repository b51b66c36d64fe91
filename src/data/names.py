"""Names of folders and files: the part of the data that a folder holds, and unused files beside images."""

import posixpath
import re
from collections import Counter

# Files that commonly accompany images and are not worth a warning.
COMPANIONS = (
    ".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".md", ".rst", ".html", ".pdf",
    ".log", ".py", ".ipynb", ".sh", ".db", ".cls", ".caption", ".cap", ".parquet", ".md5", ".sha256",
)  # fmt: skip
ABOUT = ("readme", "license", "licence", "copying", "notice", "authors", "makefile", "dvc")
PARTS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Also matches flowers_train, Training Set, train2017, test_images and trainA.
PART = re.compile(rf"(?:.*[-_ .])?({'|'.join(PARTS)})(?:[-_ .]?(?:set|data|images?|imgs?|split|\d+|[ab]))*")


def part_of(folder: str) -> str | None:
    """The part of the data that a folder's name stands for, in any case: `train`, `val` or `test`, or None."""
    found = PART.fullmatch(folder.lower())
    return PARTS[found[1]] if found else None


def part_of_shard(name: str) -> str | None:
    """The part of the data that a shard's name stands for, among other words: `val` for `imagenet-val-000017.tar`."""
    return next((PARTS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in PARTS), None)


def tidy(name: str) -> str:
    r"""Normalize the name of a member of an archive: `a/x.png` for `.\a\x.png` or `/a//x.png`."""
    if "\\" in name:
        name = name.replace("\\", "/")
    if name.startswith(("/", ".")) or "/." in name or "//" in name:
        name = re.sub(r"^(\.*/)+", "", posixpath.normpath(name))
    return name


class PassedOver:
    """The numbers of unused files beside the images, by kind."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count a file that is not an image, by the ending of its name."""
        stem, dot, ending = name.lower().rsplit("/", 1)[-1].rpartition(".")
        ending = f".{ending}" if dot else ""
        if ending not in COMPANIONS and (stem or name.lower()) not in ABOUT:
            self.kinds[ending or "without an ending"] += 1

    def count(self, kind: str, n: int = 1) -> None:
        """Count n files of a kind."""
        if n:
            self.kinds[kind] += n

    def __str__(self) -> str:
        """The numbers as text, such as `60 .heic, 2 links to folders already seen`; "" for none."""
        return ", ".join(f"{n:,} {kind}" for kind, n in self.kinds.most_common(5)) + (
            f", {sum(self.kinds.values()):,} in all" if len(self.kinds) > 5 else ""
        )
