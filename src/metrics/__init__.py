"""Metrics, and the features that they compare images in, by class name: ``from src.metrics import Distances``."""

from src.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Agreement": "agreement",
        "Autoencoder": "features.autoencoder",
        "Classifier": "features.classifier",
        "Captions": "captions",
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
        "Pixels": "pixels",
        "RandomNetwork": "features.random",
        "ReportSection": "base",
        "SampleDistance": "sample_distance",
        "SampleMetric": "sample_distance",
        "Samples": "samples",
        "SamplingCost": "sampling_cost",
        "Signals": "signals",
        "SlicedWasserstein": "sliced_wasserstein",
        "Spectrum": "spectrum",
        "Trajectory": "trajectory",
        "auto": "features.auto",
    },
)
