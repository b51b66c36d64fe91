"""logger=mlflow: metrics, pictures and settings in a database, which a resumed run continues; needs MLflow."""

import pytest


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
