from __future__ import annotations

from math import isnan

import pytest

from recinject.foundation.errors import RecinjectError
from recinject.reporting.inputs import LossRow, MetricRow, read_rows

ROW = {"task": "rating", "recommender": "als", "metric": "rmse", "value": 1.0, "n": 3}


def test_rows_drop_what_they_do_not_know_and_take_null_for_no_number() -> None:
    (row,) = read_rows(MetricRow, [ROW | {"ci_low": None, "ci_high": 1.2, "extra": "x"}])
    assert isnan(row.ci_low) and row.ci_high == 1.2
    assert read_rows(LossRow, [{"step": 4, "eval_loss": 2.0}]) == [LossRow(4, None, 2.0)]


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RecinjectError, match="row 1 of MetricRow has no ci_low, ci_high"):
        read_rows(MetricRow, [ROW])
