"""Pieces joined are what a plain renderer writes: join, enumerate and zip over the phrases."""

from itertools import groupby
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged, side_by_side
from recinject.templating.language import lower, splits_at_blanks
from recinject.templating.phrases import Pieces
from recinject.templating.writers import Contexts, SlotKind

SLOTS = {
    "history": SlotKind.ITEMS,
    "rated": SlotKind.RATED,
    "holes": SlotKind.MASKED,
    "text": SlotKind.GAPPED,
    "target": SlotKind.ITEM,
    "rating": SlotKind.RATING,
}
LISTS = ("history", "rated", "holes", "text")
RATINGS = [0.1, 1.0, 3.5, 4.0, 10.0]


class Part(NamedTuple):
    """A slot with its filter and the filter's texts, or a literal text where no slot is named."""

    slot: str
    filter: str
    texts: tuple[str, ...]

    @property
    def source(self):
        if not self.slot:
            return self.texts[0]
        arguments = ", ".join(f"'{text}'" for text in self.texts)
        return f"{{{{ {self.slot}{f' | {self.filter}({arguments})' if self.filter else ''} }}}}"


class Row(NamedTuple):
    """One sample's integers: the list slots all hold the same items."""

    items: list[int]
    target: int
    ratings: list[float]
    hidden: list[bool]
    label: float


def spans(flags):
    """Whether each run of equal flags is hidden, with its first place and the one after it."""
    at = 0
    for flag, run in groupby(flags):
        start, at = at, at + len(list(run))
        yield flag, start, at


def reference(part, row, phrases):
    texts, (first, *others) = [phrases[item] for item in row.items], (*part.texts, "")
    if not part.slot:
        return first
    if part.slot == "target":
        return phrases[row.target]
    if part.slot == "rating":
        return f"{row.label:g}"
    if part.filter == "lettered":
        return first.join(f"({chr(65 + n)}) {text}" for n, text in enumerate(texts))
    if part.filter == "rated":
        pairs = zip(texts, row.ratings, strict=True)
        return others[0].join(f"{text}{first}{rating:g}" for text, rating in pairs)
    if part.filter == "masked":
        marks = iter(range(100))
        flagged = zip(texts, row.hidden, strict=True)
        return first.join(f"<extra_id_{next(marks)}>" if f else text for text, f in flagged)
    if part.filter in ("corrupted", "gaps"):
        marks, words, found = iter(range(100)), first.join(texts).split(), []
        for flag, start, stop in spans(row.hidden):
            found += [f"<extra_id_{next(marks)}>"] if flag else []
            found += words[start:stop] if flag == (part.filter == "gaps") else []
        return " ".join(found)
    return first.join(texts)


def source_of(parts):
    """Write a template; comments keep texts apart that would otherwise be one."""
    sources, last = [], True
    for part in parts:
        sources += ["{# #}"] * (not part.slot and not last) + [part.source]
        last = bool(part.slot)
    return "".join(sources)


def stripped(parts):
    """Take the blanks off both ends, as templates do."""
    first, last = parts[0], parts[-1]
    if not first.slot:
        parts = [Part("", "", (first.texts[0].lstrip(),)), *parts[1:]]
    if not last.slot:
        parts = [*parts[:-1], Part("", "", (parts[-1].texts[0].rstrip(),))]
    return parts


texts = st.text(alphabet="ab;.(-é \t\u00a0", max_size=6)
separators = st.sampled_from(["; ", " ", "", ",", " and ", " (", ") - ", "\t", ", no. "])
between_words = st.sampled_from(["; ", " ", ", \t", "\u00a0"])  # what gaps may be counted across


def parts_of(hidden):
    """Strategies of template parts; samples hide items, words, or nothing."""
    slot = lambda name, by, *texts: st.builds(Part, st.just(name), st.just(by), st.tuples(*texts))  # noqa: E731
    found = [
        texts.map(lambda text: Part("", "", (text,))),
        st.sampled_from([Part("target", "", ()), Part("rating", "", ())]),
        *(slot(name, by, separators) for name in LISTS[:2] for by in ("join", "lettered")),
        slot("rated", "rated", separators, separators),
    ]
    if hidden == "holes":
        found.append(slot("holes", "masked", separators))
    if hidden == "text":
        found += [slot("text", by, between_words) for by in ("corrupted", "gaps")]
    return st.lists(st.one_of(found), min_size=1, max_size=6)


@st.composite
def cases(draw, shortest=0):
    hidden = draw(st.sampled_from(["", "holes", "text"]))
    filled = lambda parts: any(part.slot or part.texts[0].strip() for part in parts)  # noqa: E731
    parts = draw(parts_of(hidden).filter(filled))
    word = st.text(alphabet="Bear;,(#1é", min_size=1, max_size=4)
    phrases = draw(st.lists(st.lists(word, min_size=1, max_size=3).map(" ".join), min_size=3))
    rows = []
    for _ in range(draw(st.integers(1 if shortest else 0, 3))):
        items = draw(st.lists(st.integers(0, len(phrases) - 1), min_size=shortest, max_size=5))
        n_flags = len(items) if hidden == "holes" else sum(len(phrases[i].split()) for i in items)
        rows.append(
            Row(
                items,
                draw(st.integers(0, len(phrases) - 1)),
                draw(st.lists(st.sampled_from(RATINGS), min_size=len(items), max_size=len(items))),
                draw(st.lists(st.booleans(), min_size=n_flags, max_size=n_flags)),
                draw(st.sampled_from(RATINGS)),
            )
        )
    return parts, phrases, rows


def contexts_of(rows):
    items = Ragged.from_rows([row.items for row in rows])
    targets = np.array([row.target for row in rows], np.int32)
    return Contexts(
        np.zeros(len(rows), np.int32),
        {**dict.fromkeys(LISTS, items), "target": Ragged.from_columns(targets)},
        ratings=Ragged.from_rows([row.ratings for row in rows], np.float64),
        hidden=Ragged.from_rows([row.hidden for row in rows], bool),
        labels=np.array([row.label for row in rows]),
    )


def written(source, phrases, contexts):
    """The pieces of a wording, and which of them each sample is made of."""
    pieces = Pieces({slot: phrases for slot in SLOTS if slot != "rating"}, np.array(RATINGS))
    writers = [segment.writer(pieces) for segment in lower(source, SLOTS, "f.yaml: a")]
    return pieces, side_by_side([write(contexts) for write in writers])


@settings(max_examples=120)
@given(cases())
@example(
    (
        [Part("", "", ("took (",)), Part("history", "join", ("; ",)), Part("", "", (") ",))],
        *(["a", "b", "c"], [Row([], 0, [], [], 1.0), Row([1], 0, [1.0], [], 1.0)]),
    )
)
def test_pieces_joined_are_what_a_plain_renderer_writes(case):
    parts, phrases, rows = case
    pieces, numbers = written(source_of(parts), phrases, contexts_of(rows))
    expected = ["".join(reference(p, row, phrases) for p in stripped(parts)) for row in rows]
    assert pieces.write(numbers).to_pylist() == expected
    assert ["".join(pieces.texts[n] for n in row) for row in numbers.to_list()] == expected


@settings(max_examples=120)
@given(cases(shortest=2))
def test_words_span_pieces_exactly_where_a_template_says_so(case):
    parts, phrases, rows = case
    source = source_of(parts)
    pieces, numbers = written(source, phrases, contexts_of(rows))
    by_piece = [[w for n in row for w in pieces.texts[n].split()] for row in numbers.to_list()]
    at_blanks = by_piece == [text.split() for text in pieces.write(numbers).to_pylist()]
    assert at_blanks == splits_at_blanks(lower(source, SLOTS, ""))


@settings(max_examples=50)
@given(cases())
def test_a_sample_is_written_alike_in_every_batch(case):
    parts, phrases, rows = case
    _, together = written(source_of(parts), phrases, contexts_of(rows))
    alone = [written(source_of(parts), phrases, contexts_of([row]))[1].to_list()[0] for row in rows]
    assert together.to_list() == alone


def test_no_gap_reaches_from_one_sample_into_the_next():
    rows = [Row([0, 1], 0, [1.0] * 2, flags, 1.0) for flags in ([False, True, True], [True] * 3)]
    pieces, numbers = written(
        "{{ text | corrupted('; ') }}", ["Rag Doll", "Cup"], contexts_of(rows)
    )
    assert pieces.write(numbers).to_pylist() == ["Rag <extra_id_0>", "<extra_id_0>"]
    pieces, numbers = written("{{ text | gaps('; ') }}", ["Rag Doll", "Cup"], contexts_of(rows))
    assert pieces.write(numbers).to_pylist() == [
        "<extra_id_0> Doll; Cup",
        "<extra_id_0> Rag Doll; Cup",
    ]


BARE = Contexts(np.zeros(1, np.int32), {slot: Ragged.from_rows([[0]]) for slot in LISTS})


@pytest.mark.parametrize(
    ("source", "fragments"),
    [
        ("{{ rating }}", ["writes a rating", "no labels", "labels=..."]),
        ("{{ rated | rated(' ', '; ') }}", ["ratings of 'rated'", "gave none", "ratings=..."]),
        ("{{ holes | masked('; ') }}", ["hides parts of 'holes'", "did not say which"]),
        ("{{ text | corrupted('; ') }}", ["hides parts of 'text'", "hidden=..."]),
        ("{{ text | gaps('; ') }}", ["hides parts of 'text'", "hidden=..."]),
    ],
)
def test_a_sampler_that_gives_too_little_is_told_what_to_give(source, fragments):
    with pytest.raises(RecinjectError) as caught:
        written(source, ["Bear"], BARE)
    assert all(fragment in str(caught.value) for fragment in fragments)


def row(n_items, label=1.0):
    return Row([0] * n_items, 0, [1.0] * n_items, [n % 2 == 0 for n in range(n_items)], label)


@pytest.mark.parametrize("name", ["masked", "corrupted", "gaps"])
def test_there_are_a_hundred_sentinels_and_no_more(name):
    slot = "holes" if name == "masked" else "text"
    source = f"{{{{ {slot} | {name}(' ') }}}}"
    pieces, numbers = written(source, ["Bear", "", ""], contexts_of([row(200)]))
    assert pieces.write(numbers).to_pylist()[0].count("<extra_id_99>") == 1
    with pytest.raises(RecinjectError, match="takes 101 sentinels, and there are 100"):
        written(source, ["Bear", "", ""], contexts_of([row(201)]))


def test_a_history_has_letters_beyond_the_catalogue_but_not_without_end():
    source = "{{ history | lettered(' ') }}"
    pieces, numbers = written(source, ["Bear"], contexts_of([row(1000)]))
    marks = pieces.write(numbers).to_pylist()[0].split(" Bear")
    assert len(set(marks)) == 1001 and marks[1:2] == [" (B)"]
    with pytest.raises(RecinjectError, match="takes 1001 letters, and there are 1000"):
        written(source, ["Bear"], contexts_of([row(1001)]))


@pytest.mark.parametrize("value", [0.0, 3.0, 11.0])
def test_a_rating_that_the_log_has_not_is_refused(value):
    with pytest.raises(RecinjectError, match=f"no rating {value:g}"):
        written("{{ rating }}", ["Bear"], contexts_of([row(1, value)]))


def test_new_pieces_after_the_first_text_are_refused():
    pieces, numbers = written("{{ history | join('; ') }}", ["Bear"], contexts_of([row(2)]))
    pieces.write(numbers)
    assert pieces.block("history", "", "; ") >= 0
    with pytest.raises(RuntimeError, match="bind every template before"):
        pieces.block("history", "(", ")")
