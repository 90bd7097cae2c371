import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.splitting import Part
from recinject.tasks.task import Rating


@pytest.mark.parametrize("part", Part)
@settings(max_examples=20)
@given(data=st.data())
def test_ratings_are_those_the_user_gave(part, splits, contexts, data):
    split = data.draw(splits())
    log = split.interactions
    for context in contexts(Rating(history_length=3), split.view(part)):
        own = log.users == context.user
        items, ratings = log.items[own].tolist(), log.ratings[own].tolist()
        given_ratings = dict(zip(items, ratings, strict=True))
        assert context.label == given_ratings[context.target]
        assert context.ratings == [given_ratings[item] for item in context.slots["history"]]
        assert context.target not in context.slots["history"]
