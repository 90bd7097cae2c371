"""Preview: some samples of every task, made from the log at hand; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator

from recinject.foundation.errors import RecinjectError, did_you_mean
from recinject.pipeline.prepare import name_all, split_data
from recinject.pipeline.run import Run, factory_of, given_tokenizer
from recinject.samples.build import SampleFactory
from recinject.samples.sample import Sample
from recinject.samples.tokenizer import encode


def fresh_factory(run: Run) -> SampleFactory:
    """Get every task ready from the log itself, whatever is stored."""
    recipe = run.recipe
    split, catalog, _, _ = split_data(recipe)
    names = name_all(recipe, split, catalog)
    return factory_of(recipe, split, catalog, names, given_tokenizer(recipe))


def preview_samples(
    run: Run, task: str | None, count: int
) -> Iterator[tuple[Sample, tuple[int, int]]]:
    """Yield the first samples of every task and split, evenly over its users.

    Args:
        run: the run.
        task: only this one; None for all.
        count: how many of each split.

    Yields:
        A sample, with the number of tokens of its prompt and of its completion.
    """
    factory = fresh_factory(run)
    if task is not None and task not in factory.wordings:
        raise RecinjectError(
            f"--task {task}: not among the run's tasks", hint=did_you_mean(task, factory.wordings)
        )
    for builder in factory.builders():
        if task in (None, builder.task.name):
            step = max(1, len(builder) // count)
            for number in range(0, min(len(builder), step * count), step):
                sample = builder.sample(number)
                texts = [sample.prompt, sample.completion]
                prompt, completion = encode(factory.tokenizer, texts).lengths.tolist()
                yield sample, (prompt, completion)
