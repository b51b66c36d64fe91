"""The record of what differs from the commit of a run: a diff, and the hashes of files that git does not know."""

import subprocess
from hashlib import sha256

import pytest

from src.runs import git_state
from src.runs.git_state import git_commit, save_changes


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A git tree with one commit, in place of the project's."""
    folder = tmp_path / "tree"
    folder.mkdir()

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)

    git("init", "-q")
    (folder / "a.py").write_text("old = 1\n")
    (folder / ".gitignore").write_text("ignored.py\n")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(git_state, "CONF", folder / "conf")
    return folder


def test_a_clean_tree_leaves_no_record(tree, tmp_path):
    (tree / "ignored.py").write_text("x")
    assert save_changes(tmp_path) == {} and not (tmp_path / "changes.diff").exists()
    assert git_commit() and not git_commit().endswith("-dirty")


def test_changes_and_files_that_git_does_not_know(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(git_state, "MAX_BYTES", 200)
    (tree / "a.py").write_text("new = 2\n")
    (tree / "sub").mkdir()
    (tree / "sub/ä b.py").write_text("mine")
    (tree / "big.bin").write_bytes(b"0" * 201)
    digest = sha256(b"mine").hexdigest()
    assert save_changes(tmp_path) == {
        "changes": "changes.diff", "untracked": {"big.bin": "201 bytes", "sub/ä b.py": digest}
    }  # fmt: skip
    text = (tmp_path / "changes.diff").read_text()
    assert "-old = 1\n+new = 2" in text or "characters in all" in text
    assert git_commit().endswith("-dirty")


def test_long_records_are_cut(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(git_state, "MAX_BYTES", 40)
    monkeypatch.setattr(git_state, "MAX_FILES", 2)
    (tree / "a.py").write_text("new = 2\n" * 100)
    for i in range(4):
        (tree / f"{i}.py").write_text("")
    entries = save_changes(tmp_path)
    assert list(entries["untracked"]) == ["0.py", "1.py", "..."] and entries["untracked"]["..."] == "4 files in all"
    text = (tmp_path / "changes.diff").read_text()
    assert len(text) < 100 and text.endswith("characters in all\n")


def test_without_git_there_is_no_record(tmp_path, monkeypatch):
    monkeypatch.setattr(git_state, "CONF", tmp_path / "conf")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None and save_changes(tmp_path) == {}
