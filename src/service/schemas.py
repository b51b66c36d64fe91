"""What a request may say, and what it is answered."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from src.service.conditions import condition_model
from src.service.model import ServiceModel
from src.service.settings import Limits

MOST_SEED = 2**53 - 1  # the largest integer that JavaScript holds
MOST_SETTING = 1000.0  # of a number among the settings of a task
Strict = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(ge=-MOST_SETTING, le=MOST_SETTING, allow_inf_nan=False)]
JobId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class Closed(BaseModel):
    """A part of a request, which refuses unknown keys."""

    model_config = ConfigDict(extra="forbid")


class SampleOf(Closed):
    """A sample of a job that is done."""

    job: JobId
    index: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 0


class TaskBase(Closed):
    """The input of a task: exactly one of images, x and samples."""

    images: list[str] | None = Field(None, max_length=64, description="pictures in base64, or as data URLs")
    x: list[Any] | None = Field(None, description="an array (N, C, *S) or (C, *S); images are in [0, 1]")
    samples: list[SampleOf] | None = Field(None, min_length=1, max_length=64, description="samples of earlier jobs")
    mask: str | list[Any] | None = Field(
        None, description="what to fill in: a picture, white where it is missing, or an array (*S), not 0 there"
    )
    settings: dict[str, bool | Strict | Number | list[Number] | None] = Field(
        default_factory=dict, max_length=16, description="of the task; GET /run lists them"
    )


class JobAnswer(BaseModel):
    """A request that was accepted."""

    id: str
    number: int
    kind: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "expired"]
    settings: dict[str, Any]
    n: int
    seed: int
    digest: str
    created: float
    finished: float | None
    seconds: float | None
    error: str | None
    info: dict[str, Any]
    thumb: int
    command: str


class Thumb(Closed):
    """A user's opinion."""

    thumb: Literal[1, 0, -1]


def request_models(model: ServiceModel, limits: Limits) -> tuple[type[BaseModel], type[BaseModel]]:
    """The models of a request for samples and of one for a task, with the choices and limits of a service."""
    common: dict[str, Any] = {
        "seed": (
            Annotated[int, Field(strict=True, ge=0, le=MOST_SEED)] | None,
            Field(None, description="of the noise; null draws one, which the answer names"),
        ),
        "sampler": (literal(model.samplers) | None, Field(None, description="null is that of the service")),
        "steps": (Annotated[int, Field(strict=True, ge=1, le=limits.steps)] | None, Field(None)),
        "guidance": (
            Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None,
            Field(None, description="scale of classifier-free guidance"),
        ),
        "condition": (condition_model(model.conditions) | None, Field(None)),
    }
    n: Any = {"n": (Annotated[int, Field(strict=True, ge=1, le=limits.n)], Field(4, description="number of samples"))}
    samples = create_model("SampleRequest", __base__=Closed, **common, **n)
    solver: Any = {"solver": (literal(model.solvers) | None, Field(None, description="of inverse problems"))}
    return samples, create_model("TaskRequest", __base__=TaskBase, **common, **solver)


def literal(names: Sequence[str]) -> Any:
    """The type of a string that is one of these names."""
    return Literal[tuple(names)]
