"""Samples are pure functions of their keys, within the budget, and never leak.

The golden files hold every shipped wording of every task. After a change of wording, write them
anew with ``RECINJECT_WRITE_GOLDEN=1 python -m pytest tests/samples/test_builder.py`` and read the
difference before keeping it.
"""

import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.schema import Catalog
from recinject.data.splitting import Part, Split
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged, side_by_side
from recinject.identifiers.table import name_items
from recinject.samples.builder import Sample
from recinject.samples.tokenizer import train_tokenizer
from recinject.tasks.task import TASKS, Ranking, Retrieval
from recinject.templating.language import load_templates
from recinject.templating.phrases import Phrasebook, Pieces
from recinject.templating.writers import Contexts

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_CATALOG = Catalog(
    pd.DataFrame(
        [
            ("a", "Brick Castle", "Bricko", "Toys", ["Toys", "Building Sets"]),
            ("b", "", "Acme", None, None),
            ("c", "Rag Doll", None, "Dolls", None),
            ("d", "Rag Doll", "Dolly & Co", "Dolls", ["Dolls"]),
            ("e", "Glue; Scissors; Paper", None, None, None),
            ("f", "Cord (/s) (extra_id_0)", "Wire'd", None, None),
            ("g", "Mug #1", None, "Kitchen", None),
            ("h", "4", None, None, None),
        ],
        columns=["item_id", "title", "brand", "category", "categories"],
        dtype=object,
    )
)
GOLDEN_SAMPLES = {
    "retrieval": {"history": [0, 1, 2, 3, 5, 6, 7], "target": [4]},
    "bpr": {"history": [5, 1], "pair": [3, 2], "target": [2]},
    "ranking": {"history": [0, 4, 6], "candidates": [2, 5, 3, 1, 7], "target": [3]},
    "rating": {"history": [0, 1, 3], "target": [5]},
    "masked_item_modelling": {"history": [0, 1, 4, 3, 6], "masked": [1, 4]},
    "masked_language_modelling": {"history": [0, 1, 3, 4]},
}
GOLDEN_RATINGS = [4.0, 4.5, 1.0]
GOLDEN_LABEL = 3.5
GOLDEN_MASKED = [1, 2]  # places in the history
GOLDEN_GAPS = [1, 2, 5, 8, 9, 10]  # places in its words


def golden_contexts(task, phrases):
    slots = GOLDEN_SAMPLES[task]
    words = sum(len(phrases["history"][item].split()) for item in slots["history"])
    hidden = {
        "masked_item_modelling": [n in GOLDEN_MASKED for n in range(len(slots["history"]))],
        "masked_language_modelling": [n in GOLDEN_GAPS for n in range(words)],
    }
    return Contexts(
        np.zeros(1, np.int32),
        {slot: Ragged.from_rows([items]) for slot, items in slots.items()},
        ratings=Ragged.from_rows([GOLDEN_RATINGS], np.float64),
        hidden=Ragged.from_rows([hidden[task]], bool) if task in hidden else None,
        labels=np.array([GOLDEN_LABEL]),
    )


def golden_text(task: str) -> str:
    templates = load_templates(task, TASKS[task].slots)
    blocks = []
    for kind in ("number", "title", "number_title"):
        names = name_items(kind, GOLDEN_CATALOG, 1).texts
        phrases = templates.write_items(Phrasebook(GOLDEN_CATALOG, names))
        pieces = Pieces(phrases, np.unique([*GOLDEN_RATINGS, GOLDEN_LABEL]))
        bound = [template.bind(pieces) for template in templates.templates]
        for template, wording in zip(templates.templates, bound, strict=True):
            sides = wording.write(golden_contexts(task, phrases))
            prompt, completion = (pieces.write(side).to_pylist()[0] for side in sides)
            held_out = ", held out" if template.held_out else ""
            title = f"identifiers.kind={kind}, {template.name}{held_out}"
            blocks.append(f"{title}\n  prompt:     {prompt}\n  completion: {completion}\n")
    return "\n".join(blocks)


@pytest.mark.parametrize("task", TASKS)
def test_every_shipped_wording_reads_as_it_should(task):
    text, path = golden_text(task), GOLDEN / f"{task}.txt"
    if os.environ.get("RECINJECT_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def samples_of(factory):
    return [sample for builder in factory.builders() for sample in all_of(builder)]


def words(sample):
    """Leave out the indices, which are positions in the log at hand."""
    return sample._replace(user=None, event=None, target=None, candidates=None)


def all_of(builder):
    return rows_of(builder, np.arange(len(builder)))


def rows_of(builder, numbers):
    rows = builder.table(builder.batch(np.asarray(numbers, int))).to_pylist()
    return [Sample(**row) for row in rows]


def only(split: Split, users: list[int]) -> Split:
    """Leave out all other users, as if they had never been in the log."""
    log = split.interactions
    keep = np.isin(log.users, users)
    kept = log.select(keep)
    numbers = np.searchsorted(users, kept.users).astype(np.int32)
    kept = replace(kept, users=numbers, user_ids=[log.user_ids[user] for user in users])
    return Split(kept, split.parts[keep])


TOKENIZER = train_tokenizer(["A customer chose these items"], 500)


@settings(max_examples=20)
@given(data=st.data())
def test_other_users_and_the_order_change_nothing(make, tasks, splits, data):
    split = data.draw(splits(repeats=True))
    # What is popular, other users' events decide.
    tasks = [replace(t, hard_share=0.0) if isinstance(t, Ranking) else t for t in tasks]
    n_users = split.interactions.n_users
    users = sorted(data.draw(st.sets(st.integers(0, n_users - 1), min_size=1)))
    everything = make(split, tokenizer=TOKENIZER, passes=2, tasks=tasks)
    fewer = make(only(split, users), tokenizer=TOKENIZER, passes=2, tasks=tasks)
    for whole, part in zip(everything.builders(), fewer.builders(), strict=True):
        numbers = random.Random(0).sample(range(len(whole)), len(whole))
        batches = [numbers[start : start + 7] for start in range(0, len(whole), 7)]
        shuffled = {s.sample_id: words(s) for batch in batches for s in rows_of(whole, batch)}
        assert len(shuffled) == len(whole)
        alone = list(map(words, all_of(part)))
        assert alone == [shuffled[sample.sample_id] for sample in alone]
        left_out = {split.interactions.user_ids[u] for u in range(n_users)} - {
            split.interactions.user_ids[u] for u in users
        }
        assert len(alone) == sum(s.user_id not in left_out for s in shuffled.values())


@settings(max_examples=20)
@given(data=st.data())
def test_a_sample_is_the_same_alone_and_in_any_batch(make, splits, data):
    # Histories are cut in some samples of a batch and not in others.
    factory = make(data.draw(splits()), tokenizer=TOKENIZER, limits=(150, 40), seed=3)
    for builder in factory.builders():
        try:
            alone = all_of(builder)
        except RecinjectError:
            continue  # test_limits.py says which samples cannot fit
        chosen = data.draw(st.lists(st.sampled_from(range(len(alone) or 1)), max_size=12))
        chosen = chosen if alone else []
        batch = builder.batch(np.array(chosen, int))
        assert [Sample(**row) for row in builder.table(batch).to_pylist()] == [
            alone[number] for number in chosen
        ]
        for tokens, side in zip(builder.tokens(batch)[:2], ("prompt", "completion"), strict=True):
            texts = [getattr(alone[number], side) for number in chosen]
            assert tokens.to_list() == [TOKENIZER.encode(text).ids for text in texts]
        assert [builder.sample(number) for number in chosen[:3]] == [alone[n] for n in chosen[:3]]


@pytest.mark.parametrize("limit", [0, 1, 7, 1000])
def test_a_limit_gives_the_first_samples(make, small_split, limit):
    everything = make(small_split, tokenizer=TOKENIZER, passes=2)
    limited = make(small_split, tokenizer=TOKENIZER, passes=2, limit=limit)
    for whole, part in zip(everything.builders(), limited.builders(), strict=True):
        assert len(part) == min(limit, len(whole))
        assert all_of(part) == all_of(whole)[:limit]


def test_another_pass_draws_the_same_samples_with_other_chance(make, small_split):
    once, thrice = (make(small_split, passes=passes) for passes in (1, 3))
    for one, three in zip(once.builders(), thrice.builders(), strict=True):
        first, rows = all_of(one), all_of(three)
        if one.split != "train":
            assert rows == first
            continue
        n = len(first)
        assert len(three) == len(rows) == 3 * n and rows[:n] == first
        assert len({sample.sample_id for sample in rows}) == 3 * n
        others = [rows[n : 2 * n], rows[2 * n :]]
        for same in ("user_id", "target_item_id", "label"):
            wanted = [getattr(sample, same) for sample in first]
            assert all([getattr(s, same) for s in other] == wanted for other in others)
        drawn = [
            [(s.template, s.prompt, s.candidate_item_ids) for s in p] for p in (first, *others)
        ]
        for a, b in [(0, 1), (0, 2), (1, 2)]:
            changed = sum(x != y for x, y in zip(drawn[a], drawn[b], strict=True))
            # Where only the wording is drawn, half of the samples keep it.
            assert changed > n / 4
        if one.task.name == "ranking":
            assert not any(set(x[2]) == set(y[2]) for x, y in zip(drawn[0], drawn[1], strict=True))


def test_another_seed_gives_other_samples(make, small_split):
    first, second = (samples_of(make(small_split, seed=seed)) for seed in (1, 2))
    assert [s.sample_id for s in first] == [s.sample_id for s in second]
    assert sum(a != b for a, b in zip(first, second, strict=True)) > len(first) / 4


def test_samples_name_items_and_never_users(make, small_split):
    log = small_split.interactions
    marked = replace(log, user_ids=[f"USER{n}NAME" for n in range(log.n_users)])
    factory = make(Split(marked, small_split.parts))
    for sample in samples_of(factory):
        assert "USER" not in sample.prompt + sample.completion
        assert sample.sample_id.split("/") == [
            *(sample.task, sample.split, sample.user_id, sample.sample_id.rsplit("/")[-1])
        ]
        if sample.candidate_item_ids is not None:
            assert sample.target_item_id in sample.candidate_item_ids
        assert (sample.label is not None) == (sample.task == "rating")
        assert (sample.target_item_id is None) == sample.task.startswith("masked")
        assert (sample.candidate_item_ids is None) == (sample.task != "ranking")


def test_training_uses_every_training_wording_and_tests_use_one(make, small_split):
    # Of many passes, so that each wording is drawn.
    for builder in make(small_split, passes=40).builders():
        used = {sample.template for sample in all_of(builder)}
        templates = builder.wording.templates.templates
        training, held_out = (
            [template.name for template in templates if template.held_out is flag]
            for flag in (False, True)
        )
        expected = {"train": training, "reworded": held_out[:1]}
        assert used == set(expected.get(builder.split, training[:1]))


def test_a_shuffled_test_shows_the_same_history_in_another_order(make, small_split):
    builders = {(b.task.name, b.split): b for b in make(small_split).builders()}
    for task in ("retrieval", "ranking", "rating"):
        test, shuffled = (builders[task, split] for split in ("test", "shuffled"))
        a, b = (each.batch(np.arange(len(each))).contexts for each in (test, shuffled))
        histories = a.slots["history"].to_list(), b.slots["history"].to_list()
        assert histories[0] != histories[1]
        assert list(map(sorted, histories[0])) == list(map(sorted, histories[1]))
        assert a.targets.tolist() == b.targets.tolist()
        if a.ratings is not None:
            pairs = [
                [sorted(zip(*row, strict=True)) for row in zip(h, c.ratings.to_list(), strict=True)]
                for h, c in zip(histories, (a, b), strict=True)
            ]
            assert pairs[0] == pairs[1]


def test_a_reworded_test_asks_the_same_in_other_words(make, small_split):
    builders = {(b.task.name, b.split): b for b in make(small_split).builders()}
    for task in ("retrieval", "ranking", "rating"):
        test, reworded = builders[task, "test"], builders[task, "reworded"]
        assert len(test) == len(reworded) > 0
        for a, b in zip(all_of(test), all_of(reworded), strict=True):
            assert a.prompt != b.prompt
            same = ("user_id", "completion", "target_item_id", "candidate_item_ids", "label")
            assert [getattr(a, name) for name in same] == [getattr(b, name) for name in same]


@dataclass(frozen=True)
class Peeking(Retrieval):
    """A sampler with a bug: it names the user's last item, which is of the test part."""

    name = "peeking"
    as_slot: str = "target"
    of_user: int | None = None

    def sample(self, view, keys, words):
        contexts = super().sample(view, keys, words)
        last = [view.touched.items_of(user)[-1:] for user in keys.users]
        if self.of_user is not None:
            last = [
                item if u == self.of_user else [] for item, u in zip(last, keys.users, strict=True)
            ]
        slot = side_by_side([contexts.slots[self.as_slot], Ragged.from_rows(last)])
        return replace(contexts, slots={**contexts.slots, self.as_slot: slot})


def peeking(make, split, folder, **task):
    text = (
        "{task: peeking, version: 1, phrases: {history: '{{ item }}', target: '{{ item }}'}, "
        "templates: [{name: a, prompt: '{{ history | join(\", \") }}', completion: a}]}"
    )
    (folder / "peeking.yaml").write_text(text)
    return make(split, tasks=[Peeking(**task)], prompts=folder)


@pytest.mark.parametrize("slot", ["history", "target"])
@pytest.mark.parametrize("part", [Part.TRAIN, Part.VALIDATION])
def test_a_sampler_that_names_a_held_out_item_is_stopped(make, small_split, tmp_path, slot, part):
    factory = peeking(make, small_split, tmp_path, as_slot=slot)
    (builder,) = [b for b in factory.builders() if b.split == part.label]
    with pytest.raises(RecinjectError) as caught:
        builder.sample(0)
    item = factory.data.catalog.item_ids[small_split.interactions.items_of(0)[-1]]
    message = f"a {part.label} sample of user customer-0 names the held-out item {item}"
    assert message in str(caught.value) and "task peeking" in str(caught.value)


def test_one_leak_among_many_samples_is_found_and_named(make, small_split, tmp_path):
    factory = peeking(make, small_split, tmp_path, of_user=2)
    builder = next(iter(factory.builders()))
    own = np.arange(builder.offsets[2], builder.offsets[3])
    assert len(own) > 0
    others = np.setdiff1d(np.arange(len(builder)), own)
    assert len(rows_of(builder, others)) == len(others)
    item = factory.data.catalog.item_ids[small_split.interactions.items_of(2)[-1]]
    for numbers in (np.arange(len(builder)), [*others[::-1], own[-1]], own[:1]):
        with pytest.raises(RecinjectError, match=f"user customer-2 names the held-out item {item}"):
            rows_of(builder, numbers)


def test_an_item_used_before_may_be_named_though_it_is_held_out(make, split_of):
    split = split_of([[1, 2, 3, 1, 2, 3, 4, 1]])
    assert samples_of(make(split))
