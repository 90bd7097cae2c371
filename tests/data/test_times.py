"""Times keep their seconds, and a test prompt shows all that came before it."""

import numpy as np
import pandas as pd
import pytest

import recinject as ri
from recinject.data.splitting import Part


@pytest.mark.parametrize("start", [1_600_000_000, 1_600_000_000_000, 2_000_000_000])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_events_a_second_apart_stay_in_order_whatever_the_rows_say(start, suffix, tmp_path):
    """A float of 32 bits knows such times to two minutes."""
    step = 1000 if start > 1e12 else 1
    rows = [(f"u{u}", f"i{n}", start + step * n) for u in range(4) for n in range(8)]
    frame = pd.DataFrame(rows[::-1], columns=["user", "item", "time"])
    file = tmp_path / f"log.{suffix}"
    frame.to_csv(file, index=False) if suffix == "csv" else frame.to_parquet(file, index=False)
    log = ri.read_log(file)
    names = np.array(log.catalog.item_ids)
    for user in range(4):
        assert names[log.interactions.items_of(user)].tolist() == [f"i{n}" for n in range(8)]
    assert np.diff(log.interactions.timestamps[:8]).tolist() == [1.0] * 7


def test_the_test_prompt_shows_the_validation_item_last_and_validation_does_not_show_the_test():
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", n) for u in range(9) for n, i in enumerate(rng.permutation(20)[:7])]
    events = pd.DataFrame(rows, columns=["user", "item", "time"])
    items = pd.DataFrame({"item": [f"i{n}" for n in range(20)]})
    items["title"] = [f"Title{n}" for n in range(20)]
    data = ri.prepare(ri.Log.from_frame(events, items), k_core=0, identifiers="title")
    samples = ri.build_samples(data, {"retrieval": {"history_length": 20}})
    for user, own in events.groupby("user"):
        titles = [f"Title{item[1:]}" for item in own.sort_values("time")["item"]]
        for part, seen in (("validation", titles[:5]), ("test", titles[:6])):
            frame = samples.to_pandas("retrieval", part).set_index("user_id")
            words = frame.loc[user, "prompt"].replace(".", " ").replace(";", " ").split()
            assert [word for word in words if word.startswith("Title")] == seen
            assert frame.loc[user, "completion"] == titles[len(seen)]
    assert set(data.to_pandas()["part"]) == {part.label for part in Part if part >= 0}
