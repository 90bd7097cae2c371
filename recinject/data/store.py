"""The data stage's files: events with their part, users, and the catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from recinject.data.schema import Catalog, Interactions
from recinject.data.splitting import Split

_EVENTS, _USERS, _ITEMS = "interactions.parquet", "users.parquet", "items.parquet"


def save_split(folder: Path, split: Split, catalog: Catalog) -> None:
    """Write a split and its catalogue; numbers stand for users and items, tables say whom."""
    events = split.interactions
    columns = {
        "user": events.users,
        "item": events.items,
        "rating": events.ratings,
        "timestamp": events.timestamps,
        "part": split.parts,
    }
    known = {name: column for name, column in columns.items() if column is not None}
    frame = pd.DataFrame(known)
    frame.attrs["by_item"] = split.by_item
    frame.to_parquet(folder / _EVENTS, index=False)
    pd.DataFrame({"user_id": list(events.user_ids)}).to_parquet(folder / _USERS, index=False)
    catalog.frame.to_parquet(folder / _ITEMS, index=False)


def load_split(folder: Path) -> tuple[Split, Catalog]:
    """Read what :func:`save_split` wrote."""
    events = pd.read_parquet(folder / _EVENTS)
    # pandas would read None as NaN and lists as arrays, which a phrase takes for something there.
    catalog = Catalog(pd.DataFrame(pq.read_table(folder / _ITEMS).to_pydict(), dtype=object))
    interactions = Interactions(
        users=events["user"].to_numpy(np.int32),
        items=events["item"].to_numpy(np.int32),
        ratings=events["rating"].to_numpy(np.float64) if "rating" in events else None,
        timestamps=events["timestamp"].to_numpy(np.float64) if "timestamp" in events else None,
        user_ids=pd.read_parquet(folder / _USERS)["user_id"].tolist(),
        n_items=len(catalog),
    )
    parts, by_item = events["part"].to_numpy(np.uint8), bool(events.attrs.get("by_item"))
    return Split(interactions, parts, by_item), catalog
