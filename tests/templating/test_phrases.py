import pandas as pd
import pytest

from recinject.data.schema import Catalog
from recinject.foundation.errors import RecinjectError
from recinject.identifiers.table import name_items
from recinject.templating.phrases import Phrasebook

CATALOG = Catalog(
    pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["Rag Doll", "", "1", "Mug #7"],
            "brand": pd.Series(["Dolly", None, None, "Potter  &\nSons"], dtype=object),
            "colour": pd.Series([None, "red", None, None], dtype=object),
        }
    )
)
NUMBERS = ("#2", "#0", "#1", "#3")


def phrases(source, identifiers=NUMBERS):
    return Phrasebook(CATALOG, identifiers).write(source, "f.yaml: phrases.history")


def test_a_phrase_knows_every_column_and_collapses_white_space():
    source = "{{ title }} {% if brand %} by {{ brand }}{% endif %}{{ ' ' ~ colour if colour }}\n"
    assert phrases(source) == ["Rag Doll by Dolly", "red", "1", "Mug #7 by Potter & Sons"]


def test_an_empty_phrase_falls_back_on_the_identifier():
    assert phrases("{{ brand or '' }}") == ["Dolly", "#0", "#1", "Potter & Sons"]
    assert phrases("{{ category }}{{ categories | join(', ') }}") == list(NUMBERS)


def test_an_item_is_its_identifier_and_its_title_each_once():
    # A title of digits stands in many a number without being said by it.
    numbers = ("#2", "#0", "#11", "#3")
    assert phrases("{{ item }}", numbers) == ["#2 Rag Doll", "#0", "#11 1", "#3 Mug #7"]
    assert phrases("{{ item }}")[2] == "#1 1"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 10 ** 60 * 10 ** 60 }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ 'a' | replace('a', 'b' * 9999) | replace('b', 'c' * 9999) }}",
        "{{ range(1000000000) | list }}",
        "{{ range(10000) | join('xxxxxxxxxx') }}",
        "{{ lipsum(99999) }}",
        "{% for a in range(9999) %}{{ 'x' * 999 }}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% for a in [title] recursive %}{{ loop([title]) }}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
        "{% set a = [title, title] %}{% set a = [a, a] %}{{ a }}",
        "{% set s = namespace(x='x') %}{% set s.x = s.x ~ s.x %}{{ s.x }}",
        "{% with a = title %}{{ a }}{% endwith %}",
        "{% include 'f.yaml' %}",
        "{{ " + "(" * 1500 + "1" + ")" * 1500 + " }}",
        "x" * 5000,
    ],
)
def test_a_phrase_that_would_not_end_or_fill_the_memory_is_refused(source):
    with pytest.raises(RecinjectError, match=r"phrases\.history"):
        phrases(source)


def test_what_phrases_are_for_stays_within_the_bounds():
    source = "{% for word in title.split() %}{{ loop.index }}{{ word | upper }} {% endfor %}"
    assert phrases(source)[0] == "1RAG 2DOLL"
    assert phrases("{{ title | replace('Doll', 'Mat') | truncate(50) }}")[0] == "Rag Mat"
    assert phrases("{{ (title | length) * 2 + 2 ** 3 }}")[0] == "24"


@pytest.mark.parametrize("kind", ["number", "title", "number_title"])
def test_no_kind_of_identifier_says_a_title_twice(kind):
    doll, missing, _, mug = phrases("{{ item }}", name_items(kind, CATALOG, 1).texts)
    assert (doll.count("Doll"), mug.count("Mug")) == (1, 1)
    assert missing.startswith("#") and " " not in missing


@pytest.mark.parametrize(
    ("source", "fragments"),
    [
        ("{{ titel }}", ["phrases.history", "no column 'titel'", "did you mean 'title'"]),
        ("{{ item_id }}", ["no column 'item_id'", "Legal: brand, categories, category, colour"]),
        ("{{ title", ["phrases.history", "end of", "Jinja over one item's columns"]),
        ("{{ title | nosuchfilter }}", ["nosuchfilter"]),
        ("{{ title.__class__.__mro__ }}", ["unsafe"]),
        ("{{ title + 1 }}", ["phrases.history", "can only concatenate", "one item's columns"]),
        ("{{ 1 / (colour | length) }}", ["phrases.history", "NoneType", "one item's columns"]),
    ],
)
def test_bad_phrases_are_refused(source, fragments):
    with pytest.raises(RecinjectError) as caught:
        phrases(source)
    assert all(fragment in str(caught.value) for fragment in fragments)
