from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.templating.context import Context


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 8))
def test_the_oldest_go_first_with_their_ratings(items, count):
    ratings = [item / 2 for item in items]
    context = Context(3, {"history": items, "target": [7]}, ratings=ratings, target=7, label=4.5)
    shorter = context.without_oldest(count)
    assert shorter == Context(
        3, {"history": items[count:], "target": [7]}, ratings=ratings[count:], target=7, label=4.5
    )
    assert context.slots["history"] == items


def test_items_are_those_of_every_slot():
    context = Context(0, {"history": [1, 2, 1], "pair": [5, 3], "target": [5]}, target=5)
    assert context.items == {1, 2, 3, 5}
