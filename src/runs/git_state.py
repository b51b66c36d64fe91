"""The state of the git tree that a run is trained from: its commit, and what differs from it."""

import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

from src.utils.atomic import write_text
from src.utils.paths import CONF

CHANGES = "changes.diff"
MAX_BYTES = 1_000_000  # of the differences, and of an untracked file whose hash is recorded
MAX_FILES = 200  # untracked files that are listed


def git(*words: str, folder: Path | None = None) -> str | None:
    """The output of a git command in the tree of this project, or of the working folder if the project is installed.

    None if there is no git repository, or it takes more than five seconds.
    """
    project = None if "site-packages" in CONF.parts else CONF.parent
    try:
        done = subprocess.run(["git", *words], cwd=folder or project, capture_output=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="backslashreplace")


def git_commit() -> str | None:
    """The commit of the working tree, with `-dirty` if files have changed; None if there is no git repository."""
    described = git("describe", "--always", "--dirty")
    return described and described.strip()


def save_changes(folder: Path) -> dict[str, Any]:
    """Write the differences of the working tree from its commit to `changes.diff` in a folder, if there are any.

    Returns:
        The entries of run.json: `changes`, that file, and `untracked`, the SHA-256 of each file that git does not know,
        or its size if it is large.
    """
    top = git("rev-parse", "--show-toplevel")
    if top is None:
        return {}
    root, entries = Path(top.strip()), {}
    if difference := git("diff", "HEAD", folder=root):
        cut = f"\n... {len(difference):,} characters in all\n" if len(difference) > MAX_BYTES else ""
        write_text(folder / CHANGES, difference[:MAX_BYTES] + cut)
        entries["changes"] = CHANGES
    listed = git("ls-files", "--others", "--exclude-standard", "-z", folder=root) or ""
    names = sorted(filter(None, listed.split("\0")))
    untracked: dict[str, Any] = {name: fingerprint(root / name) for name in names[:MAX_FILES]}
    if len(names) > MAX_FILES:
        untracked["..."] = f"{len(names):,} files in all"
    return entries | ({"untracked": untracked} if untracked else {})


def fingerprint(file: Path) -> str | None:
    """The SHA-256 of a file, its size if it is large, None if it cannot be read."""
    try:
        size = file.stat().st_size
        return f"{size:,} bytes" if size > MAX_BYTES else sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None
