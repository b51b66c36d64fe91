"""`make docs` builds all pages and the API reference without a warning, and refuses dead links."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api_snapshot import PACKAGES

pytestmark = pytest.mark.slow


def build(source: Path, pages: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("myst_parser", reason="make docs installs it")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", f"{source}/docs/site", "-b", "html"]
    return subprocess.run([*command, str(source), str(pages)], capture_output=True, text=True)


def test_the_pages(tmp_path):
    done = build(Path(), tmp_path)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "docs/site/api.html").read_text()
    for package in PACKAGES:
        assert f"module-src.{package}" in reference
    for name in ("src.api.train", "src.samplers.DDIM", "src.nets.UNet", "src.data.MNIST"):
        assert f'id="{name}"' in reference, name
    assert all((tmp_path / page.with_suffix(".html")).exists() for page in Path("docs").glob("*.md"))


@pytest.mark.parametrize(
    "link", ["[a](no_such_page.md)", "[a](data.md#no-such-section)", "[a](../src/no_such_file.py)"]
)
def test_a_dead_link_is_refused(tmp_path, link):
    for name in ("conf.py", "index.md"):
        (tmp_path / "docs/site").mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("docs/site", name), tmp_path / "docs/site" / name)
    (tmp_path / "docs/site/index.md").write_text("# Pages\n")
    (tmp_path / "docs/data.md").write_text("# Data\n\n## Folders\n")
    (tmp_path / "docs/page.md").write_text("# Page\n\n[b](data.md#folders)\n")
    assert build(tmp_path, tmp_path / "good").returncode == 0
    (tmp_path / "docs/page.md").write_text(f"# Page\n\n{link}\n")
    assert build(tmp_path, tmp_path / "bad").returncode == 1
