"""Items whose names a tokenizer reads as the same tokens are refused before anything is built."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recinject as ri
from recinject.decoding.trie import Trie
from recinject.foundation.errors import RecinjectError
from recinject.tasks.task import Retrieval

SIGNS = "电影甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥金木水火土日月"
SCRIPTS = {
    "Chinese": [f"电影{sign}" for sign in SIGNS[2:22]],
    "emoji": [chr(0x1F600 + n) for n in range(20)],
    "Hungarian": [f"k{'ő' * n}r" for n in range(1, 21)],
    "braces": ["{}"[n % 2] * (n // 2 + 1) for n in range(20)],
}


def log_of(titles):
    rows = [(f"u{u}", f"i{(u * 7 + n) % 20}", n) for u in range(12) for n in range(6)]
    events = pd.DataFrame(rows, columns=["user", "item", "time"])
    items = pd.DataFrame({"item": [f"i{n}" for n in range(20)], "title": titles})
    return ri.Log.from_frame(events, items)


@pytest.mark.parametrize("script", SCRIPTS)
def test_titles_that_t5_cannot_spell_are_refused_with_fixes_that_work(
    shared_data: Path, script, tmp_path
):
    t5, log = shared_data / "t5-tokenizer", log_of(SCRIPTS[script])
    data = ri.prepare(log, k_core=0, identifiers="title")
    with pytest.raises(RecinjectError) as caught:
        ri.build_samples(data, ["retrieval"], tokenizer=t5)
    said = str(caught.value)
    assert "identifiers.kind=title: the tokenizer cannot tell 20 of 20 items apart" in said
    assert repr(data.catalog.titles[0]) in said and "<unk>" in said
    assert "identifiers.kind=number" in caught.value.hint
    for kind in ("number", "number_title"):
        numbered = ri.prepare(log, k_core=0, identifiers=kind)
        assert len(ri.build_samples(numbered, ["retrieval"], tokenizer=t5)["retrieval"])
    assert len(ri.build_samples(data, ["retrieval"], folder=tmp_path)["retrieval"])


def test_check_refuses_before_training_with_number_and_example(
    recinject, tiny_recipe, shared_data: Path, tmp_path
):
    log = log_of(["Bear", "Doll", *SCRIPTS["Chinese"][2:]])
    log.to_pandas().to_csv(tmp_path / "log.csv", index=False)
    log.catalog.frame.to_csv(tmp_path / "items.csv", index=False)
    words = [
        *(f"data.path={tmp_path / 'log.csv'}", f"data.items={tmp_path / 'items.csv'}"),
        *("samples.tasks={retrieval: {}}", "data.k_core=0", f"runs={tmp_path}"),
        f"model.tokenizer={shared_data / 't5-tokenizer'}",
    ]
    ended = recinject("check", tiny_recipe, *words, "identifiers.kind=title")
    assert ended.code == 2 and not (tmp_path / "tiny").exists()
    assert "the tokenizer cannot tell 18 of 20 items apart: '电影" in ended.output
    assert "fix: set identifiers.kind=number" in ended.output
    for kind in ("number", "number_title"):
        ended = recinject("check", tiny_recipe, *words, f"identifiers.kind={kind}")
        assert ended.code == 0, ended.output


@settings(max_examples=25)
@given(
    st.permutations(["A B", "A  B", "A\tB", " A B ", "A\u00a0B", "A\u3000B", "A \u200b B", "AB"])
)
def test_titles_that_differ_by_blanks_alone_get_names_of_their_own(titles):
    """To T5 every run of blanks is one; a name that is shared by two items is nobody's."""
    log = log_of([*titles, *(f"Item {n}" for n in range(12))])
    data = ri.prepare(log, k_core=0, identifiers="title")
    names = data.identifiers.texts
    assert len(set(names)) == 20
    collapsed = [" ".join(name.split()) for name in names]
    assert collapsed == list(names)


@pytest.mark.parametrize(
    ("pair", "alike"),
    [
        (("red car", "red\u200bcar"), True),
        (("red car", "red\ufeff car"), True),
        (("five", "\ufb01ve"), True),  # a ligature
        (("mug 2", "mug \u00b2"), True),
        (("red car", "redcar"), False),
    ],
)
def test_signs_that_only_the_tokenizer_takes_for_others_are_refused(shared_data: Path, pair, alike):
    """T5 reads a zero-width space as a blank and a ligature as its letters."""
    log, t5 = log_of([*pair, *(f"Item {n}" for n in range(18))]), shared_data / "t5-tokenizer"
    data = ri.prepare(log, k_core=0, identifiers="title")
    if alike:
        with pytest.raises(RecinjectError, match="cannot tell 2 of 20 items apart") as caught:
            ri.build_samples(data, ["retrieval"], tokenizer=t5)
        assert all(repr(title) in str(caught.value) for title in pair)
    else:
        ri.build_samples(data, ["retrieval"], tokenizer=t5)


def test_a_phrase_of_ones_own_that_names_two_items_is_named(make, small_split):
    """Then no kind of identifiers helps: the phrase leaves them out."""
    with pytest.raises(RecinjectError, match="cannot tell") as caught:
        make(small_split, tasks=[Retrieval()], phrases={"target": "{{ title }}"})
    assert caught.value.hint == "set samples.phrases.target='{{ identifier }}'"
    make(small_split, tasks=[Retrieval()], phrases={"target": "{{ identifier }}"})


@settings(max_examples=25)
@given(st.lists(st.text(alphabet="ab#1 é電", min_size=1, max_size=4), min_size=20, max_size=20))
def test_what_is_built_can_be_searched(titles):
    """Whatever passes is a catalogue of distinct answers, and what is refused is none."""
    data = ri.prepare(log_of(titles), k_core=0, identifiers="title")
    samples = None
    try:
        samples = ri.build_samples(data, ["retrieval"], vocab_size=500)
    except RecinjectError as error:
        assert "cannot tell" in str(error)
    if samples is not None:
        names = samples.factory.wordings["retrieval"].phrases["target"]
        assert len(Trie.build(samples.dialect.completions(names)).paths) == 20
