"""What is wrong with a recipe, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from recinject.foundation.errors import RecinjectError, did_you_mean

T = TypeVar("T")


def bind(kind: type[T], settings: Mapping[str, Any], place: str) -> T:
    """Make a dataclass of settings, each of the kind that it declares.

    Raises:
        RecinjectError: an unknown setting, or a value that it cannot be.
    """
    legal = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in settings:
        if key not in legal:
            raise RecinjectError(f"{place}: unknown key {key!r}", hint=did_you_mean(key, legal))
    try:
        return TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        raise explain(error, f"{place}.", BaseModel) from error


def explain(error: ValidationError, place: str, root: type[BaseModel]) -> RecinjectError:
    """Turn pydantic's first complaint about a ``root`` into one that names place, fact and fix."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    where = f"{place}{'.'.join(keys)}"
    if first["type"] == "extra_forbidden":
        return RecinjectError(
            f"{where}: unknown key", hint=did_you_mean(keys[-1], _legal(keys, root))
        )
    if first["type"] == "missing":
        return RecinjectError(f"{where}: missing", hint=f"add {keys[-1]} to the recipe")
    fact = first["msg"].partition(" or instance of ")[0]
    return RecinjectError(
        f"{where}: {fact}", hint=f"it is {first['input']!r} now; change or remove it"
    )


def _legal(keys: Sequence[str], root: type[BaseModel]) -> Iterable[str]:
    section = root
    for key in keys[:-1]:
        found = section.model_fields[key].annotation
        if isinstance(found, type) and issubclass(found, BaseModel):
            section = found
    return section.model_fields
