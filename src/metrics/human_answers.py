"""Read the answers of people to the page of `human=true`, as CSV files saved by their browsers."""

import csv
import io
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from src.utils.errors import UserError, file_errors
from src.utils.files import Misfit, read_text, reading

COLUMNS = ("key", "person", "question", "kind", "real", "generated", "answer", "right", "seconds")
MAX_DIGITS = 12  # of a number
KINDS = {"single": "one at a time", "pair": "pairs"}


class Answer(NamedTuple):
    """The answer of a person to a question.

    Attributes:
        person: name.
        question: number of the question, from 1.
        kind: single or pair.
        real, generated: indices of the test datum and of the sample that it showed; None if it showed none.
        right: True if the answer was right.
        seconds: time to answer.
    """

    person: str
    question: int
    kind: str
    real: int | None
    generated: int | None
    right: bool
    seconds: float


def read_answers(path: Path, key: str) -> list[Answer]:
    """Read the answers of one or several people.

    Args:
        path: a CSV file saved by the page, or a folder of such files.
        key: key of the samples.

    Raises:
        UserError: if it cannot be read, or belongs to other samples.
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        what = "holds no CSV file" if path.is_dir() else "does not exist"
        raise UserError(
            f"human={path} {what}; write the page with human=true, answer it, and pass the CSV that it saves"
        )
    known: dict[tuple[str, int], Answer] = {}
    for file in files:
        for number, row in enumerate(read_answer_rows(file), 2):
            where = f"human={file}, line {number}"
            if row["key"] != key:
                raise UserError(
                    f"{where}: key must be {key!r}, got {row['key']!r}: the answers are about other samples; "
                    "use the settings with which the page was written, or write a new page with human=true"
                )
            answer = parse_answer(row, file.stem, where)
            # The same file may be present twice; two people may not have the same name.
            if known.setdefault((answer.person, answer.question), answer) != answer:
                raise UserError(
                    f"{where}: person {answer.person} has two different answers to question {answer.question}; "
                    "use a different name in the column person for each person and round"
                )
    if not known:
        raise UserError(f"human={path} holds no answers; answer the page first, then save its CSV")
    return list(known.values())


def read_answer_rows(file: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file and check its columns."""
    advice = "Use the CSV file that the page saves, separated by commas"
    with file_errors("human"), reading(file, advice):
        text = read_text(file, advice, "utf-8-sig", "replace")
        reader = csv.DictReader(io.StringIO(text), restval="")
        rows, columns = list(reader), reader.fieldnames or []
        if missing := [name for name in COLUMNS if name not in columns]:
            raise Misfit(f"it has no column {', '.join(missing)}")
        return rows


def parse_answer(row: dict[str, str], stem: str, where: str) -> Answer:
    """Check and convert a row; an answer without a name gets the name of its file."""

    def error(column: str, expected: str) -> UserError:
        return UserError(f"{where}: {column} must be {expected}, got {row[column]!r}; save the CSV from the page again")

    def number(column: str) -> int | None:
        if row[column] and not (row[column].isdecimal() and len(row[column]) <= MAX_DIGITS):
            raise error(column, "an integer >= 0, or empty")
        return int(row[column]) if row[column] else None

    question, real, generated = number("question"), number("real"), number("generated")
    if not question:
        raise error("question", "an integer >= 1")
    kind, answer, right = row["kind"], row["answer"], row["right"]
    if kind not in KINDS:
        raise error("kind", "single or pair")
    if (real is not None) + (generated is not None) != (1 if kind == "single" else 2):
        raise error("generated", "empty unless shown: a single question shows one, a pair both")
    if answer not in (("real", "generated") if kind == "single" else ("left", "right")):
        raise error("answer", "real or generated for a single question, left or right for a pair")
    truth = "generated" if real is None else "real"
    if right not in ("0", "1") or (kind == "single" and (right == "1") != (answer == truth)):
        raise error("right", "1 if the answer is right, else 0")
    try:
        seconds = float(row["seconds"])
    except ValueError:
        seconds = -1.0
    if not (isfinite(seconds) and seconds >= 0):
        raise error("seconds", "a number >= 0")
    return Answer(row["person"].strip() or stem, question, kind, real, generated, right == "1", seconds)
