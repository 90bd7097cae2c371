"""Settings that people write are checked here: by pydantic, with one form of message."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import is_dataclass
from inspect import signature
from typing import Annotated, Any, NotRequired, Required, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from recinject.foundation.errors import RecinjectError, did_you_mean

T = TypeVar("T")
MOST = 2**31 - 1  # what the integers that travel as columns can hold
Positive = Annotated[int, Field(ge=1, le=MOST)]
Factor = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

MOVED: dict[str, str] = {
    "identifiers.semantic": "its keys beside identifiers.kind, such as identifiers.codes,",
    "lora.initialisation": "lora.initialization",
    "lora.initialisation_rows": "lora.initialization_rows",
    "ablation": "sweep.arms, as the shipped recipe ablation does,",
    "study": "sweep.arms and sweep.vary, as the shipped recipe rating_study does,",
}
"""Keys of a recipe that went elsewhere: the old key with its sections, and what to write now."""


def bind(kind: Callable[..., T], settings: Mapping[str, Any], place: str, **given: Any) -> T:
    """Call a class or a function with settings, each checked against its annotation.

    Bounds are part of an annotation, as in ``Annotated[int, Field(ge=1)]``. ``place`` says where
    the settings were written, such as ``samples.tasks.bpr``, for the error message. The arguments
    that are ``given`` cannot be set, and are not checked.

    Raises:
        RecinjectError: an unknown setting, one that is missing, or a value that it cannot be.

    >>> def fit(items: list[int], rank: int, decay: float = 0.1): return rank, decay
    >>> bind(fit, {"rank": "8"}, "lora", items=[1, 2])
    (8, 0.1)
    >>> bind(fit, {"rnk": 8}, "lora", items=[1, 2])
    Traceback (most recent call last):
    recinject.foundation.errors.RecinjectError: lora.rnk: unknown key
      fix: did you mean 'rank'? Legal: decay, rank
    """
    expect(settings, Mapping, place, "write settings as a mapping from their names")
    fields = _fields(kind, given)
    typed_dict: Any = TypedDict  # to mypy it is no function
    shape = typed_dict("shape", fields)
    open_ended = any(each.kind is each.VAR_KEYWORD for each in signature(kind).parameters.values())
    shape.__pydantic_config__ = ConfigDict(
        extra="allow" if open_ended else "forbid", arbitrary_types_allowed=True
    )
    try:
        return kind(**given, **TypeAdapter(shape).validate_python(dict(settings)))
    except ValidationError as error:
        raise explain(error, f"{place}.", fields) from error


def expect(value: object, kind: type, place: str, hint: str) -> None:
    """Refuse an argument of another kind than a public function needs.

    Raises:
        RecinjectError: it is one; the message begins with ``place``.
    """
    if not isinstance(value, kind):
        fact = f"{place}: {type(value).__name__} where {kind.__name__} is needed"
        raise RecinjectError(fact, hint=hint)


def listed(values: Iterable[T], place: str) -> list[T]:
    """Return values as a list; refuse a text, whose letters nobody means, and what is no list.

    Raises:
        RecinjectError: it is one of these; the message begins with ``place``.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise RecinjectError(f"{place}: {values!r} is no list", hint=f"write [{values!r}]")
    return list(values)


def explain(error: ValidationError, place: str, fields: Mapping[str, Any]) -> RecinjectError:
    """Turn pydantic's first complaint into an error that names place, fact and fix.

    ``place`` stands in front of the keys, such as ``mine.yaml: `` or ``lora.``; ``fields`` are the
    legal keys with their types, in which those of the sections below are found.
    """
    # What is unknown comes first: it explains why something else is missing.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    keys = [str(part) for part in first["loc"]]
    where = f"{place}{'.'.join(keys)}".rstrip(".: ")
    if first["type"] == "extra_forbidden":
        for key in keys[:-1]:
            section = _section(fields.get(key))
            fields = fields_of(section) if section else fields
        return unknown_key(where, fields)
    if first["type"] == "missing":
        return RecinjectError(f"{where}: missing", hint=f"add {keys[-1]} to the recipe")
    fact = first["msg"].partition(" or instance of ")[0].removeprefix("Value error, ")
    now = f"it is {first['input']!r} now; change or remove it" if keys else "change one of the two"
    return RecinjectError(f"{where}: {fact}", hint=now)


def unknown_key(where: str, legal: Iterable[str]) -> RecinjectError:
    """Return the error for a key that does not exist, or no longer; ``where`` ends with it."""
    old = where.rpartition(": ")[2]
    if old in MOVED:
        return RecinjectError(f"{where}: this key has moved", hint=f"write {MOVED[old]} instead")
    return RecinjectError(f"{where}: unknown key", hint=did_you_mean(old.rpartition(".")[2], legal))


def fields_of(section: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of a pydantic model with their types."""
    fields = section.model_fields.items()
    return {field.alias or name: field.annotation for name, field in fields}


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section, get_args(annotation))), None)


def _fields(kind: Callable[..., Any], given: Container[str]) -> dict[str, Any]:
    declared = is_dataclass(kind) or _section(kind) or not isinstance(kind, type)
    hints = get_type_hints(kind if declared else kind.__init__, include_extras=True)
    return {
        name: (Required if each.default is each.empty else NotRequired)[hints.get(name, Any)]
        for name, each in signature(kind).parameters.items()
        if name not in given and each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)
    }
