"""Registration of an exported folder in the model registry of MLflow."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.runs.registry import CHAMPION
from src.utils.errors import UserError
from src.utils.imports import need
from src.utils.paths import PACKAGE

EXPERIMENT = "diffusion-lab"
REQUIREMENTS = ["torch", "numpy", "safetensors"]  # and this project
SQLITE = "sqlite:///"


def check_registration(uri: str, form: str = "safetensors") -> None:
    """Refuse a registration that could not be made, before any work.

    Raises:
        UserError: without MLflow, for an address that it does not know, or for another format.
    """
    need("mlflow", "for mlflow=URI", "mlflow")
    if form != "safetensors":
        raise UserError(f"mlflow= registers format=safetensors, got format={form}; leave format= out")
    with asking(uri):
        pass


def register(uri: str, name: str, folder: Path, tags: Mapping[str, Any], champion: bool) -> str:
    """Register an exported folder as a new version of a model; returns its number.

    Args:
        uri: address of MLflow: a server, or a database such as sqlite:///FILE.
        name: of the model.
        folder: what format=safetensors wrote.
        tags: of the version, such as the digest of the weights.
        champion: True to give it the alias `champion`.

    Raises:
        UserError: if MLflow refuses it or cannot be reached.
    """
    import mlflow

    with asking(uri) as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        identity = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT, artifacts(uri))
        with mlflow.start_run(experiment_id=identity, run_name=f"register {name}"):
            mlflow.set_tags(dict(tags))
            mlflow.pyfunc.log_model(
                name=name, python_model=str(PACKAGE / "formats" / "pyfunc.py"), artifacts={"folder": str(folder)},
                pip_requirements=REQUIREMENTS, registered_model_name=name,
            )  # fmt: skip
        versions = client.search_model_versions(f"name = '{name}'")
        version = max(versions, key=lambda found: int(found.version)).version
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, str(value))
        if champion:
            client.set_registered_model_alias(name, CHAMPION, version)
    return str(version)


def set_champion(uri: str, name: str, digest: str) -> str | None:
    """Give the alias `champion` to the version with this digest; returns its number, None if there is none.

    Raises:
        UserError: if MLflow cannot be reached.
    """
    with asking(uri) as client:
        versions = client.search_model_versions(f"name = '{name}'")
        found = next((v.version for v in versions if v.tags.get("digest") == digest), None)
        if found is not None:
            client.set_registered_model_alias(name, CHAMPION, found)
    return None if found is None else str(found)


def artifacts(uri: str) -> str | None:
    """Where the files of a local database are kept: beside it, not where the command is started."""
    return (Path(uri.removeprefix(SQLITE)).absolute().parent / "artifacts").as_uri() if uri.startswith(SQLITE) else None


@contextmanager
def asking(uri: str) -> Iterator[Any]:
    """A client of MLflow, whose address is set for the block.

    Raises:
        UserError: if MLflow fails.
    """
    import mlflow

    before = mlflow.get_tracking_uri()
    if uri.startswith(SQLITE):
        Path(uri.removeprefix(SQLITE)).absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient()
        client.search_registered_models(max_results=1)
        yield client
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"mlflow={uri}: MLflow failed ({reason})") from error
    finally:
        mlflow.set_tracking_uri(before)
