import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recinject.decoding.beam_search import constrained_beam_search, score_candidates
from recinject.decoding.trie import ROOT, Trie
from recinject.methods.semantic_ids.codes import code_tokens, make_unique
from recinject.samples.tokenizer import add_tokens, encode, train_tokenizer

SIZES = (4, 4, 12)
PREFIXES = arrays(
    np.int32, st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(0, 3)
)  # fmt: skip


def trie_of(codes):
    """Number the tokens as the small model's vocabulary allows: two are padding and the end."""
    starts = np.cumsum([2, *SIZES[:2]])
    return Trie.build([[*(starts + row).tolist(), 1] for row in codes.rows])


@settings(max_examples=40)
@given(PREFIXES, st.integers(0, 9), st.integers(1, 14))
def test_random_weights_name_no_item_twice_and_none_that_is_not(
    model, prompts, prefixes, seed, beams
):
    codes = make_unique(prefixes, SIZES, seed)
    items, scores = constrained_beam_search(model, *prompts, trie_of(codes), beams)
    for row, score in zip(items, scores, strict=True):
        named = row[row >= 0]
        assert len(named) == min(beams, len(prefixes)) == len(set(named.tolist()))
        assert named.max() < len(prefixes) and np.isfinite(score[row >= 0]).all()


def test_codes_go_through_the_tokenizer_into_a_tree_one_token_a_code():
    rng = np.random.default_rng(0)
    codes = make_unique(rng.integers(0, 4, (60, 2)).astype(np.int32), (4, 4, 60), 1)
    tokenizer = train_tokenizer(["what comes next?"], 400)
    add_tokens(tokenizer, code_tokens(codes.sizes))
    sequences = encode(tokenizer, codes.texts, special=True)
    assert set(sequences.lengths.tolist()) == {4}
    trie = Trie.build([sequences[n].tolist() for n in range(60)])
    assert len(trie.children(np.array([ROOT])).values) == len(np.unique(codes.rows[:, 0]))


@settings(max_examples=25)
@given(PREFIXES, st.integers(0, 9))
def test_beams_as_wide_as_the_catalogue_rank_it_as_scores_of_whole_codes_do(
    model, prompts, prefixes, seed
):
    codes = make_unique(prefixes, SIZES, seed)
    starts = np.cumsum([2, *SIZES[:2]])
    sequences = [[*(starts + row).tolist(), 1] for row in codes.rows]
    items, found = constrained_beam_search(model, *prompts, Trie.build(sequences), len(prefixes))
    scores = score_candidates(model, *prompts, np.array(sequences, np.int32))
    assert (np.sort(items, axis=1) == np.arange(len(prefixes))).all()
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1), atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(scores, items, 1), found, atol=1e-4)
