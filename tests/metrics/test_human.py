"""What people are asked, and what is made of their answers: numbers by hand, and mistakes in one line."""

import csv
import json
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from src.metrics.human import HumanEvaluation, write_questions
from src.metrics.human_answers import COLUMNS
from src.utils.errors import UserError


def read_page(file) -> tuple[list[list[np.ndarray]], list[list]]:
    """The pictures of each question, and its [real, generated, answer]."""
    inside = json.loads(re.search(r'id="questions">(.*?)</script>', file.read_text("utf-8"))[1])
    pictures = [
        [np.asarray(Image.open(BytesIO(b64decode(u.split(",")[1])))) for u in urls] for urls in inside["questions"]
    ]
    return pictures, json.loads(b64decode(inside["truth"]))


def shows(picture: np.ndarray, x: torch.Tensor) -> bool:
    """Whether it is that image, enlarged."""
    zoom = picture.shape[1] // x.shape[2]
    back = torch.from_numpy(picture[::zoom, ::zoom].copy()).permute(2, 0, 1) / 255
    return bool((back - x).abs().max() < 0.51 / 255)


@pytest.fixture
def images(context, rand):
    return context(rand(90, 3, 5, 7), rand(30, 3, 5, 7), rand(80, 3, 5, 7))


# ---- asking ----


def test_every_question_shows_what_its_answer_says(images, tmp_path):
    write_questions(images, tmp_path / "human.html", "abc123")
    pictures, truth = read_page(tmp_path / "human.html")
    assert [len(p) for p in pictures] == [1] * 40 + [2] * 20
    answers = [answer for _, _, answer in truth]
    assert answers[:40].count("real") == answers[:40].count("generated") == 20 and answers[:20] != answers[20:40]
    assert 3 < answers[40:].count("left") < 17 and set(answers[40:]) == {"left", "right"}
    for shown, (real, generated, answer) in zip(pictures, truth, strict=True):
        both = {"real": real, "generated": generated}
        for picture, side in zip(shown, ("left", "right"), strict=False):
            what = answer if len(shown) == 1 else ("generated" if side == answer else "real")
            of = images.x if what == "generated" else images.test[:]["x"]
            assert shows(picture, of[both[what]])
        assert len(shown) == 2 or both["real" if answer == "generated" else "generated"] is None
    for i in (0, 1):
        used = [row[i] for row in truth if row[i] is not None]
        assert len(used) == len(set(used)) == 40


def test_a_page_is_a_function_of_the_seed(images, tmp_path):
    pages = []
    for seed in (0, 0, 1):
        images.seed = seed
        write_questions(images, tmp_path / "human.html", "abc123", 10, 5)
        pages.append((tmp_path / "human.html").read_text())
    assert pages[0] == pages[1] != pages[2]


@pytest.mark.parametrize(
    ("n", "test", "asked", "expected"),
    [(60, 30, (40, 20), (30, 15)), (3, 9, (40, 20), (2, 2)), (1, 1, (40, 20), (0, 1)), (9, 9, (6, 0), (6, 0))],
)
def test_as_many_questions_as_there_are(context, rand, tmp_path, n, test, asked, expected):
    write_questions(context(rand(n, 1, 6, 6), rand(4, 1, 6, 6), rand(test, 1, 6, 6)), tmp_path / "h", "k", *asked)
    pictures, _ = read_page(tmp_path / "h")
    assert tuple(sum(len(p) == size for p in pictures) for size in (1, 2)) == expected


def test_signals(context, rand, tmp_path):
    write_questions(context(rand(4, 2, 30), rand(4, 2, 30), rand(4, 2, 30)), tmp_path / "h", "k", 4, 2)
    pictures, _ = read_page(tmp_path / "h")
    assert len(pictures) == 6 and len({p.shape for shown in pictures for p in shown}) == 1
    assert len({p.tobytes() for shown in pictures for p in shown}) == 8


@pytest.mark.parametrize("asked", [[3] * 30, [0, 1, 2] * 10, [7] * 2 + [3] * 28], ids=["one", "three", "unknown"])
def test_the_class_gives_nothing_away(context, rand, tmp_path, asked):
    """Real ones are of the classes of the samples, and in a pair of the same."""
    labels = torch.arange(4).repeat(600)
    label = torch.tensor(asked)
    s = context(rand(30, 1, 6, 6), (rand(8, 1, 6, 6), labels[:8]), (rand(2400, 1, 6, 6), labels), label=label)
    write_questions(s, tmp_path / "h", "k", 20, 20)
    _, truth = read_page(tmp_path / "h")
    real, generated = ([row[i] for row in truth[:20] if row[i] is not None] for i in (0, 1))
    pairs = [(int(labels[row[0]]), asked[row[1]]) for row in truth[20:]]
    if max(asked) < 4:
        assert sorted(labels[real].tolist()) == sorted(asked[i] for i in generated)
    assert len(pairs) == 20 and all(a == b for a, b in pairs if b < 4)


def test_points_cannot_be_judged(context, rand, tmp_path):
    points = context(rand(9, 2), rand(9, 2), rand(9, 2))
    with pytest.raises(UserError, match="images and signals"):
        write_questions(points, tmp_path / "h", "k")
    assert not (tmp_path / "h").exists()


# ---- the answers ----


def rows(person="ann", wrong=(2, 5), seconds=2.0):
    """Eight single ones, of which the even questions show a sample, and four pairs."""
    found = []
    for q in range(1, 13):
        right = q not in wrong
        if q > 8:
            shown = ("pair", q, q, "left")
        elif q % 2:
            shown = ("single", q, None, "real" if right else "generated")
        else:
            shown = ("single", None, q, "generated" if right else "real")
        found.append(["abc123", person, q, *shown, int(right), seconds + q / 10])
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def save(file, lines, columns=COLUMNS):
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    return str(file)


def expect(value, hits, n):
    """A share with scipy's interval of it."""
    interval = binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert (value.value, value.low, value.high) == pytest.approx((hits / n, interval.low, interval.high))


def test_the_numbers_by_hand(images, tmp_path):
    section = HumanEvaluation(save(tmp_path / "a.csv", rows(wrong=(2, 4, 5, 10))), "abc123")(images)
    values = section.values
    expect(values["human_singles"], 5, 8)
    expect(values["human_pairs"], 3, 4)
    expect(values["human_real_called_real"], 3, 4)
    expect(values["human_generated_called_generated"], 2, 4)
    assert values["human_singles"].real_baseline == values["human_pairs"].real_baseline == 0.5
    assert values["human_generated_called_generated"].real_baseline == 0.25, "one real one of four was called generated"
    assert values["human_seconds"].value == pytest.approx(2.65)
    assert [v.better for v in values.values()] == ["lower", "lower", None, "lower", None]
    assert "5 of 8 right" in section.notes[0] and "contains chance, 50 %" in section.notes[0]
    assert "3 of 4 right" in section.notes[1] and "1 person" in section.notes[2]
    # Single 2 and 4 and pair 10 were taken for real; 6, 8, 9, 11 and 12 recognized.
    assert section.pictures["recognized"].caption.startswith("5 of the 8 samples")
    assert section.pictures["mistaken"].caption.startswith("3 of the 8 samples")


@pytest.mark.parametrize(("wrong", "found"), [(range(13), "below chance"), ((), "above chance")])
def test_the_interpretation(images, tmp_path, wrong, found):
    note = HumanEvaluation(save(tmp_path / "a.csv", rows(wrong=wrong)), "abc123")(images).notes[0]
    assert f"is {found}" in note


def test_one_file_with_all_or_a_folder_with_one_each(images, tmp_path):
    """A file that lies there twice counts once; answers without a name are those of their file."""
    ann, bob = rows("ann"), rows("bob", wrong=(1, 2, 3, 12), seconds=4)
    together = HumanEvaluation(save(tmp_path / "all.csv", ann + bob), "abc123")(images)
    folder = tmp_path / "folder"
    folder.mkdir()
    save(folder / "ann.csv", ann)
    save(folder / "ann (1).csv", ann[:5])
    save(folder / "bob.csv", [{**row, "person": " "} for row in bob])
    apart = HumanEvaluation(str(folder), "abc123")(images)
    assert together.values == apart.values and together.tables == apart.tables
    expect(together.values["human_singles"], 6 + 5, 16)
    first, second = together.tables["human"]
    assert (first["person"], first["one at a time"]["right"], first["pairs"]["n"]) == ("ann", 6, 4)
    assert (second["person"], second["pairs"]["right"], second["seconds"]) == ("bob", 3, pytest.approx(4.65))
    assert "2 people" in together.notes[-1]


def test_samples_in_the_order_of_agreement(context, rand, tmp_path):
    """Sample 6, recognized by all, comes before those that one person did not recognize, then the quickest first."""
    shades = torch.arange(20).view(20, 1, 1, 1).expand(20, 1, 4, 4) / 20
    people = [rows("a", ()), rows("b", (8,)), rows("c", (4, 9, 10, 11, 12), 0)]
    lines = [row for person in people for row in person if row["question"] in (4, 6, 8)]
    s = context(shades, rand(20, 1, 4, 4), rand(20, 1, 4, 4))
    picture = np.asarray(HumanEvaluation(save(tmp_path / "a.csv", lines), "abc123")(s).pictures["recognized"].image)
    side = picture.shape[1] // 8
    seen = [picture[side // 2, side // 2 + i * side, 0] / 255 * 20 for i in range(3)]
    assert seen == pytest.approx([6, 4, 8], abs=0.1)


def test_answers_that_end_early(images, tmp_path):
    section = HumanEvaluation(save(tmp_path / "a.csv", rows()[:1]), "abc123")(images)
    assert set(section.values) == {"human_singles", "human_real_called_real", "human_seconds"}
    assert set(section.pictures) == {"people"}


def change(**changed):
    return lambda lines: [*lines[:2], {**lines[2], **changed}, *lines[3:]]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (change(key="f00ba2"), "line 4: key must be 'abc123', got 'f00ba2'"),
        (change(kind="triple"), "line 4: kind must be single or pair, got 'triple'"),
        (change(answer="maybe"), "line 4: answer must be real .*, got 'maybe'"),
        (change(answer="left"), "answer must be .*, got 'left'"),
        (change(right="0"), "right must be .*, got '0'"),
        (change(right="yes"), "right must be .*, got 'yes'"),
        (change(seconds="quick"), "seconds must be .*, got 'quick'"),
        (change(seconds="nan"), "seconds must be .*, got 'nan'"),
        (change(question="0"), "question must be .*, got '0'"),
        (change(real="-1"), "real must be .*, got '-1'"),
        (change(generated="3"), "generated must be .*, got '3'"),
        (change(question="1", real="3"), "ann has two different answers to question 1"),
        (change(real="80"), "real must be < 80, got 80"),
        (change(real="9" * 5000), "real must be .*, got '9999"),
        (lambda lines: [], "holds no answers"),
    ],
)
def test_mistakes_in_the_answers(images, tmp_path, mistake, message):
    file = save(tmp_path / "a.csv", mistake(rows()))
    with pytest.raises(UserError, match=message) as error:
        HumanEvaluation(file, "abc123")(images)
    assert "\n" not in str(error.value) and "human=" in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: None, "does not exist; write the page with human=true"),
        (lambda file: file.mkdir(), "holds no CSV file"),
        (lambda file: save(file, rows(), COLUMNS[2:]), "has no column key, person. Use the CSV"),
        (lambda file: file.write_bytes(b"\x89PNG\r\n\x00\xff\x00"), "human: .*a.csv is damaged"),
        (lambda file: file.write_text(""), "has no column"),
    ],
    ids=["nothing", "folder", "columns", "binary", "empty"],
)
def test_what_is_no_csv_of_answers(tmp_path, make, message):
    make(tmp_path / "a.csv")
    with pytest.raises(UserError, match=message) as error:
        HumanEvaluation(str(tmp_path / "a.csv"), "abc123")
    assert "\n" not in str(error.value)
