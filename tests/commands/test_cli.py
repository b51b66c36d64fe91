"""Every mistake on the command line is one line that names it, and the nearest right word."""

import sys
from multiprocessing.resource_sharer import _resource_sharer

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

import src.runs.folders  # noqa: F401 - registers the resolver that conf/train.yaml uses
from src.commands.cli import flat_keys, suggest, to_container, user_message
from src.commands.main import run_command
from src.utils.errors import UserError


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """`command(*words)`: what the command does with them, as (exit code, lines on stderr, configs it ran with)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    before = Singleton.get_state()

    def run(*words: str, name: str = "train", task=to_container):
        ran = []
        GlobalHydra.instance().clear()
        folders = ["hydra.run.dir=run", *(["hydra.sweep.dir=sweep"] if name == "train" else [])]
        monkeypatch.setattr(sys, "argv", [name, *folders, *words])
        code = 0
        try:
            run_command(lambda cfg: ran.append(task(cfg)), name)
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err.splitlines(), ran

    yield run
    Singleton.set_state(before)


@pytest.mark.most(10)
@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("experiment=mnist_dpm", "experiment=mnist_dpm: there is no such choice. Did you mean mnist_ddpm? Choices: "),
        ("schedule=xxxxx", "schedule=xxxxx: there is no such choice. Choices: additive, "),
        ("experiment=", "experiment=: there is no such choice. Choices: "),
        ("experiment=a/b", "experiment=a/b: there is no such choice. Choices: "),
        ("clusters=200", "clusters: there is no such option. Did you mean condition=clusters?"),
        ("schedul=linear", "schedul: there is no such option. Did you mean schedule?"),
        ("Experiment=mnist_ddpm", "Experiment: there is no such option. Did you mean experiment?"),
        ("trainer.max_step=3", "trainer.max_step: there is no such option. Did you mean trainer.max_steps?"),
        ("max_steps=3", "max_steps: there is no such option. Did you mean trainer.max_steps?"),
        ("trainermax_steps=3", "trainermax_steps: there is no such option. Did you mean trainer.max_steps?"),
        ("~nett", "nett: there is no such option. Did you mean net?"),
        ("data.qqqq=3", "data.qqqq: there is no such option. data has: n, "),
        ("+net=mlp", "+net: the key exists already; write net= without the +"),
        ("schedule=[", "schedule=[ cannot be parsed: write NAME=VALUE "),
        ("net.channel_mults=[1,2", "net.channel_mults=[1,2 cannot be parsed: "),
        ("name=it's", "name=it's cannot be parsed: "),
        ("name=a=b", "name=a=b cannot be parsed: "),
        ("trainer.max_steps 3", "trainer.max_steps 3 cannot be parsed: "),
        ("foo", "foo cannot be parsed: "),
        ("trainer.=3", "trainer.=3 cannot be parsed: "),
        ("clip=null", "clip=null chooses nothing. Choices: auto, dynamic, none, static"),
        ("=3", "=3: the name before the = is missing"),
        ("data.frequency=", "data.frequency= is empty (an unset shell variable?); set a value, or leave"),
        ("hydra.run.dir=null", "hydra.run.dir must be a folder, got null"),
        ("seed=1,2", "seed=1,2 has several values: add -m to sweep over them, or write a list, seed=[1,2]"),
        ("name=${foo}", "name: Interpolation key 'foo' not found"),
    ],
)
def test_a_misspelled_word(command, word, start):
    code, lines, ran = command(word)
    assert code == 1 and not ran
    (line,) = lines
    assert line.startswith(f"error: {start}")


def test_the_choices_are_those_of_the_folder(command):
    _, (line,), _ = command("net=x")
    assert line.endswith("Choices: mlp, unet") or {"mlp", "unet"} <= set(line.split("Choices: ")[1].split(", "))


def test_names_are_those_of_the_chosen_parts(command):
    """`frequency` is an argument of sine waves, which the default experiment has and the digits do not."""
    _, (line,), _ = command("data.frequenzy=[1,2]")
    assert line.endswith("Did you mean data.frequency?")
    _, (line,), _ = command("experiment=digits_ddpm", "data.frequenzy=[1,2]")
    assert "frequency" not in line and line.startswith("error: data.frequenzy: there is no such option. data has: ")


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["-m", "schedule=linaer,cosine"], "schedule=linaer: there is no such choice. Did you mean linear? Choices: "),
        (["schedul=linear,cosine", "-m"], "schedul: there is no such option. Did you mean schedule?"),
        (["-m", "seed=[1"], "seed=[1 cannot be parsed: "),
    ],
)
def test_a_misspelled_word_in_a_sweep(command, words, start):
    code, lines, ran = command(*words)
    assert code == 1 and not ran
    (line,) = lines
    assert line.startswith(f"error: {start}")


@pytest.mark.parametrize("words", [["--multirun", "seed=1,2"], ["seed=1,2", "-m"]])
def test_a_sweep_runs_wherever_its_flag_stands(command, words):
    code, lines, ran = command(*words, task=lambda cfg: cfg.seed)
    assert (code, lines, ran) == (0, [], [1, 2])


@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("sampler=dimm", "sampler=dimm: there is no such choice. Did you mean ddim? Choices: "),
        ("sampler.step=3", "sampler.step: there is no such option. Did you mean sampler.steps?"),
        ("rnu=latest", "rnu: there is no such option. Did you mean run?"),
        ("latest", "latest cannot be parsed: "),
    ],
)
def test_a_misspelled_word_of_another_command(command, word, start):
    code, lines, ran = command(word, name="sample")
    assert code == 1 and not ran
    (line,) = lines
    assert line.startswith(f"error: {start}")


def test_right_words_reach_the_task(command):
    code, lines, (cfg,) = command("experiment=digits_ddpm", "trainer.max_steps=7", 'name="a, b"')
    assert (code, lines) == (0, [])
    assert cfg["trainer"]["max_steps"] == 7 and cfg["name"] == "a, b" and cfg["data"]["size"] == [8, 8]


def failing(error):
    def task(cfg):
        raise error

    return task


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("n is\n at least   1"), 1, "error: n is at least 1"),
        (UserError("stopped", exit_code=143), 143, "error: stopped"),
        (KeyboardInterrupt(), 130, "error: stopped before the run began"),
        (OSError(28, "No space left on device", "/x"), 1, "error: the disk is full: /x. Free some space"),
        (OSError(122, "Disk quota exceeded", "/x"), 1, "error: the disk is full: /x. Free some space"),
        (OSError(30, "Read-only file system", "/x"), 1, "error: /x cannot be used (Read-only file system); name anoth"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x cannot be used (Permission denied); name anot"),
    ],
)
def test_errors_of_the_task_are_one_line(command, error, code, line):
    found, lines, _ = command(task=failing(error))
    assert found == code
    assert len(lines) == 1 and lines[0].startswith(line)


def test_a_bug_of_ours_keeps_its_traceback(command):
    with pytest.raises(RuntimeError, match="a bug"):
        command(task=failing(RuntimeError("a bug")))
    with pytest.raises(OSError, match="gone"):
        command(task=failing(OSError(2, "gone")))


def test_a_loader_killed_with_a_batch_on_its_way_is_named(command, tmp_path):
    """The tensors of a batch are fetched from the process that sent it, which is gone."""

    def fetch(cfg):
        _resource_sharer.get_connection((str(tmp_path / "socket"), 0))

    code, lines, _ = command(task=fetch)
    assert code == 1 and len(lines) == 1
    assert lines[0].startswith(
        "error: a data loader process was killed ([Errno 2] No such file or directory), probably"
    )


@pytest.mark.parametrize("cause", [ValueError("t_min lies in (0, 1)"), UserError("t_min lies in (0, 1)")])
def test_a_value_that_a_part_refuses_is_named(cause):
    error = InstantiationException("Error in call to target 'x':\nValueError(...)\nfull_key: time_sampler")
    error.__cause__ = cause
    assert user_message(error, "train") == "time_sampler: t_min lies in (0, 1)"
    error.__cause__ = ZeroDivisionError("division by zero")
    assert user_message(error, "train") == "time_sampler: ZeroDivisionError: division by zero"
    error.__cause__ = AttributeError("a bug")
    assert user_message(error, "train") is None


def test_only_what_lacks_a_device_is_sent_to_another_trainer():
    error = InstantiationException("full_key: trainer")
    error.__cause__ = ValueError("No supported gpu backend found!")
    assert user_message(error, "train").endswith("found!. Use trainer=cpu, or trainer=auto")
    error.__cause__ = ValueError("Provided value is wrong")
    assert user_message(error, "train") == "trainer: Provided value is wrong"


def test_a_file_that_a_part_cannot_write_is_named():
    error = InstantiationException("Error in call to target 'x':\nOSError(...)\nfull_key: data")
    error.__cause__ = NotADirectoryError(20, "Not a directory", "/file/x")
    assert user_message(error, "train").startswith("/file/x cannot be used (Not a directory)")


def test_nearest():
    names = ["trainer.max_steps", "optimizer.lr", "sampler.steps", "time_sampler.steps"]
    assert suggest("lr", names) == " Did you mean optimizer.lr?"
    assert suggest("steps", names) == " Did you mean sampler.steps or time_sampler.steps?"
    assert suggest("optimizer.l", names) == " Did you mean optimizer.lr?"
    assert suggest("qqqq", names) == ""


def test_flat_keys():
    cfg = OmegaConf.create({"a": {"b": 1, "c": {"d": None}}, "e": [1, {"f": 2}], "g": None})
    assert list(flat_keys(cfg)) == ["a", "a.b", "a.c", "a.c.d", "e", "g"]


def test_to_plain_resolves():
    plain = to_container(OmegaConf.create({"a": 1, "b": {"c": "${a}"}, "d": ["${b.c}"]}))
    assert plain == {"a": 1, "b": {"c": 1}, "d": [1]} and type(plain["b"]) is dict and type(plain["d"]) is list
