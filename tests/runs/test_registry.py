"""The registry: who is champion, who was, and what two writers at once or a damaged file do to it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from src.runs.registry import FIRST, PROMOTED, REFUSED, OtherChampion, Registry, Version
from src.runs.run import Run
from src.utils.errors import UserError


@pytest.fixture
def registry(tmp_path):
    """With three champions, a, b and c, and x that was refused."""
    found = Registry(tmp_path, "digits")
    found.add(FIRST, Version("a1", "runs/a"), None)
    found.add(PROMOTED, Version("b2", "runs/b", "a1", {"id": "d"}, {"loss": 0.5}), "a1")
    found.add(REFUSED, Version("x9", "runs/x", "b2"), "b2")
    found.add(PROMOTED, Version("c3", "/elsewhere/c", "b2"), "b2")
    return found


def test_the_champion_is_the_one_promoted_last(registry, tmp_path):
    assert Registry(tmp_path, "digits").champion == Version("c3", "/elsewhere/c", "b2")
    assert [*registry.versions()] == ["a1", "b2", "x9", "c3"]
    assert registry.versions()["b2"].metrics == {"loss": 0.5}
    assert [entry["champion"] for entry in registry.entries()] == ["a1", "b2", "b2", "c3"]


def test_rollback_goes_back_a_champion_each_time(registry):
    for now in ("b2", "a1"):
        assert registry.rollback()[1].digest == now == registry.champion.digest
    with pytest.raises(UserError, match="a1 is the first; there is none before it"):
        registry.rollback()
    registry.rollback("c")
    assert registry.champion.digest == "c3"
    for wrong in ("x9", "c3", "zz", ""):
        with pytest.raises(UserError, match="must be the digest of an earlier champion: a1, b2"):
            registry.rollback(wrong)
    assert registry.champion.digest == "c3"


def test_a_decision_on_an_old_champion_is_refused(registry):
    before = registry.file.read_bytes()
    with pytest.raises(OtherChampion, match="the champion of digits is c3 by now, not b2"):
        registry.add(PROMOTED, Version("d4", "runs/d", "b2"), "b2")
    assert registry.file.read_bytes() == before


def test_of_many_writers_at_once_one_wins(registry, tmp_path):
    """All others are told; nothing is lost or mixed up."""

    def promote(i):
        try:
            Registry(tmp_path, "digits").add(PROMOTED, Version(f"n{i}", "runs/n", "c3"), "c3")
            return f"n{i}"
        except OtherChampion:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [name for name in pool.map(promote, range(24)) if name]
    assert len(won) == 1 and registry.champion.digest == won[0]
    assert len(registry.entries()) == 5


def test_a_kill_while_writing_changes_nothing(registry, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    before = registry.file.read_bytes()
    monkeypatch.setattr("src.utils.atomic.replace", die)
    with pytest.raises(KeyboardInterrupt):
        registry.rollback()
    assert registry.file.read_bytes() == before
    monkeypatch.undo()
    registry.rollback()  # the lock was released


@pytest.mark.parametrize("line", ["{", "[]", '{"event": "first"}', "null"])
def test_a_damaged_line_is_named(registry, line):
    registry.file.write_text(registry.file.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"digits.jsonl is damaged in line 5 .*remove that line"):
        assert registry.champion


def test_a_run_may_be_named_as_the_champion(registry, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "runs" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    registry.rollback()
    for name in ("champion", "champion:digits"):
        assert Run.find(name, str(tmp_path)).path == tmp_path / "runs" / "b"
    Registry(tmp_path, "waves").add(FIRST, Version("w1", "runs/a"), None)
    assert Run.find("champion:waves", str(tmp_path)).path == tmp_path / "runs" / "a"
    for name, reason in [("champion", "there are digits, waves; name one"), ("champion:x", "it has digits, waves")]:
        with pytest.raises(UserError, match=reason):
            Run.find(name, str(tmp_path))
    with pytest.raises(UserError, match="makes the first champion"):
        Run.find("champion", str(tmp_path / "empty"))


def test_runs_in_the_outputs_folder_move_with_it(registry, tmp_path):
    assert registry.place_of(tmp_path / "runs/a") == "runs/a"
    assert registry.place_of(tmp_path.parent / "other") == str(tmp_path.parent / "other")
    assert all(json.loads(line)["time"].endswith("+00:00") for line in registry.file.read_text().splitlines())
