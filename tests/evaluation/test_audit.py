from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recinject.data.schema import Catalog, Interactions
from recinject.data.splitting import Split, leave_one_out
from recinject.evaluation.audit import (
    Finding,
    Leaks,
    _unlike_tokens,
    duplicates,
    held_out_items,
    highest_id_rule,
    prompts,
    recommended_lists,
    time_order,
)
from recinject.foundation.ragged import Ragged
from recinject.recommenders.protocol import Prediction, Queries
from recinject.samples.builder import SCHEMA


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check.partition(":")[0]: finding for finding in findings}


def split_of(items: list[list[int]], timestamps: list[float] | None = None) -> Split:
    users = np.repeat(np.arange(len(items)), [len(row) for row in items]).astype(np.int32)
    return leave_one_out(
        Interactions(
            users=users,
            items=np.concatenate(items).astype(np.int32),
            ratings=None,
            timestamps=None if timestamps is None else np.array(timestamps),
            user_ids=[str(user) for user in range(len(items))],
            n_items=100,
        )
    )


def asked(histories: list[list[int]], targets: list[int], slates: list[list[int]] | None = None):
    n = len(histories)
    return Queries(
        task="ranking" if slates else "retrieval",
        sample_ids=[""] * n,
        prompts=[""] * n,
        users=np.arange(n, dtype=np.int32),
        histories=[np.array(history, np.int32) for history in histories],
        targets=np.array(targets, np.int32),
        candidates=np.array(slates, np.int32) if slates else None,
    )


def test_time_order_shows_ties_and_training_from_the_future() -> None:
    split = split_of([[1, 2, 3], [4, 5, 6, 7]], [0, 10, 10, 0, 40, 50, 60])
    found = by_check(time_order(split))
    assert found["time_ties"].value == 0.5
    assert found["future_training"].value == pytest.approx(1 / 3)
    assert {finding.verdict for finding in found.values()} == {"note"}


def test_a_log_without_times_is_taken_on_trust() -> None:
    (found,) = time_order(split_of([[1, 2, 3]]))
    assert (found.value, found.verdict) == ("unknown", "note")


def test_numbers_in_order_of_appearance_are_caught() -> None:
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 900, 300)
    queries = asked([[s, s + 2] for s in starts], [s + 3 for s in starts])
    leaky, mixed = np.arange(1000), rng.permutation(1000)
    caught = by_check(highest_id_rule(leaky, queries))
    assert (caught["highest_id_rule_hr@1"].value, caught["highest_id_rule_hr@1"].verdict) == (
        1.0,
        "warning",
    )
    assert {f.verdict for f in highest_id_rule(mixed, queries)} == {"ok"}
    assert highest_id_rule(None, queries) == []


def test_a_history_without_items_is_no_hit_by_default() -> None:
    found = by_check(highest_id_rule(np.arange(100), asked([[]], [0])))
    assert found["highest_id_rule_hr@10"].value == 0.0


def test_duplicates_count_the_items_that_share_a_name() -> None:
    titles = ["Red Pen", "Ink", "red  pen", "", ""]
    catalog = Catalog(pd.DataFrame({"item_id": list("abcde"), "title": titles}))
    found = by_check(duplicates(catalog, ["1", "2", "3", "3", "3"]))
    assert (found["duplicate_titles"].value, found["duplicate_titles"].verdict) == (2, "note")
    assert found["duplicate_identifiers"].value == 3
    assert found["duplicate_identifiers"].verdict == "warning"


@pytest.mark.parametrize(("folder", "shared"), [("beauty", 57), ("toys", 130)])
def test_shared_titles_of_the_amazon_sets(shared_data: Path, folder: str, shared: int) -> None:
    frame = pd.read_json(shared_data / f"amazon-2014-{folder}" / "items.jsonl.gz", lines=True)
    catalog = Catalog(frame.assign(title=frame["title"].fillna("")))
    found = by_check(duplicates(catalog, catalog.item_ids))
    assert found["duplicate_titles"].value == shared
    assert found["duplicate_identifiers"].verdict == "ok"


def test_a_held_out_item_in_a_training_sample_is_a_leak() -> None:
    split = split_of([[1, 2, 3], [3, 4, 3, 5]])
    barred = held_out_items(split)
    assert barred == {0: {2, 3}, 1: {5}}, "a repeated item is known from training"
    names = {"history": [f"#{item}" for item in range(100)]}

    def leaks(*rows):
        columns = ("user", "target", "candidates", "prompt", "completion")
        table = pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows], SCHEMA)
        return Leaks(barred, names).count(table)

    honest = [(0, 1, None, "took #1", "#1"), (1, 4, [3, 4], "took #3, #4, #50", "#30, #20")]
    assert leaks(*honest) == 0
    assert leaks(*honest, (0, 2, None, "", ""), (1, 3, [3, 5], "", "")) == 2
    assert leaks((0, 1, None, "took #2.", ""), (1, None, None, "", "#5"), honest[0]) == 2


def test_a_title_within_a_longer_one_gives_nobody_away() -> None:
    barred, titles = {0: {0}}, {"history": ["Toy Story", "Toy Story 2", "Heat", "Heat"]}
    for prompt, leaks in (("saw Toy Story 2", 0), ("saw Toy Story, Toy Story 2", 1)):
        row = {"user": 0, "prompt": prompt, "completion": ""}
        assert Leaks(barred, titles).count(pa.Table.from_pylist([row], SCHEMA)) == leaks
    row = {"user": 0, "prompt": "saw Heat", "completion": ""}
    assert Leaks({0: {3}}, titles).count(pa.Table.from_pylist([row], SCHEMA)) == 0


@pytest.mark.parametrize(("rows", "found"), [(1, 0), (2, 1), (3, 2)])
def test_samples_without_tokens_and_with_others_are_counted(
    tmp_path, rows: int, found: int
) -> None:
    tokens = pa.table({"input_ids": [[1], [3]][:rows], "labels": [[2]] * min(rows, 2)})
    with pa.ipc.new_stream(str(tmp_path / "train.arrow"), tokens.schema) as sink:
        sink.write_table(tokens)
    table = pa.table({"prompt": ["a"] * rows, "completion": ["b"] * rows})
    dialect = SimpleNamespace(
        prompts=lambda texts: Ragged.from_rows([[1]] * len(texts)),
        completions=lambda texts: Ragged.from_rows([[2]] * len(texts)),
    )
    samples = SimpleNamespace(dialect=dialect, settings=SimpleNamespace(limits=(9, 9)))
    assert _unlike_tokens(samples, table, tmp_path / "train.arrow", 10) == found


def test_lists_are_searched_for_what_must_not_be_in_them() -> None:
    items = np.array([[1, 1, 7, -1], [4, 9, 3, 2]], np.int32)
    prediction = Prediction("model", "retrieval", items=items)
    found = by_check(recommended_lists(prediction, asked([[7], [8]], [0, 0]), n_items=9))
    assert {check: finding.value for check, finding in found.items()} == {
        "empty_recommendations": 1,
        "outside_recommendations": 1,
        "repeated_recommendations": 1,
        "illegal_recommendations": 1,
    }
    assert found["empty_recommendations"].verdict == "note"
    assert found["illegal_recommendations"].verdict == "warning"


def test_lists_may_only_name_candidates() -> None:
    prediction = Prediction("model", "ranking", items=np.array([[1, 5]], np.int32))
    found = by_check(recommended_lists(prediction, asked([[0]], [1], [[1, 2, 3]]), n_items=9))
    assert found["illegal_recommendations"].value == 1


def test_predicted_ratings_have_no_lists() -> None:
    prediction = Prediction("model", "rating", ratings=np.ones(1))
    assert recommended_lists(prediction, asked([[0]], [1]), n_items=9) == []


@pytest.mark.parametrize(("cut", "verdict"), [(0, "ok"), (1, "note"), (60, "warning")])
def test_cut_prompts_are_reported(cut: int, verdict: str) -> None:
    tokens = {"samples": 1000, "truncated": cut, "unknown_tokens": 2}
    rows = [{"split": "train", "samples": 1000, "trimmed": 0, "tokens": tokens}]
    found = by_check(prompts(rows))
    assert (found["truncated_prompts"].value, found["truncated_prompts"].verdict) == (
        cut / 1000,
        verdict,
    )
    assert found["unknown_tokens"].verdict == "note"


def test_histories_that_were_trimmed_to_fit_are_counted_for_every_split() -> None:
    rows = [
        {"split": split, "samples": 50, "trimmed": trimmed, "tokens": None}
        for split, trimmed in (("train", 0), ("train", 0), ("test", 10), ("test", 0))
    ]
    found = {f.check: (f.value, f.verdict) for f in prompts(rows) if "trimmed" in f.check}
    assert found == {
        "trimmed_histories:train": (0.0, "ok"),
        "trimmed_histories:test": (0.1, "note"),
    }


def test_the_order_of_appearance_leaks_on_amazon_beauty(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "amazon-2014-beauty" / "interactions.tsv.gz", sep="\t")
    numbers = pd.factorize(table["item_id"])[0]
    histories = [row[:-1] for row in pd.Series(numbers).groupby(table["user_id"]).agg(list)]
    targets = pd.Series(numbers).groupby(table["user_id"]).last().tolist()
    queries = asked(histories, targets)
    n_items = int(numbers.max()) + 1
    appearance = by_check(highest_id_rule(np.arange(n_items), queries))
    assert appearance["highest_id_rule_hr@1"].value == pytest.approx(0.044, abs=0.001)
    permuted = np.random.default_rng(0).permutation(n_items)
    mixed = by_check(highest_id_rule(permuted, queries))
    assert float(mixed["highest_id_rule_hr@10"].value) < 0.002
    assert {finding.verdict for finding in mixed.values()} == {"ok"}
