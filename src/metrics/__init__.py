"""Metrics, and the features that they compare images in, by class name: ``from src.metrics import Distances``."""

from importlib import import_module
from typing import Any

_MODULES = {
    "Autoencoder": "features.autoencoder",
    "Classifier": "features.classifier",
    "ClassAccuracy": "class_accuracy",
    "Denoising": "denoising",
    "Distances": "distances",
    "Diversity": "diversity",
    "EvalContext": "base",
    "EvaluationMetric": "sample_distance",
    "HumanEvaluation": "human",
    "Inception": "features.inception",
    "Likelihood": "likelihood",
    "LossByNoise": "loss_by_noise",
    "Memorization": "memorization",
    "Metric": "base",
    "MetricValue": "base",
    "Picture": "base",
    "ReportSection": "base",
    "SampleDistance": "sample_distance",
    "SampleMetric": "sample_distance",
    "Samples": "samples",
    "SamplingCost": "sampling_cost",
    "Signals": "signals",
    "SlicedWasserstein": "sliced_wasserstein",
    "Trajectory": "trajectory",
    "auto": "features.auto",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
