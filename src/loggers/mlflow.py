"""Logger to MLflow."""

from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment

from src.utils.atomic import write_text
from src.utils.errors import UserError
from src.utils.files import read_text, read_yaml

RUN_ID = "mlflow_run_id"


class RunFolderMLFlowLogger(MLFlowLogger):
    """Logger to MLflow: metrics, pictures and the settings of the run, which a resumed run continues.

    Args:
        folder: the run folder; it keeps the id of the run of MLflow.
        store: folder of a database of all runs and of their pictures, where there is no server.
        tracking_uri: address of a server or database; None for MLFLOW_TRACKING_URI, or else for `store`.
        arguments: arguments of Lightning's logger, such as experiment_name and run_name.

    Raises:
        UserError: if MLflow is not installed.
    """

    def __init__(self, folder: str, store: str, tracking_uri: str | None = None, **arguments: Any):
        try:
            from mlflow.environment_variables import MLFLOW_TRACKING_URI
        except ImportError as error:
            raise UserError(
                "logger=mlflow needs a package that is not installed: pip install mlflow, "
                "or pip install 'diffusion-lab[mlflow]'"
            ) from error
        uri = tracking_uri or MLFLOW_TRACKING_URI.get()
        if not uri:
            root = Path(store).absolute()
            root.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{root / 'mlflow.db'}"
            arguments.setdefault("artifact_location", (root / "artifacts").as_uri())
        self.folder = Path(folder)
        kept = self.folder / RUN_ID
        run_id = read_text(kept, "Remove it to start a new run of MLflow").strip() if kept.is_file() else None
        super().__init__(tracking_uri=uri, run_id=run_id, **arguments)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The client of MLflow; on first access the run is started, and gets the settings of config.yaml."""
        if self._initialized:
            return self._mlflow_client
        new = self._run_id is None
        client = super().experiment
        if new:
            write_text(self.folder / RUN_ID, f"{self._run_id}\n")
            self.log_hyperparams(read_yaml(self.folder / "config.yaml", dict, "Start a new run"))
        return client
