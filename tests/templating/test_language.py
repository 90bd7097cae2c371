import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged, side_by_side
from recinject.templating.language import lower, splits_at_blanks
from recinject.templating.phrases import Pieces
from recinject.templating.writers import FILTERS, Contexts, SlotKind

SLOTS = {
    "user": SlotKind.USER,
    "history": SlotKind.ITEMS,
    "rated": SlotKind.RATED,
    "holes": SlotKind.MASKED,
    "text": SlotKind.GAPPED,
    "target": SlotKind.ITEM,
    "rating": SlotKind.RATING,
}
TEXTS = ["Bear", "Rag Doll", "Lego Set; 3 pieces"]
RATINGS = np.array([1.0, 3.5, 4.0, 4.5])
HIDDEN = {
    "holes": [True, False, True],
    # Lego [Set; 3] pieces; [Bear; Rag] Doll
    "text": [False, True, True, False, True, True, False],
}


def write(source, items=(2, 0, 1)):
    items_of = {slot: TEXTS for slot in SLOTS if slot not in ("rating", "user")}
    pieces = Pieces(items_of, RATINGS, ["<user_7>", "<user_3>"])
    writers = [segment.writer(pieces) for segment in lower(source, SLOTS, "f.yaml: a")]
    hidden = HIDDEN["text" if "text" in source else "holes"]
    contexts = Contexts(
        np.ones(1, np.int32),
        {slot: Ragged.from_rows([items]) for slot in SLOTS} | {"target": Ragged.from_rows([[1]])},
        ratings=Ragged.from_rows([[4.0, 3.5, 1.0]], np.float64),
        hidden=Ragged.from_rows([hidden], bool),
        labels=np.array([4.5]),
    )
    return pieces.write(side_by_side([write(contexts) for write in writers])).to_pylist()[0]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain text, 100 %, {braces}", "plain text, 100 %, {braces}"),
        ("  {{ target }}? ", "Rag Doll?"),
        ("{{target}}{{ target }}", "Rag DollRag Doll"),
        ("{{ rating }}", "4.5"),
        ("{{ user }} took ({{ user }}): {{ target }}", "<user_3> took (<user_3>): Rag Doll"),
        ("{{ history | join(' and ') }}.", "Lego Set; 3 pieces and Bear and Rag Doll."),
        ("{{ history | lettered(' ') }}", "(A) Lego Set; 3 pieces (B) Bear (C) Rag Doll"),
        ("{{ rated | rated(': ', ', ') }}", "Lego Set; 3 pieces: 4, Bear: 3.5, Rag Doll: 1"),
        ("{{ rated | join(', ') }}", "Lego Set; 3 pieces, Bear, Rag Doll"),
        ("{{ holes | masked('; ') }}", "<extra_id_0>; Bear; <extra_id_1>"),
        ("{{ text | corrupted('; ') }}", "Lego <extra_id_0> pieces; <extra_id_1> Doll"),
        ("{{ text | gaps('; ') }}", "<extra_id_0> Set; 3 <extra_id_1> Bear; Rag"),
        ("{% raw %}{{ history }}{% endraw %}", "{{ history }}"),
        ("{# for the reader #}{{ target }}", "Rag Doll"),
        ("({{ target }}{# closed #}), or {% raw %}{not}{% endraw %}?", "(Rag Doll), or {not}?"),
        ("{{ target }}{# glued #}a{# and #}b c", "Rag Dollab c"),
        ("{{ target }} ratings", "Rag Doll ratings"),
        ("{{ rating }} letters {{ target }} sentinels", "4.5 letters Rag Doll sentinels"),
    ],
)
def test_what_the_language_can_say(source, text):
    assert write(source) == text


def test_letters_go_on_after_z():
    words = write("{{ history | lettered(' ') }}", [0] * 54).split(" Bear")
    assert [words[n].strip() for n in (0, 25, 26, 51, 52)] == ["(A)", "(Z)", "(A2)", "(Z2)", "(A3)"]
    assert len(set(words)) == 55


REFUSED = [
    ("{{ histroy | join('; ') }}", ["unknown slot 'histroy'", "did you mean 'history'"]),
    ("{{ user_id }}", ["unknown slot 'user_id'", "Legal: history, holes, rated, rating"]),
    ("{{ history | jion('; ') }}", ["filter 'jion'", "did you mean 'join'"]),
    ("{{ history | upper }}", ["filter 'upper'", "Legal: join, lettered"]),
    ("{{ history | rated(', ', '; ') }}", ["'rated' cannot write 'history', a list of items"]),
    ("{{ holes | join('; ') }}", ["'join' cannot write 'holes'", "some of them masked", "masked"]),
    ("{{ target | join('; ') }}", ["'join' cannot write 'target', one item", "Legal: none"]),
    ("{{ history }}", ["needs a filter", "{{ history | join('; ') or lettered('; ') }}"]),
    ("{{ text }}", ["needs a filter", "corrupted('; ') or gaps('; ')"]),
    ("{{ history | join }}", ["'join' takes 1 texts", "{{ history | join('; ') }}"]),
    ("{{ history | join('; ', ' and ') }}", ["'join' takes 1 texts"]),
    ("{{ history | join(3) }}", ["'join' takes 1 texts"]),
    ("{{ history | join(target) }}", ["'join' takes 1 texts"]),
    ("{{ history | join(d='; ') }}", ["'join' takes 1 texts"]),
    ("{{ history | join(*text) }}", ["'join' takes 1 texts"]),
    ("{{ history | join('; ', *text) }}", ["'join' takes 1 texts"]),
    ("{{ rated | rated('; ') }}", ["'rated' takes 2 texts"]),
    ("{{ text | gaps(' and ') }}", ["' and ' adds words", "{{ text | gaps('; ') }}"]),
    ("{{ text | corrupted(',') }}", ["',' adds words to those of the items, or joins them"]),
    ("{% for i in history %}{{ i }}{% endfor %}", ["For is not part", "put logic into phrases:"]),
    ("{% if history %}a{% endif %}", ["If is not part"]),
    ("{% set a = 'b' %}", ["Assign is not part"]),
    ("{{ range(3) }}", ["Call is not part"]),
    ("{{ target.title }}", ["Getattr is not part"]),
    ("{{ history[0] }}", ["Getitem is not part"]),
    ("{{ 'text' }}", ["Const is not part"]),
    ("{{ target ~ 'a' }}", ["Concat is not part"]),
    ("{{ history | join('; ') | join('a') }}", ["Filter is not part"]),
    ("a\nb", ["a template is one line", "join the lines"]),
    ("a\rb", ["a template is one line"]),
    ("{{ target", ["end of", "write slots as {{ history | join('; ') }}"]),
    ("{{ target }", ["unexpected '}'"]),
    ("", ["is empty", "write text, {{ slots }}, or both"]),
    ("{# nothing #}", ["is empty"]),
    ("{% nosuch %}", ["unknown tag 'nosuch'"]),
]


@pytest.mark.parametrize(("source", "fragments"), REFUSED, ids=[source for source, _ in REFUSED])
def test_what_the_language_refuses(source, fragments):
    with pytest.raises(RecinjectError) as caught:
        lower(source, SLOTS, "f.yaml: a.prompt")
    assert all(fragment in str(caught.value) for fragment in ["f.yaml: a.prompt", *fragments])


@pytest.mark.parametrize("name", FILTERS)
def test_the_usage_in_messages_is_itself_legal(name):
    for slot, kind in SLOTS.items():
        if kind in FILTERS[name].kinds:
            assert lower(f"{{{{ {slot} | {FILTERS[name].usage} }}}}", SLOTS, "")


@settings(max_examples=50)
@given(st.text().filter(lambda text: not any(mark in text for mark in ("{{", "{%", "{#"))))
def test_text_without_slots_is_itself_or_not_one_line(text):
    if len(text.strip().splitlines()) != 1:
        with pytest.raises(RecinjectError):
            write(text)
    else:
        assert write(text) == text.strip()


@pytest.mark.parametrize(
    ("source", "does"),
    [
        ("plain", True),
        ("({{ target }}), {{ history | join('; ') }}.", True),
        ("{{ target }}{{ rating }}", False),
        ("{{ target }}-{{ rating }}", False),
        ("{{ target }}- {{ rating }}", True),
        ("{{ history | join(',') }}", False),
        ("{{ history | join(' (') }}", True),
        ("{{ history | lettered('/') }}", False),
        ("{{ rated | rated(' ', ';') }}", False),
        ("{{ rated | rated(':', '; ') }}", False),
        ("{{ rated | rated(', rated ', '; ') }}", True),
        ("{{ holes | masked('') }}", False),
        ("{{ text | gaps('; ') }}?", True),
    ],
)
def test_a_template_says_whether_words_span_pieces(source, does):
    assert splits_at_blanks(lower(source, SLOTS, "")) is does
