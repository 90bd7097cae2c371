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
from recinject.identifiers.table import name_items
from recinject.samples.tokenizer import load_tokenizer, train_tokenizer
from recinject.tasks.registry import TASKS
from recinject.tasks.retrieval import Retrieval
from recinject.templating.context import Context
from recinject.templating.language import SlotKind
from recinject.templating.library import load_templates
from recinject.templating.phrases import Phrasebook

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
GOLDEN_CONTEXTS = {
    "retrieval": Context(0, {"history": [0, 1, 2, 3, 5, 6, 7], "target": [4]}, target=4),
    "bpr": Context(0, {"history": [5, 1], "pair": [3, 2], "target": [2]}, target=2),
    "ranking": Context(
        0, {"history": [0, 4, 6], "candidates": [2, 5, 3, 1, 7], "target": [3]}, target=3
    ),
    "rating": Context(
        0, {"history": [0, 1, 3], "target": [5]}, ratings=[4.0, 4.5, 1.0], target=5, label=3.5
    ),
    "masked_item_modelling": Context(
        0, {"history": [0, 1, 4, 3, 6], "masked": [1, 4]}, hidden=[1, 2]
    ),
    "masked_language_modelling": Context(
        0, {"history": [0, 1, 3, 4]}, gaps=[(1, 2), (5, 1), (8, 3)]
    ),
}


def golden_text(task: str) -> str:
    templates = load_templates(task, TASKS[task].slots)
    blocks = []
    for kind in ("number", "title", "number_title"):
        names = name_items(kind, GOLDEN_CATALOG, 1).texts
        phrases = templates.write_items(Phrasebook(GOLDEN_CATALOG, names))
        for template in templates.templates:
            prompt, completion = template.render(GOLDEN_CONTEXTS[task], phrases)
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


def samples_of(factory, user_id=None):
    return [
        builder.sample(number)
        for builder in factory.builders()
        for number in range(len(builder))
        if user_id in (None, builder.view.interactions.user_ids[builder.context(number)[0].user])
    ]


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
def test_other_users_and_the_order_change_nothing(make, splits, data):
    split = data.draw(splits(repeats=True))
    n_users = split.interactions.n_users
    users = sorted(data.draw(st.sets(st.integers(0, n_users - 1), min_size=1)))
    everything = make(split, tokenizer=TOKENIZER)
    fewer = make(only(split, users), tokenizer=TOKENIZER)
    for whole, part in zip(everything.builders(), fewer.builders(), strict=True):
        numbers = random.Random(0).sample(range(len(whole)), len(whole))
        shuffled = {sample.sample_id: sample for sample in map(whole.sample, numbers)}
        assert len(shuffled) == len(whole)
        alone = [part.sample(number) for number in range(len(part))]
        assert alone == [shuffled[sample.sample_id] for sample in alone]
        left_out = {split.interactions.user_ids[u] for u in range(n_users)} - {
            split.interactions.user_ids[u] for u in users
        }
        assert len(alone) == sum(s.user_id not in left_out for s in shuffled.values())


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


def test_training_uses_every_training_wording_and_tests_use_one(make, small_split):
    for builder in make(small_split).builders():
        used = {builder.sample(number).template for number in range(len(builder))}
        templates = builder.wording.templates
        if builder.split == "train":
            assert used == {template.name for template in templates.training}
        elif builder.split == "reworded":
            assert used == {templates.held_out[0].name}
        else:
            assert used == {templates.training[0].name}


def test_a_reworded_test_asks_the_same_in_other_words(make, small_split):
    builders = {(b.task.name, b.split): b for b in make(small_split).builders()}
    for task in ("retrieval", "ranking", "rating"):
        test, reworded = builders[task, "test"], builders[task, "reworded"]
        assert len(test) == len(reworded) > 0
        for number in range(len(test)):
            a, b = test.sample(number), reworded.sample(number)
            assert a.prompt != b.prompt
            same = ("user_id", "completion", "target_item_id", "candidate_item_ids", "label")
            assert [getattr(a, name) for name in same] == [getattr(b, name) for name in same]


@dataclass(frozen=True)
class Peeking(Retrieval):
    """A sampler with a bug: it names the user's test item."""

    name = "peeking"
    as_slot: str = "target"

    def sample(self, view, user, index, rng, words):
        context = super().sample(view, user, index, rng, words)
        item = int(view.touched.items_of(user)[-1])
        slots = {**context.slots, self.as_slot: [*context.slots[self.as_slot], item]}
        return replace(context, slots=slots)


@pytest.mark.parametrize("slot", ["history", "target"])
@pytest.mark.parametrize("part", [Part.TRAIN, Part.VALIDATION])
def test_a_sampler_that_names_a_held_out_item_is_stopped(make, small_split, tmp_path, slot, part):
    text = (
        "{task: peeking, version: 1, phrases: {history: '{{ item }}', target: '{{ item }}'}, "
        "templates: [{name: a, prompt: '{{ history | join(\", \") }}', completion: a}]}"
    )
    (tmp_path / "peeking.yaml").write_text(text)
    factory = make(small_split, tasks=[Peeking(as_slot=slot)], prompts=tmp_path)
    (builder,) = [b for b in factory.builders() if b.split == part.label]
    with pytest.raises(RecinjectError) as caught:
        builder.sample(0)
    item = factory.catalog.item_ids[small_split.interactions.items_of(0)[-1]]
    message = f"a {part.label} sample of user customer-0 names the held-out item {item}"
    assert message in str(caught.value) and "task peeking" in str(caught.value)


def test_an_item_used_before_may_be_named_though_it_is_held_out(make, split_of):
    split = split_of([[1, 2, 3, 1, 2, 3, 4, 1]])
    assert samples_of(make(split))


PLAIN = (SlotKind.ITEMS, SlotKind.RATED)


@pytest.mark.parametrize("kind", ["number", "title", "number_title", "token"])
@pytest.mark.parametrize("learnt", [True, False])
def test_prompts_keep_the_budget_by_leaving_out_the_oldest(make, splits, kind, learnt, request):
    given_one = None if learnt else t5(request.getfixturevalue("shared_data"))

    @settings(max_examples=12)
    @given(split=splits(), budget=st.integers(40, 240))
    def check(split, budget):
        roomy = make(split, kind=kind, tokenizer=given_one, max_prompt_tokens=10_000)
        tight = make(split, kind=kind, tokenizer=roomy.tokenizer, max_prompt_tokens=budget)
        for whole, cut in zip(roomy.builders(), tight.builders(), strict=True):
            for number in range(len(whole)):
                assert_within(whole, cut, number, budget)

    check()


def t5(shared_data):
    file = shared_data / "t5-tokenizer" / "tokenizer.json"
    if not file.is_file():
        pytest.skip(f"no tokenizer at {file}")
    return load_tokenizer(file)


def assert_within(whole, cut, number, budget):
    (full, template), (kept, same) = whole.context(number), cut.context(number)
    dropped = len(full.slots["history"]) - len(kept.slots["history"])
    assert template.name == same.name
    # Whatever is left out is the oldest, and question and completion stay as they are.
    assert kept == (full.without_oldest(dropped) if dropped else full)
    if cut.task.slots["history"] not in PLAIN:
        assert not dropped
        return

    def tokens(context):
        return len(cut.wording.tokenizer.encode(template.render(context, cut.wording.phrases)[0]))

    assert tokens(kept) <= budget or len(kept.slots["history"]) == 1
    # And no more than must be.
    assert not dropped or tokens(full.without_oldest(dropped - 1)) > budget
