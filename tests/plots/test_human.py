"""The page of questions: what is in it, and what a browser makes of it."""

import json
import re
import shutil
import subprocess
from base64 import b64decode
from html import unescape
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from src.metrics.human_answers import read_answers
from src.plots.human import Proportion, Question, accuracy_by_person, question_page, separate_pictures
from src.statistics.significance import wilson_interval

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def plain(i: int) -> Image.Image:
    return Image.new("RGB", (20, 10), (i, i, i))


@pytest.fixture
def questions():
    """Six single ones, of which the even are real, and four pairs, with the generated one at the left of the even."""
    singles = [
        Question([plain(i)], i if i % 2 == 0 else None, None if i % 2 == 0 else i, ("real", "generated")[i % 2])
        for i in range(6)
    ]
    pairs = [Question([plain(i), plain(50 + i)], i, 50 + i, ("left", "right")[i % 2]) for i in range(6, 10)]
    return [*singles, *pairs]


def content(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="questions">(.*?)</script>', page)
    return json.loads(found[1])


def pixels(url: str) -> np.ndarray:
    assert url.startswith("data:image/png;base64,")
    return np.asarray(Image.open(BytesIO(b64decode(url.split(",")[1]))))


def test_the_page_holds_all_and_fetches_nothing(questions):
    page = question_page(questions, "abc123", "image")
    inside = content(page)
    assert inside["key"] == "abc123" and inside["noun"] == "image" and inside["size"] == [20, 10]
    assert [[pixels(url)[0, 0, 0] for url in urls] for urls in inside["questions"]] == [
        [np.asarray(picture)[0, 0, 0] for picture in q.pictures] for q in questions
    ]
    assert json.loads(b64decode(inside["truth"])) == [list(q[1:]) for q in questions]
    assert not re.search(r"https?:|@import|url\(|<link rel=.stylesheet|src=.(?!data:)", page)


def test_the_answers_are_not_to_be_read_at_a_glance(questions):
    page = question_page(questions, "abc123", "image")
    assert '"real"' not in json.dumps(content(page)) and "generated" not in json.dumps(content(page))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 9, 14), (1, 400, 400)], ids=str)
def test_images_are_enlarged_by_whole_factors(shape):
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    for one, picture in zip(x, separate_pictures(x, x), strict=True):
        zoom = picture.width // shape[2]
        assert picture.size == (zoom * shape[2], zoom * shape[1]) and (zoom == 1 or 200 <= picture.width <= 400)
        back = torch.from_numpy(np.asarray(picture)[::zoom, ::zoom].copy()).permute(2, 0, 1)
        assert (back / 255 - one).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("channels", [1, 2])
def test_signals_have_common_axes(channels):
    """Equal signals have equal pictures, whatever the others; one far outside does not flatten the rest."""
    t = torch.linspace(0, 6, 50)
    x = torch.stack([torch.sin(t), torch.cos(t), torch.sin(t), 1000 * torch.sin(t)])[:, None].expand(-1, channels, -1)
    first, second, third, far = map(np.asarray, separate_pictures(x, x[:3]))
    assert (first == third).all() and (first != second).any() and first.shape == far.shape
    alone = np.asarray(separate_pictures(x[1:2], x[:3])[0])
    assert (alone == second).all()


def test_shares_have_a_row_each():
    few = accuracy_by_person({"pairs": {"a": Proportion(3, 4, 0.3, 0.9)}})
    many = accuracy_by_person(
        {kind: {str(i): Proportion(i, 9, 0, 1) for i in range(9)} for kind in ("one at a time", "pairs")}
    )
    assert many.width > few.width and many.height > few.height


# Presses keys as a person would, with mistakes that are undone, and leaves what it saw in the page.
PRESS = """<script>
const press = (key, more) => document.dispatchEvent(new KeyboardEvent("keydown", { key, ...more }));
const seen = [];
press("u"); press("Backspace"); press("ArrowLeft"); press("x");
press("r", { ctrlKey: true }); press("g", { repeat: true });
for (const key of KEYS_TO_PRESS) {
  seen.push([$("count").textContent, $("asked").textContent, $("first").alt, $("second").hidden]);
  press(key);
}
press("u");
seen.push([$("quiz").hidden, $("end").hidden, document.activeElement.id]);
$("name").value = 'Ann "A", B'; $("name").dispatchEvent(new Event("input"));
document.body.dataset.seen = JSON.stringify({ seen, csv: asCSV(), result: $("result").textContent, kept: load() });
</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_asks_and_keeps_the_answers(questions, tmp_path):
    """By keys: all right but questions 1 and 8; R before it is undone twice, by either key."""
    keys = [
        "g",
        "u",
        "G",
        "g",
        "r",
        "Backspace",
        "r",
        "g",
        "r",
        "g",
        "ArrowLeft",
        "ArrowLeft",
        "ArrowLeft",
        "ArrowRight",
    ]
    press = PRESS.replace("KEYS_TO_PRESS", json.dumps(keys))
    file = tmp_path / "human.html"
    file.write_text(question_page(questions, "abc123", "image").replace("</body>", press), "utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = ["chromium", *FLAGS, profile, "--dump-dom", file.as_uri()]
    page = subprocess.run(command, capture_output=True, text=True).stdout
    found = json.loads(unescape(re.search(r'data-seen="([^"]*)"', page)[1]))

    counts = [int(seen[0].split()[0]) for seen in found["seen"][:-1]]
    assert counts == [1, 2, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8, 9, 10] and found["seen"][0][0] == "1 of 10"
    assert found["seen"][0][1:] == ["Is this image real or generated?", "The image to judge", True]
    assert found["seen"][-2][1:] == ["Which image is the generated one?", "The image on the left", False]
    assert found["seen"][-1] == [True, False, "done"], "the end, where nothing is undone"
    assert found["kept"]["name"] == 'Ann "A", B' and len(found["kept"]["answers"]) == 10

    (tmp_path / "answers.csv").write_text(found["csv"], "utf-8")
    answers = read_answers(tmp_path / "answers.csv", "abc123")
    assert [a.right for a in answers] == [i not in (0, 7) for i in range(10)]
    assert [(a.question, a.real, a.generated) for a in answers] == [
        (i, q.real, q.generated) for i, q in enumerate(questions, 1)
    ]
    assert {a.person for a in answers} == {'Ann "A", B'} and all(a.seconds < 60 for a in answers)
    for right, n in ((5, 6), (3, 4)):
        low, high = (round(100 * p) for p in wilson_interval(right, n))
        assert f"{right} of {n} right, {100 * right / n:.0f}\u00a0%" in found["result"]
        assert f"95 % interval {low}\u00a0% to {high}\u00a0%" in found["result"]
