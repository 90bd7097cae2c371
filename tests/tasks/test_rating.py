import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.splitting import Part
from recinject.tasks.rating import Rating


@pytest.mark.parametrize("part", Part)
@settings(max_examples=20)
@given(data=st.data())
def test_ratings_are_those_the_user_gave(part, splits, contexts, data):
    split = data.draw(splits())
    for context in contexts(Rating(history_length=3), split.view(part)):
        span = split.interactions.span(context.user)
        items, ratings = split.interactions.items[span], split.interactions.ratings[span]
        given_ratings = dict(zip(items.tolist(), ratings.tolist(), strict=True))
        assert context.label == given_ratings[context.target]
        assert list(context.ratings) == [given_ratings[i] for i in context.slots["history"]]
        assert context.target not in context.slots["history"]
