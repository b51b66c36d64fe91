"""An exported folder as a model of MLflow."""

from dataclasses import replace
from typing import Any

import mlflow
import numpy as np

from src.samplers.pipeline import Pipeline


class DrawnSamples(mlflow.pyfunc.PythonModel):
    """Draws samples: ``mlflow.pyfunc.load_model(...).predict({"n": 4, "seed": 0})``, (n, C, *S) in units of the data.

    The artifact `folder` is what ``src.export format=safetensors`` wrote. Sample i is a function of (seed, i).
    """

    def load_context(self, context: Any) -> None:
        """Load the model."""
        self.pipeline = Pipeline.load(context.artifacts["folder"])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow checks hints
        """Draw samples.

        Args:
            context: unused.
            model_input: n and seed, as a dict or the first row of a data frame; by default 1 and 0.
            params: unused.
        """
        given = model_input if isinstance(model_input, dict) else dict(model_input.iloc[0])
        pipeline = replace(self.pipeline, seed=int(np.ravel(given.get("seed", 0))[0]))
        return pipeline.to_units(pipeline.sample(int(np.ravel(given.get("n", 1))[0]))).numpy()


mlflow.models.set_model(DrawnSamples())  # this file is the model, so that nothing is pickled
