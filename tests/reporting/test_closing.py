"""Three sentences end a run: who won, by how much, and what to try next."""

import pytest

from recinject.reporting.closing import closing
from recinject.reporting.result import Facts, LossRow, Result


def metric(recommender, value, task="retrieval"):
    own = {"task": task, "recommender": recommender, "metric": "hr@10", "value": value, "n": 500}
    return own | {"ci_low": value - 0.02, "ci_high": value + 0.02}


def paired(one, other, difference, p):
    own = {"task": "retrieval", "metric": "hr@10", "recommender": one, "reference": other}
    ends = {"ci_low": difference - 0.02, "ci_high": difference + 0.02}
    return own | ends | {"difference": difference, "p_value": p, "n": 500}


def result(model, filters, p, losses=(), **more):
    metrics = [metric("language_model", model), metric("oracle", 0.9)]
    metrics += [metric(name, value) for name, value in filters.items()]
    tests = [paired("language_model", name, model - value, p) for name, value in filters.items()]
    steps = [{"step": 100 * n, "eval_loss": loss} for n, loss in enumerate(losses, 1)]
    facts = Facts(training=[LossRow(**step) for step in steps])
    rows = {"metrics": metrics, "comparisons": tests + more.get("tests", [])}
    return Result.from_rows(rows, facts=facts)


FLAT = [2.0, 1.5, 1.2, 1.2, 1.2, 1.2]


def test_a_filter_that_wins_is_said_to_win():
    won, much, after = closing(result(0.3, {"ease": 0.4, "popularity": 0.1}, 0.001, FLAT), "mine")
    assert won == "EASE wins on retrieval; the language model is number 2 of 3."
    assert much.startswith("The language model against EASE: HR@10 0.300 [0.280, 0.320] against")
    assert "−0.100 [−0.120, −0.080]" in much and "n = 500 users" in much
    assert "recinject recommend mine --recommender ease" in after


def test_a_model_that_wins_is_told_to_do_it_again():
    won, _, after = closing(result(0.5, {"ease": 0.4, "popularity": 0.1}, 0.001, FLAT))
    assert won == "The language model wins on retrieval; EASE is number 2 of 3."
    assert "--seeds 1,2,3" in after


@pytest.mark.parametrize(("model", "first"), [(0.41, "The language model"), (0.39, "EASE")])
def test_what_no_test_tells_apart_is_no_win(model, first):
    won = closing(result(model, {"ease": 0.4}, 0.6, FLAT))[0]
    assert won.startswith(f"{first} has the best figure of 2") and "but no test tells it" in won


def test_a_loss_that_still_falls_asks_for_more_steps():
    falling = [2.0, 1.8, 1.6, 1.5, 1.4, 1.3]
    after = closing(result(0.3, {"ease": 0.4}, 0.001, falling))[2]
    assert "training.max_steps=1200" in after


def test_a_blend_that_adds_something_is_recommended():
    better = paired("language_model_blend", "ease", 0.05, 0.001)
    found = result(0.3, {"ease": 0.4}, 0.001, FLAT, tests=[better])
    assert "blend the two" in closing(found)[2] and "+0.050" in closing(found)[2]


def test_a_blend_is_not_what_a_command_asks():
    after = closing(result(0.3, {"blend": 0.45, "ease": 0.4}, 0.001, FLAT))[2]
    assert "--recommender ease" in after


def test_without_a_model_the_best_filter_is_named():
    rows = {"metrics": [metric("ease", 0.4), metric("popularity", 0.1)],
            "comparisons": [paired("ease", "popularity", 0.3, 0.001)]}  # fmt: skip
    won, _, after = closing(Result.from_rows(rows), "mine")
    assert won == "EASE wins on retrieval; popularity is number 2 of 2."
    assert "--recommender ease" in after


def test_nothing_is_made_of_nothing():
    assert closing(Result.from_rows({})) == ["Nothing was measured in this run."]
