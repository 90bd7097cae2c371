from __future__ import annotations

from dataclasses import replace
from math import nan

from hypothesis import given
from hypothesis import strategies as st

from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.statistics import Comparison
from recinject.reporting.headline import headline as sentences


def headline(
    metrics: list[MetricResult],
    comparisons: list[Comparison],
    subject: str | None = "The language model",
) -> str:
    return " ".join(sentences(metrics, comparisons, subject))


def measured(task: str, metric: str, **values: float) -> list[MetricResult]:
    return [MetricResult(task, k, metric, v, v - 0.01, v + 0.01, 1500) for k, v in values.items()]


def compared(task: str, metric: str, reference: str, gap: float, p: float) -> Comparison:
    row = (task, metric, "language_model", reference, gap, gap - 0.005, gap + 0.005, p, 1500)
    return Comparison(*row)


def test_a_win_is_told_with_values_intervals_n_and_test() -> None:
    metrics = measured("retrieval", "hr@10", language_model=0.12, item_knn=0.1, popularity=0.05)
    tests = [
        compared("retrieval", "hr@10", "item_knn", 0.02, 0.0001),
        compared("retrieval", "hr@10", "popularity", 0.07, 0.021),
    ]
    assert headline(metrics, tests) == (
        "The language model beats item kNN, the best of 2 baselines, on retrieval: HR@10 0.120 "
        "[0.110, 0.130] against 0.100 [0.090, 0.110] (n = 1,500 users; paired difference +0.020 "
        "[0.015, 0.025], p < .001). It beats popularity (0.050 [0.040, 0.060]; paired difference "
        "+0.070 [0.065, 0.075], p = .021)."
    )


def test_a_loss_to_one_baseline_stands_in_the_first_words() -> None:
    metrics = measured("retrieval", "hr@10", language_model=0.1, als=0.11, popularity=0.05)
    text = headline(metrics, [compared("retrieval", "hr@10", "als", -0.01, 0.03)])
    assert text.startswith("The language model loses to ALS, the best of 2 baselines, on retrieval")
    assert "difference −0.010 [−0.015, −0.005], p = .030)" in text
    assert "It scores above popularity (0.050 [0.040, 0.060]; no paired test was made)." in text


def test_a_difference_that_is_noise_is_called_so() -> None:
    metrics = measured("retrieval", "hr@10", language_model=0.102, als=0.1)
    text = headline(metrics, [compared("retrieval", "hr@10", "als", 0.002, 0.41)])
    assert text.startswith("The language model scores above ALS on retrieval")
    assert "p = .410, not significant" in text


def test_of_many_comparisons_the_headline_corrects_the_test() -> None:
    others = {f"other_{n}": 0.05 for n in range(9)}
    metrics = measured("retrieval", "hr@10", language_model=0.102, als=0.1, **others)
    tests = [compared("retrieval", "hr@10", name, 0.002, 0.02) for name in ("als", *others)]
    assert "beats ALS" in headline(metrics, tests[:1])
    text = headline(metrics, tests)
    assert "scores above ALS, the best of 10 baselines" in text
    assert "p = .200, not significant" in text


def test_equal_values_tie() -> None:
    metrics = measured("retrieval", "hr@10", language_model=0.1, popularity=0.1)
    assert "ties with popularity on retrieval" in headline(metrics, [])


def test_zero_shot_loses_to_all_and_says_untrained() -> None:
    metrics = measured("retrieval", "hr@10", language_model=0.0, random=0.002, popularity=0.05)
    text = headline(metrics, [], "The untrained (zero-shot) language model")
    assert text.startswith("The untrained (zero-shot) language model loses to popularity")


def test_rating_alone_knows_that_lower_is_better() -> None:
    metrics = measured("rating", "rmse", language_model=1.0, item_mean=0.95, global_mean=1.1)
    gaps = {"item_mean": 0.05, "global_mean": -0.1}
    tests = [compared("rating", "rmse", name, gap, 0.001) for name, gap in gaps.items()]
    text = headline(metrics, tests)
    assert text.startswith("The language model loses to item mean, the best of 2 baselines, on rat")
    assert "It beats global mean" in text


def test_losses_on_other_tasks_are_not_hidden_behind_a_win() -> None:
    metrics = [
        *measured("rating", "rmse", language_model=1.0, item_mean=0.95),
        *measured("retrieval", "hr@10", language_model=0.2, als=0.1),
    ]
    assert headline(metrics, []).endswith(
        "It loses on rating to item mean (RMSE 1.000 against 0.950, not significantly)."
    )


def test_without_baselines_or_without_the_model_it_claims_nothing() -> None:
    alone = measured("ranking", "hr@10", language_model=0.4)
    assert "no other recommender was measured, so it proves nothing yet" in headline(alone, [])
    assert headline(measured("ranking", "hr@10", als=0.4), []).endswith("not measured in this run.")
    assert headline([], []).endswith("not measured in this run.")


def test_without_a_model_the_best_baseline_of_each_task_is_told() -> None:
    metrics = [
        *measured("rating", "rmse", user_mean=1.05, item_mean=0.95),
        *measured("retrieval", "hr@10", popularity=0.05, item_knn=0.1, ease=0.12),
        *measured("ranking", "hr@10", als=0.4),
    ]
    test = ("retrieval", "hr@10", "ease", "item_knn", 0.02, 0.015, 0.025, 0.0001, 1500)
    assert headline(metrics, [Comparison(*test)], None) == (
        "EASE, the best of 3 baselines on retrieval, beats item kNN: HR@10 0.120 [0.110, 0.130] "
        "against 0.100 [0.090, 0.110] (n = 1,500 users; paired difference +0.020 [0.015, 0.025], "
        "p < .001). ALS reaches HR@10 0.400 [0.390, 0.410] on ranking (n = 1,500 users); no other "
        "recommender was measured, so it proves nothing yet. Item mean, the best of 2 baselines on "
        "rating, scores above user mean: RMSE 0.950 [0.940, 0.960] against 1.050 [1.040, 1.060] "
        "(n = 1,500 users; no paired test was made). No language model was asked."
    )
    assert headline([], [], None) == "Nothing was measured in this run."


def test_a_missing_value_is_no_value() -> None:
    rows = measured("retrieval", "hr@10", language_model=0.1, als=0.05, bpr=0.2)
    rows[2] = replace(rows[2], value=nan)
    assert "scores above ALS on retrieval" in headline(rows, [])


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6))
def test_the_first_sentence_says_loses_exactly_when_a_baseline_is_better(hits: list[int]) -> None:
    own, *others = hits
    values = {f"baseline_{number}": value / 50 for number, value in enumerate(others)}
    metrics = measured("retrieval", "hr@10", language_model=own / 50, **values)
    assert (" loses to " in headline(metrics, []).split(":")[0]) == (own < max(others))
