"""What a command line asks of the conditions of a run: values, files and tables, and what is wrong with them."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image as Picture

from src.commands.conditions import ConditionRequest
from src.commands.overrides import combine_conditions, normalize_override, sampling_overrides
from src.commands.sampling_setup import check_guidance_scales
from src.diffusion.conditions import Combined, Image, Labels, Measured, NoCondition, Vector, is_null
from src.diffusion.operators import Downsample
from src.utils.errors import UserError
from src.utils.units import IMAGES

N = 5


def request(rows=None, label=None, names=(), **given):
    given |= {} if rows is None else {"rows": str(rows)}
    return ConditionRequest(OmegaConf.create({"condition": given, "label": label}), names)


def asked(condition, rows=None, n=N, entries=(), names=(), **given):
    one = request(rows, names=names, **given)
    if one.rows is not None:
        n = one.read_table(condition, list(entries))
    return one.conditions(condition, OmegaConf.create({}), "images", IMAGES, n)


def both():
    return Combined({"a": Labels(10), "b": Vector(2)})


def test_values_are_repeated_in_turn_in_the_units_of_the_data():
    assert asked(Labels(10), label=3).tolist() == [3] * N
    assert asked(Labels(10), label=[1, 2]).tolist() == [1, 2, 1, 2, 1]
    assert torch.equal(asked(Vector(2), vector=[0.3, 1.2]), torch.tensor([[0.3, 1.2]] * N))
    assert asked(Vector(2), vector=[[1, 2], [3, 4]])[:, 0].tolist() == [1, 3, 1, 3, 1]
    assert asked(Vector(1), vector=2)[:, 0].tolist() == [2] * N
    assert asked(Vector(1), vector=[2, 3])[:, 0].tolist() == [2, 3, 2, 3, 2]


def test_of_several_those_that_are_not_given_are_withheld():
    cond = asked(both(), label=4)
    assert cond["label"].tolist() == [4] * N and is_null(cond["vector"]).all() and cond["vector"].shape == (N, 2)
    assert list(cond) == ["label", "vector"]


def test_images_are_read_from_pictures_and_arrays(tmp_path):
    small = (np.arange(16).reshape(4, 4) * 16).astype(np.uint8)
    Picture.fromarray(small).save(tmp_path / "small.png")
    np.save(tmp_path / "small.npy", small[None])
    large = np.repeat(np.repeat(small, 2, 0), 2, 1)
    Picture.fromarray(large).save(tmp_path / "large.png")
    measured = Measured(lambda shape: Downsample(2), 1, (8, 8))
    expected = torch.from_numpy(small).float().view(1, 1, 4, 4).expand(N, -1, -1, -1) / 255
    for name in ("small.png", "small.npy", "large.png"):
        torch.testing.assert_close(asked(measured, image=str(tmp_path / name)), 2 * expected - 1)
    torch.testing.assert_close(asked(Image((1, 4, 4)), image=str(tmp_path / "small.png")), expected)


ANIMALS = ["cat", "dog", "eel"]


def test_classes_by_name(tmp_path):
    assert asked(Labels(3), names=ANIMALS, label="dog").tolist() == [1] * N
    assert asked(Labels(3), names=ANIMALS, label=["eel", 0]).tolist() == [2, 0, 2, 0, 2]
    (tmp_path / "a.csv").write_text("label,vector.0,vector.1\neel,1,2\ncat,3,4\n")
    cond = asked(Combined({"a": Labels(3), "b": Vector(2)}), tmp_path / "a.csv", names=ANIMALS)
    assert cond["label"].tolist() == [2, 0]
    np.savez(tmp_path / "a.npz", label=np.array(["dog", "eel"]))
    assert asked(Labels(3), tmp_path / "a.npz", names=ANIMALS).tolist() == [1, 2]
    with pytest.raises(
        UserError, match=r"^label=dgo is no class of this run; did you mean dog[?] The classes: cat, dog"
    ):
        asked(Labels(3), names=ANIMALS, label="dgo")
    (tmp_path / "b.csv").write_text("label\ndgo\n")
    with pytest.raises(UserError, match=r"b.csv.*label=dgo is no class .* did you mean dog"):
        asked(Labels(3), tmp_path / "b.csv", names=ANIMALS)


@pytest.mark.parametrize("head", ["label,vector.0,vector.1", "label,width,height", "vector.0,label,vector.1"])
def test_tables(tmp_path, head):
    table = {"label": [3, 1, 2], "width": [0.5, 1.5, 2.5], "height": [-1, -2, -3]}
    table |= {"vector.0": table["width"], "vector.1": table["height"]}
    rows = [[str(table[name][i]) for name in head.split(",")] for i in range(3)]
    (tmp_path / "a.csv").write_text("\n".join([head, *map(",".join, rows), ""]))
    cond = asked(both(), tmp_path / "a.csv", entries=["width", "height"])
    assert cond["label"].tolist() == [3, 1, 2]
    assert torch.equal(cond["vector"], torch.tensor([[0.5, -1], [1.5, -2], [2.5, -3]]))
    np.savez(tmp_path / "a.npz", x=np.zeros(3), label=np.array(table["label"]), vector=cond["vector"].numpy())
    again = asked(both(), tmp_path / "a.npz")
    assert all(torch.equal(again[name], cond[name]) for name in cond)


@pytest.mark.parametrize(
    ("condition", "given", "message"),
    [
        (Labels(10), {"label": 12}, "condition.label must be one of 0 to 9, got 12"),
        (Labels(10), {"label": 1.5}, "condition.label must be an integer, or several, got 1.5"),
        (
            Labels(10),
            {"vector": [1, 2]},
            "condition.vector is no condition that this run was trained with; it has label",
        ),
        (NoCondition(), {"vector": [1, 2]}, "it has none"),
        (
            Vector(2),
            {"vector": [1]},
            r"condition.vector must be numbers of shape \(2,\), or several of them, got \[1\]",
        ),
        (Vector(2), {"vector": "a"}, "condition.vector must be numbers"),
        (Vector(2), {"vector": [1, float("nan")]}, "condition.vector must be finite, got NaN or infinity in 1 of 1"),
        (both(), {"text": "a"}, "it has label, vector"),
        (Image((1, 4, 4)), {"image": "nowhere.png"}, "condition.image=nowhere.png does not exist"),
        (Labels(10), {"rows": "a.txt"}, "condition=a.txt must be test, or a .csv or .npz file"),
        (Labels(10), {"rows": "nowhere.csv"}, "condition=nowhere.csv does not exist"),
    ],
)
def test_mistakes(condition, given, message):
    with pytest.raises(UserError, match=message):
        asked(condition, **given)


def test_an_image_of_another_size(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 5, 5), np.uint8))
    with pytest.raises(UserError, match=r"condition.image must be numbers of shape \(1, 4, 4\), .*got shape"):
        asked(Image((1, 4, 4)), image=str(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\n3\nx\n", "label in row 3 must be a number, got x"),
        ("label,vector.0\n3,1\n", r"vector must be numbers of shape \(2,\)|columns"),
        ("label,size\n3,1\n", "size is no condition of this run; it has label, vector"),
        ("label,vector.0\n3\n", "row 2 must have 2 columns, as the first has, got 1"),
        ("label\n", "must hold a row for each sample"),
        ("label,vector.0,vector.2\n3,1,2\n", "vector must have the columns vector.0 to vector.1"),
    ],
)
def test_damaged_tables(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        asked(both(), tmp_path / "a.csv")


def test_pickles_are_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", label=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"a.npz"):
        asked(Labels(10), tmp_path / "a.npz")


def test_what_is_given_twice():
    with pytest.raises(UserError, match="both give labels"):
        request(label=3, rows="test")
    with pytest.raises(UserError, match=r"gives all conditions; leave condition.vector= out"):
        request(rows="test", vector=[1])


def test_words_of_the_command_line():
    words = ["condition=test", "condition.vector=[1,2]", "guidance.scale=2", "n=3"]
    assert sampling_overrides(words) == [
        "++condition.rows=test",
        "++condition.vector=[1,2]",
        "++guidance.scale=2",
        "n=3",
    ]
    assert normalize_override("condition.text=a bold, slanted 7") == 'condition.text="a bold, slanted 7"'
    assert normalize_override('condition.text=["a","b"]') == 'condition.text=["a","b"]'
    several = combine_conditions(["condition=[labels,vector]", "condition.parts.labels.dropout=0.2"])
    assert several == [
        "condition=combined", "+condition@condition.parts.labels=labels", "+condition@condition.parts.vector=vector",
        "condition.parts.labels.dropout=0.2",
    ]  # fmt: skip
    assert combine_conditions(several) == several and combine_conditions(["condition=[labels]"]) == ["condition=labels"]


def test_a_scale_for_a_condition_that_there_is_not():
    cfg = {"_target_": "src.diffusion.guidance.CFG", "scale": {"label": 2, "text": 3}}
    with pytest.raises(UserError, match=r"guidance.scale names text, .* are: label, vector"):
        check_guidance_scales(cfg, both())
    check_guidance_scales(cfg | {"scale": {"label": 2}}, both())
