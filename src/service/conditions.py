"""The conditions that a request may name: what they are, their schema, and images among them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)
from pydantic_core import PydanticCustomError
from torch import Tensor

from src.diffusion.conditions import Condition, Measured, Text
from src.service.uploads import array, decode_pictures
from src.utils.errors import UserError

MOST = 1024  # conditions, which are repeated in turn
MOST_TEXT = 4096  # characters of a text
CLASS, NUMBERS, TEXT, IMAGE = "class", "numbers", "text", "image"  # kinds of conditions
Choices = dict[str, dict[str, Any]]

Class = Annotated[int, Field(strict=True, ge=0, le=2**31)] | Annotated[str, Field(max_length=200)]
Number = Annotated[float, Field(strict=True, ge=-1e9, le=1e9, allow_inf_nan=False)]
Words = Annotated[str, Field(max_length=MOST_TEXT)]
Picture = str | list[Any]


def several(one: Any) -> Any:
    """The type of one or of several in turn."""
    return one | Annotated[list[one], Field(min_length=1, max_length=MOST)]


# The type of a request's value, and what it must be, by the kind of the condition.
VALUES: dict[str, tuple[Any, str]] = {
    CLASS: (several(Class), "a class, by its number or its name, or a list of classes"),
    NUMBERS: (
        Number | Annotated[list[Number | list[Number]], Field(min_length=1, max_length=MOST)],
        f"the numbers of a sample, between -1e9 and 1e9, or a list of up to {MOST:,} such lists",
    ),
    TEXT: (several(Words), f"a text of up to {MOST_TEXT:,} characters, or a list of texts"),
    IMAGE: (
        Picture,
        "a picture in base64 or a data URL, a list of these, or an array (C, *S) or (N, C, *S); images are in [0, 1]",
    ),
}


def in_one_line(meaning: str) -> WrapValidator:
    """Refuse a value by what it must be, instead of by an error for each type that it might have had."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("condition", "must be {meaning}", {"meaning": meaning}) from None

    return WrapValidator(check)


def choices_of(condition: Condition, class_names: Sequence[str], vector_names: Sequence[str]) -> Choices:
    """The conditions that a model takes, by name: their kind, and what a form needs to know."""
    return {name: choice_of(part, name, class_names, vector_names) for name, part in condition.members.items()}


def choice_of(part: Condition, name: str, class_names: Sequence[str], vector_names: Sequence[str]) -> dict[str, Any]:
    """One of them."""
    if isinstance(part, Text):
        return {"kind": TEXT, "bytes": part.length}
    if part.num_classes:
        named = name == "label" and len(class_names) == part.num_classes
        return {"kind": CLASS, "names": [*class_names] if named else [*map(str, range(part.num_classes))]}
    one = part.null(1)
    shape = [*one.shape[1:]] if isinstance(one, Tensor) else []
    if len(shape) > 1:
        whole = {"sample": [*part.sample_shape]} if isinstance(part, Measured) else {}
        return {"kind": IMAGE, "shape": shape, **whole}
    count = shape[0] if shape else 1
    named = name == "vector" and len(vector_names) == count
    return {"kind": NUMBERS, "names": [*vector_names] if named else [f"{name}[{i}]" for i in range(count)]}


def condition_model(choices: Choices) -> type[BaseModel]:
    """The model of the conditions of a request; a run without any has a label, which it refuses with the reason."""
    known = choices or {"label": {"kind": CLASS}}
    fields: dict[str, Any] = {}
    for name, choice in known.items():
        kind, meaning = VALUES[choice["kind"]]
        fields[name] = (Annotated[kind | None, in_one_line(meaning)], Field(None, description=meaning))
    return create_model("GivenCondition", __config__=ConfigDict(extra="forbid"), **fields)


def split_images(condition: Mapping[str, Any], choices: Choices) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a request that are no images, and those that are; both without what it left open."""
    given = {name: value for name, value in condition.items() if value is not None}
    images = {name for name in given if choices.get(name, {}).get("kind") == IMAGE}
    return (
        {name: value for name, value in given.items() if name not in images},
        {name: given[name] for name in images},
    )


def reader(value: Any, name: str, most_numbers: int) -> Callable[[tuple[int, ...], bool], np.ndarray]:
    """What reads the value of a request as images (N, C, *S), given the shape (C, *S) and whether they are pictures.

    It raises UserError if they cannot be read, or hold more numbers than allowed.
    """

    def read(shape: tuple[int, ...], pictures: bool) -> np.ndarray:
        texts = [value] if isinstance(value, str) else value
        if texts and all(isinstance(text, str) for text in texts):
            return decode_pictures(texts, shape[0] if pictures else None, most_numbers, f"condition.{name}")
        x = array(value, f"condition.{name}")
        x = x[None] if x.ndim == len(shape) else x
        if x.size > most_numbers:
            raise UserError(f"condition.{name} may hold {most_numbers:,} numbers, got {x.size:,}")
        if pictures and not (x.min() > -4 and x.max() < 5):
            raise UserError(
                f"condition.{name}: images must be in [0, 1], got {x.min():.3g} to {x.max():.3g}; scale them"
            )
        return x

    return read
