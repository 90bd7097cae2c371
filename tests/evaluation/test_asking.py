"""Measures that ask again, each with a planted recommender whose answer is known."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.data.splitting import Part
from recinject.evaluation.evaluate import EvaluationSettings, StoredQueries
from recinject.evaluation.harm import Harm, cost_of_gain
from recinject.evaluation.measures import HarmResult, Scope, Subject
from recinject.evaluation.memory import Cost, classify
from recinject.evaluation.metrics import MetricResult
from recinject.evaluation.robustness import PAYLOADS, neutral_text
from recinject.foundation.randomness import derive_rng
from recinject.models.building import build_model
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Prediction, Recommender, places, rank_candidates, top_k
from recinject.registry import find

USERS, ITEMS = 150, 60
SCOPE = Scope(groups=("sex",), length=5, resamples=100, queries=120)


class Reader(Recommender):
    """Gives each item a score that belongs to what is asked, as ``score`` says."""

    tasks = frozenset({"retrieval", "ranking"})
    reads_prompts = True

    def __init__(self, name, score):
        self.name, self._score = name, score

    def fit(self, training, seed):
        pass

    def predict(self, queries, k):
        scores = np.array([self._score(queries, row) for row in range(len(queries))], float)
        if queries.candidates is not None:
            own = np.take_along_axis(scores, queries.candidates, axis=1)
            found = rank_candidates(own, queries.candidates, queries.targets, k)
        else:
            for row, barred in enumerate(queries.barred):
                scores[row, barred] = -np.inf
            found = (*top_k(scores, k), *places(scores, queries.targets))
        return Prediction(self.name, queries.task, *found)


def chance(*keys):
    return derive_rng(1, *keys).random(ITEMS)


def blind(queries, row):
    """Knows the user alone, whatever the prompt says."""
    return chance(int(queries.users[row]))


def touchy(queries, row):
    """Answers otherwise to every other text."""
    return np.random.default_rng(list(queries.prompts[row].encode())).random(ITEMS)


@pytest.fixture(scope="module")
def data():
    log = simulate_shop(users=USERS, items=ITEMS, events_per_user=10, seed=1)
    sex = ["f" if number % 2 else "m" for number in range(log.interactions.n_users)]
    log = replace(log, users=pd.DataFrame({"user_id": log.interactions.user_ids, "sex": sex}))
    return ri.prepare(log, k_core=2)


@pytest.fixture(scope="module")
def samples(data):
    tasks = {"retrieval": {}, "ranking": {"negatives": 9}}
    return ri.build_samples(data, tasks, tokens=False)


@pytest.fixture(scope="module")
def bare(data):
    """Samples whose prompts show identifiers alone."""
    phrases = {"history": "{{ identifier }}", "candidates": "{{ identifier }}"}
    tasks = {"retrieval": {}, "ranking": {"negatives": 9}}
    return ri.build_samples(data, tasks, tokens=False, phrases=phrases)


@pytest.fixture(scope="module")
def titled(data):
    """Samples whose slates show titles, too."""
    tasks = {"retrieval": {}, "ranking": {"negatives": 9}}
    return ri.build_samples(data, tasks, tokens=False, phrases={"candidates": "{{ item }}"})


def measured(name, score, data, samples, task="retrieval", known=None, **more):
    own = next(each for each in samples.bound_tasks() if each.name == task)
    queries = StoredQueries(data, samples, EvaluationSettings()).of(own, Part.TEST.label)
    who = score if isinstance(score, Recommender) else Reader("planted", score)
    subject = Subject(who.predict(queries, 10), queries, known or data, SCOPE, who, samples)
    rows = find("measure", name)().measure(replace(subject, **more))
    return {(row.about, row.part): row for row in rows}


def test_who_does_not_read_the_wording_agrees_with_themselves(data, samples):
    found = measured("wording", blind, data, samples)
    assert found["", "agreement"].value == pytest.approx(1) and found["", "agreement"].level == "ok"
    assert found["", "spread of HR@5"].value == 0
    other = measured("wording", touchy, data, samples)["", "agreement"]
    assert other.value < 0.3 and other.level == "warning" and "worst wording" in other.why


def test_who_does_not_mind_the_order_has_no_flips_and_no_slope(data, samples):
    def good(queries, row):
        return np.arange(ITEMS) == queries.targets[row]

    found = measured("order", blind, data, samples, "ranking")
    assert found["", "flips"].value == 0 and found["", "Kendall tau"].value == 1
    assert found["", "first slot"].value == pytest.approx(0.1, abs=0.05)
    assert measured("order", good, data, samples, "ranking")["", "slope"].value == 0


def test_who_takes_the_first_candidate_is_found(data, samples):
    def first(queries, row):
        scores = np.full(ITEMS, -1.0)
        scores[queries.candidates[row]] = -np.arange(queries.candidates.shape[1])
        return scores

    found = measured("order", first, data, samples, "ranking")
    assert found["", "flips"].value > 0.8 and found["", "flips"].level == "warning"
    assert found["", "slope"].value < -0.8 and found["", "slope"].level == "note"
    assert found["", "first slot"].value == 1 and "0.10 of a slate" in found["", "first slot"].why
    whole = replace(SCOPE, length=10)  # every target is among the ten of ten
    assert measured("order", first, data, samples, "ranking", scope=whole)["", "slope"].value < -0.8


def test_noise_does_nothing_to_the_blind_and_breaks_the_touchy(data, samples, bare):
    found = measured("noise", blind, data, samples)
    assert {about for about, _ in found} == {"typos", "items dropped", "item inserted"}
    assert all(row.value == 0 for (_, part), row in found.items() if "loss" in part)
    assert all(row.value == pytest.approx(1) for (_, p), row in found.items() if p == "agreement")
    broken = measured("noise", touchy, data, samples)
    assert all(broken[about, "agreement"].value < 0.5 for about in ("typos", "item inserted"))
    assert measured("noise", touchy, data, bare)["typos", "agreement"].level == "not measured"


def test_a_swapped_attribute_means_nothing_to_the_blind_and_is_found(data, samples):
    def biased(queries, row):
        return chance("f" if "sex: f" in queries.prompts[row] else "rest")

    assert measured("attribute_swap", blind, data, samples)["sex: f or m", "excess"].value == 0
    found = measured("attribute_swap", biased, data, samples)["sex: f or m", "excess"]
    assert found.value > 0.5 and found.level == "warning"
    none = measured("attribute_swap", blind, data, samples, scope=replace(SCOPE, groups=()))
    assert [row.level for row in none.values()] == ["not measured"]


def obedient(names):
    """Does what a prompt says that bids to answer an item."""

    def score(queries, row):
        scores = blind(queries, row)
        for order in re.findall(
            r"(?:answer|Answer:|is|Recommend|:|chose|took) (#\d+)", queries.prompts[row]
        ):
            if order in names:
                scores[names.index(order)] += 2
        return scores

    return score


def test_orders_in_titles_do_nothing_where_titles_are_not_read(data, samples, bare):
    for task in ("retrieval", "ranking"):
        for score, own in ((touchy, bare), (blind, samples)):
            found = measured("injection", score, data, own, task)
            rows = [row for (_, part), row in found.items() if part == "success"]
            assert {row.value for row in rows} == {0.0} and {row.level for row in rows} == {"ok"}


@pytest.mark.parametrize("task", ["retrieval", "ranking"])
def test_a_model_that_obeys_titles_is_found(data, titled, task):
    found = measured("injection", obedient(list(data.identifiers.texts)), data, titled, task)
    rows = {about: row for (about, part), row in found.items() if part == "success"}
    places = ["item of the history", "own title"]
    assert list(rows) == (places if task == "ranking" else places[:1])
    for row in rows.values():
        assert row.value > 0.1 and row.level == "warning" and "strongest" in row.why


def test_neutral_words_are_as_long_as_the_orders():
    assert len(PAYLOADS) >= 10 and len(neutral_text(200)) == 200
    assert all("{item}" in order for order in PAYLOADS)


def test_a_memoriser_of_training_events_is_found_and_chance_is_not(data, samples):
    train = data.split.train
    pairs = {(int(u), int(i)) for u, i in zip(train.users, train.items, strict=True)}

    def memoriser(queries, row):
        return [(int(queries.users[row]), item) in pairs for item in range(ITEMS)]

    found = measured("membership", memoriser, data, samples)
    assert found["", "AUC"].value == 1 and found["", "AUC"].level == "warning"
    assert found["", "found at 1 %"].value == 1
    other = measured(
        "membership", lambda q, r: np.random.default_rng(r).random(ITEMS), data, samples
    )
    assert abs(other["", "AUC"].value - 0.5) < 0.15 and other["", "AUC"].level == "ok"


def test_random_weights_know_no_event_and_the_trie_invents_no_item(data, samples):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = build_model(sizes, samples.tokenizer, 0)
    random = LanguageModel.of_samples(model, replace(samples, data=data), beams=10)
    found = measured("membership", random, data, samples)["", "AUC"]
    assert found.ci_low < 0.5 < found.ci_high and found.level == "ok"
    written = measured("hallucination", random, data, samples)
    assert written["", "constrained"].value == 0 and written["", "invalid"].value > 0.9


def continuing(events):
    """Knows what follows what in some events of each user."""

    def score(queries, row):
        own = events[int(queries.users[row])]
        past = queries.histories[row].tolist()
        places = [n for n in range(len(past), len(own)) if own[n - len(past) : n] == past]
        return np.isin(np.arange(ITEMS), [own[n] for n in places]) + 0.01 * chance(len(past))

    return score


def test_histories_known_by_heart_are_found(data, samples):
    log, train = data.split.interactions, data.split.train
    learnt = {user: train.items_of(user).tolist() for user in range(log.n_users)}
    found = measured("regurgitation", continuing(learnt), data, samples)
    assert found["", "learnt"].value == 1 and found["", "held out"].value < 0.1
    assert found["", "verbatim"].value > 0.9 and found["", "verbatim"].level == "warning"
    assert "users' held-out items, of whom 0 never trained" in found["", "verbatim"].why


def test_who_foresees_held_out_histories_as_well_knows_none_by_heart(data, samples):
    log = data.split.interactions
    whole = {user: log.items_of(user).tolist() for user in range(log.n_users)}
    found = measured("regurgitation", continuing(whole), data, samples)
    assert found["", "learnt"].value == found["", "held out"].value == 1
    assert found["", "verbatim"].value == 0 and found["", "verbatim"].level == "ok"
    other = measured("regurgitation", blind, data, samples)["", "verbatim"]
    assert abs(other.value) < 0.05 and other.level == "ok"


def test_users_who_never_trained_are_the_control_of_histories_by_heart(data, samples):
    """Every other user is held out whole: their histories are nobody's to know by heart."""
    split, log = data.split, data.split.interactions
    parts = np.where(log.users % 2, Part.HISTORY, split.parts).astype(np.int8)
    parts[split.parts == Part.TEST] = Part.TEST
    held_out = replace(data, split=replace(split, parts=parts))
    train = held_out.split.train
    learnt = {user: train.items_of(user).tolist() for user in range(log.n_users)}
    found = measured("regurgitation", continuing(learnt), data, samples, known=held_out)
    enough = np.diff(log.offsets) >= 7
    assert 0 < found["", "learnt"].n < found["", "held out"].n == enough.sum()
    assert f"of whom {enough[1::2].sum()} never trained" in found["", "verbatim"].why
    assert found["", "verbatim"].value > 0.9
    nobody = replace(data, split=replace(split, parts=np.zeros_like(split.parts)))
    lacking = measured("regurgitation", blind, data, samples, known=nobody)
    assert [row.level for row in lacking.values()] == ["not measured"]


class Writer(Reader):
    """Writes the same to everybody, or something about the query."""

    def __init__(self, text, score=blind):
        super().__init__("writer", score)
        self._text = text

    def write(self, queries, generation=None, seed=0):
        return [self._text(queries, row) for row in range(len(queries))]


def test_what_is_made_up_is_counted(data, samples):
    titles = data.catalog.titles
    found = measured("hallucination", Writer(lambda q, r: "a flying carpet"), data, samples)
    assert found["", "invalid"].value == 1 and found["", "invalid"].level == "warning"
    assert found["", "constrained"].value == 0
    seen = measured("hallucination", Writer(lambda q, r: titles[q.histories[r][0]]), data, samples)
    assert seen["", "seen"].value == 1 and seen["", "invalid"].value == 0
    silent = measured("hallucination", blind, data, samples)
    assert [row.level for row in silent.values()] == ["ok", "not measured"]
    assert classify("I'm sorry, but I cannot say", {}, np.array([])) == "refused"


def test_true_reasons_are_told_from_false_ones(data, samples):
    titles = data.catalog.titles

    def loyal(queries, row):  # every item but the first of the history counts for nothing
        first = full[int(queries.users[row])][0]
        return chance(1) + 5.0 * (first in queries.histories[row])

    full = {u: data.split.interactions.items_of(u) for u in range(data.split.train.n_users)}
    true = measured(
        "explanations", Writer(lambda q, r: titles[q.histories[r][0]], loyal), data, samples
    )
    assert true["", "faithful"].value == 1 and true["", "leave-out"].value == pytest.approx(5)
    stranger = Writer(lambda q, r: titles[int(q.targets[r])])
    false = measured("explanations", stranger, data, samples)
    assert false["", "faithful"].value == 0 and false["", "faithful"].level == "warning"


def test_titles_by_heart_are_found(data, samples):
    known = {tuple(t.split()) for t in data.catalog.titles}

    class Scholar(Reader):
        def likelihoods(self, prompts, texts):
            pairs = zip(prompts, texts, strict=True)
            return np.array([float((*a.split(), *b.split()) in known) for a, b in pairs])

    found = measured("memorisation", Scholar("scholar", blind), data, samples)
    assert found["", "titles"].value > 0.95 and found["", "titles"].level == "warning"
    assert measured("memorisation", blind, data, samples)["", "titles"].level == "not measured"


class Lister(Reader):
    """Finds a title as likely as a function of the titles before it says."""

    def __init__(self, likely):
        super().__init__("lister", blind)
        self._likely = likely

    def likelihoods(self, prompts, texts):
        pairs = zip(prompts, texts, strict=True)
        return np.array(
            [self._likely(prompt.rstrip(";").split("; "), own) for prompt, own in pairs]
        )


@pytest.fixture(scope="module")
def numbered(data):
    """The same items, which a published table lists by their numbers."""
    frame = data.catalog.frame.assign(item_id=[str(n) for n in range(ITEMS, 0, -1)])
    frame["title"] = [f"film {n}" for n in range(ITEMS, 0, -1)]
    return replace(data, catalog=replace(data.catalog, frame=frame))


def listed(likely, data, samples, known):
    found = measured("memorisation", Lister(likely), data, samples, known=known)
    return [
        found["order of the table", f"likelier than {name}"] for name in ("last kept", "shuffled")
    ]


def number(title):
    return int(title.split()[-1]) if title[-1].isdecimal() else 0


def test_a_table_known_by_heart_is_found(data, samples, numbered):
    def by_heart(before, title):
        return float(
            [*map(number, before), number(title)] == [*range(number(title) - 5, number(title) + 1)]
        )

    rows = listed(by_heart, data, samples, numbered)
    assert all(row.value > 0.9 and row.n == 10 for row in rows)  # a shuffle may change nothing
    assert [row.level for row in rows] == ["warning", "ok"]


def test_who_knows_what_is_alike_knows_no_table_by_heart(data, samples, numbered):
    def alike(before, title):  # whatever the order
        return -sum(abs(number(each) - number(title)) for each in before)

    def neighbour(before, title):  # an honest reader of the latest alone
        return -abs(number(before[-1]) - number(title))

    assert [row.value for row in listed(alike, data, samples, numbered)] == [0.5, 0.5]
    kept, shuffled = listed(neighbour, data, samples, numbered)
    assert kept.value == 0.5 and kept.level == "ok" and shuffled.value > 0.7


def test_a_table_without_numbers_has_no_order(data, samples):
    frame = data.catalog.frame.assign(item_id=[f"sku-{n}" for n in range(ITEMS)])
    other = replace(data, catalog=replace(data.catalog, frame=frame))
    found = measured("memorisation", Lister(lambda before, title: 0.0), data, samples, known=other)
    assert found["order of the table", "titles"].level == "not measured"
    assert "numbers that follow one another" in found["order of the table", "titles"].why


def test_the_price_of_an_answer_is_told(data, samples):
    found = measured("cost", blind, data, samples)
    assert found["", "seconds, median"].value <= found["", "seconds, 95 %"].value
    assert found["", "prompt tokens"].value > 10 and found["", "MiB at most"].value > 10


def test_seconds_are_held_against_the_gain_over_the_best_filter():
    rows = [HarmResult("cost", Cost.main, "retrieval", name, value=0.5) for name in ("m", "ease")]
    values = {"m": 0.3, "ease": 0.2, "random": 0.1}
    metrics = [MetricResult("retrieval", n, "ndcg@10", v, 0, 1, 9) for n, v in values.items()]
    (found,) = cost_of_gain(rows, metrics, ["ease", "random"])
    assert found.value == pytest.approx(0.5 / 10) and found.why == "over the best filter, ease"
    (none,) = cost_of_gain(rows, metrics[1:] + [replace(metrics[0], value=0.2)], ["ease"])
    assert none.level == "not measured" and none.value is None
    assert cost_of_gain(rows, [], ["ease"]) == []


def test_who_reads_no_prompts_is_named_and_not_asked(data, samples, capsys):
    own = next(each for each in samples.bound_tasks() if each.name == "retrieval")
    queries = StoredQueries(data, samples, EvaluationSettings()).of(own, Part.TEST.label)
    popular = ri.fit("popularity", data)
    harm = Harm(data, samples, replace(SCOPE, queries=20), ["wording", "cost"])
    rows = list(harm.of_asking({"popularity": popular, "r": Reader("r", blind)}, queries, 10))
    lacking = [row for row in rows if row.why == "it reads no prompts"]
    assert [(row.measure, row.recommender) for row in lacking] == [("wording", "popularity")]
    assert {row.recommender for row in rows if row.measure == "cost"} == {"popularity", "r"}
    assert "s of asking again" in "".join(capsys.readouterr())
