from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recinject.data.schema import Catalog
from recinject.data.splitting import Split, load_split, save_split
from recinject.identifiers.table import name_items
from recinject.templating.phrases import Phrasebook

FRAME = pd.DataFrame(
    {
        "item_id": ["007", "b", "c"],
        "title": ["Bond", "", "Rag Doll"],
        "brand": pd.Series([None, "Acme", None], dtype=object),
        "categories": pd.Series([["Films", "Spies"], None, ["Toys"]], dtype=object),
        "price": pd.Series([1, None, 3], dtype=object),
    }
)


@pytest.mark.parametrize("columns", [(), ("ratings",), ("timestamps",), ("ratings", "timestamps")])
def test_a_split_comes_back_as_it_was(split_of, tmp_path, columns):
    split = split_of([[0, 1, 2, 1], [], [2, 0]], n_items=3)
    values = {"ratings": np.arange(6) / 2, "timestamps": np.array([1, 2, np.nan, 4, 5, 6.5])}
    kept = {name: values[name] if name in columns else None for name in values}
    events = replace(split.interactions, **kept)
    by_item = "ratings" in columns
    save_split(tmp_path, Split(events, split.parts, by_item), Catalog(FRAME))
    loaded, catalog = load_split(tmp_path)
    found = loaded.interactions
    for name in ("users", "items", "ratings", "timestamps"):
        np.testing.assert_array_equal(vars(found)[name], vars(events)[name])
    assert (found.users.dtype, loaded.parts.dtype) == (np.int32, np.int8)
    assert loaded.parts.tolist() == split.parts.tolist() and loaded.by_item is by_item
    assert (found.user_ids, found.n_items) == (list(events.user_ids), 3)
    assert catalog.item_ids == ["007", "b", "c"]


def test_missing_values_stay_none_and_lists_stay_lists(split_of, tmp_path):
    save_split(tmp_path, split_of([[0, 1, 2]], n_items=3), Catalog(FRAME))
    catalog = load_split(tmp_path)[1]
    assert catalog.frame.to_dict("records") == FRAME.to_dict("records")
    source = (
        "{{ item }}{% if brand %} by {{ brand }}{% endif %}"
        "{% if categories %} ({{ categories | join(', ') }}){% endif %}"
    )
    names = name_items("title", catalog, 1).texts
    texts = [Phrasebook(found, names).write(source, "") for found in (Catalog(FRAME), catalog)]
    assert texts[0] == texts[1]
    assert texts[0][0] == "Bond (Films, Spies)"
