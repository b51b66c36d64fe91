"""Files that are there as a whole or not at all."""

import numpy as np
import pytest

from src.utils.whole_files import whole


def test_the_new_one_takes_the_place_of_the_old_one(tmp_path):
    file = tmp_path / "folder/x.npz"
    for value in (1, 2):
        with whole(file) as partial:
            np.savez(partial, x=value)
    assert np.load(file)["x"] == 2 and [p.name for p in file.parent.iterdir()] == ["x.npz"]


def test_the_old_one_stays_where_writing_fails(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(file) as partial:
        partial.write_text("half of it")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]
