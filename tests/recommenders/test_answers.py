import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recinject.data.schema import Interactions
from recinject.evaluation.audit import read_ratings
from recinject.foundation.errors import RecinjectError
from recinject.models.adapters import RatingModel
from recinject.models.building import build_model
from recinject.recommenders.language_model import GeneratedRatings, LanguageModel, parse_rating
from recinject.recommenders.protocol import Prediction, Queries
from recinject.samples.tokenizer import train_tokenizer

ANSWERS = {
    4.0: "4|4.|**4**|4 stars|Rating: 4|4/5|4 out of 5|4 of 5 stars|8/10|four out of five|1-5: 4|"
    "from 1 to 5, a 4|\n\n4\nas 2 are good|4; Alien (1979), rated 5|4stars|R2D2 gets 4|(4)",
    4.5: "4.5 stars|4,5|4½|4 1/2|four and a half|9/10|On a scale of 1 to 5, I would say 4.5.",
    5.0: "five|5/5|10/10|FIVE stars",
    3.0: "I would say 3|I'd rate this one 3|three stars!",
    1.0: "one|one star|1",
    None: "10|-1|−1|- |0|1994|4,000|1,000,004|1/10|6/5|4/0||   |NaN|inf|good|1-5|1 to 5.|11-50|"
    "3 or 4|3-4|3 to 4|"
    "three or four|3 and 4|this one is great|None",
}


@pytest.mark.parametrize(
    ("answer", "rating"), [(a, r) for r, answers in ANSWERS.items() for a in answers.split("|")]
)
def test_an_answer_has_its_documented_outcome(answer, rating):
    assert parse_rating(answer, 1.0, 5.0) == rating


@given(st.text())
def test_any_text_is_a_rating_of_the_scale_or_none(text):
    found = parse_rating(text, 0.5, 5.0)
    assert found is None or 0.5 <= found <= 5.0


@given(st.integers(1, 10).map(lambda n: n / 2), st.sampled_from(["{}", " {}.", "{} stars"]))
def test_every_label_is_read_as_itself(value, form):
    assert parse_rating(form.format(f"{value:g}"), 0.5, 5.0) == value


TEXTS = ["she likes 2", "he likes 4", "nobody knows", "who asks"]
ANSWERED = ["2 stars", "four", "no idea", "no idea"]
TOKENIZER = train_tokenizer(TEXTS + ANSWERED, 400)
HISTORY = [np.array(h, np.float64) for h in ([], [], [2, 3], [])]
KINDS = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "llama": {
        **{"model_type": "llama", "hidden_size": 32, "intermediate_size": 64},
        **{"num_hidden_layers": 1, "num_attention_heads": 2},
    },
}


def learn(model, dialect, steps=100):
    """Teach a model a few answers by heart."""
    prompts, answers = dialect.prompts(TEXTS).to_list(), dialect.completions(ANSWERED).to_list()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        for prompt, answer in zip(prompts, answers, strict=True):
            whole = torch.tensor([[*prompt, *answer]])
            labels = torch.tensor([[*[-100] * len(prompt), *answer]])
            if not dialect.causal:
                whole, labels = torch.tensor([prompt]), torch.tensor([answer])
            model(input_ids=whole, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = build_model({"dropout_rate": 0.0} | KINDS["t5"], TOKENIZER, 0)
        if request.param != "t5":
            built = build_model(KINDS[request.param], TOKENIZER, 0)
        found = LanguageModel(built.eval(), TOKENIZER, ["a", "b"])
        learn(built, found._dialect)
    return found


def queries():
    rows = np.arange(4, dtype=np.int32)
    return Queries("rating", ["q"] * 4, TEXTS, rows, [rows[:0]] * 4, rows, history_ratings=HISTORY)


def training(ratings=(1.0, 5.0, 5.0, 5.0)):
    rows = np.zeros(4, np.int32)
    given = None if ratings is None else np.array(ratings)
    return Interactions(rows, rows, given, None, ["u"], 1)


def test_written_ratings_are_parsed_or_the_mean_of_the_past(model):
    writer = GeneratedRatings(model, [1.0, 2.0, 3.0, 4.0, 5.0])
    writer.fit(training(), 0)
    prediction = writer.predict(queries(), 1)
    assert list(prediction.texts) == ANSWERED  # whatever the order of the batches
    np.testing.assert_array_equal(prediction.ratings, [2, 4, 2.5, 4])
    assert prediction.parsed.tolist() == [True, True, False, False]
    (finding,) = read_ratings(prediction)
    assert finding.value == 0.5 and finding.verdict == "warning"
    assert read_ratings(Prediction("item_mean", "rating")) == []


def test_how_it_writes_is_up_to_the_recipe(model):
    drawn = {"do_sample": True, "temperature": 9.0, "max_new_tokens": 4}
    assert model.write(queries(), drawn, 1) == model.write(queries(), drawn, 1)
    assert model.write(queries(), drawn, 1) != model.write(queries(), drawn, 2)
    one = model.write(queries(), {"max_new_tokens": 1})
    assert all(whole.startswith(text) for text, whole in zip(one, ANSWERED, strict=True))


def test_what_cannot_write_or_fall_back_is_refused(model):
    with pytest.raises(RecinjectError, match="no ratings to average"):
        GeneratedRatings(model, [1.0]).fit(training(None), 0)
    head = RatingModel(build_model(KINDS["t5"], TOKENIZER, 0), "regression", [1, 2], [1, 1])
    with pytest.raises(RecinjectError, match="writes no text"):
        LanguageModel(head, TOKENIZER, ["a", "b"]).write(queries())
