from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from recinject.data.splitting import Split
from recinject.evaluation.evaluate import make_queries
from recinject.foundation.errors import RecinjectError
from recinject.samples.builder import SCHEMA
from recinject.samples.samples import RatingScale
from recinject.samples.store import read_samples
from recinject.samples.tokenizer import load_tokenizer
from recinject.tasks.task import TASKS, MaskedItemModelling, Rating, Retrieval


def without_ratings(split: Split) -> Split:
    return Split(replace(split.interactions, ratings=None), split.parts)


def test_a_row_for_every_task_and_split_tells_what_is_there(built):
    factory, folder, rows = built
    names = [(row["task"], row["split"]) for row in rows]
    tested = [task for task in TASKS if task in ("retrieval", "ranking", "rating")]
    assert len(tested) == 3
    # One part of the split after another.
    assert names == [
        *((task, "train") for task in TASKS),
        *((task, "validation") for task in tested),
        *((task, split) for task in tested for split in ("test", "reworded", "shuffled")),
    ]
    for row in rows:
        assert row["samples"] == len(read_samples(folder, row["task"], row["split"])) > 0
        assert len(row["templates"]) == (8 if row["split"] == "train" else 1)
    assert load_tokenizer(folder).to_str() == factory.tokenizer.to_str()


def test_the_learnt_tokenizer_spells_every_sample(built):
    factory, folder, rows = built
    for row in rows:
        table = read_samples(folder, row["task"], row["split"])
        for text in (*table["prompt"].to_pylist(), *table["completion"].to_pylist()):
            assert "<unk>" not in factory.tokenizer.encode(text).tokens


def test_a_phrase_of_ones_own_stands_in_for_the_templates(make, small_split):
    factory = make(small_split, phrases={"history": "<{{ title }}>", "pair": "({{ identifier }})"})
    prompts = {b.task.name: b.sample(0).prompt for b in factory.builders() if b.split == "train"}
    assert "<Bear>" in prompts["retrieval"]
    assert "(#" in prompts["bpr"]


def texts_of(factory, task):
    builder = next(b for b in factory.builders() if b.task.name == task)
    batch = builder.batch(np.arange(len(builder)))
    return batch, builder.table(batch)["prompt"].to_pylist()


def test_text_keeps_its_titles_unless_told_for_its_task(make, small_split):
    task = "masked_language_modelling"
    given = {"history": "{{ identifier }}"}
    for phrases, shows in ((given, True), (given | {task: given}, False)):
        factory = make(small_split, phrases=phrases)
        _, prompts = texts_of(factory, task)
        assert any("Rag" in text or "Doll" in text for text in prompts) == shows
        _, prompts = texts_of(factory, "retrieval")
        assert not any("Rag" in text for text in prompts)
        assert all("#" in text for text in prompts)


def test_a_placebo_names_other_items_in_the_same_prompts(make, small_split):
    plain, placebo = make(small_split), make(small_split, placebo=["masked_item_modelling", "bpr"])
    for task in ("masked_item_modelling", "bpr", "retrieval"):
        (batch, texts), (same, others) = (texts_of(f, task) for f in (plain, placebo))
        for slot, items in batch.contexts.slots.items():
            assert np.array_equal(items.values, same.contexts.slots[slot].values)
        assert (texts == others) == (task == "retrieval")
        own, new = (f.wordings[task].phrases["history"] for f in (plain, placebo))
        names = [text.split()[0] for text in own], [text.split()[0] for text in new]
        if task != "retrieval":
            assert sorted(names[0]) == sorted(names[1])
            assert not any(one == other for one, other in zip(*names, strict=True))
    with pytest.raises(RecinjectError, match=r"no task that only trains is called 'retrieval'"):
        make(small_split, placebo=["retrieval"])


def test_a_task_of_ratings_needs_a_log_with_ratings(make, small_split, tasks):
    plain = without_ratings(small_split)
    with pytest.raises(RecinjectError, match=r"the task rating needs ratings(.|\n)*rating=null"):
        make(plain)
    others = [task for task in tasks if not task.needs_ratings]
    assert len(list(make(plain, tasks=others).builders())) == 3 + 2 * 5


def test_ratings_of_the_training_part_are_the_labels(small_split):
    held_out = small_split.parts > 0
    ratings = small_split.interactions.ratings.copy()
    ratings[held_out] = 99.0
    split = Split(replace(small_split.interactions, ratings=ratings), small_split.parts)
    scale = RatingScale.of(split)
    assert scale.answers == sorted(set(ratings[~held_out].tolist()))
    assert 99.0 not in scale.answers and 99.0 in scale.written
    assert list(scale.labels.values()) == scale.answers
    none = RatingScale.of(without_ratings(small_split))
    assert none.written == none.answers == []


def test_a_task_without_any_sample_is_written_all_the_same(make, split_of):
    factory = make(split_of([[1, 2, 3, 4]]), tasks=[MaskedItemModelling()])
    assert [len(builder) for builder in factory.builders()] == [0]


def test_item_tokens_come_on_top_of_what_is_learnt(make, small_split):
    plain, tokens = make(small_split), make(small_split, kind="token")
    learnt = {text for text in tokens.tokenizer.get_vocab() if not text.startswith("<item_")}
    assert len(learnt) == tokens.tokenizer.get_vocab_size() - 30 <= 500
    assert "item_" not in "".join(learnt) and plain.tokenizer.get_vocab_size() <= 500
    for builder in tokens.builders():
        for text in builder.wording.phrases["history"]:
            assert len(tokens.tokenizer.encode(text.split()[0], add_special_tokens=False)) == 1


def rated(split, values):
    events = split.interactions
    own = np.resize(np.array(values, float), len(events))
    return Split(replace(events, ratings=own), split.parts)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.arange(1, 22), "21 different values, 1 to 21"),
        (np.arange(40) / 8 - 1, r"\d+ different values, -1 to 3.875"),
        ([1], "are all 1"),
    ],
)
def test_ratings_that_are_no_scale_are_refused_with_the_fix(make, small_split, values, said):
    split = rated(small_split, values)
    with pytest.raises(RecinjectError, match=f"needs a scale of 2 to 20 ratings.*{said}") as caught:
        make(split)
    assert "samples.tasks.rating=null" in caught.value.hint
    assert "data.rating_of={column: COLUMN, as: bins}" in caught.value.hint
    make(split, tasks=[Retrieval()])


def test_twenty_ratings_are_a_scale(make, small_split):
    split = rated(small_split, np.arange(20) / 4)
    assert len(make(split, tasks=[Rating()]).ratings.written) == 20


def test_events_of_unknown_rating_are_no_ratings(make, small_split):
    """A log may say -1 for what nobody rated: the event stays, and has no rating."""
    split = rated(small_split, [1, 2, np.nan, 3])
    factory = make(split, tasks=[Rating(), Retrieval()])
    assert factory.ratings.written == [1.0, 2.0, 3.0]
    whole = {b.split: b for b in make(small_split, tasks=[Retrieval()]).builders()}
    known = ~np.isnan(split.interactions.ratings)
    for builder in factory.builders():
        rows = builder.table(builder.batch(np.arange(len(builder)))).to_pylist()
        if builder.task.name == "retrieval":
            assert len(rows) == len(whole[builder.split])
            continue
        assert rows and all(known[row["event"]] and row["label"] in (1, 2, 3) for row in rows)
        assert not any("rated nan" in row["prompt"] for row in rows)
        asked = make_queries(pa.Table.from_pylist(rows, SCHEMA), split, answer="rating")
        for ratings, row in zip(asked.history_ratings, rows, strict=True):
            assert not np.isnan(ratings).any()
            if builder.split == "test":
                assert len(ratings) == row["prompt"].count("rated")
