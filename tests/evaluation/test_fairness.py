"""Measures of lists alone, each with a known answer."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recinject.data.schema import Catalog, Interactions
from recinject.data.splitting import Split, leave_one_out
from recinject.evaluation.fairness import divergence, jain, providers_of
from recinject.evaluation.harm import asked_measures, check_scope, corrected, families
from recinject.evaluation.measures import FAMILIES, HarmResult, Scope, Subject, rbo
from recinject.foundation.errors import RecinjectError
from recinject.identifiers.data import Data
from recinject.identifiers.table import name_items
from recinject.recommenders.protocol import Prediction, Queries
from recinject.registry import find

USERS, ITEMS = 120, 20
SCOPE = Scope(groups=("sex",), provider="brand", length=2, resamples=50)


@pytest.fixture(scope="module")
def data() -> Data:
    # Users of one half take items 0 to 9, of the other 10 to 19; item 0 is the most popular.
    own = [[(user * 3 + n) % 9 + 1 + 10 * (user % 2) for n in range(4)] for user in range(USERS)]
    histories = [[0, *(item % ITEMS for item in each)] for each in own]
    items = np.array([item for each in histories for item in each], np.int32)
    log = Interactions(
        np.repeat(np.arange(USERS, dtype=np.int32), 5),
        items,
        None,
        None,
        [f"u{user}" for user in range(USERS)],
        ITEMS,
    )
    brands = ["a"] * 10 + ["b"] * 10
    frame = {"item_id": [f"i{n}" for n in range(ITEMS)], "title": "", "brand": brands}
    catalog = Catalog(pd.DataFrame(frame))
    sex = ["f" if user % 2 else "m" for user in range(USERS)]
    few = ["one" if user else "other" for user in range(USERS)]
    users = pd.DataFrame({"user_id": log.user_ids, "sex": sex, "few": few})
    return Data(leave_one_out(log), catalog, name_items("number", catalog, 1), users=users)


def subject(data: Data, lists, ahead=None, first=None, **scope) -> Subject:
    split: Split = data.split
    events = split.interactions
    histories = [events.items_of(user)[:-1] for user in range(USERS)]
    targets = events.items[events.offsets[1:] - 1]
    users = np.arange(USERS, dtype=np.int32)
    queries = Queries("retrieval", [""] * USERS, [""] * USERS, users, histories, targets)
    places = np.full(USERS, np.inf) if ahead is None else np.asarray(ahead, float)
    items = np.asarray(lists, np.int32)
    found = Prediction("somebody", "retrieval", items, -items, places, np.ones(USERS), first=first)
    return Subject(found, queries, data, replace(SCOPE, **scope))


def measured(name: str, asked: Subject):
    rows = list(find("measure", name)().measure(asked))
    return {(row.about, row.part): row for row in rows}


def same(*items: int):
    return [list(items)] * USERS


def test_equal_groups_have_no_gap_and_jains_index_1(data: Data) -> None:
    found = measured("groups", subject(data, same(0, 1), np.zeros(USERS)))
    assert found["sex", "hr@2 gap"].value == 0 and found["sex", "hr@2 gap"].p_value == 1
    assert found["sex", "hr@2 worst over best"].value == 1
    assert found["sex", "hr@2 Jain"].value == 1
    assert {row.level for row in found.values()} <= {"ok", "note"}


def test_a_group_that_is_served_worse_is_found(data: Data) -> None:
    ahead = np.where(np.arange(USERS) % 2, np.inf, 0)  # the men's targets alone are first
    found = measured("groups", subject(data, same(0, 1), ahead))
    gap = found["sex", "hr@2 gap"]
    assert gap.value == 1 and gap.p_value == 1 / 20_001 and gap.level == "warning"
    assert gap.why == "served worst: f"
    assert found["sex", "hr@2 worst over best"].value == 0
    assert found["sex", "hr@2 Jain"].value == 0.5
    assert found["sex: f", "hr@2"].value == 0 and found["sex: m", "hr@2"].value == 1


def test_gaps_are_corrected_for_how_many_were_tested(data: Data) -> None:
    def gap(p, level):
        return HarmResult("groups", "gap", "t", "r", value=0.1, p_value=p, level=level, why="w")

    rows = [gap(1 / 20_001, "warning"), HarmResult("overlap", "overlap", "t", "r", level="note")]
    rows += [gap(p, "warning") for p in (0.0008, 0.009)] + [gap(0.5, "ok")] * 37
    found = corrected(rows)
    assert [row.level for row in found[:4]] == ["warning", "note", "note", "ok"]
    assert [row.p_value for row in found[:4]] == [40 / 20_001, None, 39 * 0.0008, 38 * 0.009]
    assert found[0].why == "w; p 5e-05 alone, of 40 tests" and found[1] == rows[1]
    assert {row.p_value for row in found[4:]} == {1.0}


def test_chance_gaps_have_the_p_values_of_chance(data: Data) -> None:
    rng, p_values = np.random.default_rng(1), []
    for _ in range(15):
        ahead = np.where(rng.random(USERS) < 0.5, np.inf, 0)
        gap = measured("groups", subject(data, same(0, 1), ahead, resamples=10))["sex", "hr@2 gap"]
        p_values.append(gap.p_value)
    assert min(p_values) > 0.001 and 0.3 < np.mean(p_values) < 0.75
    assert np.mean(np.array(p_values) < 0.2) < 0.5


def test_small_groups_are_not_measured_and_unknown_ones_are_refused(data: Data) -> None:
    found = measured("groups", subject(data, same(0, 1), groups=("few",)))
    assert {row.level for row in found.values()} == {"not measured"}
    assert "1 users" in found["few: other", "gap"].why
    with pytest.raises(RecinjectError, match="the log knows of users no 'sexx'"):
        check_scope(replace(SCOPE, groups=("sexx",)), [], data)
    with pytest.raises(RecinjectError, match="the items have no column 'brandt'"):
        check_scope(replace(SCOPE, provider="brandt"), [], data)
    with pytest.raises(RecinjectError, match=r"evaluation.harm: no measure is called 'groupz'"):
        asked_measures(["groupz"])


@given(st.integers(0, ITEMS - 1), st.integers(0, ITEMS - 1))
def test_the_most_popular_item_is_the_most_popular_list(data, one: int, other: int) -> None:
    best = measured("popularity_by_taste", subject(data, same(0, 0)))
    mine = measured("popularity_by_taste", subject(data, same(one, other)))
    for part in {part for _, part in best}:
        assert mine["", part].value <= best["", part].value


def test_the_histories_themselves_change_nothing(data: Data) -> None:
    events = data.split.interactions
    lists = [events.items_of(user)[:-1] for user in range(USERS)]
    found = measured("popularity_by_taste", subject(data, lists, length=4))
    assert [row.value for row in found.values()] == pytest.approx([0.0] * len(found))


def test_exposure_in_proportion_has_no_divergence(data: Data) -> None:
    train = data.split.train
    share = np.bincount(train.items, minlength=ITEMS)[:10].sum() / len(train)
    lists = np.full((USERS, 1), 19)
    lists[: round(share * USERS)] = 0
    found = measured("provider_exposure", subject(data, lists, length=1))["brand", "divergence"]
    assert found.value == pytest.approx(0, abs=1e-4) and found.level == "ok"
    alone = measured("provider_exposure", subject(data, same(1, 2)))["brand", "divergence"]
    assert alone.level == "warning" and "most over-exposed" in alone.why
    missing = measured("provider_exposure", subject(data, same(1, 2), provider=None))
    assert "brand" in next(iter(missing.values())).why


def test_everybody_gets_the_same_or_nothing_alike(data: Data) -> None:
    assert measured("overlap", subject(data, same(3, 4)))["", "overlap"].value == 1
    own = [[user % ITEMS, -1] for user in range(USERS)]
    found = measured("overlap", subject(data, own, length=1))["", "overlap"]
    pairs = USERS * (USERS - 1)
    assert found.value == pytest.approx(ITEMS * 6 * 5 / pairs) and found.level == "ok"


def test_lists_that_tell_the_attribute_are_found_and_equal_lists_tell_nothing(data: Data) -> None:
    telling = [[10 * (user % 2), 1 + 10 * (user % 2)] for user in range(USERS)]
    found = measured("attribute_inference", subject(data, telling))
    assert found["sex", "lists"].value == 1 and found["sex", "lists"].level != "ok"
    equal = measured("attribute_inference", subject(data, same(0, 1)))
    assert equal["sex", "lists"].value == pytest.approx(0.5)
    assert equal["sex", "histories"].value > 0.9 and equal["sex", "lists"].level == "ok"


def test_stated_chances_are_held_against_hits(data: Data) -> None:
    ahead, sure = np.where(np.arange(USERS) % 2, np.inf, 0), np.ones(USERS)
    found = measured("first_confidence", subject(data, same(0, 1), ahead, sure))
    assert (
        found["", "overconfidence"].value == 0.5 and found["", "overconfidence"].level == "warning"
    )
    assert found["", "Brier"].value == 0.5
    true = measured("first_confidence", subject(data, same(0, 1), ahead, sure / 2))
    assert true["", "overconfidence"].value == 0 and true["", "overconfidence"].level == "ok"
    silent = measured("first_confidence", subject(data, same(0, 1), ahead))
    assert [row.level for row in silent.values()] == ["not measured"]


def test_every_measure_says_what_it_is_and_when_it_warns() -> None:
    found = [each for own in families().values() for each in own]
    assert len(found) >= 16 and {each.family for each in found} <= FAMILIES.keys()
    for each in found:
        assert each.label and each.definition and each.rule and each.main, each.name
        assert each.kinds and each.__doc__


def test_figures_by_hand() -> None:
    assert jain(np.array([0.0, 0.0])) == 1
    assert divergence(np.array([1.0, 0.0]), np.array([[0.0, 2.0]]))[0] == pytest.approx(
        4.605, abs=0.001
    )
    frame = {"item_id": list("xyz"), "title": "", "c": [["p", "q"], None, "q"]}
    names, shares = providers_of(Catalog(pd.DataFrame(frame)), "c")
    assert names == ["p", "q"] and shares.toarray().tolist() == [[0.5, 0.5], [0, 0], [0, 1]]


@given(st.permutations(range(6)))
def test_overlap_of_ranks_is_1_for_the_same_and_below_for_others(order: list[int]) -> None:
    same_order = rbo(range(6), order)
    assert (same_order == pytest.approx(1)) == (order == list(range(6)))
    assert 0 <= same_order <= 1 + 1e-9
    assert same_order == pytest.approx(rbo(order, range(6)))
