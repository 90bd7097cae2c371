import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.foundation.ragged import Ragged
from recinject.templating.writers import Contexts

WORDS = np.array([1, 3, 2, 1, 4, 2, 1, 1, 2, 5], np.int32)  # of each of ten items
histories = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=4)


def rows_of(contexts):
    """Every field as plain lists."""
    slots = {name: items.to_list() for name, items in contexts.slots.items()}
    lists = [None if f is None else f.to_list() for f in (contexts.ratings, contexts.hidden)]
    flat = [None if f is None else f.tolist() for f in (contexts.targets, contexts.labels)]
    return contexts.users.tolist(), slots, *lists, *flat


def rated(items):
    n = len(items)
    return Contexts(
        np.arange(3, 3 + n, dtype=np.int32),
        {"history": Ragged.from_rows(items), "target": Ragged.from_rows([[7]] * n)},
        ratings=Ragged.from_rows([[item / 2 for item in row] for row in items], np.float64),
        targets=np.full(n, 7, np.int32),
        labels=np.linspace(1, 5, n),
    )


@settings(max_examples=30)
@given(histories, st.data())
def test_the_oldest_go_first_with_their_ratings(items, data):
    counts = [data.draw(st.integers(0, 8)) for _ in items]
    contexts = rated(items)
    shorter = contexts.without_oldest(np.array(counts))
    left = [row[count:] for row, count in zip(items, counts, strict=True)]
    assert rows_of(shorter) == rows_of(rated(left))
    assert contexts.slots["history"].to_list() == items


@settings(max_examples=30)
@given(histories, st.data())
def test_masked_items_that_are_left_out_are_asked_for_no_more(items, data):
    counts = [data.draw(st.integers(0, 8)) for _ in items]
    flags = [data.draw(st.lists(st.booleans(), min_size=len(r), max_size=len(r))) for r in items]

    def masked(rows, hidden):
        pairs = [zip(row, own, strict=True) for row, own in zip(rows, hidden, strict=True)]
        slots = {"history": rows, "masked": [[i for i, flag in p if flag] for p in pairs]}
        return Contexts(
            np.arange(len(rows)),
            {name: Ragged.from_rows(values) for name, values in slots.items()},
            hidden=Ragged.from_rows(hidden, bool),
        )

    shorter = masked(items, flags).without_oldest(np.array(counts))
    left = [[row[n:] for row, n in zip(rows, counts, strict=True)] for rows in (items, flags)]
    assert rows_of(shorter) == rows_of(masked(*left))


@settings(max_examples=30)
@given(histories, st.data())
def test_words_of_items_that_are_left_out_go_with_them(items, data):
    counts = [data.draw(st.integers(0, 8)) for _ in items]
    # Flags item by item, then joined: those of the first items must go, whole items each.
    by_item = [
        [data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in WORDS[row].tolist()]
        for row in items
    ]

    def gapped(rows, hidden):
        joined = [[flag for item in row for flag in item] for row in hidden]
        slots = {"history": Ragged.from_rows(rows)}
        return Contexts(np.arange(len(rows)), slots, hidden=Ragged.from_rows(joined, bool))

    shorter = gapped(items, by_item).without_oldest(np.array(counts), WORDS)
    left = [[row[n:] for row, n in zip(rows, counts, strict=True)] for rows in (items, by_item)]
    assert rows_of(shorter) == rows_of(gapped(*left))


@settings(max_examples=30)
@given(histories, st.data())
def test_some_of_the_samples_are_those_alone(items, data):
    chosen = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=6))
    whole, some = rows_of(rated(items)), rows_of(rated(items).take(np.array(chosen, int)))
    users, slots, ratings, _, targets, labels = whole
    take = lambda rows: [rows[n] for n in chosen]  # noqa: E731
    expected = (take(users), {s: take(rows) for s, rows in slots.items()}, take(ratings), None)
    assert some == (*expected, take(targets), take(labels))
