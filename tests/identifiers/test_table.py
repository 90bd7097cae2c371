import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recinject.data.cleaning import clean
from recinject.data.readers import read_log
from recinject.data.schema import Catalog, Interactions
from recinject.data.splitting import Part, leave_one_out
from recinject.evaluation.audit import highest_id_rule
from recinject.foundation.errors import RecinjectError
from recinject.identifiers.table import Identifiers, check_kind, name_items
from recinject.recommenders.protocol import Queries
from recinject.registry import register


def catalog_of(titles):
    return Catalog(
        pd.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles})
    )


def split_over(n_items, seed=0):
    """Nine users with some of the items each; the last item is nobody's."""
    rng = np.random.default_rng(seed)
    items = [rng.integers(0, max(1, n_items - 1), 4) for _ in range(9)]
    return leave_one_out(
        Interactions(
            users=np.repeat(np.arange(9, dtype=np.int32), 4),
            items=np.concatenate(items).astype(np.int32),
            ratings=None,
            timestamps=None,
            user_ids=[str(user) for user in range(9)],
            n_items=n_items,
        )
    )


KINDS = [
    *("number", "number_title", "title", "token"),
    *("collaborative", "order_of_appearance_which_leaks"),
]
titles = st.lists(
    st.text(alphabet="ab #1", max_size=5).map(lambda text: " ".join(text.split())), min_size=1
)


@settings(max_examples=50)
@given(titles, st.sampled_from(KINDS), st.integers(0, 9))
def test_no_two_items_share_a_text_even_when_white_space_collapses(titles, kind, seed):
    catalog = catalog_of(titles)
    sizes = {"clusters": 2, "leaf_items": 2} if kind == "collaborative" else {}
    names = name_items(kind, catalog, seed, split_over(len(catalog)), **sizes)
    assert len({" ".join(text.split()) for text in names.texts}) == len(titles)
    assert all(text == " ".join(text.split()) != "" for text in names.texts)


@settings(max_examples=30)
@given(titles, st.integers(0, 9))
def test_numbers_are_a_permutation_and_one_for_all_kinds(titles, seed):
    catalog = catalog_of(titles)
    numbers = name_items("number", catalog, seed).numbers
    assert sorted(numbers.tolist()) == list(range(len(titles)))
    assert name_items("number_title", catalog, seed).numbers.tolist() == numbers.tolist()
    assert name_items("token", catalog, seed).numbers.tolist() == numbers.tolist()
    assert name_items("title", catalog, seed).numbers is None


def test_a_token_is_one_word_with_the_number_in_it():
    names = name_items("token", catalog_of(["Bear", "Doll", "#3"]), 1)
    assert names.texts == tuple(f"<item_{number}>" for number in names.numbers)
    assert names.tokens == names.texts
    assert name_items("number", catalog_of(["Bear"]), 1).tokens == ()


def test_the_order_of_appearance_counts_the_items_as_the_log_names_them():
    kind, split = "order_of_appearance_which_leaks", split_over(8)
    names = name_items(kind, catalog_of([""] * 8), 1, split)
    first = list(dict.fromkeys(split.interactions.items.tolist()))
    unseen = [item for item in range(8) if item not in first]
    assert [int(names.numbers[item]) for item in first + unseen] == list(range(8))
    assert names.texts[first[0]] == "#0" and 7 in unseen


def test_collaborative_codes_are_words_and_go_by_training_alone():
    split = split_over(30)
    log, catalog = split.interactions, catalog_of([""] * 30)
    names = name_items("collaborative", catalog, 1, split, clusters=3, leaf_items=4)
    assert all(re.fullmatch(r"c\d+( c\d+)+", text) for text in names.texts)
    assert names.numbers is None
    other = np.where(split.parts == Part.TRAIN, log.items, 29 - log.items).astype(np.int32)
    changed = replace(split, interactions=replace(log, items=other))
    assert names == name_items("collaborative", catalog, 1, changed, clusters=3, leaf_items=4)


@pytest.mark.parametrize("kind", ["collaborative", "order_of_appearance_which_leaks"])
def test_kinds_that_go_by_events_ask_for_them(kind):
    with pytest.raises(RecinjectError, match=f"identifiers.kind={kind}.*none are given"):
        name_items(kind, catalog_of(["a"]), 1)


@pytest.mark.slow
def test_the_order_of_appearance_leaks_on_amazon_beauty_and_a_permutation_does_not(shared_data):
    log = clean(read_log(shared_data / "amazon-2014-beauty", columns={}), k_core=5)[0]
    split = leave_one_out(log.interactions)
    view = split.view(Part.TEST)
    events = view.targets.values
    items = view.interactions.items
    queries = Queries(
        task="retrieval",
        sample_ids=[""] * len(events),
        prompts=[""] * len(events),
        users=view.interactions.users[events],
        histories=[items[history] for history in view.histories(events)],
        targets=items[events],
    )

    def rule(kind):
        numbers = name_items(kind, log.catalog, 1, split).numbers
        return {f.check[-1]: (f.value, f.verdict) for f in highest_id_rule(numbers, queries)}

    leaking = rule("order_of_appearance_which_leaks")
    # Users in the order of their ids; in the order of the file it is 4.4 %.
    assert leaking["1"] == (pytest.approx(0.055, abs=0.001), "warning")
    permuted = rule("number")
    assert permuted["0"][0] < 0.001 and {verdict for _, verdict in permuted.values()} == {"ok"}


def test_numbers_do_not_follow_the_order_of_appearance():
    catalog = catalog_of([""] * 2000)
    first, again, other = (name_items("number", catalog, seed).numbers for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert abs(np.corrcoef(first, np.arange(2000))[0, 1]) < 0.05


def test_titles_stand_alone_where_they_can():
    catalog = catalog_of(["Bear", "Doll", "Doll", "", "Mug #1 # blue", "Mug no. 1 no. blue"])
    number = name_items("number", catalog, 3).texts
    names = name_items("title", catalog, 3)
    assert names.texts == (
        "Bear",
        f"Doll {number[1]}",
        f"Doll {number[2]}",
        number[3],
        f"Mug no. 1 no. blue {number[4]}",
        f"Mug no. 1 no. blue {number[5]}",
    )
    assert names.duplicates_resolved == 4
    assert name_items("number_title", catalog, 3).texts[1] == f"{number[1]} Doll"


def test_a_table_comes_back_and_says_whom_it_names(tmp_path):
    catalog = catalog_of(["Bear", "Doll"])
    names = name_items("number_title", catalog, 1)
    names.save(tmp_path, catalog)
    again = Identifiers.load(tmp_path)
    assert again == names and again.numbers.tolist() == names.numbers.tolist()
    table = pd.read_parquet(tmp_path / "items.parquet")
    assert table.to_dict("list") == {
        "item_id": ["i0", "i1"],
        "identifier": list(names.texts),
        "title": ["Bear", "Doll"],
        "number": names.numbers.tolist(),
    }


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(titles, st.sampled_from(KINDS))
def test_identifiers_of_every_kind_come_back(tmp_path, titles, kind):
    catalog = catalog_of(titles)
    names = name_items(kind, catalog, 1, split_over(len(catalog)))
    names.save(tmp_path, catalog)
    again = Identifiers.load(tmp_path)
    assert again == names and again.tokens == names.tokens
    assert (again.numbers is None) == (names.numbers is None)
    assert again.duplicates_resolved == names.duplicates_resolved and again.describe() == []


@dataclass(frozen=True)
class Shouted(Identifiers):
    """A kind of a stranger's, which stores more than the table."""

    marks: int = 0

    @classmethod
    def make(cls, catalog, split, seed, *, marks: int = 1):
        return cls("shouted", tuple(f"{n}{'!' * marks}" for n in catalog.item_ids), marks=marks)

    def save(self, folder, catalog):
        super().save(folder, catalog)
        (folder / "marks").write_text(str(self.marks))

    @classmethod
    def restore(cls, folder, table):
        return cls("shouted", tuple(table["identifier"]), marks=int((folder / "marks").read_text()))


def test_a_kind_of_one_s_own_takes_settings_and_stores_what_it_likes(tmp_path):
    register("identifiers", "shouted")(Shouted)
    catalog = catalog_of(["Bear"])
    names = name_items("shouted", catalog, 1, marks=2)
    assert names.texts == ("i0!!",)
    names.save(tmp_path, catalog)
    assert Identifiers.load(tmp_path) == names
    with pytest.raises(RecinjectError, match="identifiers.mark: unknown key\\n.*'marks'"):
        check_kind("shouted", {"mark": 3})
    with pytest.raises(RecinjectError, match=r"identifiers\.marks: Input should be a valid"):
        check_kind("shouted", {"marks": "many"})


def test_a_text_for_two_items_is_refused():
    with pytest.raises(RecinjectError, match="1 texts name several items, first 'a'"):
        Identifiers("own", ("a", "b", "a"))


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(RecinjectError, match="did you mean 'number'"):
        name_items("numbr", catalog_of(["a"]), 1)
