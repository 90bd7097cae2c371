"""Tokens put together from words are exactly those of the whole text, or are not put together."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from recinject.data.cleaning import clean_catalog
from recinject.data.schema import Catalog
from recinject.foundation.ragged import Ragged, side_by_side
from recinject.samples.encoding import Dialect, Encoder
from recinject.samples.tokenizer import SENTINELS, train_tokenizer
from recinject.templating.language import lower, splits_at_blanks
from recinject.templating.phrases import PieceKind, Pieces
from recinject.templating.writers import Contexts, SlotKind

HOSTILE = [
    "Bear, (brown); 60 pieces!?",
    "...",
    "<extra_id_0>",  # cleaning makes (extra_id_0) of it
    "Cord </s> and <item_3><pad>",
    "🧸 Teddy 👩‍👩‍👧‍👦 family",
    "🇩🇪🇫🇷",
    "e\u0301clair cafe\u0301",
    "\u0301 begins with a mark",
    "a\u0300\u0301\u0302\u0303\u0304 zalgo",
    "任天堂 Switch 本体",
    "レゴ・カステル",
    "\u200bzero\u200bwidth\u200b",
    "\ufeff",
    "\u00ad",
    "soft\u00adhyphen a\u2060b \u2060",
    "no\u00a0break\u3000wide\u2009thin",
    "line\u2028break\u0085next",
    "12",
    "#12",
    "4",
    "4.5",
    "1,000",
    "(A) (B)",
    "▁",
    "▁Bear ▁▁",
    "Ġword Ċ",
    "½ ﬁne ㎏ ﷺ Å",
    "مرحبا بالعالم",
    "नमस्ते",
    "",
]
TEXTS = ["Which of these does a customer choose? #12 Rag Doll; (A) Bear, rated 4.5 - x"] * 3


def clean(titles):
    frame = pd.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles})
    return clean_catalog(Catalog(frame))[0].titles


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
# Llama 3's expression; Qwen's takes digits one by one.
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BARE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def by_expression(expression):
    parted = pre_tokenizers.Split(Regex(expression), "isolated")
    return pre_tokenizers.Sequence([parted, BARE])


FAMILIES = {
    "gpt-2": BYTES,
    "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    "llama 3": by_expression(LLAMA),
    "qwen": by_expression(LLAMA.replace("{1,3}", "")),
}


def byte_level(family="gpt-2"):
    """A word has other tokens after a blank than at the start."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = FAMILIES.get(family, BARE)
    tokenizer.normalizer = normalizers.NFC() if family == "qwen" else normalizers.Sequence([])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, *HOSTILE], trainer)
    return tokenizer


def word_piece():
    """As BERT's: words and punctuation, with a token before each text and one after it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def blank_counting():
    """As Llama's: words with the blank before them, and every further blank a token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = ["<unk>", *SENTINELS]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


READERS = {
    "learnt": lambda: train_tokenizer(TEXTS, 300),
    "bytes": byte_level,
    "word pieces": word_piece,
    "blanks": blank_counting,
}
ALL = ["t5", *READERS]


@pytest.fixture
def reader(request):
    name = request.param
    return name, request.getfixturevalue("t5") if name == "t5" else READERS[name]()


@pytest.mark.parametrize("titles", [HOSTILE, clean(HOSTILE)], ids=["as they are", "clean"])
@pytest.mark.parametrize("kind", ["number", "title", "number_title", "token"])
@pytest.mark.parametrize("reader", ALL, indirect=True)
def test_tokens_are_those_of_the_text(make, small_split, tasks, reader, kind, titles):
    name, tokenizer = reader
    # Titles that a tokenizer cannot spell are refused where they are answers.
    spelt = kind == "token" or (kind != "title" and name not in ("word pieces", "blanks"))
    answers = () if spelt else ("retrieval", "ranking")
    asked = [task for task in tasks if task.answer not in answers]
    factory = make(
        *(small_split, kind, titles), tokenizer=tokenizer, limits=(10_000, 10_000), tasks=asked
    )
    for builder in factory.builders():
        batch = builder.batch(np.arange(len(builder)))
        table, encoder = builder.table(batch), builder.wording.encoder
        sides = zip(
            ("prompt", "completion"),
            (batch.prompts, batch.completions),
            builder.tokens(batch)[:2],
            strict=True,
        )
        for column, numbers, tokens in sides:
            texts = table[column].to_pylist()
            plain = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
            bare = builder.is_open and column == "completion"
            assert tokens.to_list() == [ids[:1] if bare else ids for ids in plain]
            assert encoder.lengths(numbers).tolist() == list(map(len, plain))
        if name in ("t5", "learnt", "bytes"):
            assert encoder.gathers(batch.prompts).all()
        if name == "word pieces" and kind == "number":
            assert encoder.table is not None


SLOTS = {"history": SlotKind.ITEMS}
PHRASES = ["Rag Doll", "Bear", "Which"]


def encoded(dialect, source, items=((0, 1, 2), (1,), (2, 2)), phrases=PHRASES):
    """The encoder of a template, and its samples."""
    dialect = dialect if isinstance(dialect, Dialect) else Dialect(dialect)
    segments = lower(source, SLOTS, "")
    pieces = Pieces({"history": phrases}, np.empty(0))
    writers = [segment.writer(pieces) for segment in segments]
    (encoder,) = Encoder.make_all(dialect, [pieces], [splits_at_blanks(segments)])
    contexts = Contexts(np.zeros(len(items)), {"history": Ragged.from_rows(items)})
    return encoder, side_by_side([write(contexts) for write in writers])


@pytest.mark.parametrize(
    ("separator", "by_word"),
    [
        ("; ", {"t5", "learnt", "word pieces", "blanks", "bytes"}),
        (" ", {"t5", "learnt", "word pieces", "blanks", "bytes"}),
        # What counts blanks hears each of them.
        (";  ", {"t5", "learnt", "word pieces"}),
        (" \t ", {"t5", "learnt", "word pieces"}),
        # No blank between two words at all: only the whole text can be read.
        (",", set()),
        ("", set()),
        ("-and-", set()),
    ],
)
@pytest.mark.parametrize("reader", ALL, indirect=True)
def test_a_separator_is_read_as_it_stands(reader, separator, by_word):
    name, tokenizer = reader
    encoder, numbers = encoded(tokenizer, f"{{{{ history | join('{separator}') }}}}")
    texts = [separator.join(PHRASES[i] for i in row) for row in ((0, 1, 2), (1,), (2, 2))]
    assert encoder.encode(numbers).to_list() == [tokenizer.encode(text).ids for text in texts]
    assert encoder.gathers(numbers).all() == (name in by_word)


@pytest.mark.parametrize("reader", ALL, indirect=True)
def test_no_text_takes_more_tokens_than_said(reader):
    _, tokenizer = reader
    encoder, _ = encoded(tokenizer, "{{ history | join('; ') }}.")
    most = encoder.most_tokens("history").tolist()
    for number, text in enumerate(PHRASES):
        alone, later, last = f"{text};", f"x {text};", f"x {text}."
        bare = len(tokenizer.encode("x", add_special_tokens=False).ids)
        found = [
            len(tokenizer.encode(t, add_special_tokens=False).ids) for t in (alone, later, last)
        ]
        assert most[number] >= max(found[0], found[1] - bare, found[2] - bare)
    assert encoder.most_tokens(PieceKind.RATINGS).tolist() == []


def test_no_sample_at_all_has_no_tokens():
    for make_reader in READERS.values():
        encoder, numbers = encoded(make_reader(), "{{ history | join('; ') }}", items=())
        assert encoder.encode(numbers).to_list() == [] and encoder.lengths(numbers).tolist() == []


TITLES = st.text(
    st.sampled_from("'st 12.,-é🧸ſ\u0301\u00a0\n</▁Ġ本") | st.characters(exclude_categories=["Cs"]),
    max_size=12,
)
SOURCES = ["{{ history | join('; ') }}. What's next?", "Bought: {{ history | join(' ') }}"]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40)
@given(titles=st.lists(TITLES, min_size=1, max_size=5), source=st.sampled_from(SOURCES))
def test_byte_level_families_have_the_tokens_of_the_text(readers, family, titles, source):
    dialect = Dialect(readers(family), causal=True, end=0)
    written = [" ".join(title.split()) or "x" for title in titles]
    items = [range(len(titles)), [0], [*range(len(titles)), 0][::-1]]
    encoder, numbers = encoded(dialect, source, items, written)
    texts = encoder.pieces.write(numbers).to_pylist()
    for completions, read in ((False, dialect.prompts), (True, dialect.completions)):
        expected = read(texts)
        assert encoder.encode(numbers, completions=completions).to_list() == expected.to_list()
        assert (encoder.lengths(numbers, completions=completions) == expected.lengths).all()


@pytest.mark.parametrize("family", [*FAMILIES, "across blanks"])
def test_pieces_are_joined_unless_tokens_span_blanks(readers, family):
    phrases = [text for text in clean(HOSTILE) if text]
    encoder, numbers = encoded(
        Dialect(readers(family), causal=True), SOURCES[0], [range(len(phrases))], phrases
    )
    assert encoder.gathers(numbers).all() == (family in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_blanks_are_read_in_the_whole_text_alone(readers, family):
    dialect = Dialect(readers(family), causal=True)
    encoder, numbers = encoded(dialect, "{{ history | join(';  ') }}. What's next?")
    assert encoder.gathers(numbers).tolist() == [False, True, False]
    texts = encoder.pieces.write(numbers).to_pylist()
    assert encoder.encode(numbers).to_list() == dialect.prompts(texts).to_list()


@pytest.fixture(scope="module")
def readers():
    return cache(byte_level)
