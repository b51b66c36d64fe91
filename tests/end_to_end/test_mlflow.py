"""logger=mlflow: metrics, pictures and settings in a database; champions in its model registry; needs MLflow."""

from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from src.commands.retrain.command import digest_of, register_champion
from src.runs.registry import FIRST, PROMOTED, Registry, Version
from src.runs.run import Run
from src.samplers import Pipeline


def test_a_run_and_its_resumption(command, tiny, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))
    words = [word for word in tiny if "sample_images" not in word]
    start = ["experiment=digits_ddpm", *words, "logger=mlflow", "callbacks.sample_images.n=4", "trainer.max_steps=2"]
    for line in [*start, f"hydra.run.dir={tmp_path / 'run'}"], [f"resume={tmp_path / 'run'}", "trainer.max_steps=4"]:
        done = command("train", *line)
        assert done.code == 0, done.error
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("diffusion-lab")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["seed"] == "0"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "val/loss_ema")]
    assert steps == sorted(set(steps)) and steps[-1] == 4
    assert list((tmp_path / "outputs" / "mlflow" / "artifacts").rglob("step_*.png"))


@pytest.mark.slow
def test_champions_in_the_model_registry(command, make_run, tiny, tmp_path):
    """The alias is of the champion, which MLflow loads and draws the samples of the run from."""
    mlflow = pytest.importorskip("mlflow")
    uri, digests, registry = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}", [], Registry(tmp_path, "digits")
    client = mlflow.MlflowClient(uri, uri)
    cfg = OmegaConf.create({"mlflow": uri, "trust": False, "paths": {"outputs": str(tmp_path)}})
    for seed, event in [(1, FIRST), (2, PROMOTED)]:
        words = ["experiment=digits_ddpm", *tiny, f"seed={seed}", f"paths.outputs={tmp_path}", "sampler=ddim"]
        run = make_run(tmp_path / f"run_{seed}", *words)
        digests.append(digest_of(Run(run)))
        before = digests[-2] if seed > 1 else None
        registry.add(event, Version(digests[-1], registry.place_of(run), before), before)
        register_champion(cfg, registry)
        found = client.get_model_version_by_alias("digits", "champion")
        assert int(found.version) == seed and found.tags["digest"] == digests[-1] and found.tags["run"] == str(run)
    registry.rollback()
    register_champion(cfg, registry)
    assert int(client.get_model_version_by_alias("digits", "champion").version) == 1
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/digits@champion")
    folder = tmp_path / "run_1/exports/safetensors"
    pipeline = replace(Pipeline.load(str(folder)), seed=3)
    assert np.array_equal(model.predict({"n": 2, "seed": 3}), pipeline.to_units(pipeline.sample(2)).numpy())
    assert (tmp_path / "mlflow" / "artifacts").is_dir()

    words = [f"run={tmp_path / 'run_2'}", f"out={tmp_path / 'out'}", f"mlflow={uri}", "name=waves", "n=1"]
    done = command("export", *words)
    assert done.code == 0 and "version 1 of waves" in done.out, done.error
    for wrong, reason in [
        (["mlflow=nonsense://x"], "MLflow failed"),
        (["format=torch_export"], "mlflow= registers format=safetensors"),
    ]:
        done = command("export", *words, "overwrite=true", *wrong)
        assert done.code == 1 and done.error.count("\n") == 1 and reason in done.error, done.error


def test_without_mlflow(command, monkeypatch):
    monkeypatch.setattr("src.utils.imports.find_spec", lambda name: None)
    done = command("retrain", "run=x", "new=y", "mlflow=sqlite:///x")
    assert done.code == 1 and "mlflow is needed for mlflow=URI; install it: pip install mlflow" in done.error
