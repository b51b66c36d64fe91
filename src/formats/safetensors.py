"""Weights and config in a folder that `Pipeline.load` reads without Lightning and Hydra."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from src import __version__
from src.formats.base import Format, Model, largest_difference
from src.runs.own_code import save_code
from src.samplers.pipeline import Pipeline
from src.utils.atomic import write_json
from src.utils.errors import UserError
from src.utils.model_folder import CONFIG, WEIGHTS
from src.utils.targets import instantiable_nodes, untrusted_targets

# The parts of a run's config of which its denoiser and its sampler are made.
PARTS = ("net", "schedule", "parameterization", "variance", "condition", "sampler", "guidance")
OF_OTHER_RUNS = "src.runs.loading.load_denoiser"


class SafetensorsFormat(Format):
    """Weights and config in a folder that `Pipeline.load` reads without Lightning and Hydra."""

    name, libraries, tags = "safetensors", ("safetensors",), ("safetensors",)

    def check(self, model: Model) -> None:
        for path, node in instantiable_nodes(model.config["guidance"]):
            if node["_target_"] == OF_OTHER_RUNS:
                raise UserError(
                    f"guidance.{path} is the model of another run, which this folder does not hold; use guidance=none"
                )

    def write(self, model: Model, folder: Path) -> None:
        from safetensors.torch import save_file

        config = {part: model.config[part] for part in PARTS}
        content = {
            "version": __version__,
            "data": {key: model.config["data"][key] for key in ("channels", "size")},
            "self_conditioning_prob": model.config["self_conditioning_prob"],
            "flow_map": model.config.get("flow_map", False),
            **config,
            "pipeline": pipeline_settings(model.pipeline),
        }
        write_json(folder / CONFIG, content)
        # Tensors that share memory, such as tied weights, are refused by safetensors.
        state = {key: value.detach().cpu().clone() for key, value in model.pipeline.denoiser.state_dict().items()}
        save_file(state, folder / WEIGHTS, {"format": "pt"})
        if untrusted_targets(config):
            save_code(folder, config)

    def verify(self, model: Model, folder: Path) -> Mapping[str, float]:
        loaded = Pipeline.load(str(folder), model.pipeline.device, trust=True)
        x_t, t, cond = model.probe()
        with loaded.inference():
            predictions = [p.denoiser(x_t, t, cond).x_0 for p in (model.pipeline, loaded)]
        samples = loaded.sample(len(model.verified), model.cond())
        return {
            "predictions": largest_difference(*predictions),
            "samples": largest_difference(samples, model.verified),
        }

    def usage(self, model: Model) -> str:
        trust = ", trust=True" if untrusted_targets(model.config) else ""
        return (
            "With [diffusion-lab](https://pypi.org/project/diffusion-lab) and `safetensors`, without Lightning and "
            "Hydra:\n\n```python\n"
            "from src.samplers import Pipeline\n\n"
            f'pipeline = Pipeline.load("FOLDER"{trust})  # this folder\n'
            "x = pipeline.to_units(pipeline.sample(16))\n```\n"
        )


def pipeline_settings(pipeline: Pipeline) -> dict[str, Any]:
    """The settings of a pipeline that are no parts, for JSON."""
    plain = (bool, int, float, str, list, tuple)
    values = {field.name: getattr(pipeline, field.name) for field in fields(pipeline)}
    assert pipeline.units is not None
    return {k: value for k, value in values.items() if isinstance(value, plain)} | {"units": pipeline.units.as_dict()}
