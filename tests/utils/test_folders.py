"""What commands write into: never over what is of others."""

import pytest

from src.utils.errors import UserError
from src.utils.folders import check_out, make_out


@pytest.mark.parametrize("name", ["samples.npz", "grid.png", "report.html", "result"])
def test_results_of_others_are_not_overwritten(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"holds {name}, which no command of this project wrote"):
        check_out(tmp_path)


def test_folders_for_results(tmp_path):
    """New ones, those with other things in them, those of an earlier command, and what lies in a run folder."""
    (tmp_path / "notes.txt").touch()
    (tmp_path / "run.json").touch()
    for folder in (tmp_path / "new" / "er", tmp_path):
        check_out(folder)
    (tmp_path / "run.json").unlink()
    check_out(tmp_path)
    make_out(tmp_path / "out")
    (tmp_path / "out" / "grid.png").touch()
    check_out(tmp_path / "out")
