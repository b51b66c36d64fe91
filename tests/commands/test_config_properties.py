"""Any command line composes or is refused in one line, and equal settings are one run, however they are written."""

import json
import math
import re
import tempfile
from contextlib import suppress
from functools import cache

import pytest
from hydra.errors import OverrideParseException
from hypothesis import given
from hypothesis import strategies as st

from src.commands.options import TrainOptions
from src.commands.overrides import normalize_override
from src.commands.run_setup import run_key
from src.runs.check_config import check_config, check_options
from src.utils.errors import UserError
from src.utils.override_syntax import read
from tests.helpers import config_walk
from tests.helpers.command_lines import VALUES, command_lines, plain_config, refusal
from tests.helpers.properties import examples

anything = st.recursive(
    st.sampled_from([None, True, False, math.nan, math.inf, -1, 0, 1, 10**30, 1e-30, "", "abc", "???", "${x}", "\n"])
    | st.integers()
    | st.floats()
    | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Relative folders of a command line are made here."""
    monkeypatch.chdir(tmp_path)


@given(line=command_lines())
@examples(0.75)
def test_a_command_line_composes_or_is_refused_in_a_line(tmp_path_factory, line):
    command, words = line
    message = refusal(command, words, tmp_path_factory.mktemp("run") / "run")
    if message is not None:
        assert 5 < len(message) < 1000 and "Traceback" not in message


@cache
def composed(experiment):
    with_folder = f"hydra.run.dir={tempfile.gettempdir()}/run"
    return plain_config("train", [f"experiment={experiment}", with_folder])


@given(experiment=st.sampled_from(["sine_ddpm", "mnist_conditional", "mixture_flow"]), data=st.data())
@examples(3)
def test_any_value_of_any_setting_passes_or_is_refused_in_a_line(experiment, data):
    """Also several at once, of any type, in any place."""
    cfg = composed(experiment)
    places = [path for path, _ in config_walk.leaves(cfg)]
    for path in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3, unique=True)):
        with suppress(LookupError, TypeError):  # where an earlier value took the place away
            cfg = config_walk.replaced(cfg, path, data.draw(anything))
    try:
        check_options(cfg, TrainOptions)
        check_config(cfg)
    except UserError as error:
        assert 5 < len(str(error)) < 1000
    else:
        assert len(run_key(cfg)) == 16


@given(
    key=st.sampled_from(["seed", "net.width", "+x", "~clip", "data.root", "resume", "runs", "net", "x@y", ""]),
    value=VALUES,
)
@examples(10)
def test_a_word_is_refused_or_read_the_same_twice(key, value):
    try:
        word = normalize_override(f"{key}={value}")
    except (UserError, OverrideParseException):
        return
    assert normalize_override(word) == word
    assert key.lstrip("+~").startswith(read(word).key)


def shuffled(draw, node):
    """The same settings in another order."""
    if isinstance(node, dict):
        return {key: shuffled(draw, node[key]) for key in draw(st.permutations(list(node)))}
    return node


@given(cfg=st.dictionaries(st.text(max_size=3), anything, min_size=1, max_size=4), data=st.data())
@examples(3)
def test_equal_settings_have_one_key(cfg, data):
    """Whatever their order and wherever the run lies; other settings have another."""
    cfg = {f"_{key}": value for key, value in cfg.items()}
    own = {"paths": {"run": "/a/1", "outputs": "/a"}, "file": "/a/1/x"} | cfg
    moved = {"paths": {"run": "/b/2", "outputs": "/b"}, "file": "/b/2/x", "resume": "/b/2"}
    assert run_key(shuffled(data.draw, own | moved)) == run_key(own)
    assert re.fullmatch("[0-9a-f]{16}", run_key(own)), "it can be part of a path"
    key = data.draw(st.sampled_from(list(cfg)))
    value = data.draw(anything)
    assert (run_key(own | {key: value}) == run_key(own)) == (json.dumps(value) == json.dumps(own[key]))
    assert run_key({name: v for name, v in own.items() if name != key}) != run_key(own)
