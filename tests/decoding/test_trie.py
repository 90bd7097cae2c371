import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recinject.decoding.trie import ROOT, Trie
from recinject.foundation.errors import RecinjectError

END = 1
# Tokens of a huge vocabulary, too.
TOKENS = st.integers(2, 5) | st.integers(2**30, 2**30 + 3)
BODIES = st.lists(TOKENS, max_size=4).map(tuple)
CATALOGUES = st.lists(BODIES, min_size=1, max_size=25, unique=True).map(
    lambda bodies: [[*body, END] for body in bodies]
)


def walk(trie, node=ROOT, spelled=()):
    if trie.items[node] >= 0:
        yield int(trie.items[node]), list(spelled)
    for child in trie.children(np.array([node])).values.tolist():
        yield from walk(trie, child, (*spelled, int(trie.tokens[child])))


@given(CATALOGUES)
def test_it_spells_every_item_and_nothing_else(sequences):
    trie = Trie.build(sequences)
    assert sorted(walk(trie)) == sorted(enumerate(sequences))


@given(CATALOGUES)
def test_columns_agree_with_the_sequences(sequences):
    trie = Trie.build(sequences)
    prefixes = {tuple(s[:length]) for s in sequences for length in range(len(s) + 1)}
    assert len(trie) == len(prefixes)
    for item, sequence in enumerate(sequences):
        path = trie.paths[item][trie.paths[item] >= 0]
        assert trie.tokens[path].tolist() == sequence
        for depth, node in enumerate(path, start=1):
            beneath = sum(other[:depth] == sequence[:depth] for other in sequences)
            assert trie.counts[node] == beneath
    assert trie.counts[ROOT] == len(sequences)
    for node in range(len(trie)):
        children = trie.children(np.array([node])).values
        assert np.all(np.diff(trie.tokens[children]) > 0)


@pytest.mark.parametrize(
    ("sequences", "said"),
    [
        ([[3, 1], [4, 1], [3, 1]], "items 0 and 2 have the same tokens"),
        ([[3, 4, 1], [5], [3, 4]], "items 0 and 2 are such that one's tokens begin"),
        ([[3, 1], []], "item 1 has no tokens"),
        ([], "there are no tokens"),
    ],
)
def test_catalogues_that_cannot_be_told_apart_are_refused(sequences, said):
    with pytest.raises(RecinjectError, match=said):
        Trie.build(sequences)
