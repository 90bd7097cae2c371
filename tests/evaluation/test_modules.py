import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
from sklearn.metrics import (
    mean_absolute_error,
    ndcg_score,
    roc_auc_score,
    root_mean_squared_error,
)

from recinject import registry
from recinject.evaluation import modules
from recinject.evaluation.metrics import HitRate
from recinject.evaluation.modules import EvaluateMetric
from recinject.foundation.errors import RecinjectError

RANKING = ("hr", "ndcg", "mrr")
RNG = np.random.default_rng(0)
LISTS = [RNG.permutation(30)[:20].tolist() for _ in range(50)]
TARGETS = RNG.integers(30, size=50).tolist()


def ranking(lists, targets, k):
    metrics = map(EvaluateMetric, RANKING)
    found = [m.compute(predictions=lists, references=targets, k=k) for m in metrics]
    return {name: value for each in found for name, value in each.items()}


def by_hand(lists, targets, k):
    pairs = zip(lists, targets, strict=True)
    places = [items.index(target) + 1 if target in items else None for items, target in pairs]
    found = {}
    for cutoff in k:
        near = [place for place in places if place is not None and place <= cutoff]
        found[f"hr@{cutoff}"] = len(near) / len(lists)
        found[f"ndcg@{cutoff}"] = sum(1 / np.log2(1 + place) for place in near) / len(lists)
    found["mrr"] = sum(1 / place for place in places if place) / len(lists)
    return found


@pytest.mark.parametrize("kind", [int, lambda item: f"item {item}"], ids=["integers", "texts"])
def test_ranking_metrics_are_those_counted_by_hand(kind):
    lists, targets = [[kind(item) for item in row] for row in LISTS], [kind(t) for t in TARGETS]
    found = ranking(lists, targets, [2, 5, 20])
    assert found == pytest.approx(by_hand(lists, targets, [2, 5, 20]))
    assert 0 < found["hr@2"] < found["hr@5"] < found["hr@20"] < 1


def test_ndcg_is_that_of_scikit_learn():
    relevance = np.zeros((50, 30))
    relevance[np.arange(50), TARGETS] = 1
    scores = np.full((50, 30), -100.0) - np.arange(30)
    for row, items in enumerate(LISTS):
        scores[row, items] = -np.arange(20)
    found = ranking(LISTS, TARGETS, [5, 10])
    for k in (5, 10):
        assert found[f"ndcg@{k}"] == pytest.approx(ndcg_score(relevance, scores, k=k))


def test_lists_may_differ_in_length_but_must_reach_the_cutoff():
    lists = [["a", "b", "c"], ["b"], []]
    found = ranking(lists, ["c", "b", "a"], [3])
    assert found == pytest.approx(by_hand(lists, ["c", "b", "a"], [3]))
    with pytest.raises(RecinjectError, match="hr@5 of predictions: its lists end after 3"):
        ranking(lists, ["c", "b", "a"], [5])


def test_rating_metrics_are_those_of_scikit_learn():
    predicted, true = RNG.normal(3, 1, 40), RNG.integers(1, 6, 40).astype(float)
    metrics = map(EvaluateMetric, ("rmse", "mae", "auc"))
    found = evaluate.combine(list(metrics)).compute(predictions=predicted, references=true)
    assert found["auc"] == pytest.approx(roc_auc_score(true >= np.median(true), predicted))
    assert found["rmse"] == pytest.approx(root_mean_squared_error(true, predicted))
    assert found["mae"] == pytest.approx(mean_absolute_error(true, predicted))


def test_batches_add_up_and_metrics_combine():
    metric = EvaluateMetric("hr")
    for start in range(0, 50, 20):
        metric.add_batch(
            predictions=LISTS[start : start + 20], references=TARGETS[start : start + 20]
        )
    assert metric.compute(k=[10])["hr@10"] == by_hand(LISTS, TARGETS, [10])["hr@10"]


PROGRAM = """
import sys
import recinject, recinject.evaluation.evaluate, recinject.evaluation.metrics
assert "evaluate" not in sys.modules
import evaluate
hr, mae = (evaluate.load(sys.argv[1], name) for name in ("hr", "mae"))
found = hr.compute(predictions=[["a", "b"]], references=["b"], k=[1, 2])
assert (found["hr@1"], found["hr@2"]) == (0.0, 1.0), found
assert mae.compute(predictions=[3.0, 5.0], references=[4.0, 5.0])["mae"] == 0.5
"""


def test_they_load_by_their_path_without_a_network_and_only_when_asked(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, modules.__file__],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert ended.returncode == 0, ended.stderr


def test_a_metric_of_one_s_own_is_a_module_too(monkeypatch):
    class First(HitRate):
        """How often the first item is the target."""

        by_cutoff = False

        def values(self, prediction, queries, k):
            return super().values(prediction, queries, 1)

    monkeypatch.setitem(registry._things["metric"], "first", First)
    assert EvaluateMetric("first").compute(predictions=LISTS, references=TARGETS) == {
        "first": pytest.approx(by_hand(LISTS, TARGETS, [1])["hr@1"])
    }
    with pytest.raises(RecinjectError, match="unknown metric 'frist'"):
        EvaluateMetric("frist")
