"""The Python API does what the commands do, and its names and signatures stay."""

import difflib

import pytest
import torch
from torch import nn

from src.api import Run, compose, evaluate, load, train
from src.commands.python_session import HydraConfig
from src.data import DataModule, TensorSamples
from src.diffusion import MSE
from src.diffusion.weightings import uniform_weighting
from src.utils.errors import UserError
from tests import api_snapshot
from tests.end_to_end.running import assert_same_run, forked

QUICK = [
    "experiment=mixture_ddpm", "trainer=cpu", "debug=two_steps", "net.width=8", "net.depth=1", "logger=csv",
    "callbacks.sample_images=null", "data.n=200", "data.batch_size=20", "sampler.steps=2",
]  # fmt: skip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x, c_noise, cond=None):
        return self.layer(x)


class Corners(DataModule):
    kind = "points"

    def load(self):
        x = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).repeat(60, 1)
        self.train_set, self.val_set, self.source = TensorSamples(x[:80]), TensorSamples(x[80:]), "two corners"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run that was trained in Python."""
    return train(compose(*QUICK), tmp_path_factory.mktemp("api") / "run")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> tuple[Run, Net]:
    """A run of objects, and the net that was trained."""
    torch.manual_seed(0)
    net, data = Net(), Corners(2, [], batch_size=20)
    folder = tmp_path_factory.mktemp("api") / "own"
    return train(compose(*QUICK, "optimizer.lr=0.1"), folder, data=data, net=net, loss=MSE(uniform_weighting)), net


def test_the_api_has_changed():
    """If that is meant: python -m tests.api_snapshot --write, and a line in CHANGELOG.md."""
    before, now = api_snapshot.FILE.read_text().splitlines(), api_snapshot.snapshot().splitlines()
    assert before == now, "\n".join(difflib.unified_diff(before, now, lineterm="", n=0))


def test_a_run_is_that_of_the_command(run, tmp_path):
    """The same weights, average, optimizer and metrics, to the last bit."""
    assert forked(*QUICK, f"hydra.run.dir={tmp_path / 'run'}").returncode == 0
    assert_same_run(run.path, tmp_path / "run")
    assert run.overrides() == Run(tmp_path / "run").overrides()
    assert run.portable_settings() | {"paths": {}} == Run(tmp_path / "run").portable_settings() | {"paths": {}}


def test_a_changed_config_is_what_is_trained(tmp_path):
    cfg = compose(*QUICK, "net.fourier_features=0")
    cfg.net.width, cfg.trainer.max_steps = 12, 1
    run = train(cfg, tmp_path / "run")
    assert run.config().net.width == 12 and run.metadata()["results"]["steps"] == 1
    again = train(compose(f"resume={run.path}", "trainer.max_steps=3"))
    assert again.path == run.path and again.metadata()["results"]["steps"] == 3 and again.config().net.width == 12


def test_a_new_folder_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path))
    run = train(compose(*QUICK))
    assert run.path.parent == tmp_path / "train/mixture_ddpm" and load().sample(1).shape == (1, 2)


def test_a_loaded_pipeline(run):
    before = HydraConfig.initialized()  # by an earlier test, perhaps
    pipeline = load(run, "sampler=heun", "sampler.steps=3", "ckpt=last", "seed=5")
    assert type(pipeline.sampler).__name__ == "Heun" and pipeline.sampler.steps == 3 and pipeline.seed == 5
    assert torch.equal(pipeline.sample(3), load(str(run.path), "sampler=heun", "sampler.steps=3", "seed=5").sample(3))
    assert load(run).sampler.steps == 2 and HydraConfig.initialized() == before


def test_metrics(run):
    values = evaluate(run, "n=60", "metrics=[sliced_wasserstein]", "metrics.sliced_wasserstein.projections=8")
    assert values["sliced_wasserstein"] > 0 and list(run.path.glob("evaluations/*/report.html"))


def test_objects_are_trained_and_loaded(own):
    """The net is trained in place, and the average of its weights loaded into another one."""
    run, net = own
    state = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["denoiser.net.layer.weight"], net.layer.weight)
    torch.manual_seed(0)
    assert not torch.equal(Net().layer.weight, net.layer.weight)
    loaded = Net()
    pipeline = load(run, "ckpt=last", net=loaded)
    assert pipeline.shape == (2,) and pipeline.sample(4).shape == (4, 2)
    assert torch.equal(loaded.layer.weight, state["ema.model.net.layer.weight"])
    assert run.metadata()["data"] == "two corners"


def test_objects_that_are_not_given_again(own):
    run, _ = own
    with pytest.raises(UserError, match=r"net: this run was trained in Python with an object of .*Net, .* net=\.\.\."):
        load(run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=digits"], "experiment=digits: there is no such choice. Did you mean"),
        (["net.widht=3"], "net.widht: there is no such option. Did you mean net.width?"),
    ],
)
def test_a_mistake_is_the_line_of_the_command(words, message):
    with pytest.raises(UserError) as caught:
        compose(*words)
    assert message in str(caught.value)


def test_a_run_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="there is no run folder"):
        load(tmp_path / "none")


def test_choices_of_ones_own(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net/mine.yaml").write_text("_target_: torch.nn.Linear\nin_features: ${data.channels}\nout_features: 3")
    cfg = compose("experiment=mixture_ddpm", "net=mine", conf=tmp_path)
    assert (cfg.net._target_, cfg.net.in_features, cfg.net.out_features) == ("torch.nn.Linear", 2, 3)
