import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.data.schema import Catalog
from recinject.foundation.errors import RecinjectError
from recinject.identifiers.table import KINDS, Identifiers, name_items


def catalog_of(titles):
    return Catalog(
        pd.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles})
    )


titles = st.lists(
    st.text(alphabet="ab #1", max_size=5).map(lambda text: " ".join(text.split())), min_size=1
)


@settings(max_examples=50)
@given(titles, st.sampled_from(sorted(KINDS)), st.integers(0, 9))
def test_no_two_items_share_a_text_even_when_white_space_collapses(titles, kind, seed):
    names = name_items(kind, catalog_of(titles), seed)
    assert len({" ".join(text.split()) for text in names.texts}) == len(titles)
    assert all(text == " ".join(text.split()) != "" for text in names.texts)


@settings(max_examples=30)
@given(titles, st.integers(0, 9))
def test_numbers_are_a_permutation_and_one_for_all_kinds(titles, seed):
    catalog = catalog_of(titles)
    numbers = name_items("number", catalog, seed).numbers
    assert sorted(numbers.tolist()) == list(range(len(titles)))
    assert name_items("number_title", catalog, seed).numbers.tolist() == numbers.tolist()
    assert name_items("title", catalog, seed).numbers is None


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
    assert Identifiers.load(tmp_path, "number_title") == names
    table = pd.read_parquet(tmp_path / "items.parquet")
    assert table.to_dict("list") == {
        "item_id": ["i0", "i1"],
        "identifier": list(names.texts),
        "title": ["Bear", "Doll"],
    }


def test_a_text_for_two_items_is_refused():
    with pytest.raises(RecinjectError, match="1 texts name several items, first 'a'"):
        Identifiers("own", ("a", "b", "a"))


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(RecinjectError, match="did you mean 'number'"):
        name_items("numbr", catalog_of(["a"]), 1)
