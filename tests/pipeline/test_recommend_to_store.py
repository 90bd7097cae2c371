"""Lists of many people, written to a store."""

import io
import json

import pandas as pd
import pytest

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.foundation.stores import Store
from recinject.pipeline import recommend as room


def test_lists_go_to_a_store_shard_by_shard_and_the_manifest_last(tmp_path, monkeypatch):
    log = simulate_shop(users=20, items=30, events_per_user=8, seed=1)
    fitted = ri.fit("item_knn", ri.prepare(log, k_core=2))
    monkeypatch.setattr(room, "PEOPLE_PER_SHARD", 7)
    people = [{"liked": [title]} for title in fitted.data.catalog.titles[:17]]
    whole = pd.read_parquet(room.recommend_all(fitted, people, tmp_path / "whole.parquet", 3))
    store, written = Store("memory://lists.parquet"), []
    write = Store.write

    def fail_at_the_third(self, name, content):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "write", fail_at_the_third)
        room.recommend_all(fitted, people, store.url, 3)
    assert store.names() == {*written} and len(written) == 2
    assert room.recommend_all(fitted, people, store.url, 3) == store.url
    names = json.loads(store.read("manifest.json"))["files"]
    assert names[:2] == written and store.names() == {*names, "manifest.json"}
    frames = [pd.read_parquet(io.BytesIO(store.read(name))) for name in names]
    pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True), whole)
    room.recommend_all(fitted, people, store.url, 2)  # another question takes none of them
    assert not store.names() & {*names}
