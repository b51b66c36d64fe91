"""A config from a folder names parts, or is refused in one line before anything that it names is imported or called."""

import re
from pathlib import Path

import pytest

from src.runs.trust import check_trusted_config, check_trusted_overrides, trust_configs
from src.utils.errors import UserError
from src.utils.targets import is_part, untrusted_targets

GROUPS_OF_THE_START = ("hydra", "sweep", "plan", "task", "inverse_solver", "format")
NAMED = sorted(
    {
        name
        for file in Path("conf").rglob("*.yaml")
        if file.parts[1] not in GROUPS_OF_THE_START
        for name in re.findall(r"^ *_target_: *(\w[\w.]*)", file.read_text(), re.M)
        if not name.startswith("src.commands.sweep.") and name != "hydra.utils.get_class"
    }
)


@pytest.mark.parametrize("name", NAMED)
def test_all_that_conf_names_are_parts(name):
    assert is_part(name)


@pytest.mark.parametrize(
    "name",
    [
        "torch.load", "torch.hub.load", "torch.serialization.load", "numpy.load", "os.system", "builtins.eval",
        "pathlib.Path", "pathlib.Path.write_text", "joblib.load", "pandas.read_pickle", "urllib.request.urlretrieve",
        "subprocess.Popen", "hydra.utils.get_method", "hydra.utils.get_object", "hydra.utils.get_class", "x", "",
        "src.runs.run.os.system", "src.data.base.torch.load", "src.nets.layers.torch.hub.load",
        "src.runs.folders.shutil.rmtree",
        "src.callbacks.checkpoint.copy_checkpoint", "src.utils.atomic.remove", "src.runs.run.symlink_latest",
        "src.callbacks.checkpoint.shutil.rmtree", "src.data.base.DataModule.__init__", "src.nets.mlp.MLP.__init__",
        "src.commands.training.Training", "src.runs.run.Run", "src.metrics.features.trained.sha256",
        "tests.helpers.faults.SignalAt",
        "pytorch_lightning.callbacks.ModelCheckpoint", "pytorch_lightning.callbacks.LambdaCallback",
        "torch.optim.lr_scheduler.partial", "torch.nn.init.normal_", "torch.nn.modules.module.torch.load",
        "stranger_parts.ConvNeXt", "srcs.nets.mlp.MLP", "src", "src.nets", "src.nets.mlp", "src/nets/mlp.MLP",
        None, 3, ["torch.load"], {"_target_": "torch.load"},
    ],
)  # fmt: skip
def test_what_is_no_part(name):
    assert not is_part(name)


@pytest.mark.parametrize(
    "name", ["torch.optim.SGD", "torch.optim.lr_scheduler.StepLR", "torch.nn.GRU", "pytorch_lightning.Trainer"]
)
def test_the_stated_classes_of_others(name):
    assert is_part(name)


def test_a_module_in_the_folder_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "harmful.py").write_text("raise SystemExit('imported')")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/harmful.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert not is_part("harmful.Net") and not is_part("src.harmful.Net")


NESTED = {
    "net": {"_target_": "src.nets.mlp.MLP", "time_embedding": {"_target_": "torch.load", "f": "x"}},
    "list": [1, [{"_target_": "os.system"}]],
    "partial": {"_target_": "numpy.load", "_partial_": True},
    "cell": {"_target_": "hydra.utils.get_class", "path": "torch.nn.GRU"},
    "other": {"_target_": "hydra.utils.get_class", "path": "subprocess.Popen"},
}


def test_every_place_is_looked_at():
    assert [path for path, _ in untrusted_targets(NESTED)] == ["net.time_embedding", "list[1][0]", "partial", "other"]


def test_one_line_that_names_file_place_and_target(tmp_path):
    file = tmp_path / "config.yaml"
    with pytest.raises(UserError) as caught:
        check_trusted_config(NESTED, file)
    assert str(caught.value).startswith(f"{file}: net.time_embedding._target_=torch.load is neither")
    assert "trust=true" in str(caught.value) and "\n" not in str(caught.value)
    with trust_configs(True):
        check_trusted_config(NESTED, file)
    with pytest.raises(UserError):
        check_trusted_config(NESTED, file)


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a${sweep_folder:/x}", "${paths.run}", "${oc.create:x}"])
def test_interpolations_are_refused_whoever_is_trusted(tmp_path, value):
    with trust_configs(True), pytest.raises(UserError, match=r"data\.root\[0\] holds the interpolation"):
        check_trusted_config({"data": {"root": [value]}}, tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "word",
    [
        "--config-dir=/tmp/x", "-cp=/x", "--multirun", "hydra.run.dir=/x", "hydra.searchpath=[file:///x]", "+hydra.x=1",
        "hydra.callbacks.x._target_=os.system", "hydra/job_logging=default,/x", "net=../../x/evil", "net=/tmp/evil",
        "+../x=evil", "/x@_global_=evil", "net@hydra.job_logging=unet", "seed=${sweep_folder:/x}",
        "net._target_=torch.load",
        "++callbacks={x:{_target_:os.system}}", "hydra.launcher.setup=[reboot]", "hydra.launcher.python=x",
        "optimizer._target_=torch.optim.SGD,os.system", "hydra/launcher=../x",
    ],
)  # fmt: skip
def test_saved_words_that_could_run_code(tmp_path, word):
    with pytest.raises(UserError, match="trust=true"):
        check_trusted_overrides(["seed=1", word], tmp_path / "run.json", trust=False)
    check_trusted_overrides([word], tmp_path / "run.json", trust=True)


def test_saved_words_that_set_values(tmp_path):
    words = [
        "experiment=digits_ddpm", "net.width=8", "data.root=/a/../b c", "callbacks=[default,quality]", "+x.y=null",
        "~callbacks.sample_images", "run=/tmp/run", "net=unet,dit", "data.size=[16,16]", "hydra/launcher=parallel",
        "hydra.sweeper.n_trials=5", "optimizer._target_=torch.optim.SGD", "init_from=/a/b", "schedule=linear, cosine",
        "++task.mask='a=b'", "optimizer.lr=interval(1e-4,1e-2)",
    ]  # fmt: skip
    check_trusted_overrides(words, tmp_path / "run.json", trust=False)
