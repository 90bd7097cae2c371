"""Mistakes in calls of the public functions: each is refused, with a fix, before it misleads."""

import numpy as np
import pandas as pd
import pytest

import recinject as ri
from recinject import registry

T5 = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
ITEMS = pd.DataFrame(
    {"item_id": [f"i{n}" for n in range(10)], "title": [f"T {n}" for n in range(10)]}
)
LESS = {"resamples": 20}


def events(seed):
    rng = np.random.default_rng(seed)
    rows = [(f"u{user}", f"i{item}", 3) for user in range(12) for item in rng.permutation(10)[:6]]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "rating"])


@pytest.fixture(scope="module")
def log():
    return ri.Log.from_frame(events(0), ITEMS)


@pytest.fixture(scope="module")
def data(log):
    return ri.prepare(log, k_core=2)


@pytest.fixture(scope="module")
def other():
    """Data of the same users and items, who chose otherwise."""
    return ri.prepare(ri.Log.from_frame(events(5), ITEMS), k_core=2)


@pytest.fixture(scope="module")
def samples(data):
    return ri.build_samples(data, ["retrieval"])


class Scorer(ri.ItemScorer):
    name = "scorer"
    shape = (12, 10)

    def fit(self, training, seed):
        pass

    def score(self, queries, rows):
        return np.zeros(self.shape)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ties": "hsh"}, "prepare.ties"),
        ({"k_core": -1}, "prepare.k_core"),
        ({"seed": "x"}, "prepare.seed"),
        ({"split": {"rule": "user_ratio", "test_share": 2}}, "prepare.test_share"),
        ({"split": {"train_share": 5.0}}, "prepare.train_share"),
        ({"split": {"k_core": 3}}, "split.k_core: unknown key"),
        ({"split": 3}, "split: int where Mapping"),
        ({"identifiers": None}, "identifiers: NoneType"),
        ({"identifiers": {"kind": "number", "seed": 1}}, "identifiers.seed: unknown key"),
    ],
)
def test_prepare(log, wrong, said):
    with pytest.raises(ri.RecinjectError, match=said):
        ri.prepare(log, **wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tasks": "retrieval"}, "tasks: 'retrieval' is no list"),
        ({"tasks": [3]}, "unknown task 3"),
        ({"tasks": {"retrieval": "x"}}, "tasks.retrieval: str"),
        ({"limit": -1}, "build_samples.limit"),
        ({"passes": 0}, "build_samples.passes"),
        ({"shots": -1}, "build_samples.shots"),
        ({"tokens": "maybe"}, "build_samples.tokens"),
        ({"seed": "x"}, "build_samples.seed"),
        ({"phrases": {"histry": "{{ identifier }}"}}, "did you mean 'history'"),
    ],
)
def test_build_samples(data, wrong, said):
    with pytest.raises(ri.RecinjectError, match=said):
        ri.build_samples(data, **{"tasks": ["retrieval"], **wrong})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"limit": 0}, "evaluate.limit"),
        ({"resamples": 0}, "evaluate.resamples"),
        ({"list_length": 0}, "evaluate.list_length"),
        ({"cutoffs": []}, "evaluate.cutoffs"),
        ({"cutoffs": [0]}, "evaluate.cutoffs.0"),
        ({"recommenders": "ease"}, "'ease' is no list"),
        ({"recommenders": []}, "can be asked of nobody"),
        ({"recommenders": ["item_mean"], "tasks": ["retrieval"]}, "can be asked of item_mean"),
        ({"recommenders": [{"ease": {}, "als": {}}]}, "is no recommender"),
        ({"recommenders": [Scorer]}, "is no recommender"),
        ({"recommenders": [{"ease": {"name": "a/b"}}]}, "'a/b' is no name"),
        ({"samples": "folder"}, "str where Samples"),
        ({"data": None}, "NoneType where Data"),
    ],
)
def test_evaluate(data, wrong, said):
    with pytest.raises(ri.RecinjectError, match=said):
        ri.evaluate(**{"recommenders": ["ease"], "data": data, **LESS, **wrong})


def test_things_made_of_other_data(data, other, samples, tmp_path):
    with pytest.raises(ri.RecinjectError, match="not made of these data"):
        ri.evaluate(["ease"], other, samples, **LESS)
    with pytest.raises(ri.RecinjectError, match="ease: made of other data"):
        ri.evaluate([ri.fit("ease", other)], data, samples, **LESS)
    model = ri.fine_tune(T5, samples, max_steps=1, use_cpu=True)
    titled = ri.prepare(ri.Log.from_frame(events(0), ITEMS), k_core=2, identifiers="title")
    with pytest.raises(ri.RecinjectError, match="language_model: made of other data"):
        ri.evaluate([model], titled, **LESS)
    ri.build_samples(data, ["retrieval"], folder=tmp_path / "samples")
    with pytest.raises(ri.RecinjectError, match="not made of these data"):
        ri.load_samples(str(tmp_path / "samples"), other)
    assert len(ri.load_samples(str(tmp_path / "samples"), data)) == 1
    with pytest.raises(ri.RecinjectError, match="a history is empty"):
        model.recommend([[]])
    # Its tokens are numbered otherwise than those of samples whose tokenizer was learnt anew.
    model.save(tmp_path / "model")
    with pytest.raises(ri.RecinjectError, match="reads other tokens"):
        ri.fine_tune(tmp_path / "model", ri.build_samples(titled, ["retrieval"]), max_steps=1)


def test_recommend(data):
    fitted = ri.fit("ease", data)
    for k in (0, -1, 2.5, None):
        with pytest.raises(ri.RecinjectError, match="no number of items"):
            fitted.recommend([["T 5"]], k=k)
    for histories in ("T 5", ["T 5"], [["T 5"], "T 6"]):
        with pytest.raises(ri.RecinjectError, match="is no list"):
            fitted.recommend(histories)
    with pytest.raises(ri.RecinjectError, match="the id '5'"):
        fitted.recommend([[5]])
    assert len(fitted.recommend(users=pd.Series(["u0"], index=[7]), k=2)) == 2
    assert len(fitted.recommend(users=(user for user in ["u0"]), k=2)) == 2


def test_a_title_that_is_another_items_id():
    items = ITEMS.assign(title=["i1", *ITEMS["title"][1:]])
    fitted = ri.fit("ease", ri.prepare(ri.Log.from_frame(events(0), items), k_core=2))
    with pytest.raises(ri.RecinjectError, match="title of one item and the id of another"):
        fitted.recommend([["i1"]])
    assert len(fitted.recommend([["i0", "T 1"]], k=3)) == 3


@pytest.mark.parametrize("shape", [(10,), (12, 9), (12, 15), (1, 10), ()])
def test_scores_of_a_wrong_shape(data, shape):
    scorer = Scorer()
    scorer.shape = shape
    with pytest.raises(ri.RecinjectError, match="scores of the shape"):
        ri.evaluate([scorer], data, **LESS)


def test_a_recommender_without_a_name(data):
    nameless = type("Nameless", (ri.ItemScorer,), {"fit": Scorer.fit, "score": Scorer.score})
    with pytest.raises(ri.RecinjectError, match="Nameless: None is no name"):
        ri.fit(nameless(), data)
    with pytest.raises(ri.RecinjectError, match="has no name"):
        ri.register("recommender")(nameless)


@pytest.mark.parametrize("values", [None, 3.0, np.zeros(1), np.zeros((12, 2))])
def test_a_metric_that_gives_no_value_a_query(data, values, monkeypatch):
    made = type("Odd", (ri.Metric,), {"label": "Odd", "values": lambda *given: values})
    registry.names("metric")
    monkeypatch.setitem(registry._things["metric"], "odd", made)
    with pytest.raises(ri.RecinjectError, match="the metric Odd: values of the shape"):
        ri.evaluate(["ease"], data, **LESS)


def test_stored_results(data, tmp_path):
    ri.evaluate(["ease"], data, **LESS).save(tmp_path)
    ri.evaluate(["popularity"], data, **LESS).save(tmp_path)
    assert list(ri.Result.load(tmp_path).predictions) == [("retrieval", "popularity")]
    (tmp_path / "metrics.json").write_text('[{"a": 1}]', "utf-8")
    with pytest.raises(ri.RecinjectError, match="not those of a result"):
        ri.Result.load(tmp_path)
    (tmp_path / "metrics.json").write_text("[", "utf-8")
    with pytest.raises(ri.RecinjectError, match=r"metrics.json: is no JSON"):
        ri.Result.load(tmp_path)


@pytest.mark.parametrize("name", ["interactions", "items", "users"])
def test_stored_data_with_a_broken_file(data, tmp_path, name):
    data.save(tmp_path)
    (tmp_path / "data" / f"{name}.parquet").write_bytes(b"x")
    with pytest.raises(ri.RecinjectError, match="broken or absent"):
        ri.Data.load(tmp_path)


def test_columns_that_are_numbers():
    frame = events(0).set_axis(range(3), axis=1)
    assert len(ri.Log.from_frame(frame, columns={"user_id": 0, "item_id": 1}).interactions) == 72
    with pytest.raises(ri.RecinjectError, match="columns: list"):
        ri.Log.from_frame(frame, columns=["user_id"])


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"learning_rate": -1}])
def test_fine_tune(samples, wrong):
    with pytest.raises(ri.RecinjectError, match="greater than or equal to 0"):
        ri.fine_tune(T5, samples, **{"max_steps": 1, "use_cpu": True, **wrong})
