import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recinject.data.splitting import Part
from recinject.foundation.randomness import derive_rng
from recinject.tasks.masked_language_modelling import MaskedLanguageModelling, draw_gaps
from recinject.templating.language import lower

shares = st.floats(0.01, 0.99)


@settings(max_examples=100)
@given(st.integers(2, 600), shares, st.floats(1, 10), st.integers(0, 99))
def test_gaps_never_touch_and_take_their_share(total, share, mean_span, seed):
    gaps = draw_gaps(derive_rng(seed), total, share, mean_span)
    places = [place for start, length in gaps for place in range(start, start + length)]
    assert places == sorted(set(places)) and places[-1] < total
    assert len(places) == min(max(1, round(total * share)), total - 1)
    assert all(length >= 1 for _, length in gaps)
    assert all(a + n < b for (a, n), (b, _) in zip(gaps, gaps[1:], strict=False))
    assert len(gaps) <= 100  # T5 has no more sentinels


@settings(max_examples=30)
@given(st.integers(60, 400), st.floats(0.05, 0.5), st.floats(1, 5))
def test_spans_have_their_mean_length(total, share, mean_span):
    gaps = draw_gaps(derive_rng(1), total, share, mean_span)
    noise = round(total * share)
    wanted = noise / mean_span
    if round(wanted) <= min(100, total - noise):
        assert len(gaps) == max(1, round(wanted))


def test_every_way_to_cut_is_equally_likely():
    found = Counter(tuple(draw_gaps(derive_rng(n), 8, 0.5, 2.0)) for n in range(3000))
    # Four words out and four kept, in two spans each: three ways times three.
    assert len(found) == 9
    assert stats.chisquare(list(found.values())).pvalue > 0.01


TEXTS = ["Bear", "#12 Rag Doll", "Lego Set; 3 pieces, by A & B", "x y"] * 8
PHRASES = {"history": TEXTS}


@pytest.mark.parametrize("separator", ["; ", " ", ", ", "- "])
@settings(max_examples=20)
@given(data=st.data(), share=shares)
def test_the_gaps_filled_in_give_back_the_text(splits, separator, data, share):
    view = data.draw(splits(repeats=True)).view(Part.TRAIN)
    task = MaskedLanguageModelling(shortest=2, longest=9, noise_share=share, per_event=0.5)
    words = np.array([len(text.split()) for text in TEXTS], np.int32)
    prompt, completion = (
        lower(f"{{{{ history | {name}('{separator}') }}}}", task.slots, "")[0]
        for name in ("corrupted", "gaps")
    )
    for user, count in enumerate(task.count(view)):
        for index in range(count):
            context = task.sample(view, user, index, derive_rng(user, index), words)
            text = separator.join(TEXTS[item] for item in context.slots["history"])
            holed = prompt(context, PHRASES)
            pieces = re.split(r"(<extra_id_\d+>)", completion(context, PHRASES))[1:]
            fillings = dict(zip(pieces[::2], pieces[1::2], strict=True))
            assert len(fillings) == len(context.gaps)
            filled = " ".join(fillings.get(word, word) for word in holed.split())
            assert filled.split() == text.split()
