"""A damaged file is named in one line, whatever the damage, and altered content never comes out."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch

from src.utils import files
from src.utils.files import (
    Damaged,
    Misfit,
    cached,
    check,
    read_arrays,
    read_json,
    read_rows,
    read_tensors,
    read_text,
    read_yaml,
)

CONTENT = {"global_step": 7, "state_dict": {"w": torch.arange(24.0).view(4, 6), "b": torch.arange(3)}}
READERS = {
    "json": lambda file: read_json(file, {"a": int}, "Delete it"),
    "yaml": lambda file: read_yaml(file, {"a": int}, "Delete it"),
    "csv": lambda file: read_rows(file, "Delete it"),
    "npz": lambda file: read_arrays(file, {"x": "f"}, "Delete it"),
    "pt": lambda file: read_tensors(file, {"global_step": int}, "Delete it"),
}


def write(kind: str, file) -> None:
    if kind == "npz":
        np.savez(file, x=np.arange(5.0))
    elif kind == "pt":
        torch.save(CONTENT, file)
    else:
        file.write_text({"json": '{"a": 1}', "yaml": "a: 1\n", "csv": "a\n1\n"}[kind])


def folder(file) -> None:
    file.unlink()
    file.mkdir()


def pipe(file) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "random": lambda file: file.write_bytes(np.random.default_rng(0).bytes(500)),
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe" + file.read_bytes()),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "a list": lambda file: file.write_text("[1, 2]"),
    "another type": lambda file: file.write_text('{"a": "text"}'),
    "deep": lambda file: file.write_text("[" * 200_000),
    "folder": folder,
    "pipe": pipe,
    "missing": lambda file: file.unlink(),
}
MAY_BE_READ = {("csv", name) for name in ("empty", "cut", "zeros", "a list", "another type", "deep")}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line(tmp_path, kind, damage):
    file = tmp_path / f"file.{kind}"
    write(kind, file)
    READERS[kind](file)
    DAMAGES[damage](file)
    if (kind, damage) in MAY_BE_READ:
        READERS[kind](file)
        return
    with pytest.raises(Damaged) as caught:
        READERS[kind](file)
    said = str(caught.value)
    assert said.startswith(f"{file} ") and said.endswith(". Delete it") and "\n" not in said and len(said) < 500


def test_content(tmp_path):
    for kind, found in {"json": {"a": 1}, "yaml": {"a": 1}, "csv": [["a"], ["1"]]}.items():
        write(kind, tmp_path / kind)
        assert READERS[kind](tmp_path / kind) == found
    assert read_text(tmp_path / "yaml", "") == "a: 1\n"
    write("npz", tmp_path / "x.npz")
    np.testing.assert_array_equal(READERS["npz"](tmp_path / "x.npz")["x"], np.arange(5.0))
    (tmp_path / "csv").write_text("a,b\n1,2\n3,")
    assert READERS["csv"](tmp_path / "csv") == [["a", "b"], ["1", "2"]], "the last line was cut off by a kill"


@pytest.mark.parametrize(
    ("value", "wanted", "message"),
    [
        ({"a": 1}, {"a": str}, "a must be str, got int"),
        ({"a": {"b": [1, "x"]}}, {"a": {"b": [int]}}, r"a.b\[1\] must be int, got str"),
        ({}, {"a?": int, "b": int}, "b is missing"),
        ({"a": True}, {"a": int}, "a must be int, got bool"),
        ({"a": None}, {"a": (int, str)}, "a must be int or str, got NoneType"),
        ({"a": None}, {"a?": float}, "a must be float"),
        ([], dict, "its content must be dict, got list"),
        ({"a": 5}, {"a": [int]}, "a must be list, got int"),
    ],
)
def test_patterns(value, wanted, message):
    with pytest.raises(Misfit, match=message):
        check(value, wanted)


def test_patterns_that_fit():
    check(
        {"a": 1, "b": [1, 2], "c": None, "d": {"e": True}, "more": 1},
        {"a": float, "b": [int], "c": (int, type(None)), "d": {"e": bool, "f?": str}, "g?": int},
    )


def test_a_yaml_bomb_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(Damaged, match="more than 1,000,000 values"):
        read_yaml(tmp_path / "bomb.yaml", dict, "")
    (tmp_path / "loop.yaml").write_text("a: &a [*a]\n")
    with pytest.raises(Damaged):
        read_yaml(tmp_path / "loop.yaml", dict, "")


def test_yaml_makes_no_objects(tmp_path):
    (tmp_path / "a.yaml").write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path}/harm']\n")
    with pytest.raises(Damaged):
        read_yaml(tmp_path / "a.yaml", dict, "")
    assert not (tmp_path / "harm").exists()


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 10)
    (tmp_path / "a.json").write_text('{"a": 1, "b": 2}')
    with pytest.raises(Damaged, match="16 bytes"):
        READERS["json"](tmp_path / "a.json")


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b


def altered(whole: bytes, stride: int):
    """The file with each of its bytes changed, each part zeroed, and cut off at many places; or every few of these."""
    for i in range(0, len(whole), stride):
        for mask in (1 << i % 8, 255):
            yield whole[:i] + bytes([whole[i] ^ mask]) + whole[i + 1 :]
    for i in range(0, len(whole), 64 * stride):
        for n in (64, 512, 4096):
            yield whole[:i] + bytes(min(n, len(whole) - i)) + whole[i + n :]
        yield whole[:i]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["pt", "npz"])
def test_no_flipped_byte_and_no_zeroed_page_alters_what_is_read(tmp_path, kind, stride):
    """Every change either has no effect or is refused; without the check most of them would alter a value."""
    file = tmp_path / "file"
    buffer = io.BytesIO()
    if kind == "pt":
        torch.save(CONTENT, buffer)
    else:
        np.savez(buffer, x=np.arange(24.0))
    refused = unseen = 0
    for i, content in enumerate(altered(buffer.getvalue(), stride)):
        file.write_bytes(content)
        try:
            if kind == "pt":
                assert same(CONTENT, read_tensors(file, {"global_step": int}, "", mmap=bool(i % 2)))
            else:
                np.testing.assert_array_equal(read_arrays(file, {"x": "f"}, "")["x"], np.arange(24.0))
            unseen += 1
        except Damaged:
            refused += 1
    assert refused > unseen > 0


@pytest.mark.parametrize("how", ["compressed", "a folder by its attributes"])
def test_records_that_torch_does_not_write(tmp_path, how):
    """Compressed ones can be far larger than the file; of one called a folder torch reads whatever is in memory."""
    torch.save(CONTENT, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for record in good.infolist():
            copy = zipfile.ZipInfo(record.filename)
            copy.compress_type = zipfile.ZIP_DEFLATED if how == "compressed" else zipfile.ZIP_STORED
            copy.external_attr = 0x10 if how != "compressed" else 0
            bad.writestr(copy, good.read(record))
    with pytest.raises(Damaged, match="is altered"):
        read_tensors(tmp_path / "bad.pt", dict, "")


@pytest.mark.parametrize("damage", [*DAMAGES, None])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    file, made = tmp_path / "cache" / "file.pt", []

    def make():
        made.append(1)
        return {"x": torch.arange(3), "global_step": 1}

    wanted = {"x": torch.Tensor, "global_step": int}
    for _ in range(2):
        assert same(make(), cached(file, make, wanted))
    assert len(made) == 3, "once by `cached`, and twice here"
    if damage is not None:
        DAMAGES[damage](file)
    assert same(make(), cached(file, make, wanted))
    assert len(made) == 5 - (damage is None)
    if damage != "folder":
        assert same(make(), cached(file, make, wanted))
        assert len(made) == 6 - (damage is None), "and is kept"
