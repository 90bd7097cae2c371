"""Amazon reviews as their makers give them: the collections of 2014, 2018 and 2023."""

from __future__ import annotations

import ast
import json
import re
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any

from recinject.data.table import Table
from recinject.data.table_reader import (
    JSON_LINES,
    kind_of,
    open_bytes,
    read_json_lines,
    read_table,
    read_text,
    without_gz,
)
from recinject.foundation.errors import RecinjectError

_KEYS = ((b'"reviewerID"', b'"asin"'), (b'"user_id"', b'"parent_asin"'))
_FIRST_BYTES = 1 << 16
_ASIN = re.compile(r"""["'](?:parent_asin|asin)["']\s*:\s*["']([^"']*)["']""")
# Long texts that no stage reads, pictures, and what was counted over all reviews: ranks, mean
# ratings and what others bought tell of the events that are held out.
_LEFT_OUT = {"reviewText", "text", "summary", "style", "helpful", "vote", "image", "images"}
_LEFT_OUT |= {"imUrl", "imageURL", "imageURLHighRes", "videos", "tech1", "tech2", "fit", "date"}
_LEFT_OUT |= {"details", "feature", "features", "salesRank", "rank", "average_rating"}
_LEFT_OUT |= {"rating_number", "related", "also_buy", "also_view", "similar_item"}
_LEFT_OUT.add("bought_together")


def reviews_files(path: Path) -> list[Path]:
    """Return the reviews of a folder, or a file itself, by names or by a first line's keys."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return [file for file in files if _is_reviews(file)]


def metadata_file(reviews: Path) -> Path | None:
    """Return the metadata that lie beside reviews: ``meta_X`` for ``reviews_X_5`` or ``X``."""
    stem = without_gz(reviews).stem.removeprefix("reviews_").removesuffix("_5")
    files = sorted(reviews.parent.glob("meta_*"))
    same = (file for file in files if without_gz(file).stem == f"meta_{stem}")
    return next((file for file in same if kind_of(file) in JSON_LINES), None)


def read_amazon(path: Path, used: Container[str] | None) -> Table:
    """Read a file of reviews or metadata: JSON, or Python literals (metadata of 2014).

    Args:
        path: the file; of another kind than JSON lines, it is read as any table.
        used: which items to read the metadata of; a collection describes many times more. None
            reads every line.

    Raises:
        RecinjectError: the metadata are of other items.
    """
    if kind_of(path) not in JSON_LINES:
        return read_table(path)

    def wanted(line: str) -> bool:
        if used is None:
            return True
        names = _ASIN.findall(line)
        return not names or any(name in used for name in names)

    table = read_json_lines(path, read_text(path), _parse, wanted)
    if table.frame.empty and not table.problems and used is not None:
        raise RecinjectError(
            f"{path}: describes none of the log's items",
            hint="take the metadata of the reviews' own category and year, or set data.items",
        )
    return table


def _parse(line: str) -> Any:
    try:
        record = json.loads(line)
    except ValueError:
        if not line.lstrip().startswith("{'"):
            raise
        record = _literal(line.strip())
    if not isinstance(record, dict):
        return record
    return {str(name): value for name, value in record.items() if name not in _LEFT_OUT}


def _literal(line: str) -> Any:
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"nor a Python dictionary: {error}") from error


def _is_reviews(file: Path) -> bool:
    name = without_gz(file).stem
    others = name in ("interactions", "items") or name.startswith("meta_")
    if others or kind_of(file) not in JSON_LINES:
        return False
    return name.startswith("reviews_") or bool(metadata_file(file)) or _has_keys(file)


def _has_keys(file: Path) -> bool:
    try:
        with open_bytes(file) as stream:
            line = stream.readline(_FIRST_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    return any(all(key in line for key in keys) for keys in _KEYS)
