from dataclasses import dataclass, field
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from recinject.foundation.errors import RecinjectError
from recinject.foundation.settings import bind

Positive = Annotated[int, Field(ge=1)]


class Inner(BaseModel, extra="forbid"):
    depth: Positive = 1


@dataclass(frozen=True)
class Frozen:
    width: Positive
    names: list[str] = field(default_factory=list)
    inner: Inner | None = None


class Model(BaseModel, extra="forbid"):
    width: int = Field(ge=1)
    inner: list[Inner] = []


class Plain:
    def __init__(self, width: Positive, *, rate: float = 0.5) -> None:
        self.settings = width, rate


def function(items: list[int], width: Positive, inner: Inner | None = None):
    return items, width, inner


def test_every_kind_of_callable_is_bound():
    assert bind(Frozen, {"width": "3", "inner": {"depth": 2}}, "x") == Frozen(3, [], Inner(depth=2))
    assert bind(Model, {"width": 3, "inner": [{"depth": 2}]}, "x").inner == [Inner(depth=2)]
    assert bind(Plain, {"width": 3}, "x").settings == (3, 0.5)
    items = [1]
    assert bind(function, {"width": 3}, "x", items=items)[0] is items


@pytest.mark.parametrize("kind", [Frozen, Model, Plain])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"wdth": 3}, "x.wdth: unknown key\n  fix: did you mean 'width'? Legal: "),
        ({}, "x.width: missing\n  fix: add width to the recipe"),
        ({"width": 0}, "x.width: Input should be greater than or equal to 1\n  fix: it is 0 now"),
        ({"width": "wide"}, "x.width: Input should be a valid integer"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_with_its_place(kind, settings, said):
    with pytest.raises(RecinjectError) as caught:
        bind(kind, settings, "x")
    assert str(caught.value).startswith(said)


def test_a_key_of_an_inner_section_is_refused_with_the_inner_keys():
    for kind, inner in ((Frozen, {"dept": 3}), (Model, [{"dept": 3}])):
        with pytest.raises(RecinjectError, match=r"dept: unknown key\n.*'depth'\? Legal: depth$"):
            bind(kind, {"width": 1, "inner": inner}, "x")


def test_what_is_given_cannot_be_set():
    with pytest.raises(RecinjectError, match=r"x.items: unknown key\n.*Legal: inner, width"):
        bind(function, {"width": 3, "items": [2]}, "x", items=[1])
