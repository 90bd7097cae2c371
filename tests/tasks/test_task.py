"""What holds for the samples of every task, and for all tasks with a target."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.registry import find, names
from recinject.tasks.task import (
    BPR,
    TASKS,
    Keys,
    MaskedItemModelling,
    MaskedLanguageModelling,
    Ranking,
    Rating,
    Retrieval,
)

# Files that are parts already have a split of their own.
RULES = sorted({*names("split")} - {"given"})

TARGET_TASKS = [
    BPR(history_length=3),
    Retrieval(history_length=4),
    Ranking(negatives=6, train_negatives=3),
    Rating(history_length=2),
]
EVERY_TASK = [
    MaskedItemModelling(shortest=2, longest=6, per_event=0.5),
    MaskedLanguageModelling(shortest=2, longest=6, per_event=0.5),
    *TARGET_TASKS,
]
TASK_PARTS, TARGET_PARTS = (
    [
        pytest.param(task, part, id=f"{task.name}-{part.label}")
        for task in tasks
        for part in task.parts
    ]
    for tasks in (EVERY_TASK, TARGET_TASKS)
)


def test_here_is_every_task():
    assert {task.name for task in EVERY_TASK} == TASKS.keys()
    assert all(Part.TRAIN in task.parts for task in EVERY_TASK)


@pytest.mark.parametrize(("task", "part"), TASK_PARTS)
@settings(max_examples=20)
@given(data=st.data())
def test_no_sample_names_what_is_held_out(task, part, splits, contexts, data):
    view = data.draw(splits(repeats=True)).view(part)
    for context in contexts(task, view):
        seen = set(view.interactions.items_of(context.user).tolist())
        held_out = set(view.later.items_of(context.user).tolist()) - seen
        assert not context.items & held_out
        if part is Part.TRAIN:
            assert {*context.slots["history"], context.target} - {None} <= seen


@pytest.mark.parametrize(("task", "part"), TASK_PARTS)
@settings(max_examples=20)
@given(data=st.data(), seed=st.integers(0, 9))
def test_a_sample_is_the_same_in_any_batch(task, part, splits, contexts, data, seed):
    view = data.draw(splits(repeats=True)).view(part)
    counts = task.count(view)
    keys = [(user, index) for user, count in enumerate(counts) for index in range(count)]
    alone = [contexts(task, view, [user], index, seed)[0] for user, index in keys]
    assert contexts(task, view, seeds=seed) == alone
    numbers = st.lists(st.sampled_from(range(len(keys)) or [None]), max_size=9 if keys else 0)
    chosen = data.draw(numbers)
    users, indices = (np.array([keys[number][side] for number in chosen], int) for side in (0, 1))
    assert contexts(task, view, users, indices, seed) == [alone[number] for number in chosen]


@pytest.mark.parametrize(("task", "part"), TASK_PARTS)
@settings(max_examples=20)
@given(data=st.data())
def test_other_users_never_change_a_sample(task, part, split_of, contexts, data):
    if isinstance(task, Ranking):
        task = replace(task, hard_share=0.0)  # what is popular, other users' events decide
    history = st.lists(st.integers(0, 29), max_size=12)
    own, others = data.draw(history), data.draw(st.lists(history, max_size=3))
    few, many = (split_of([own, *rest]).view(part) for rest in ([], others))
    ratings = few.touched.ratings
    assert (many.touched.ratings[: len(own)] == ratings).all()
    of_one = [sample for sample in contexts(task, many) if sample.user == 0]
    assert of_one == contexts(task, few)


@pytest.mark.parametrize("task", EVERY_TASK, ids=lambda task: task.name)
def test_another_seed_gives_other_samples_where_chance_has_a_part(task, split_of, contexts):
    view = split_of([list(range(10))] * 5).view(Part.TRAIN)
    seeds = [contexts(task, view, seeds=seed) for seed in (1, 1, 2)]
    assert seeds[0] == seeds[1]
    assert (seeds[0] == seeds[2]) == isinstance(task, Retrieval | Rating)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("task", "part"), TARGET_PARTS)
@settings(max_examples=10)
@given(data=st.data())
def test_targets_and_histories_are_those_a_plain_loop_finds(
    task, part, rule, splits, contexts, data
):
    log = data.draw(splits(repeats=True).filter(lambda split: len(split.interactions))).interactions
    log = replace(log, timestamps=log.by_user.places * 3.0 + log.users)
    split = find("split", rule)(log, 0.2, 1)
    shown_parts = [Part.TRAIN] if part is Part.TRAIN else range(part)
    expected = []
    for user in range(log.n_users):
        past: list[int] = []
        for event in np.flatnonzero(log.users == user):
            if split.parts[event] == part and past:
                shown = past[-task.history_length :]
                expected.append((user, log.items[shown].tolist(), log.items[event]))
            if split.parts[event] in shown_parts:
                past.append(event)
    found = contexts(task, split.view(part))
    assert [(c.user, c.slots["history"], c.target) for c in found] == expected


@pytest.mark.parametrize(("task", "part"), TASK_PARTS)
@settings(max_examples=20)
@given(data=st.data())
def test_there_are_as_many_samples_as_are_counted(task, part, splits, contexts, data):
    view = data.draw(splits()).view(part)
    found = contexts(task, view)
    counts = task.count(view)
    assert [c.user for c in found] == np.repeat(np.arange(len(counts)), counts).tolist()
    assert all(context.slots.keys() <= task.slots.keys() for context in found)


@pytest.mark.parametrize(("task", "part"), TARGET_PARTS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_history_is_what_is_just_before_the_target(task, part, splits, contexts, data):
    split = data.draw(splits())
    targets: dict[int, list[int]] = {}
    for context in contexts(task, split.view(part)):
        # No item comes twice here, so an item tells its place in the user's whole history.
        everything = split.interactions.items_of(context.user).tolist()
        position = everything.index(context.target)
        earliest = max(0, position - task.history_length)
        assert context.slots["history"] == everything[earliest:position]
        assert context.slots["target"] == [context.target]
        targets.setdefault(context.user, []).append(position)
    for user in range(split.interactions.n_users):
        parts = split.parts[split.interactions.users == user]
        with_past = [place for place, of in enumerate(parts) if of == part and place]
        assert targets.get(user, []) == with_past


@pytest.mark.parametrize("task", TARGET_TASKS, ids=lambda task: task.name)
def test_under_a_cap_every_position_is_equally_likely(task, split_of, contexts):
    view = split_of([[4, 9], list(range(10)), [7]]).view(Part.TRAIN)
    capped = type(task)(**vars(task) | {"max_per_user": 3})
    assert capped.count(view).tolist() == [1, 3, 0]
    drawn = contexts(capped, view, [1], np.tile(np.arange(3), 700), np.repeat(np.arange(700), 3))
    targets = np.array([sample.target for sample in drawn]).reshape(700, 3)
    # One from each third of the seven, so they come in order.
    assert (np.diff(targets) >= 0).all()
    found = Counter(targets.ravel().tolist())
    assert sorted(found) == list(range(1, 8))
    assert stats.chisquare(list(found.values())).pvalue > 0.01


@pytest.mark.parametrize(("length", "cap"), [(2, 1), (5, 2), (7, 3), (9, 8), (10, 4)])
def test_strata_weigh_every_position_the_same(split_of, length, cap):
    view = split_of([list(range(length + 3))]).view(Part.TRAIN)
    task = Retrieval(max_per_user=cap)
    # Chance that takes every value of a grid once, in place of a stream that may take any.
    grid, indices = np.meshgrid((np.arange(length) + 0.5) / length, np.arange(cap))
    chance = SimpleNamespace(uniform=grid.ravel)
    found = task.events(view, Keys(np.zeros(length * cap, int), indices.ravel(), chance))
    assert Counter(found.tolist()) == dict.fromkeys(range(1, length + 1), cap)


def test_a_cap_is_for_training_alone(split_of):
    split = split_of([list(range(10))])
    task = Retrieval(max_per_user=1)
    assert [int(task.count(split.view(part))[0]) for part in Part] == [0, 1, 1, 1]
    assert int(Retrieval(max_per_user=50).count(split.view(Part.TRAIN))[0]) == 7
    assert int(Retrieval().count(split.view(Part.TRAIN))[0]) == 7


@pytest.mark.parametrize(
    ("task", "settings_", "fragment"),
    [
        ("retrieval", {"history_length": 0}, "history_length"),
        ("retrieval", {"max_per_user": 0}, "max_per_user"),
        ("ranking", {"negatives": 0}, "negatives"),
        ("ranking", {"train_negatives": -1}, "train_negatives"),
        ("masked_item_modelling", {"shortest": 1}, "shortest"),
        ("masked_item_modelling", {"mask_share": 1.0}, "mask_share"),
        ("masked_item_modelling", {"per_event": -1}, "per_event"),
        ("masked_language_modelling", {"noise_share": 0}, "noise_share"),
        ("masked_language_modelling", {"mean_span": 0.5}, "mean_span"),
    ],
)
def test_settings_out_of_range_are_refused_where_recipes_are_read(task, settings_, fragment):
    with pytest.raises(ValidationError, match=fragment):
        TypeAdapter(TASKS[task]).validate_python(settings_)


def test_a_window_longer_than_its_longest_is_refused():
    with pytest.raises(RecinjectError, match="longest=3 is below shortest=5"):
        TypeAdapter(MaskedItemModelling).validate_python({"longest": 3})
