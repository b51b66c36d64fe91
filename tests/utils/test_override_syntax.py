"""Words of a command line are read as Hydra reads them, and written so that Hydra and a shell read what was meant."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric.strategies.launchers import subprocess_script
from omegaconf import OmegaConf

from src.utils.override_syntax import (
    assignment,
    command,
    in_quotes,
    override_value,
    read,
    split_flags,
    without_interpolation,
)
from tests.helpers.properties import examples

# Names of folders that mean something to a shell, to Hydra, to OmegaConf or to Python.
NAMES = [
    "outputs/train/x", "a b", " a", "a ", "a  b", "it's", 'say "x"', "'", '"', "'\"", "$HOME", "${HOME}", "a${x}b",
    "${oc.env:HOME}", "\\${x}", "x\\\\${y}", "{", "{a", "a}", "{a..b}", "{0..9}", "{a,b}", "{a:b}", "é", "Größe/日本",
    "🙂", "50%", "%s", "#1", "a #b", "[x]", "[", "(x)", "x=y", "=", "lr=0.1, tried", "a,b", "a\\b", "a\\", "a\\\\",
    "C:\\x\\y", "a\\'b", 'a\\"b', "0", "-1", "1.0", "1e3", "1_000", "null", "true", "False", "nan", "inf", "~", "~/x",
    "a:b", "a;b", "a&b", "a|b", "a>b", "*", "?", "!", "`x`", "-x", "a\tb", "choice(1,2)", "range(3)", "@x", "+x", "a^b",
]  # fmt: skip


def by_hydra(word):
    """The value that reaches a config."""
    (override,) = OverridesParser.create().parse_overrides([word])
    return OmegaConf.to_container(OmegaConf.create({"x": override.value()}), resolve=True)["x"]


text = st.sampled_from(NAMES) | st.lists(
    st.sampled_from([*"\\\"'${}[](),=:# ~@+-\t\n\r\x000é", "${", "\\${", "null"])
    | st.characters(exclude_categories=["Cs"])
).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inside: st.lists(inside, max_size=4),
    max_leaves=8,
)


def same(a, b) -> bool:
    """Equal, also in type: true is not 1."""
    lists = isinstance(a, list) and isinstance(b, list) and len(a) == len(b)
    return all(map(same, a, b)) if lists else type(a) is type(b) and a == b


@given(value=values)
@examples(3)
def test_a_value_is_read_as_it_was_written(value):
    """Any nested one: by Hydra, by a shell before it, and by `read`."""
    word = assignment("data.root", value)
    assert same(by_hydra(word), value) and same(read(word).value, value)
    line = command("sample", word, "n=2")
    assert shlex.split(line) == ["python", "-m", "src.sample", word, "n=2"], "pasted into a shell"


def test_a_name_is_read_as_it_was_written():
    for name in ("", *NAMES):
        assert by_hydra(assignment("runs", [name, "b"])) == [name, "b"]
        assert by_hydra(assignment("run", name)) == name == read(assignment("run", name)).value


@pytest.mark.parametrize("name", NAMES)
def test_lightning_repeats_the_folder_of_a_run_in_quotes(monkeypatch, name):
    monkeypatch.setattr("hydra.utils.get_original_cwd", lambda: "/")
    kept = OmegaConf.create({"dir": without_interpolation(in_quotes(without_interpolation(name)))})
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: OmegaConf.create({"run": kept}))
    words, _ = subprocess_script._hydra_subprocess_cmd(1)
    (word,) = (word for word in words if word.startswith("hydra.run.dir="))
    assert by_hydra(word) == name


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (2, "2"), (0.5, "0.5"), ("x/y.z", "x/y.z"), ("a b", "a b"), ("a=b", '"a=b"')],
)
def test_simple_values_stay_simple(value, text):
    assert assignment("x", value) == f"x={text}" and by_hydra(f"x={text}") == value


@pytest.mark.parametrize(
    ("text", "head", "key", "value", "tail"),
    [
        ("data.root='a=b, c'", "data.root", "data.root", "a=b, c", "'a=b, c'"),
        ("+net.width=8", "+net.width", "net.width", 8, "8"),
        ("++net.width=8", "++net.width", "net.width", 8, "8"),
        ("~clip", "~clip", "clip", None, ""),
        ("~clip=none", "~clip", "clip", "none", "none"),
        ("data@other=mnist", "data@other", "data", "mnist", "mnist"),
        ("hydra/launcher=slurm", "hydra/launcher", "hydra/launcher", "slurm", "slurm"),
        ("a=", "a", "a", "", ""),
        ("a=null", "a", "a", None, "null"),
        ("a=[1,'b c']", "a", "a", [1, "b c"], "[1,'b c']"),
        ("a={b:1}", "a", "a", {"b": 1}, "{b:1}"),
        ("a=1,2", "a", "a", None, "1,2"),
        ("a=${oc.env:NAMED}/x", "a", "a", "by name/x", "${oc.env:NAMED}/x"),
        ("a=${oc.env:NOT_SET}", "a", "a", "${oc.env:NOT_SET}", "${oc.env:NOT_SET}"),
        ("a=${sweep_folder:x}", "a", "a", "${sweep_folder:x}", "${sweep_folder:x}"),
    ],
)
def test_a_word(monkeypatch, text, head, key, value, tail):
    monkeypatch.setenv("NAMED", "by name")
    read.cache_clear()
    word = read(text)
    assert (word.head, word.key, word.value, word.tail) == (head, key, value, tail)
    assert word.sweeps == (text == "a=1,2") and word.removes == text.startswith("~")


def test_a_word_that_cannot_be_read():
    with pytest.raises(OverrideParseException):
        read("name=a=b")


def test_the_last_word_counts():
    assert override_value("a", ["a=1", "b=2", "+a=3", "~a"]) == 3
    assert override_value("a", ["aa=1", "b.a=2", "a=1,2"]) is None


def test_the_words_of_hydra_stand_anywhere():
    words, flags = split_flags(["-m", "a=1", "--cfg", "job", "b='x y'", "--config-dir", "c=d", "--resolve"])
    assert words == ["a=1", "b='x y'"] and flags == ["-m", "--cfg", "job", "--config-dir", "c=d", "--resolve"]
    assert split_flags(["--help"]) == ([], ["--help"])
