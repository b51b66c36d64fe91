"""The files that `src.sample` writes beside samples.npz: pictures, and the quality of restored samples."""

from pathlib import Path

from src.plots.conditions import MAX_TILES, conditioned_grid, words_and_image
from src.plots.pictures import sample_grid, slice_frames, trajectory_frames, write_gif, write_picture
from src.plots.task_results import MAX_COMPARED, task_results
from src.samplers.pipeline import Pipeline
from src.statistics.image_quality import image_quality
from src.tasks.base import Result
from src.utils import sample_files
from src.utils.atomic import write_json

# The most samples in grid.png, by the number of axes of a batch's samples: all points (C,), fewer signals (C, L) and
# images (C, H, W).
MAX_IN_GRID = {1: None, 2: 16, 3: 100, 4: 36}


def write_result_images(result: Result, pipeline: Pipeline, out: Path) -> list[str]:
    """Write a grid of new samples and their trajectory if there is one, or a comparison with the given samples.

    Returns:
        What was written, for the summary.
    """
    return write_comparison(result, pipeline, out) if result.comparison else write_grid(result, pipeline, out)


def write_grid(result: Result, pipeline: Pipeline, out: Path) -> list[str]:
    """Write grid.png, of volumes slices.gif, and with a trajectory trajectory.gif."""
    n, kind, columns = len(result.x), pipeline.kind, result.grid_columns
    if result.trajectory is not None:
        frames = trajectory_frames(pipeline.to_units(result.trajectory), result.label, kind=kind)
        write_gif(frames, out / "trajectory.gif")
    most = MAX_IN_GRID[len(pipeline.shape)]
    if most is not None and columns is not None:  # whole rows
        most = max(columns, most // columns * columns)
    shown = pipeline.to_units(result.x[:most])
    assert pipeline.units is not None
    names = {"label": pipeline.class_names, "vector": pipeline.vector_names}
    captions, image = words_and_image(pipeline.denoiser.condition, result.cond, pipeline.units, names)
    if shown.ndim > 2 and (captions or image is not None):
        write_picture(conditioned_grid(shown, captions, image, kind), out / "grid.png")
        most = MAX_TILES[shown.ndim]
    else:
        write_picture(sample_grid(shown, columns, result.label, kind=kind), out / "grid.png")
    files = [counted("grid.png", most or n, n)]
    if kind == "volumes":
        write_gif(slice_frames(shown), out / "slices.gif", frame=100, pause=100)
        files += [counted("slices.gif", most or n, n)]
    return files + ([] if result.trajectory is None else [counted("trajectory.gif", result.trajectory.shape[1], n)])


def write_comparison(result: Result, pipeline: Pipeline, out: Path) -> list[str]:
    """Write comparison.png and, of images, the inputs and results one by one."""
    n, kind = len(result.x), pipeline.kind
    rows = result.comparison | {"result": result.x} | ({} if result.truth is None else {"truth": result.truth})
    write_picture(task_results({name: pipeline.to_units(x) for name, x in rows.items()}, kind), out / "comparison.png")
    compared = counted("comparison.png", MAX_COMPARED.get(result.x.ndim, n), n)
    if kind != "images":
        return [compared]
    for name, x in {"input": next(iter(result.comparison.values())), "result": result.x}.items():
        sample_files.write_pictures(pipeline.to_units(x), out / name)
    return [compared, "input/", "result/"]


def write_quality(result: Result, pipeline: Pipeline, out: Path) -> list[tuple[str, str]]:
    """Write metrics.json: the quality of the input and of the result, if the truth is known.

    Returns:
        Rows for the summary.
    """
    if result.truth is None:
        return []
    kind = pipeline.kind
    truth = pipeline.to_units(result.truth)
    compared = {"input": next(iter(result.comparison.values())), "result": result.x}
    quality = {
        name: image_quality(pipeline.to_units(x), truth, images=kind == "images") for name, x in compared.items()
    }
    write_json(out / "metrics.json", quality)
    return [
        (name.upper(), f"{quality['input'][name]:.4g} of the input, {value:.4g} of the result")
        for name, value in quality["result"].items()
    ]


def counted(picture: str, most: int, n: int) -> str:
    """The name of a picture, and how many of n samples it shows, if it does not show all."""
    return picture if most >= n else f"{picture} ({most:,} of {n:,} shown)"
