from __future__ import annotations

import itertools
import re
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data import cleaning
from recinject.data.cleaning import SPECIAL_TOKENS, clean, clean_catalog, k_core_events
from recinject.data.readers import make_log
from recinject.data.schema import Catalog, Log
from recinject.foundation.errors import RecinjectError

Pairs = list[tuple[int, int]]


def log_of(pairs: Pairs, **columns: list[float]) -> Log:
    events = pd.DataFrame({"user_id": [f"u{user}" for user, _ in pairs], **columns})
    events["item_id"] = [f"i{item}" for _, item in pairs]
    return make_log(events, None, "a test")


def pairs_of(log: Log) -> Pairs:
    events = log.interactions
    return [
        (int(events.user_ids[user][1:]), int(log.catalog.item_ids[item][1:]))
        for user, item in zip(events.users, events.items, strict=True)
    ]


def has_core(pairs: Pairs, k: int) -> bool:
    users, items = [user for user, _ in pairs], [item for _, item in pairs]
    return all(users.count(user) >= k and items.count(item) >= k for user, item in pairs)


def largest_core(pairs: Pairs, k: int) -> Pairs:
    """Try every subset, the largest first."""
    for size in range(len(pairs), -1, -1):
        for subset in itertools.combinations(pairs, size):
            if has_core(list(subset), k):
                return list(subset)
    raise AssertionError("the empty set is a core")


few_pairs = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9, unique=True
)
many_pairs = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=60, unique=True
)


@settings(deadline=None)
@given(few_pairs, st.integers(2, 3))
def test_the_k_core_is_the_largest_set_that_satisfies(pairs: Pairs, k: int) -> None:
    log = log_of(pairs)
    keep, _ = k_core_events(log.interactions, k)
    kept = [pair for pair, stays in zip(pairs_of(log), keep, strict=True) if stays]
    assert sorted(kept) == sorted(largest_core(pairs, k))


@settings(deadline=None, max_examples=25)
@given(many_pairs)
def test_the_hint_of_an_empty_core_names_one_that_leaves_something(pairs: Pairs) -> None:
    with pytest.raises(RecinjectError, match="nothing is left") as refused:
        clean(log_of(pairs), k_core=50)
    if found := re.search(r"data.k_core=(\d+)", refused.value.hint):
        k = int(found[1])
        assert clean(log_of(pairs), k_core=k)[1][-1].events
        with pytest.raises(RecinjectError, match="nothing is left"):
            clean(log_of(pairs), k_core=k + 1)
    else:
        log, _ = clean(log_of(pairs), k_core=1)
        assert np.bincount(log.interactions.users).max() == 1


@settings(deadline=None)
@given(many_pairs, st.integers(0, 4))
def test_everyone_left_has_k_events_and_cleaning_again_changes_nothing(
    pairs: Pairs, k: int
) -> None:
    try:
        log, steps = clean(log_of(pairs), k_core=k)
    except RecinjectError:
        assert k > 1
        return
    events = log.interactions
    assert np.bincount(events.users, minlength=events.n_users).min() >= max(k, 1)
    assert np.bincount(events.items, minlength=events.n_items).min() >= max(k, 1)
    assert (events.n_items, len(events)) == (len(log.catalog), steps[-1].events)
    again, _ = clean(log, k_core=k)
    assert pairs_of(again) == pairs_of(log)


def test_numbers_are_dense_and_keep_their_order() -> None:
    whole = log_of([(1, 5), (3, 5), (3, 7), (4, 7), (4, 5), (9, 1)])
    log, _ = clean(whole, k_core=2)
    assert log.interactions.user_ids == ["u3", "u4"]
    assert log.catalog.item_ids == ["i5", "i7"]
    assert log.catalog.frame.index.tolist() == [0, 1]
    assert pairs_of(log) == [(3, 5), (3, 7), (4, 7), (4, 5)]


def test_an_event_read_twice_counts_once_and_the_first_stays() -> None:
    pairs = [(1, 1), (1, 1), (1, 1), (1, 2)]
    times = [5.0, 5.0, 6.0, 7.0]
    log, steps = clean(log_of(pairs, timestamp=times, rating=[4.0, 1.0, 2.0, 3.0]), k_core=0)
    assert log.interactions.ratings is not None
    assert log.interactions.ratings.tolist() == [4.0, 2.0, 3.0]
    assert [(step.name, step.events) for step in steps[:2]] == [("as read", 4), ("duplicates", 3)]
    assert "1 repeated" in steps[1].detail


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_repeated_events_are_those_of_the_whole_table(rows: list[tuple[int, int, int]]) -> None:
    times = [float("nan") if time == 2 else float(time) for *_, time in rows]
    log = log_of([row[:2] for row in rows], timestamp=times)
    events, drawn = log.interactions, pytest.MonkeyPatch()
    with drawn.context() as patch:
        patch.setattr(cleaning, "_EVENTS_AT_ONCE", 3)
        cleaned, _ = clean(log, k_core=0)
    whole = pd.DataFrame({"u": events.users, "i": events.items, "t": events.timestamps})
    kept = whole[~whole.duplicated()]
    np.testing.assert_array_equal(cleaned.interactions.users, kept["u"])
    np.testing.assert_array_equal(cleaned.interactions.items, kept["i"])
    np.testing.assert_array_equal(cleaned.interactions.timestamps, kept["t"])


def test_without_times_a_repeated_pair_is_one_event() -> None:
    log, _ = clean(log_of([(1, 1), (1, 2), (1, 1)]), k_core=1)
    assert pairs_of(log) == [(1, 1), (1, 2)]


def test_the_steps_say_what_each_left() -> None:
    _, steps = clean(log_of([(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]), k_core=2)
    assert [step.name for step in steps] == ["as read", "duplicates", "k-core", "texts"]
    assert (steps[0].users, steps[0].items, steps[0].events) == (3, 2, 5)
    assert (steps[2].users, steps[2].items, steps[2].events) == (2, 2, 4)


def test_nothing_left_names_the_counts_and_the_setting() -> None:
    with pytest.raises(RecinjectError) as caught:
        clean(log_of([(1, 1), (2, 2)]), k_core=5)
    for fragment in ("data.k_core=5", "2 users, 2 items and 2 events", "take a longer log"):
        assert fragment in str(caught.value)


def catalog_of(**columns: object) -> Catalog:
    return Catalog(pd.DataFrame({"item_id": ["<s>"], **columns}, dtype=object))


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("Salt &amp;amp; Pepper", "Salt & Pepper"),
        (" a\tb\n c\x00d\x1fe ", "a b c d e"),
        ("no\u00a0break\u2028line", "no break line"),
        ("half a pair \ud83d", "half a pair"),
        ("Cord </s> <pad>x<unk><s>", "Cord (/s) (pad)x(unk)(s)"),
        ("<extra_id_0> and <extra_id_99>", "(extra_id_0) and (extra_id_99)"),
        ("&lt;/s&gt;", "(/s)"),
        ("<b>bold</b> < 3 > 2", "<b>bold</b> < 3 > 2"),
        ("Pokémon ポケモン", "Pokémon ポケモン"),
    ],
)
def test_texts_are_tidied_and_special_tokens_disarmed(title: str, expected: str) -> None:
    catalog, _ = clean_catalog(catalog_of(title=[title]))
    assert catalog.titles == [expected]


def test_every_text_column_is_cleaned_but_ids_are_names() -> None:
    catalog, counts = clean_catalog(
        catalog_of(
            title=[None], brand=["&nbsp;"], categories=[["A &amp; B", "A & B", "<pad>", " "]]
        )
    )
    row = catalog.frame.iloc[0].to_dict()
    assert row == {"item_id": "<s>", "title": "", "brand": None, "categories": ["A & B", "(pad)"]}
    assert counts == {
        "special tokens disarmed": 1,
        "texts tidied": 4,
        "items without a title": 1,
    }


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("<>/s&;amplt#0 \n\u200bé_extraid9unkp"), max_size=40))
def test_clean_texts_hold_no_special_token_and_stay(title: str) -> None:
    once, _ = clean_catalog(catalog_of(title=[title]))
    assert not SPECIAL_TOKENS.search(once.titles[0])
    twice, counts = clean_catalog(once)
    assert twice.titles == once.titles and "texts tidied" not in counts


_COMBINING = "aeouc \u0301\u0308\u0327\u030aÅ\u212béñ한글カ\u3099&;"


def forms(text: str) -> list[str]:
    return [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]


@settings(deadline=None)
@given(
    st.text(
        alphabet=st.sampled_from(_COMBINING),
        max_size=20,
    )
)
def test_titles_of_any_unicode_form_become_one(title: str) -> None:
    cleaned = [clean_catalog(catalog_of(title=[form]))[0].titles[0] for form in forms(title)]
    assert cleaned[0] == cleaned[1] == unicodedata.normalize("NFC", cleaned[0])


def test_composed_texts_are_counted() -> None:
    nfc, nfd = forms("Café Ångström")
    frame = pd.DataFrame({"item_id": list("abc"), "title": [nfc, nfd, "plain"]}, dtype=object)
    catalog, counts = clean_catalog(Catalog(frame))
    assert catalog.titles == [nfc, nfc, "plain"]
    assert counts == {"texts composed (Unicode NFC)": 1, "texts tidied": 1}
    # Compatibility forms are other texts, and stay.
    assert clean_catalog(catalog_of(title=["ﬁve ²"]))[0].titles == ["ﬁve ²"]


@pytest.mark.parametrize(
    ("title", "length", "cut"),
    [
        ("x" * 1_000_000, 50, 1),
        ("&" + "amp;" * 300_000, 1, 0),  # each round of unescaping would take its time
        ("short", 5, 0),
    ],
)
def test_long_texts_are_cut_and_counted(title, length, cut):
    catalog, counts = clean_catalog(catalog_of(title=[title]), 50)
    assert len(catalog.titles[0]) == length
    assert counts.get("texts cut at 50 characters", 0) == cut
