"""The words of each command, before Hydra sees them."""

import json
import re

import pytest
from hydra.errors import OverrideParseException

from src import __version__
from src.commands.overrides import (
    normalize_override,
    sampling_overrides,
    sweep_overrides,
    training_overrides,
)
from src.utils.errors import UserError
from src.utils.override_syntax import assignment, override_value, read
from tests.utils.test_override_syntax import NAMES


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("seed=3", "seed=3"),
        ("data.root=~/x", "data.root=/home/me/x"),
        ("hydra.run.dir=~/a b", "hydra.run.dir=/home/me/a b"),
        ("hydra.sweep.dir='~/a,b'", 'hydra.sweep.dir="/home/me/a,b"'),
        ("+out=~", "+out=/home/me"),
        ("runs=['~/a',b]", "runs=[/home/me/a,b]"),
        ("data.root=~nobody-of-this-name/x", 'data.root="~nobody-of-this-name/x"'),
        ("data.root=Größe #1", 'data.root="Größe #1"'),
        ("data.root=shards/train-{000..009}.tar", 'data.root="shards/train-{000..009}.tar"'),
        ("run=0", 'run="0"'),
        ("out=1_000", 'out="1_000"'),
        ("runs=[0,a b,'1_0']", 'runs=["0",a b,"1_0"]'),
        ("resume=null", "resume=null"),
        ("-m", None),
        ("name=a=b", None),
        ("data.root=a,b", "data.root=a,b"),
        ("~callbacks.sample_images", "~callbacks.sample_images"),
    ],
)
def test_a_word_is_given_to_hydra_as_it_is_meant(typed, given):
    if given is None:
        with pytest.raises(OverrideParseException):
            normalize_override(typed)
    else:
        assert normalize_override(typed) == given and normalize_override(given) == given


@pytest.mark.parametrize("word", ["{}=", "{}=''", '{}=" "', "+{}=", "{}=['']", "{}=[a,'']"])
@pytest.mark.parametrize("key", ["data.root", "resume", "init_from", "out", "hydra.run.dir", "sweep.resume", "name"])
def test_an_empty_value_is_refused(key, word):
    with pytest.raises(UserError, match=f"{key.replace('.', '[.]')}= is empty"):
        normalize_override(word.format(key))


@pytest.mark.parametrize("word", ["optimizer=1", "+net=true", "~schedule=-1.5", "metrics=[classes,2]"])
def test_a_choice_is_a_name(word):
    with pytest.raises(UserError, match=f"^{re.escape(word)}: there is no such choice. Choices: [a-z]"):
        normalize_override(word)


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir", "paths.outputs"])
def test_a_folder_that_is_needed_is_not_null(key):
    with pytest.raises(UserError, match="must be a folder, got null"):
        normalize_override(f"{key}=null")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_any_name_is_resumed(tmp_path, name):
    folder = tmp_path / name.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"version: {__version__}")
    (folder / "run.json").write_text(json.dumps({"overrides": ["net=mlp"]}))
    word = normalize_override(assignment("resume", folder))
    assert training_overrides([word]) == ["net=mlp", word]


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_of_any_name_goes_on(tmp_path, name):
    folder = tmp_path / name.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    plan = {
        "command": "train",
        "overrides": ["seed=1,2", "sweep.resume=x"],
        "hydra_overrides": ["hydra/launcher=parallel"],
    }
    (folder / "sweep.json").write_text(json.dumps(plan | {"swept": ["seed"], "jobs": [], "count": 2}))
    words = sweep_overrides([assignment("sweep.resume", folder), "sweep.retry=true"])
    assert words[:2] == ["hydra/launcher=parallel", "seed=1,2"] and words[-1] == "hydra.mode=MULTIRUN"
    assert override_value("hydra.sweep.dir", words) == str(folder) == read(words[2]).value
    assert sweep_overrides([assignment("sweep.resume", folder), "seed=3"])[:2] == [words[2], "seed=3"]


def test_settings_of_the_runs_own_sampler():
    words = ["run=x", "sampler.steps=3", "+clip.bound=2", "guidance=cfg", "guidance.scale=3", "sampler=ddim"]
    assert sampling_overrides(words) == words
    assert sampling_overrides(words[:3]) == ["run=x", "++sampler.steps=3", "+clip.bound=2"]
