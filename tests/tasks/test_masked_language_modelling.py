import re
from collections import Counter
from itertools import groupby, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part
from recinject.foundation.randomness import Chance, combine, derive_bits
from recinject.tasks.task import MaskedLanguageModelling, cut_spans
from recinject.templating.language import Template, lower
from recinject.templating.phrases import Pieces

shares = st.floats(0.01, 0.99)


def cut(totals, share, mean_span, seed=0):
    """Return for each text whether its words are cut out."""
    chance = Chance(combine(derive_bits(seed), np.arange(len(totals))))
    return cut_spans(chance, np.array(totals), share, mean_span).to_list()


def spans_of(flags):
    """Return the lengths of the spans; two that touched would be one."""
    return [len(list(run)) for is_cut, run in groupby(flags) if is_cut]


def rings_of(flags):
    """Return the lengths of the spans of a text whose end meets its start."""
    start = flags.index(False)
    return spans_of([*flags[start:], *flags[:start]])


def counts_of_t5(total, share, mean_span):
    """How many words T5's ``random_spans_noise_mask`` cuts out, and in how many spans."""
    noise = min(max(round(total * share), 1), total - 1)
    return noise, max(round(noise / mean_span), 1)


totals_of_texts = st.lists(st.integers(2, 600), min_size=1, max_size=5)


@settings(max_examples=100)
@given(totals_of_texts, shares, st.floats(1, 10), st.integers(0, 99))
def test_spans_never_touch_and_take_as_much_as_t5s(totals, share, mean_span, seed):
    texts = cut(totals, share, mean_span, seed)
    assert [len(flags) for flags in texts] == totals
    for total, flags in zip(totals, texts, strict=True):
        noise, spans = counts_of_t5(total, share, mean_span)
        assert sum(flags) == noise
        # There are no more than T5 has sentinels, nor than words to keep them apart.
        assert len(rings_of(flags)) == min(spans, noise, total - noise, 99)
        assert len(spans_of(flags)) <= 100


@settings(max_examples=30)
@given(st.integers(60, 400), st.floats(0.05, 0.5), st.floats(1, 5))
def test_spans_have_their_mean_length(total, share, mean_span):
    spans = rings_of(cut([total], share, mean_span)[0])
    noise = round(total * share)
    wanted = noise / mean_span
    if round(wanted) <= min(99, total - noise):
        assert len(spans) == max(1, round(wanted))


@pytest.mark.parametrize(
    ("total", "share", "mean_span"), [(8, 0.5, 2.0), (9, 0.3, 1.0), (7, 0.7, 2.0), (2, 0.5, 3.0)]
)
def test_every_way_to_cut_is_equally_likely(total, share, mean_span):
    noise, spans = counts_of_t5(total, share, mean_span)
    ways = {
        flags
        for flags in product([False, True], repeat=total)
        if sum(flags) == noise and len(rings_of(flags)) == spans
    }
    # Among texts of other lengths.
    found = Counter(map(tuple, cut([total, 30, 5] * 9000, share, mean_span)[::3]))
    assert found.keys() == ways
    assert stats.chisquare(list(found.values())).pvalue > 0.01


@settings(max_examples=25)
@given(st.integers(5, 60), st.sampled_from([0.1, 0.15, 0.3]), st.integers(0, 99))
def test_every_word_is_as_likely_to_be_hidden(total, share, seed):
    hidden = np.sum(cut([total] * 2000, share, 3.0, seed), axis=0)
    assert hidden.sum() == 2000 * counts_of_t5(total, share, 3.0)[0]
    # A text's places are hidden together, so that the statistic is below chi square's.
    assert stats.chisquare(hidden).pvalue > 1e-4


def test_a_single_word_may_be_hidden():
    assert cut([1, 1, 2], 0.15, 3.0)[:2] == [[True], [True]]


TEXTS = ["Bear", "#12 Rag Doll", "Lego Set; 3 pieces, by A & B", "x y"] * 8
WORDS = [len(text.split()) for text in TEXTS]


@settings(max_examples=20)
@given(data=st.data())
def test_a_text_has_the_words_of_its_items(splits, contexts, data):
    view = data.draw(splits(repeats=True)).view(Part.TRAIN)
    task = MaskedLanguageModelling(shortest=2, longest=9, per_event=0.5)
    for context in contexts(task, view, words=WORDS[:30]):
        assert len(context.hidden) == sum(WORDS[item] for item in context.slots["history"])


@pytest.mark.parametrize("separator", ["; ", " ", ", ", "- "])
@settings(max_examples=20)
@given(data=st.data(), share=shares)
def test_the_gaps_filled_in_give_back_the_text(splits, batch, separator, data, share):
    view = data.draw(splits(repeats=True)).view(Part.TRAIN)
    task = MaskedLanguageModelling(shortest=2, longest=9, noise_share=share, per_event=0.5)
    samples = batch(task, view, words=WORDS[:30])
    pieces = Pieces({"history": TEXTS}, np.empty(0))
    written = (
        lower(f"{{{{ history | {name}('{separator}') }}}}", task.slots, "")
        for name in ("corrupted", "gaps")
    )
    sides = Template("one@1", False, "", *written).bind(pieces).write(samples)
    prompts, completions = (pieces.write(side).to_pylist() for side in sides)
    for row, items in enumerate(samples.slots["history"]):
        text = separator.join(TEXTS[item] for item in items)
        parts = re.split(r"(<extra_id_\d+>)", completions[row])[1:]
        fillings = dict(zip(parts[::2], parts[1::2], strict=True))
        assert len(fillings) == len(spans_of(samples.hidden[row].tolist()))
        filled = " ".join(fillings.get(word, word) for word in prompts[row].split())
        assert filled.split() == text.split()
