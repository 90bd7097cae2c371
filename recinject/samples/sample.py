"""What a stored sample is: its columns, and the names of the splits that are no part of a log."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

REWORDED = "reworded"
SHUFFLED = "shuffled"
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("task", pa.string()),
        ("template", pa.string()),
        ("split", pa.string()),
        ("user_id", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("target_item_id", pa.string()),
        ("candidate_item_ids", pa.list_(pa.string())),
        ("label", pa.float64()),
    ]
)


class Sample(NamedTuple):
    """One row of a sample file: what a model reads and should write, and what it is about.

    Attributes:
        sample_id: task, split, user and index: the key that the sample is a function of.
        template: the wording, with its version.
        split: ``train``, ``validation``, ``test``; ``reworded``: the test in a wording that is
            never trained on; or ``shuffled``: the test with its histories in random order.
        user_id: the log's own id; it never stands in the text.
        target_item_id: the log's own id of the item asked for, or None.
        candidate_item_ids: the slate in the prompt's order, or None.
        label: the rating asked for, or None.
    """

    sample_id: str
    task: str
    template: str
    split: str
    user_id: str
    prompt: str
    completion: str
    target_item_id: str | None
    candidate_item_ids: list[str] | None
    label: float | None
