"""Targets that stand in their own history: found where the log repeats, a miss where not."""

import numpy as np
import pandas as pd
import pytest
import torch

import recinject as ri
from recinject.data.splitting import Part
from recinject.evaluation.audit import repeated_targets
from recinject.models.building import build_model
from recinject.recommenders.language_model import LanguageModel

LESS = {"resamples": 100, "cutoffs": [5], "list_length": 10, "reworded": False, "shuffled": False}
ASKED = ["popularity", "item_knn", "ease", "markov_chain", {"als": {"factors": 4}}]


def events_of(repeating, users=60, items=30):
    """Each user takes nine different items, and of some the tenth is one of these."""
    rng, rows = np.random.default_rng(0), []
    for user in range(users):
        own = rng.permutation(items)[:10]
        own[9] = own[2] if user < repeating else own[9]
        rows += [(f"u{user:02d}", f"i{item}", time) for time, item in enumerate(own)]
    return pd.DataFrame(rows, columns=["user", "item", "time"])


def data_of(repeating, **more):
    return ri.prepare(ri.Log.from_frame(events_of(repeating)), k_core=0, **more)


def share_by_hand(split):
    view = split.view(Part.TEST)
    targets = view.targets.values
    past, items = view.histories(targets), view.interactions.items
    return np.mean([items[event] in items[past[row]] for row, event in enumerate(targets)])


@pytest.mark.parametrize("rule", ["leave_one_out", "user_ratio", "random", "global_time"])
@pytest.mark.parametrize("repeating", [0, 7, 60])
def test_the_share_is_that_of_the_histories_written_out(rule, repeating):
    split = data_of(repeating, split=rule).split
    assert repeated_targets(split) == pytest.approx(share_by_hand(split))


def found(result):
    frame = result.audit.set_index("check")
    return [name for name in ("seen_kept", "seen_left_out") if name in frame.index], frame


@pytest.mark.parametrize(
    ("repeating", "seen", "kept"),
    [(0, "auto", False), (3, "auto", False), (4, "auto", True), (60, "auto", True)]
    + [(0, "keep", True), (60, "filter", False)],
)
def test_the_default_follows_the_log_and_a_line_says_so(repeating, seen, kept):
    result = ri.evaluate(ASKED, data_of(repeating), seen=seen, **LESS)
    names, frame = found(result)
    assert names == ["seen_kept" if kept else "seen_left_out"]
    assert frame["value"][names[0]] == pytest.approx(repeating / 60)
    assert not [check for check in frame.index if check.startswith("illegal") and kept]
    for (_, name), predictions in result.predictions.items():
        listed = zip(predictions["target"], predictions["items"], strict=True)
        hits = [target in items for target, items in listed]
        if not kept:
            assert not any(hits[:repeating])
        elif repeating == 60:
            assert any(hits), name


def test_the_report_says_what_was_done(tmp_path):
    for seen, said in (("keep", "history may come again"), ("filter", "history is left out")):
        result = ri.evaluate(["popularity"], data_of(30), seen=seen, **LESS)
        result.report(tmp_path / seen)
        text = (tmp_path / seen / "report.md").read_text("utf-8")
        assert said in text and "50" in text
        assert ("evaluation.seen=keep" in text) == (seen == "filter")


def test_a_language_model_is_kept_from_seen_items_or_not_like_everybody_else():
    data = data_of(60)
    samples = ri.build_samples(data, ["retrieval"])
    config = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    with torch.random.fork_rng():
        model = build_model(config, samples.tokenizer, seed=1).eval()
    asked = LanguageModel.of_samples(model, samples, beams=30)
    settings = LESS | {"list_length": 30}
    for seen, absent in (("keep", 0), ("filter", 9)):
        result = ri.evaluate([asked, "popularity"], data, samples, seen=seen, **settings)
        for predictions in result.predictions.values():
            empty = [int((np.array(items) < 0).sum()) for items in predictions["items"]]
            assert empty == [absent] * 60
            assert np.isfinite(predictions["ahead"]).all() == (seen == "keep")


def test_what_a_person_is_recommended_is_never_what_they_had():
    fitted = ri.fit("popularity", data_of(60))
    assert len(fitted.recommend([["i1", "i2"]], k=30)) == 28
