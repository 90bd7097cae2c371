import copy

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from recinject.decoding.beam_search import constrained_beam_search, score_candidates
from recinject.decoding.trie import Trie
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged
from recinject.models.adapters import RatingModel
from recinject.models.building import build_model
from recinject.recommenders.language_model import LanguageModel
from recinject.recommenders.protocol import Queries
from recinject.samples.encoding import Dialect
from recinject.samples.tokenizer import add_tokens, train_tokenizer

TITLES = [f"{color} {thing}" for color in ("red", "blue", "pink") for thing in ("car", "doll")]
PROMPTS = ["what next ?", "she had a red car and a blue doll , what next ?", "pink", "car " * 40]
TOKENIZER = train_tokenizer(TITLES + PROMPTS + ["1 2 3"], 300)
HISTORIES = [np.array(h, np.int32) for h in ([0], [0, 3], [4, 5, 1], [2])]
RATINGS = {"1": 1.0, "2": 2.0, "3": 3.0}


@pytest.fixture(scope="module")
def model():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return build_model(sizes, TOKENIZER, seed=0)


def queries(task, **columns):
    return Queries(
        task=task,
        sample_ids=[f"{task}/{row}" for row in range(4)],
        prompts=PROMPTS,
        users=np.arange(4, dtype=np.int32),
        histories=HISTORIES,
        targets=np.array([1, 2, 3, 2], np.int32),
        **columns,
    )


def scores_by_hand(model, sequences, limit=512):
    """One prompt at a time, no batches and no sorting."""
    rows = []
    for prompt in PROMPTS:
        ids = TOKENIZER.encode(prompt).ids
        ids = torch.tensor([ids if len(ids) <= limit else [*ids[: limit - 1], 1]])
        rows.append(score_candidates(model.eval(), ids, torch.ones_like(ids), sequences)[0])
    return np.array(rows)


def names():
    return Ragged.from_rows([TOKENIZER.encode(title).ids for title in TITLES]).to_grid(-1)


@pytest.mark.parametrize("rows_at_once", [1, 12, 640])
def test_retrieval_lists_the_likeliest_items_without_the_history(model, rows_at_once):
    recommender = LanguageModel(model, TOKENIZER, TITLES, beams=6, rows_at_once=rows_at_once)
    prediction = recommender.predict(queries("retrieval"), k=3)
    truth = scores_by_hand(model, names())
    for row, history in enumerate(HISTORIES):
        truth[row, history] = -np.inf
    order = np.argsort(-truth, axis=1)
    np.testing.assert_array_equal(prediction.items, order[:, :3])
    np.testing.assert_allclose(prediction.scores, -np.sort(-truth)[:, :3], atol=1e-4)
    place = np.argmax(order == np.array([1, 2, 3, 2])[:, None], axis=1).astype(float)
    place[3] = np.inf  # this target is in the history, so never listed
    np.testing.assert_array_equal(prediction.ahead, place)
    np.testing.assert_array_equal(prediction.tied, 1)


def test_a_target_beyond_the_list_is_infinitely_far(model):
    prediction = LanguageModel(model, TOKENIZER, TITLES, beams=1).predict(queries("retrieval"), 1)
    listed = prediction.items[:, 0] == [1, 2, 3, 2]
    np.testing.assert_array_equal(prediction.ahead, np.where(listed, 0, np.inf))


def test_ranking_orders_the_candidates(model):
    candidates = np.array([[5, 1, 0], [2, 3, 4], [0, 5, 3], [4, 2, 1]], np.int32)
    recommender = LanguageModel(model, TOKENIZER, TITLES, max_prompt_tokens=8)
    prediction = recommender.predict(queries("ranking", candidates=candidates), k=2)
    truth = np.take_along_axis(scores_by_hand(model, names(), limit=8), candidates, 1)
    order = np.argsort(-truth, axis=1)
    np.testing.assert_array_equal(
        prediction.items, np.take_along_axis(candidates, order[:, :2], axis=1)
    )
    own = truth[candidates == np.array([1, 2, 3, 2])[:, None]]
    np.testing.assert_array_equal(prediction.ahead, (truth > own[:, None]).sum(1))


def test_equal_candidates_are_tied(model):
    candidates = np.array([[1, 1, 0], [2, 2, 4], [3, 3, 0], [2, 4, 2]], np.int32)
    prediction = LanguageModel(model, TOKENIZER, TITLES).predict(
        queries("ranking", candidates=candidates), k=3
    )
    np.testing.assert_array_equal(prediction.tied, 2)


LABELS = {
    "one token": (RATINGS, False),
    "several tokens": ({"1": 1.0, "2 cars": 2.0}, False),
    "one begins another": ({"2": 1.0, "2 cars": 2.0}, True),
}


@pytest.mark.parametrize(("labels", "ends"), LABELS.values(), ids=LABELS)
def test_a_rating_is_the_mean_of_the_labels_by_likelihood(model, labels, ends):
    prediction = LanguageModel(model, TOKENIZER, TITLES, labels).predict(queries("rating"), 1)
    tokens = [TOKENIZER.encode(text, add_special_tokens=ends).ids for text in labels]
    odds = np.exp(scores_by_hand(model, Ragged.from_rows(tokens).to_grid(-1)))
    expected = odds @ np.array(list(labels.values())) / odds.sum(1)
    np.testing.assert_allclose(prediction.ratings, expected, atol=1e-4)
    np.testing.assert_allclose(prediction.mass, odds.sum(1), atol=1e-4)
    np.testing.assert_allclose(
        prediction.probabilities, odds / odds.sum(1, keepdims=True), atol=1e-4
    )
    assert prediction.values.tolist() == list(labels.values())


def test_labels_after_a_blank_of_its_own_are_read_in_one_step():
    """As Gemma's tokenizer has it: the blank before a digit is a token that all labels share."""
    tokenizer = Tokenizer(models.BPE({t: n for n, t in enumerate("#~12.abc ")}, []))
    tokenizer.add_special_tokens(["#"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
        gpt = GPT2LMHeadModel(GPT2Config(vocab_size=16, eos_token_id=0, bos_token_id=0, **sizes))
    n = np.zeros(3, np.int32)
    prompts = ["ab.", "abc abc.", "c c c c c."]
    asked = Queries("rating", list("abc"), prompts, n, [n[:0]] * 3, n)
    found = LanguageModel(gpt, tokenizer, ["a", "b"], {"1": 1.0, "2": 2.0}).predict(asked, 1)
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([tokenizer.encode(f"{prompt} ").ids])
        with torch.no_grad():
            odds = gpt.eval()(ids).logits[0, -2:].softmax(-1)
        mass = float(odds[0, ids[0, -1]]) * odds[1, [2, 3]].numpy()
        assert found.mass[row] == pytest.approx(mass.sum(), abs=1e-5)
        assert found.ratings[row] == pytest.approx(mass @ [1, 2] / mass.sum(), abs=1e-5)


def test_a_head_of_classes_gives_its_distribution(model):
    head = RatingModel(copy.deepcopy(model), "classification", [1, 2, 4], [1, 2, 1]).eval()
    torch.nn.init.normal_(head.head.weight, generator=torch.Generator().manual_seed(1))
    found = LanguageModel(head, TOKENIZER, TITLES).predict(queries("rating"), 1)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([TOKENIZER.encode(prompt).ids])
        assert found.ratings[row] == pytest.approx(
            float(head.rate(ids, torch.ones_like(ids))), abs=1e-4
        )
    np.testing.assert_allclose(found.probabilities @ [1, 2, 4], found.ratings)


def test_the_model_is_left_in_the_mode_it_was_in(model):
    model.train()
    recommender = LanguageModel(model, TOKENIZER, TITLES)
    first = recommender.predict(queries("retrieval"), 2)
    assert model.training
    np.testing.assert_array_equal(recommender.predict(queries("retrieval"), 2).items, first.items)


def test_items_that_share_a_name_are_refused(model):
    with pytest.raises(RecinjectError, match="items 1 and 2 have the same tokens"):
        LanguageModel(model, TOKENIZER, ["red car", "blue doll", "blue  doll"])


def test_ratings_need_labels(model):
    with pytest.raises(RecinjectError, match="no rating labels"):
        LanguageModel(model, TOKENIZER, TITLES).predict(queries("rating"), 1)


def byte_level(begin=False):
    """A tokenizer as GPT-2's and Llama 3's are: a word takes the blank before it along."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|begin|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, special_tokens=special)
    tokenizer.train_from_iterator([f" {text}" for text in [*TITLES, *PROMPTS, "1 2 3"]], trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
        )
    return tokenizer


@pytest.fixture(scope="module", params=["gpt-2", "llama 3", "t5"])
def causal(request):
    """A causal model with tokenizers of three conventions, each with its end token."""
    t5 = request.param == "t5"
    tokenizer = TOKENIZER if t5 else byte_level(begin=request.param == "llama 3")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128}
        end = 1 if t5 else 0
        config = GPT2Config(vocab_size=400, eos_token_id=end, bos_token_id=end, **sizes)
        return GPT2LMHeadModel(config).eval(), tokenizer, end


def whole_scores(model, tokenizer, end, texts):
    """Score each completion in its text: prompt, blank, completion and end token."""
    scores = np.zeros((len(PROMPTS), len(texts)))
    for row, prompt in enumerate(PROMPTS):
        before = tokenizer.encode(prompt).ids
        before = before[:-1] if before[-1] == end else before
        for column, text in enumerate(texts):
            ids = tokenizer.encode(f"{prompt} {text}").ids
            ids = ids if ids[-1] == end else [*ids, end]
            assert ids[: len(before)] == before
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            places = range(len(before) - 1, len(ids) - 1)
            scores[row, column] = sum(float(logits[place, ids[place + 1]]) for place in places)
    return scores


@pytest.mark.parametrize("rows_at_once", [1, 640])
def test_a_causal_model_retrieves_by_what_follows_the_prompt(causal, rows_at_once):
    model, tokenizer, _ = causal
    recommender = LanguageModel(model, tokenizer, TITLES, beams=6, rows_at_once=rows_at_once)
    prediction = recommender.predict(queries("retrieval"), k=3)
    truth = whole_scores(*causal, TITLES)
    for row, history in enumerate(HISTORIES):
        truth[row, history] = -np.inf
    np.testing.assert_array_equal(prediction.items, np.argsort(-truth, axis=1)[:, :3])
    np.testing.assert_allclose(prediction.scores, -np.sort(-truth)[:, :3], atol=1e-4)


def test_a_causal_model_ranks_and_rates(causal):
    model, tokenizer, _ = causal
    candidates = np.tile(np.arange(6, dtype=np.int32), (4, 1))
    recommender = LanguageModel(model, tokenizer, TITLES, RATINGS)
    ranked = recommender.predict(queries("ranking", candidates=candidates), k=6)
    truth = whole_scores(*causal, TITLES)
    np.testing.assert_array_equal(ranked.items, np.argsort(-truth, axis=1))
    ratings = recommender.predict(queries("rating"), 1).ratings
    # One token a label: the end token, alike likely or not, is not asked.
    dialect = Dialect(tokenizer, True, causal[2])
    alone = [ids[0] for ids in dialect.completions(list(RATINGS)).to_list()]
    for row, ids in enumerate(dialect.prompts(PROMPTS).to_list()):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        odds = logits[alone].softmax(-1).numpy()
        assert ratings[row] == pytest.approx(odds @ np.array([1.0, 2.0, 3.0]), abs=1e-4)


def test_legal_scores_are_named_and_share_the_whole_probability(model):
    recommender = LanguageModel(model, TOKENIZER, TITLES, beams=6, scores="legal")
    scores = recommender.predict(queries("retrieval"), k=6).scores
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, atol=1e-4)
    slate = np.tile(np.arange(6, dtype=np.int32), (4, 1))
    scores = recommender.predict(queries("ranking", candidates=slate), k=6).scores
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, atol=1e-4)


def test_labels_that_share_their_tokens_are_refused(model):
    with pytest.raises(RecinjectError, match="labels '好' and '差' have the same tokens"):
        LanguageModel(model, TOKENIZER, TITLES, {"好": 5.0, "差": 1.0})


def test_a_tokenizer_that_joins_prompt_and_completion_is_refused(causal):
    joining = models.BPE({".": 0, " ": 1, ". ": 2, "a": 3, "b": 4}, [(".", " ")])
    with pytest.raises(RecinjectError, match="the tokenizer joins '.' and 'a'"):
        LanguageModel(causal[0], Tokenizer(joining), ["a", "b"])


def tokens_of_items(n=40):
    tokenizer = train_tokenizer(PROMPTS, 300)
    texts = [f"<item_{number}>" for number in np.random.default_rng(0).permutation(n)]
    add_tokens(tokenizer, texts)
    return tokenizer, texts


@pytest.mark.parametrize("scores", ["vocabulary", "legal"])
@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_items_of_one_token_are_found_in_one_step_as_the_beam_search_finds_them(kind, scores):
    tokenizer, texts = tokens_of_items()
    configs = {"t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}}
    configs["gpt2"] = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = build_model(configs[kind], tokenizer, seed=0).eval()
    with torch.no_grad():  # some items are as likely as each other
        table = model.get_input_embeddings().weight
        table[-20:-10] = table[-10:]
    known = tokenizer.get_vocab()
    trie = Trie.build([[known[text]] for text in texts])
    recommender = LanguageModel(model, tokenizer, texts, beams=40, scores=scores)
    found = recommender.predict(queries("retrieval"), 40)
    for row, prompt in enumerate(PROMPTS):
        [ids] = Dialect(tokenizer, kind == "gpt2", 1).prompts([prompt]).to_list()
        ids, barred = torch.tensor([ids]), [HISTORIES[row]]
        items, values = constrained_beam_search(
            model, ids, torch.ones_like(ids), trie, 40, barred, scores=scores
        )
        np.testing.assert_allclose(found.scores[row], values[0], atol=1e-5)
        assert found.items[row].tolist() == items[0].tolist()
