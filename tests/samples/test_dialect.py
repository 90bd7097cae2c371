"""What a kind of model reads and writes, in tokens."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from recinject.foundation.errors import RecinjectError
from recinject.samples.encoding import Dialect, Tokens, token_table
from recinject.samples.tokenizer import train_tokenizer

PROMPTS = ["Which item comes next?", "Bears and dolls.", ""]
COMPLETIONS = ["#12", "Rag Doll; 900 pieces", "4.5", ""]
LEARNT = train_tokenizer([*PROMPTS, *COMPLETIONS], 400)


def byte_level(begin=False):
    """A tokenizer as GPT-2's and Llama 3's are: a word takes the blank before it along."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|begin|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, special_tokens=special, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator([f" {text}" for text in [*PROMPTS, *COMPLETIONS]], trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
        )
    return tokenizer


CAUSAL = {
    "gpt-2": Dialect(byte_level(), True, 0),
    "llama 3": Dialect(byte_level(begin=True), True, 0),
    "t5": Dialect(LEARNT, True, 1),
    "no end": Dialect(byte_level(), True, None),
}


@pytest.mark.parametrize("dialect", CAUSAL.values(), ids=CAUSAL)
def test_a_causal_models_prompt_and_completion_are_those_of_one_text(dialect):
    end = [] if dialect.end is None else [dialect.end]
    completions = dialect.completions(COMPLETIONS).to_list()
    for text, prompt in zip(PROMPTS[:2], dialect.prompts(PROMPTS[:2]).to_list(), strict=True):
        for answer, completion in zip(COMPLETIONS[:3], completions, strict=False):
            whole = dialect.tokenizer.encode(f"{text} {answer}").ids
            whole = whole if whole[-1:] == end else [*whole, *end]
            assert [*prompt, *completion] == whole
    assert not dialect.completions([]).to_list()


def test_an_encoder_decoder_model_reads_and_writes_whole_texts():
    dialect = Dialect(LEARNT)
    expected = [encoding.ids for encoding in LEARNT.encode_batch(COMPLETIONS)]
    assert dialect.prompts(COMPLETIONS).to_list() == expected
    assert dialect.completions(COMPLETIONS).to_list() == expected


def test_a_tokenizer_that_joins_prompt_and_completion_is_refused():
    joining = models.BPE({".": 0, " ": 1, ". ": 2, "a": 3, "b": 4}, [(".", " ")])
    with pytest.raises(RecinjectError, match="the tokenizer joins '.' and 'a'"):
        Dialect(Tokenizer(joining), True).completions(["a", "b"])


@pytest.mark.parametrize(("ends", "end"), [(7, 7), ([8, 9], 8), (None, 1), ([], 1), (0, 0)])
def test_the_end_token_is_the_configs_first_or_that_of_t5(ends, end):
    assert Dialect.of_model(LEARNT, True, ends).end == end
    assert Dialect.of_model(byte_level(), True, None).end is None


@pytest.mark.parametrize("kind", ["number", "token", "title"])
@pytest.mark.parametrize("name", ["gpt-2", "llama 3", "t5"])
def test_every_sample_is_written_in_the_models_dialect(make, small_split, kind, name):
    tokenizer = Tokenizer.from_str(CAUSAL[name].tokenizer.to_str())
    end = CAUSAL[name].end
    factory = make(
        small_split, kind, tokenizer=tokenizer, causal=True, ends=[end, 5], limits=(2000, 500)
    )
    dialect = Dialect(tokenizer, True, end)
    for builder in factory.builders():
        batch = builder.batch(np.arange(len(builder)))
        table, tokens = builder.table(batch), builder.tokens(batch)
        prompts, completions = (table[side].to_pylist() for side in ("prompt", "completion"))
        assert tokens.prompts.to_list() == dialect.prompts(prompts).to_list()
        expected, is_open = dialect.completions(completions), builder.is_open
        assert is_open == (kind == "token" and builder.task.name == "retrieval")
        expected = dialect.without_end(expected) if is_open else expected
        assert tokens.completions.to_list() == expected.to_list()
        wholes = zip(prompts, completions, tokens.prompts.to_list(), strict=True)
        ends = zip(wholes, tokens.completions.to_list(), strict=True)
        for (prompt, completion, before), after in ends:
            whole = tokenizer.encode(f"{prompt} {completion}").ids
            whole = whole[:-1] if whole[-1] == end else whole
            assert [*before, *after] == (whole if is_open else [*whole, end])


def test_histories_are_cut_to_what_the_model_reads(make, small_split):
    tokenizer, limits = CAUSAL["gpt-2"].tokenizer, (220, 40)
    factory = make(small_split, tokenizer=tokenizer, causal=True, ends=0, limits=limits)
    whole = make(small_split, tokenizer=tokenizer, causal=True, ends=0, limits=(999, 40))
    cut = 0
    for builder, other in zip(factory.builders(), whole.builders(), strict=True):
        if builder.task.name not in ("retrieval", "rating"):
            continue
        tokens, longer = (b.tokens(b.batch(np.arange(len(b)))) for b in (builder, other))
        assert tokens.prompts.lengths.max() <= limits[0]
        cut += (tokens.prompts.lengths < longer.prompts.lengths).sum()
        labels = builder.batch(np.arange(len(builder))).contexts.labels
        assert (tokens.ratings is None) == (builder.task.name == "retrieval")
        if labels is not None:
            np.testing.assert_array_equal(tokens.ratings, labels)
    assert cut


def test_the_columns_hold_ratings_and_the_length_that_is_read_at_once():
    prompts, completions = LEARNT.encode_batch(PROMPTS[:2]), LEARNT.encode_batch(COMPLETIONS[:2])
    for causal in (False, True):
        dialect = Dialect(LEARNT, causal, 1)
        tokens = Tokens(
            dialect.prompts(PROMPTS[:2]),
            dialect.completions(COMPLETIONS[:2]),
            np.array([4.5, 1.0]),
        )
        table, _ = token_table([tokens, tokens], dialect, (99, 99))
        assert table["rating"].to_pylist() == [4.5, 1.0] * 2
        lengths = [
            len(prompt.ids) + (len(completion.ids) - 1 if causal else 0)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        assert table["length"].to_pylist() == lengths * 2
    assert (
        "rating"
        not in token_table([tokens._replace(ratings=None)], dialect, (9, 9))[0].schema.names
    )
