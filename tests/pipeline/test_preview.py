import pandas as pd
import pytest

from recinject.foundation.errors import RecinjectError
from recinject.pipeline.check import preview_samples
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run


@pytest.fixture
def run(tiny_recipe, tmp_path):
    return Run(load_recipe(str(tiny_recipe), [f"runs={tmp_path}"]))


def test_a_preview_shows_the_very_samples_that_are_built(run, finished):
    shown = [sample for sample, _ in preview_samples(run, None, 2)]
    assert len({sample.task for sample in shown}) == 6
    for sample in shown:
        (path,) = (finished.folder / "samples" / sample.task).glob(f"{sample.split}-*.parquet")
        stored = pd.read_parquet(path).set_index("sample_id").loc[sample.sample_id]
        assert (stored["prompt"], stored["completion"]) == (sample.prompt, sample.completion)
    assert not run.recipe.folder.exists()


def test_more_than_there_are_shows_all(run, finished):
    shown = [sample.split for sample, _ in preview_samples(run, "rating", 10_000)]
    assert shown.count("test") == 60 and len(set(shown)) == 5


def test_a_task_that_is_not_in_the_run_is_refused(run):
    with pytest.raises(RecinjectError, match="--task: not among the run's tasks 'rank'"):
        list(preview_samples(run, "rank", 1))
