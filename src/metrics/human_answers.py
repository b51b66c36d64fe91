"""What people answered to the questions of `human=true`, as their browsers saved it."""

import csv
import io
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from src.utils.errors import UserError, file_errors
from src.utils.files import Misfit, read_text, reading

COLUMNS = ("key", "person", "question", "kind", "real", "generated", "answer", "right", "seconds")
DIGITS = 12  # of the largest number
KINDS = {"single": "one at a time", "pair": "pairs"}


class Answer(NamedTuple):
    """To one question by one person.

    Attributes:
        person: a name.
        question: its number, from 1.
        kind: single or pair.
        real, generated: which of the test data and of the samples it showed, as far as it did.
        right: whether the answer was.
        seconds: that it took.
    """

    person: str
    question: int
    kind: str
    real: int | None
    generated: int | None
    right: bool
    seconds: float


def read_answers(path: Path, key: str) -> list[Answer]:
    """What people answered.

    Args:
        path: a CSV file as the page gives it, with the answers of one person or several, or a folder of such files.
        key: of the samples.

    Raises:
        UserError: where it cannot be read, or does not belong to these samples.
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        what = "holds no CSV file" if path.is_dir() else "does not exist"
        raise UserError(
            f"human={path} {what}; write the page with human=true, answer it, and give the CSV that it saves"
        )
    known: dict[tuple[str, int], Answer] = {}
    for file in files:
        for number, row in enumerate(read_rows(file), 2):
            where = f"human={file}, line {number}"
            if row["key"] != key:
                raise UserError(
                    f"{where}: these are answers about samples {row['key']!r}, but the samples here are {key!r}; "
                    "give the settings with which the page was written, or write a new page with human=true"
                )
            answer = parse(row, file.stem, where)
            # The same file may lie there twice; the same name for two people may not.
            if known.setdefault((answer.person, answer.question), answer) != answer:
                raise UserError(
                    f"{where}: {answer.person} answered question {answer.question} before, and otherwise; "
                    "give different people, and rounds, names of their own in the column person"
                )
    if not known:
        raise UserError(f"human={path} holds no answers; answer the page first, then save its CSV")
    return list(known.values())


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with the right columns."""
    advice = "Give the CSV that the page saves, separated by commas"
    with file_errors("human"), reading(file, advice):
        text = read_text(file, advice, "utf-8-sig", "replace")
        reader = csv.DictReader(io.StringIO(text), restval="")
        rows, columns = list(reader), reader.fieldnames or []
        if missing := [name for name in COLUMNS if name not in columns]:
            raise Misfit(f"it has no column {', '.join(missing)}")
        return rows


def parse(row: dict[str, str], stem: str, where: str) -> Answer:
    """An answer, checked; one without a name gets that of its file."""

    def refuse(column: str, wanted: str) -> UserError:
        return UserError(f"{where}: {column}={row[column]!r}, but {wanted} is needed; save the CSV from the page again")

    def number(column: str) -> int | None:
        if row[column] and not (row[column].isdecimal() and len(row[column]) <= DIGITS):
            raise refuse(column, "a number")
        return int(row[column]) if row[column] else None

    question, real, generated = number("question"), number("real"), number("generated")
    if not question:
        raise refuse("question", "a number from 1")
    kind, answer, right = row["kind"], row["answer"], row["right"]
    if kind not in KINDS:
        raise refuse("kind", "single or pair")
    if (real is not None) + (generated is not None) != (1 if kind == "single" else 2):
        raise refuse("generated", "real or generated of a single one, and both of a pair,")
    if answer not in (("real", "generated") if kind == "single" else ("left", "right")):
        raise refuse("answer", "real or generated of a single one, and left or right of a pair,")
    truth = "generated" if real is None else "real"
    if right not in ("0", "1") or (kind == "single" and (right == "1") != (answer == truth)):
        raise refuse("right", "1 where the answer is right, else 0,")
    try:
        seconds = float(row["seconds"])
    except ValueError:
        seconds = -1.0
    if not (isfinite(seconds) and seconds >= 0):
        raise refuse("seconds", "a number")
    return Answer(row["person"].strip() or stem, question, kind, real, generated, right == "1", seconds)
