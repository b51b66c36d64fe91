"""The model card: README.md with the front matter that the Hugging Face hub reads."""

from pathlib import Path
from typing import Any

import yaml

from src import __version__
from src.formats.base import Format, Model
from src.metrics.base import MetricValue
from src.plots.pictures import sample_grid, write_picture
from src.runs.run import SAMPLING_GROUPS
from src.utils.atomic import write_text
from src.utils.console import describe
from src.utils.errors import UserError
from src.utils.files import read_json
from src.utils.model_folder import CARD

PICTURE = "samples.png"
SHOWN = ("net", "condition", "schedule", "parameterization", "variance", "loss", "sampler", "guidance")
RECORDED = {"ckpt": str, "weights": (str, float), "n": int, "samples_path": (str, type(None)), "metrics": {"*": dict}}


def write_card(model: Model, form: Format, folder: Path) -> None:
    """Write README.md and the picture that it shows."""
    pipeline = model.pipeline
    picture = sample_grid(pipeline.to_units(model.samples), kind=pipeline.kind)
    write_picture(picture, folder / PICTURE)
    front = yaml.safe_dump(front_matter(model, form), sort_keys=False, allow_unicode=True)
    write_text(folder / CARD, f"---\n{front}---\n\n{card_text(model, form)}")


def front_matter(model: Model, form: Format) -> dict[str, Any]:
    """The metadata of the hub: library, tags, task, and the metrics as its model index."""
    name, metadata = title(model), model.run.metadata()
    front: dict[str, Any] = {"library_name": "diffusers" if form.name == "diffusers" else "diffusion-lab"}
    front["tags"] = ["diffusion", *form.tags, *([name] if name.isidentifier() else [])]
    task = "unconditional-image-generation"
    if model.pipeline.kind == "images":
        front["pipeline_tag"] = task
    evaluation = find_evaluation(model)
    if evaluation is not None:
        data = {"name": str(metadata.get("data") or "training data"), "type": data_type(model)}
        metrics = [
            {"name": value.name, "type": key, "value": value.value} for key, value in values_of(evaluation).items()
        ]
        result = {"task": {"type": task}, "dataset": data, "metrics": metrics}
        front["model-index"] = [{"name": name, "results": [result]}]
    return front


def card_text(model: Model, form: Format) -> str:
    """The text of the card, in Markdown."""
    metadata, config = model.run.metadata(), model.config
    shape = " × ".join(map(str, model.pipeline.shape))
    results = metadata.get("results") or {}
    data = [
        ("data", str(metadata.get("data") or config["data"]["_target_"].rpartition(".")[2])),
        ("samples", f"{model.pipeline.kind} of shape {shape}"),
        *([("classes", ", ".join(map(str, names)))] if (names := metadata.get("classes")) else []),
        *([("note", metadata["data_warning"])] if metadata.get("data_warning") else []),
    ]
    settings = [(part, describe(config[part])) for part in SHOWN if config.get(part)]
    settings += [("parameters", f"{metadata['parameters']:,}")] if "parameters" in metadata else []
    settings += [("steps of training", f"{results['steps']:,}")] if "steps" in results else []
    if (loss := results.get("best_val_loss")) is not None:
        settings.append(("validation loss", f"{loss:.4g}"))
    made = [(key, str(value)) for key, value in model.made_from.items() if value is not None]
    parts = [
        f"# {title(model)}",
        f"A diffusion model of {model.pipeline.kind}, trained and exported (`format={form.name}`) with diffusion-lab "
        f"{__version__}.",
        f"![{len(model.samples)} samples, not selected]({PICTURE})",
        f"{len(model.samples)} samples with the seeds 0 to {len(model.samples) - 1}, not selected.",
        "## Use",
        form.usage(model).rstrip(),
        "## Data",
        rows(data),
        "## Settings",
        rows(settings),
        "## Metrics",
        metrics_text(model),
        "## Made from",
        rows(made),
    ]
    return "\n\n".join(parts) + "\n"


def metrics_text(model: Model) -> str:
    """The metrics of the newest evaluation with their intervals, or how to compute them."""
    evaluation = find_evaluation(model)
    if evaluation is None:
        return "Not evaluated. `python -m src.evaluate run=RUN`, then export again, adds the metrics."
    lines = ["| metric | value | 95 % interval | real data | better is |", "|---|---|---|---|---|"]
    for value in values_of(evaluation).values():
        between = f"{value.format(value.interval[0])} to {value.format(value.interval[1])}" if value.interval else ""
        real = "" if value.real_baseline is None else value.format(value.real_baseline)
        lines.append(f"| {value.name} | {value.format(value.value)} | {between} | {real} | {value.better or ''} |")
    sampler = describe(evaluation["sampler"])
    return f"Of {evaluation['n']:,} samples drawn by {sampler}.\n\n" + "\n".join(lines)


def find_evaluation(model: Model) -> dict[str, Any] | None:
    """The content of metrics.json of the newest evaluation of these weights; those with this sampler come first."""
    found = []
    for file in model.run.path.glob("evaluations/*/metrics.json"):
        try:
            record = read_json(file, RECORDED, "Evaluate again")
        except UserError:
            continue
        same = all(record.get(part) == model.config.get(part) for part in SAMPLING_GROUPS)
        if [str(record[key]) for key in ("ckpt", "weights")] == [model.made_from[key] for key in ("ckpt", "weights")]:
            found += [] if record["samples_path"] else [(same, record["n"], file.stat().st_mtime, record)]
    return max(found, key=lambda entry: entry[:3])[3] if found else None


def values_of(record: dict[str, Any]) -> dict[str, MetricValue]:
    """The metrics of a record that have a value."""
    return {key: MetricValue(**value) for key, value in record["metrics"].items() if value.get("value") is not None}


def title(model: Model) -> str:
    """The name of the run."""
    return str(model.config.get("name") or model.run.path.name)


def data_type(model: Model) -> str:
    """The data by the name of their class, which the hub wants beside their title."""
    return str(model.config["data"]["_target_"]).rpartition(".")[2].lower()


def rows(pairs: list[tuple[str, str]]) -> str:
    """A table of two columns without a header."""
    cells = [(key, " ".join(value.replace("|", "\\|").split())) for key, value in pairs]
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in cells)])
