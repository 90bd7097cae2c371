"""What may be asked of the service, and in which form."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

_LONGEST_TEXT = 1000


def _encodable(text: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("half a surrogate pair is no text")
    return text


Text = Annotated[str, Field(min_length=1, max_length=_LONGEST_TEXT), AfterValidator(_encodable)]


class Asked(BaseModel):
    """Who is asked, and about whose history."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: Text | None = Field(None, description="the name of a served run; the first if absent")
    recommender: Text | None = Field(None, description="language_model, or a served baseline")
    liked: list[Text] | None = Field(None, description="titles or item ids, oldest first")


class RecommendRequest(Asked):
    """Whom to recommend to, and what may be in the list."""

    user: Text | None = Field(None, description="in place of liked: a user's id in the log")
    k: int = Field(10, ge=1, description="how many items")
    seen: bool = Field(False, description="whether items of the history may be listed, too")
    only: list[Text] | None = Field(None, description="titles or ids of the items to choose from")
    max_per: dict[Text, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description='at most so many items alike, such as {"brand": 2}'
    )
    explain: bool = Field(False, description="whether to say why, with the model's prompt")
    wording: Literal["usual", "reworded"] = "usual"


class RankRequest(Asked):
    """A history, and the items to put in order."""

    items: list[Text] = Field(min_length=1, description="titles or ids, each once")


class RateRequest(Asked):
    """A history with its ratings, and the item to rate."""

    item: Text
    ratings: list[FiniteFloat] | None = Field(None, description="one for each item of liked")


class SearchRequest(BaseModel):
    """A part of a title, or an id."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: Text
    run: Text | None = None
    limit: int = Field(10, ge=1, le=100)
