"""What is too long loses whole items from the oldest end: as few as can be, and nothing else.

The oracle renders a sample with none, one, two, ... of its oldest items left out, encodes each
text as a whole, and takes the first that fits.
"""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from recinject.data.splitting import Split
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged
from recinject.samples.tokenizer import train_tokenizer
from recinject.tasks.task import (
    MaskedItemModelling,
    MaskedLanguageModelling,
    Ranking,
    Rating,
    Retrieval,
    Task,
)
from recinject.templating.writers import Contexts, SlotKind

ROOMY = (10_000, 10_000)


def byte_level():
    """A tokenizer as GPT-2's: words have other tokens first in a text than later."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["Rag Doll of oak; Bear Castle, rated 4"] * 3, trainer)
    return tokenizer


def facts(contexts):
    """Every field of each sample, to be compared."""
    found = {**contexts.slots, "ratings": contexts.ratings, "hidden": contexts.hidden}
    lists = {name: rows.to_list() for name, rows in found.items() if rows is not None}
    flat = {"users": contexts.users, "targets": contexts.targets, "labels": contexts.labels}
    lists |= {name: values.tolist() for name, values in flat.items() if values is not None}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def shorter_by(builder, contexts, count):
    is_gapped = builder.task.slots["history"] is SlotKind.GAPPED
    words = builder.wording.item_words if is_gapped else None
    return contexts.without_oldest(np.full(len(contexts), count), words)


def texts_of(builder, contexts, wordings):
    pieces, texts = builder.wording.encoder.pieces, {}
    for row, wording in enumerate(wordings):
        sides = builder.wording.bound[wording].write(contexts.take(np.array([row])))
        texts[row] = tuple(pieces.write(side).to_pylist()[0] for side in sides)
    return list(texts.values())


def fits(builder, texts):
    """Say which pairs of prompt and completion are within the limits, each encoded whole."""
    tokenizer = builder.wording.encoder.dialect.tokenizer
    sides = [tokenizer.encode_batch([pair[side] for pair in texts]) for side in (0, 1)]
    return [
        all(len(own.ids) <= most for own, most in zip(pair, builder.limits, strict=True))
        for pair in zip(*sides, strict=True)
    ]


def cuts_of(builder, full, wordings):
    """Yield what each sample must become, with its texts; None where nothing fits."""
    chosen, open_rows = {}, np.arange(len(full))
    for count in range(int(full.slots["history"].lengths.max(initial=0))):
        # Who still has an item to show, and something to ask for.
        open_rows = open_rows[full.slots["history"].lengths[open_rows] > count]
        contexts = shorter_by(builder, full.take(open_rows), count)
        if contexts.hidden is not None:
            asks = contexts.hidden.sums(contexts.hidden.values) > 0
            open_rows, contexts = open_rows[asks], contexts.take(np.flatnonzero(asks))
        texts = texts_of(builder, contexts, wordings[open_rows])
        fitting = fits(builder, texts)
        # Tasks that hide something never refuse: what is too long even then is cut as tokens.
        for row, *found, fit in zip(open_rows, facts(contexts), texts, fitting, strict=True):
            if fit or full.hidden is not None:
                chosen[int(row)] = (count, *found)
        open_rows = open_rows[~np.array(fitting, bool)]
    return [chosen.get(row) for row in range(len(full))]


def assert_cut_as_little_as_can_be(whole, cut):
    """Compare a builder with narrow limits to the oracle; return how many items each lost."""
    roomy = whole.batch(np.arange(len(whole)))
    expected = cuts_of(cut, roomy.contexts, roomy.wordings)
    refused = [number for number, own in enumerate(expected) if own is None]
    for number in refused[:2]:
        with pytest.raises(RecinjectError, match="with one item of history"):
            cut.batch(np.array([number]))
    numbers = np.array([n for n, own in enumerate(expected) if own is not None], int)
    kept, pieces = cut.batch(numbers), cut.wording.encoder.pieces
    sides = [pieces.write(side).to_pylist() for side in (kept.prompts, kept.completions)]
    assert kept.wordings.tolist() == roomy.wordings[numbers].tolist()
    assert facts(kept.contexts) == [expected[number][1] for number in numbers]
    assert list(zip(*sides, strict=True)) == [expected[number][2] for number in numbers]
    return [expected[number][0] for number in numbers]


def assert_all_cut_as_little_as_can_be(roomy, limits):
    most = dict(zip(("max_prompt_tokens", "max_completion_tokens"), limits, strict=True))
    narrow = replace(roomy, settings=replace(roomy.settings, **most))
    pairs = zip(roomy.builders(), narrow.builders(), strict=True)
    return [count for pair in pairs for count in assert_cut_as_little_as_can_be(*pair)]


KINDS = ("number", "title", "number_title", "token")
READERS = [
    pytest.param(reader, kind, marks=[] if kind == "title" else pytest.mark.slow)
    for reader in ("learnt", "t5")
    for kind in KINDS
]


@pytest.mark.parametrize(("reader", "kind"), [*READERS, ("bytes", "title")])
def test_prompts_keep_the_budget_by_leaving_out_the_oldest(make, splits, reader, kind, request):
    known = {"learnt": lambda: None, "bytes": byte_level}
    tokenizer = known.get(reader, lambda: request.getfixturevalue("t5"))()
    dropped = []

    @settings(max_examples=6)
    @given(split=splits(), most=st.tuples(st.integers(30, 240), st.integers(3, 60)))
    def check(split, most):
        roomy = make(split, kind=kind, tokenizer=tokenizer, limits=ROOMY)
        for limits in (most, (most[0] // 2 + 25, 60)):
            dropped.extend(assert_all_cut_as_little_as_can_be(roomy, limits))

    check()
    assert max(dropped) > 1


@pytest.mark.parametrize("titles", [["Rag Doll of oak"] * 30, ["#", "Bear ; x", "of"] * 10])
@pytest.mark.parametrize(
    ("task", "phrases"),
    [
        # What is asked for is far longer than what stands in the history, or far shorter.
        (
            MaskedItemModelling(mask_share=0.5),
            {"history": "{{ identifier }}", "masked": "{{ item }}" * 5},
        ),
        (MaskedItemModelling(mask_share=0.5), {"history": "{{ item }} {{ title }} {{ brand }}"}),
        (MaskedLanguageModelling(noise_share=0.5, longest=9), {"history": "{{ item }} {{ item }}"}),
        (Rating(), {"history": "{{ identifier }}"}),
        (Retrieval(), {"history": "{{ title }} {{ title }} {{ title }}"}),
    ],
)
@pytest.mark.parametrize("most", [(60, 200), (200, 12), (45, 25)])
def test_no_phrase_makes_more_items_go_than_must(make, small_split, task, phrases, most, titles):
    choices = {"tasks": [task], "phrases": phrases, "titles": titles}
    roomy = make(small_split, limits=ROOMY, **choices)
    assert assert_all_cut_as_little_as_can_be(roomy, most)


def test_ratings_of_many_digits_make_no_item_too_many_go(make, small_split):
    # Each digit of a rating is a token; an account of items that forgot them would be too low.
    ratings = np.random.default_rng(0).uniform(1, 5, len(small_split.interactions))
    ratings = np.round(ratings, 5)[np.arange(len(ratings)) % 18]
    long_ones = replace(small_split.interactions, ratings=ratings)
    split = Split(long_ones, small_split.parts)
    choices = {"tasks": [Rating()], "phrases": {"history": "{{ identifier }}"}}
    unread = train_tokenizer(["Ratings by one customer: rated"], 300)
    roomy = make(split, limits=ROOMY, tokenizer=unread, **choices)
    for most in range(100, 240, 20):
        assert sum(assert_all_cut_as_little_as_can_be(roomy, (most, 40))) > 0


def test_a_masked_sample_keeps_something_to_ask_for(make, small_split):
    tasks = [MaskedItemModelling(), MaskedLanguageModelling()]
    for builder in make(small_split, tasks=tasks, limits=(1, 1)).builders():
        contexts = builder.batch(np.arange(len(builder))).contexts
        assert len(builder) > 0
        assert (contexts.hidden.sums(contexts.hidden.values) > 0).all()
        # Nothing can fit: with one more item left out nothing would be hidden.
        fewer = shorter_by(builder, contexts, 1)
        assert not fewer.hidden.values.any()


@pytest.mark.parametrize("task", [Retrieval(), Ranking(negatives=9, train_negatives=4), Rating()])
@pytest.mark.parametrize(
    ("limits", "phrases"),
    [((20, 128), {}), ((512, 1), {}), ((15, 2), {"history": "{{ title }} " * 20})],
)
def test_the_fix_of_a_question_that_cannot_fit_works(make, small_split, task, limits, phrases):
    factory = make(small_split, tasks=[task], limits=limits, phrases=phrases)
    builder = next(factory.builders())
    with pytest.raises(RecinjectError) as caught:
        builder.batch(np.arange(len(builder)))
    fragments = [
        f"task {task.name}: a train sample of user customer-",
        "tokens with one item of history",
        f"{limits[0]} + {limits[1]} are allowed",
    ]
    assert all(fragment in str(caught.value) for fragment in fragments)
    told = re.findall(r"samples\.(max_\w+)=(\d+)", caught.value.hint)
    assert told and "phrases.candidates" not in caught.value.hint
    most = {name: int(number) for name, number in told}
    mended = replace(factory, settings=replace(factory.settings, **most))
    for builder in mended.builders():  # of all splits, in all wordings
        assert len(builder.batch(np.arange(len(builder))).contexts) == len(builder) > 0


@dataclass(frozen=True)
class Blank(Task):
    """A task whose histories are empty."""

    name = "blank"
    slots: ClassVar = {"history": SlotKind.ITEMS}

    def count(self, view):
        return np.ones(view.interactions.n_users, int)

    def sample(self, view, keys, words):
        return Contexts(keys.users, {"history": Ragged.from_rows([[]] * len(keys.users))})


@pytest.mark.parametrize("most", [3, 500])
def test_an_empty_history_has_nothing_to_leave_out(make, small_split, tmp_path, most):
    text = (
        "{task: blank, version: 1, phrases: {history: '{{ item }}'}, templates: "
        "[{name: a, prompt: 'Took ({{ history | join(\"; \") }}). What now?', completion: a}]}"
    )
    (tmp_path / "blank.yaml").write_text(text)
    builder = next(
        make(small_split, tasks=[Blank()], prompts=tmp_path, limits=(most, 9)).builders()
    )
    if most == 500:
        assert builder.sample(0).prompt == "Took (). What now?"
    else:
        with pytest.raises(RecinjectError, match="3 \\+ 9 are allowed"):
            builder.sample(0)
