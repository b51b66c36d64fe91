"""The report of spikes in the training of a flow map."""

import pytest
import pytorch_lightning as pl
import torch

from src.callbacks.checkpoint import BestLastCheckpoint
from src.callbacks.spikes import SpikeReport
from src.diffusion.flow_map_losses import Eulerian
from src.diffusion.schedules import FlowSchedule
from src.diffusion.semigroup import Progressive
from src.diffusion.weightings import flow_weighting
from src.utils.errors import UserError
from tests.helpers.tiny import fit, make_flow_map, make_module

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, AT = 26, 24


class Scale(pl.Callback):
    """Multiplies the last layer by a factor for one step."""

    def __init__(self, factor: float):
        self.factor = factor

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        factor = {AT - 1: self.factor, AT: 1 / self.factor}.get(trainer.global_step, 1.0)
        with torch.no_grad():
            pl_module.denoiser.net.heads[0].weight.mul_(factor)


def train(folder, loss, factor, callbacks=(), **settings):
    report = SpikeReport()
    module = make_flow_map(loss)
    fit(folder, module, callbacks=[Scale(factor), report, *callbacks], max_steps=STEPS, logger=[], **settings)
    return report


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (Eulerian(flow_weighting), ["the derivative (train/tangent)", "net.fourier_features=0", "loss=progressive"]),
        (Progressive(flow_weighting), ["the loss", "trainer.gradient_clip_val=1"]),
    ],
    ids=["derivative", "loss alone"],
)
def test_a_spike_is_named_with_its_noise_level(tmp_path, loss, words):
    report = train(tmp_path, loss, 1e4)
    ((name, text),) = report.report
    assert name == "spikes" and all(word in text for word in [*words, f"worst at step {AT},"]), text
    where = [detector.worst for detector in report.detectors.values()]
    spike = report.detectors["tangent" if isinstance(loss, Eulerian) else "loss"].worst
    log_snr = FlowSchedule().log_snr(torch.tensor(spike.t)).item()
    assert f"t = {spike.t:.3g} (log-SNR {log_snr:.3g}), s = {spike.s:.3g}" in text
    assert all(one.step == AT and 0 <= one.s <= one.t <= 1 for one in where)
    assert report.results["loss_spikes"] == report.detectors["loss"].count > 0


def test_a_healthy_run_has_none(tmp_path):
    report = train(tmp_path, Eulerian(flow_weighting), 1.0)
    assert report.report == [] and report.results == {"loss_spikes": 0, "tangent_spikes": 0}


def test_a_derivative_that_is_too_large_throughout_is_named(tmp_path):
    """A network that is sharp in x from the beginning has no spikes, but no map of data has such a derivative."""

    class Sharp(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            with torch.no_grad():
                pl_module.denoiser.net.heads[0].weight.mul_(100)

    report = SpikeReport()
    module = make_flow_map(Eulerian(flow_weighting), lr=1e-6)
    fit(tmp_path, module, callbacks=[Sharp(), report], max_steps=10, logger=[])
    ((name, text),) = report.report
    detector = report.detectors["tangent"]
    assert name == "unstable" and detector.usual > 2 and f"is {detector.usual:,.3g}, where" in text
    assert f"largest at step {detector.largest.step}, {detector.largest.value:,.3g}, most of it at t = " in text


def test_a_denoiser_is_not_watched(tmp_path):
    report = SpikeReport()
    fit(tmp_path, make_module(), callbacks=[report], max_steps=3, logger=[])
    assert report.report == [] and report.results == {} and report.state_dict() == {}


def test_it_goes_on_exactly(tmp_path):
    whole = train(tmp_path, Progressive(flow_weighting), 1e4)
    keep = BestLastCheckpoint(str(tmp_path), every_n_steps=15)
    part = SpikeReport()
    settings = {"callbacks": [Scale(1e4), part, keep], "logger": []}
    fit(tmp_path, make_flow_map(Progressive(flow_weighting)), max_steps=15, **settings)
    rest = SpikeReport()
    settings["callbacks"] = [Scale(1e4), rest, keep]
    fit(
        tmp_path,
        make_flow_map(Progressive(flow_weighting)),
        max_steps=STEPS,
        ckpt_path=tmp_path / "last.ckpt",
        **settings,
    )
    assert rest.state_dict() == whole.state_dict() and rest.report == whole.report != []


def test_a_run_that_fails_says_them(tmp_path, caplog):
    """Before the error, which names the step that was not finite."""

    class Break(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == AT + 1:
                raise UserError("broken")

    with pytest.raises(UserError, match="broken"), caplog.at_level("WARNING"):
        train(tmp_path, Progressive(flow_weighting), 1e4, [Break()])
    assert f"worst at step {AT}," in caplog.text
