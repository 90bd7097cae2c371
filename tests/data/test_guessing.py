"""Columns with names of their own are found by their names and by their values."""

import numpy as np
import pandas as pd
import pytest

from recinject.data.guessing import first_override, guess_columns
from recinject.data.tables import read_settings


@pytest.fixture
def events():
    """A shop's events: 60 customers, 30 articles, a number of its own for each order."""
    draws = np.random.default_rng(1)
    users, items = draws.integers(0, 60, 900), draws.integers(0, 30, 900)
    return pd.DataFrame({"user": users, "item": items, "order": np.arange(900) + 5000})


def guessed(events, path, **settings):
    events.to_csv(path, index=False)
    return guess_columns(path, read_settings(settings))


@pytest.mark.parametrize(
    ("user", "item"),
    [
        ("Kundennr", "Artikelnr"),
        ("visitor", "story_url"),
        ("cliente_id", "producto"),
        ("a", "sku2"),
    ],
)
def test_users_and_items_are_found(user, item, events, tmp_path):
    named = events.rename(columns={"user": user, "item": item})
    assert guessed(named, tmp_path / "log.csv").columns == {"user_id": user, "item_id": item}


def test_what_has_a_well_known_name_is_left_alone(events, tmp_path):
    known = events.rename(columns={"user": "user_id", "item": "item_id"})
    assert guessed(known, tmp_path / "log.csv").columns == {}


def test_what_is_told_is_not_guessed(events, tmp_path):
    odd = events.rename(columns={"user": "x", "item": "y"})
    found = guessed(odd, tmp_path / "log.csv", columns={"item_id": "x"})
    assert found.columns == {"user_id": "y"}


def test_a_title_has_one_text_an_item(events, tmp_path):
    titles = events.assign(
        Bezeichnung=[f"Thing {n}" for n in events["item"]],
        description=[f"{n} by {u}" for n, u in zip(events["item"], events["user"], strict=True)],
    )
    assert guessed(titles, tmp_path / "log.csv").columns["title"] == "Bezeichnung"


def test_items_that_go_by_words_are_their_own_titles(events, tmp_path):
    words = events.assign(film=[f"The {n} Returns" for n in events["item"]]).drop(columns="item")
    found = guessed(words, tmp_path / "log.csv").columns
    assert found["item_id"] == found["title"] == "film"


def test_what_is_known_of_users_has_one_value_each(events, tmp_path):
    aged = events.assign(age=events["user"] % 7 + 20, price=events["order"] % 9)
    assert guessed(aged, tmp_path / "log.csv").attributes == ["age"]


@pytest.mark.parametrize("fix", ["mend or remove it", "", "samples.limit=3"])
def test_a_fix_without_a_setting_of_reading_is_none(fix):
    assert first_override(fix) is None
