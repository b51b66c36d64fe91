"""The types and ranges of the settings of each command outside its parts, for `check_options`."""

from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Ge, Gt, Interval

Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0)]
Scale = Annotated[float, Ge(0)]
OneOrMore = str | list[str]
Compile = Literal[False, True, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class SweepOptions(TypedDict):
    """Sweeps, with -m."""

    resume: str | None
    retry: bool
    objective: OneOrMore | None
    dry_run: bool


class PathOptions(TypedDict):
    """Folders."""

    outputs: str
    data: str
    run: str


class TrainOptions(TypedDict):
    """The options of src.train."""

    name: str
    seed: Seed
    resume: str | None
    init_from: str | None
    teacher: str | None
    flow_map: bool
    auto_resume: bool
    resume_changed_data: bool
    trust: bool
    self_conditioning_prob: Annotated[float, Interval(ge=0, lt=1)]
    compile: Compile
    tf32: bool
    channels_last: Literal["auto", True, False]
    sweep: SweepOptions
    paths: PathOptions
    trainer: dict[str, Any]
    callbacks: dict[str, dict[str, Any] | None]
    logger: dict[str, dict[str, Any] | None] | None


class _SamplingOptions(TypedDict):
    """The options of the commands that sample from a run."""

    run: str | None
    ckpt: str
    weights: str | Annotated[float, Gt(0)]
    seed: Seed
    out: str | None
    batch_size: Count
    device: str
    paths: PathOptions
    trust: bool
    precision: Literal["auto", 32, "32", "bf16", 16, "16"]
    compile: Compile
    tf32: bool
    channels_last: Literal["auto", True, False]


class SampleOptions(_SamplingOptions):
    """The options of src.sample and src.evaluate."""

    n: Count
    pad_batches: bool
    condition: dict[str, Any]
    gif: bool
    samples_path: str | None
    input: OneOrMore | None
    truth: OneOrMore | None
    human: str | bool | None
    sweep: SweepOptions


class ExportOptions(_SamplingOptions):
    """The options of src.export."""

    n: Count
    overwrite: bool
    push: str | None
    private: bool
    mlflow: str | None
    name: str | None
    sweep: SweepOptions


class RetrainOptions(TypedDict):
    """The options of src.retrain."""

    run: str
    new: str | None
    new_data: dict[str, Any]
    share: Annotated[float, Interval(gt=0, lt=1)]
    name: str | None
    rollback: str | bool
    metric: str | None
    mlflow: str | None
    n: Count
    seed: Seed
    batch_size: Count
    device: str
    precision: Literal["auto", 32, "32", "bf16", 16, "16"]
    trust: bool
    paths: PathOptions


class LimitOptions(TypedDict):
    """The limits of a request to a service."""

    n: Count
    steps: Count
    pixels: Count
    body: Count
    queue: Count
    seconds: Annotated[float, Gt(0)]


class RetentionOptions(TypedDict):
    """How long results are kept."""

    days: Annotated[float, Gt(0)]
    gigabytes: Annotated[float, Gt(0)]


class ServeOptions(TypedDict):
    """The options of src.serve, beside those that src.sample checks too."""

    engine: Literal["uvicorn", "ray"]
    replicas: Count | list[Count]
    host: str
    port: Annotated[int, Interval(ge=0, le=65535)]
    hosts: list[str]
    token: str | None
    folder: str
    database: str | None
    batch_size: Count
    limits: LimitOptions
    retention: RetentionOptions


class WatchOptions(TypedDict):
    """The limits of the figures of a service; None for no limit."""

    latency: Scale | None
    failures: Scale | None
    errors: Scale | None
    queue: Scale | None
    nonfinite: Scale | None
    clipped: Scale | None


class MonitorOptions(TypedDict):
    """The options of src.monitor."""

    run: str | None
    new: str | None
    seed: Seed
    out: str | None
    textfile: str | None
    service: str | None
    token: str | None
    limits: WatchOptions
    outputs: Count
    trust: bool
    paths: PathOptions


class CompareOptions(_SamplingOptions):
    """The options of src.compare."""

    runs: OneOrMore | None
    sweep_dir: str | None
    allow_different_data: bool
    n_shown: Annotated[int, Ge(0)]
    max_rows: Count
    samplers: OneOrMore | None
    steps: Count | list[Count]
    guidance_scales: Scale | list[Scale] | None
    n: Annotated[int, Ge(2)]  # one sample has no spread
