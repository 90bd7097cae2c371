import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.foundation.errors import RecinjectError
from recinject.templating.context import Context
from recinject.templating.language import FILTERS, SlotKind, lower

SLOTS = {
    "history": SlotKind.ITEMS,
    "rated": SlotKind.RATED,
    "holes": SlotKind.MASKED,
    "text": SlotKind.GAPPED,
    "target": SlotKind.ITEM,
    "rating": SlotKind.RATING,
}
TEXTS = ["Bear", "Rag Doll", "Lego Set; 3 pieces"]
PHRASES = dict.fromkeys(SLOTS, TEXTS)
CONTEXT = Context(
    0,
    {slot: [2, 0, 1] for slot in SLOTS} | {"target": [1]},
    ratings=[4.0, 3.5, 1.0],
    hidden=[0, 2],
    gaps=[(1, 2), (4, 2)],
    label=4.5,
)


def write(source, context=CONTEXT):
    return "".join(segment(context, PHRASES) for segment in lower(source, SLOTS, "f.yaml: a"))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain text, 100 %, {braces}", "plain text, 100 %, {braces}"),
        ("  {{ target }}? ", "Rag Doll?"),
        ("{{target}}{{ target }}", "Rag DollRag Doll"),
        ("{{ rating }}", "4.5"),
        ("{{ history | join(' and ') }}.", "Lego Set; 3 pieces and Bear and Rag Doll."),
        ("{{ history | lettered(' ') }}", "(A) Lego Set; 3 pieces (B) Bear (C) Rag Doll"),
        ("{{ rated | rated(': ', ', ') }}", "Lego Set; 3 pieces: 4, Bear: 3.5, Rag Doll: 1"),
        ("{{ rated | join(', ') }}", "Lego Set; 3 pieces, Bear, Rag Doll"),
        ("{{ holes | masked('; ') }}", "<extra_id_0>; Bear; <extra_id_1>"),
        ("{{ text | corrupted('; ') }}", "Lego <extra_id_0> pieces; <extra_id_1> Doll"),
        ("{{ text | gaps('; ') }}", "<extra_id_0> Set; 3 <extra_id_1> Bear; Rag"),
        ("{% raw %}{{ history }}{% endraw %}", "{{ history }}"),
        ("{# for the reader #}{{ target }}", "Rag Doll"),
    ],
)
def test_what_the_language_can_say(source, text):
    assert write(source) == text


def test_letters_go_on_after_z():
    words = write("{{ history | lettered(' ') }}", Context(0, {"history": [0] * 54})).split(" Bear")
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
    ("{{ target", ["end of", "write slots as {{ history | join('; ') }}"]),
    ("{{ target }", ["unexpected '}'"]),
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
def test_text_without_slots_is_itself_or_too_long(text):
    if "\n" in text.strip():
        with pytest.raises(RecinjectError):
            write(text)
    else:
        assert write(text) == text.strip()
