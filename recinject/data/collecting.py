"""Checks the tables of a log, and makes of them dense integers and a catalogue."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.data.checking import check, check_items, look_at
from recinject.data.findings import Finding, LogError, note, quoted
from recinject.data.loading import LogTables
from recinject.data.schema import Catalog, Interactions, Log, empty_array, release
from recinject.data.tables import (
    IDS,
    ITEM_COLUMNS,
    labels,
    match_items_among_events,
    value_text,
)

_ROWS_AT_ONCE, _ROWS_HELD = 1 << 17, 1 << 22


def collect(tables: LogTables) -> Log:
    """Check every value, number users and items, put events in order, and join the catalogue.

    Users and items are numbered by their sorted ids. Numbers in order of appearance would leak:
    items that follow one another in a log would get neighbouring numbers, and a model that sees
    the numbers could guess the next item by counting.

    A user's order is the ``position`` when there is one; else the timestamp, ties and unknown
    times staying where the log has them; else the log's own order. Of rows of items with one id
    the first counts, rows that no event uses are left out, and items without a row get an empty
    title.

    Raises:
        RecinjectError: a value is missing or not what its column holds; the message has all that
            is wrong with the first file at fault.
    """
    numbers = check(tables)
    if tables.item_names:
        check_items(tables)
    seen = look_at(tables, numbers) if tables.examined else []
    if any(finding.level == "error" for finding in seen):
        place = tables.place("items" if tables.item_names else "read_events")
        raise LogError(str(place), [*tables.findings, *seen])
    for ours, table in (("user_id", "user_codes"), ("item_id", "item_codes")):
        _number(tables, ours, table)
    interactions = _interactions(tables, numbers)
    catalog, taken = _catalog(tables)
    renamed = _renamed(tables, numbers) | taken
    listed = ", ".join(f"{ours} from {name!r}" for ours, name in renamed.items())
    source = f"{tables.source} ({listed})" if listed else tables.source
    read = [note("columns", f"{listed.replace(' from ', ' is read from ', 1)}.")] if listed else []
    log = Log(interactions, catalog, source, positioned="position" in numbers)
    known = [*read, *tables.said_of_texts, *_findings(tables, log)]
    found = sorted([*known, *tables.findings], key=lambda each: each.name != "format")
    return replace(log, findings=[*found, *seen], users=_user_table(tables))


def _renamed(tables: LogTables, numbers: Mapping[str, str]) -> dict[str, str]:
    """Return our name to the file's where they differ; the items' own ids where theirs does."""
    named = {ours: name for ours, name in tables.names.items() if ours in (*IDS, *numbers)}
    of_items = dict(tables.item_names)
    if of_items and of_items.pop("item_id") != named["item_id"]:
        of_items["item_id of items"] = tables.item_names["item_id"]
    return {ours: name for ours, name in (named | of_items).items() if ours != name}


def _number(tables: LogTables, ours: str, table: str) -> None:
    """Make a table of each ``raw`` id with its ``text`` and its number, by the sorted texts."""
    name = tables.names[ours]
    text = tables.text("read_events", name)
    tables.connection.execute(
        f"CREATE OR REPLACE TABLE {table} AS SELECT _raw, _text, "
        f"CAST(dense_rank() OVER (ORDER BY _text) - 1 AS INTEGER) AS _number FROM "
        f"(SELECT {quoted(name)} AS _raw, any_value({text}) AS _text FROM read_events "
        f"WHERE {tables.selected} GROUP BY 1)"
    )


def _interactions(tables: LogTables, numbers: Mapping[str, str]) -> Interactions:
    """Return the events as arrays, put in order in the connection, out of core."""
    columns = {"user": "u._number", "item": "i._number", **numbers}
    if tables.parts:
        files = zip(tables.tables["read_events"].starts, tables.parts, strict=True)
        cases = [f"WHEN read_events.rowid >= {start} THEN {part}" for start, part in files]
        columns["part"] = f"CASE {' '.join(reversed(cases))} END"
    chosen = ", ".join(f"{sql} AS {quoted(ours)}" for ours, sql in columns.items())
    users, items = (quoted(tables.names[ours]) for ours in IDS)
    events = (
        f"SELECT {chosen}, read_events.rowid AS _row FROM read_events "
        f"JOIN user_codes u ON read_events.{users} = u._raw "
        f"JOIN item_codes i ON read_events.{items} = i._raw WHERE {tables.selected}"
    )
    key = "position" if "position" in numbers else "timestamp" if "timestamp" in numbers else "0"
    if key == "timestamp" and tables.kept("count(*)", f"AND ({numbers[key]}) IS NULL")[0][0]:
        # An event of unknown time stays behind the event that it follows in the log.
        key = "last_value(timestamp IGNORE NULLS) OVER (PARTITION BY user ORDER BY _row)"
    shown = ", ".join(map(quoted, [ours for ours in columns if ours != "position"]))
    query = (
        f"SELECT {shown} FROM (SELECT *, {key} AS _key FROM ({events})) "
        f'ORDER BY "user", _key NULLS FIRST, _row'
    )
    arrays = _fetch(tables, query, tables.kept("count(*)")[0][0])
    ratings = arrays.get("rating")
    return Interactions(
        users=arrays["user"],
        items=arrays["item"],
        ratings=None if ratings is None or np.isnan(ratings).all() else ratings,
        timestamps=arrays.get("timestamp"),
        user_ids=_ids(tables, "user_codes"),
        n_items=tables.ask("SELECT max(_number) + 1 FROM item_codes")[0][0],
        parts=arrays.get("part"),
    )


def _fetch(tables: LogTables, query: str, count: int) -> dict[str, NDArray[Any]]:
    """Return the columns of a query, each as one array, a batch of rows at a time."""
    kinds = {"user": np.int32, "item": np.int32, "part": np.int8}
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for batch in tables.connection.sql(query).to_arrow_reader(_ROWS_AT_ONCE):
        for name in batch.schema.names:
            if name not in arrays:
                arrays[name] = empty_array(count, kinds.get(name, np.float64))
            values = batch[name].to_numpy(zero_copy_only=False)
            arrays[name][start : start + len(batch)] = values
        start += len(batch)
        if start // _ROWS_HELD > (start - len(batch)) // _ROWS_HELD:
            release(*arrays.values())
    return arrays


def _catalog(tables: LogTables) -> tuple[Catalog, dict[str, str]]:
    """Return what is known of the items, and which columns of the events told it."""
    frame = pd.DataFrame({"item_id": _ids(tables, "item_codes"), "title": ""}, dtype=object)
    taken = {} if tables.item_names else _among_events(tables)
    for ours, values in _item_columns(tables, taken).items():
        if any(value is not None for value in values):
            frame[ours] = pd.Series(values, dtype=object)
    frame["title"] = [value or "" for value in frame["title"]]
    return Catalog(frame), taken


def _ids(tables: LogTables, codes: str) -> list[str]:
    """Return the id of each number."""
    return [
        text for _, text in tables.ask(f"SELECT DISTINCT _number, _text FROM {codes} ORDER BY 1")
    ]


def _item_columns(tables: LogTables, among_events: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return what is known of each item in use, None without a value.

    Of a table of items the first row counts; of the events the first value that is there.
    """
    if tables.item_names:
        names, table, first = tables.item_names, "items", "arg_min_null"
        others = [
            n for n in tables.tables[table].names if n not in (*names.values(), *ITEM_COLUMNS)
        ]
        columns = {**names, **dict(zip(others, others, strict=True))}
        del columns["item_id"]
        rows = f"LEFT JOIN items ON {tables.text(table, names['item_id'])} = _text"
    else:
        columns, table, first = dict(among_events), "read_events", "arg_min"
        item = quoted(tables.names["item_id"])
        rows = f"JOIN read_events ON {item} = _raw WHERE {tables.selected}"
    if not columns:
        return {}
    fields = (f"{first}({table}.{quoted(name)}, {table}.rowid)" for name in columns.values())
    query = f"SELECT {', '.join(fields)} FROM item_codes {rows} GROUP BY _number ORDER BY _number"
    return _tidy(tables, table, columns, query)


def _tidy(
    tables: LogTables, table: str, columns: Mapping[str, str], query: str
) -> dict[str, list[Any]]:
    """Return the columns of a query as texts, and as lists of texts for categories."""
    rows, kinds, sequences = tables.ask(query), tables.types(table), tables.tables[table].sequences
    found: dict[str, list[Any]] = {}
    for place, (ours, name) in enumerate(columns.items()):
        values = [row[place] for row in rows]
        first = next((value for value in values if value is not None), None)
        is_list = isinstance(_parsed(first), list | tuple)
        if ours == "categories" or (ours == "category" and "categories" not in columns and is_list):
            separator = None if name in sequences else "|"
            lists = [labels(_parsed(value), separator) or None for value in values]
            found["categories"] = lists
            continue
        if kinds[name] in ("FLOAT", "DOUBLE"):
            known = [value for value in values if value is not None]
            if not all(value.is_integer() for value in known):  # then 5.0 is no 5
                values = [None if value is None else repr(value) for value in values]
        parse = _parsed if ours not in ("title", "item_id") else (lambda value: value)
        texts = [None if value is None else value_text(parse(value)).strip() for value in values]
        found[ours] = [text or None for text in texts]
    return found


def _parsed(value: Any) -> Any:
    """Return a text that is a list, in JSON or as Python writes it, as that list."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                found = parse(value)
                return found if isinstance(found, list) else value
    return value


def _among_events(tables: LogTables) -> dict[str, str]:
    """Find item columns among the events: those that are asked for, and guessed ones.

    A guess holds where no item has two values: the title of a review differs from row to row.
    """
    loaded, asked = tables.tables["read_events"], dict(tables.settings.columns)
    if not tables.guess_items:  # an empty name leaves a column out
        asked = {**dict.fromkeys(ITEM_COLUMNS[1:], ""), **asked}
    candidates = match_items_among_events(tables.place(), loaded.names, tables.names, asked)

    def holds_one_value_an_item(name: str) -> bool:
        text, item = tables.text("read_events", name), quoted(tables.names["item_id"])
        several, filled = tables.ask(
            "SELECT count(*) FILTER (least <> most), count(least) FROM (SELECT _number, "
            f"min({text}) AS least, max({text}) AS most FROM read_events "
            f"JOIN item_codes ON {item} = _raw WHERE {tables.selected} GROUP BY 1)"
        )[0]
        return bool(filled) and not several

    named = candidates.items()
    return {o: name for o, name in named if asked.get(o) or holds_one_value_an_item(name)}


def _user_table(tables: LogTables) -> pd.DataFrame | None:
    """Return what is known of the log's users, a row for each of them in their order."""
    if not tables.user_names:
        return None
    name = tables.user_names["user_id"]
    others = [quoted(own) for own in tables.tables["users"].names if own != name]
    fields = ["any_value(c._text) AS user_id"]
    fields += [f"arg_min_null(users.{own}, users.rowid) AS {own}" for own in others]
    found: pd.DataFrame = tables.connection.sql(
        f"SELECT {', '.join(fields)} FROM user_codes c LEFT JOIN users "
        f"ON {tables.text('users', name)} = c._text GROUP BY c._number ORDER BY c._number"
    ).df()
    return found


def _findings(tables: LogTables, log: Log) -> list[Finding]:
    """Say how large a log is, what is missing in it, and which rows of items were left out."""
    events, said = log.interactions, []
    if events.timestamps is None:
        order = "the position is each user's order" if log.positioned else "only its rows' order"
        said.append(f"It has no timestamps: {order}.")
    else:
        kept = "" if log.positioned else ", kept behind the event before"
        if unknown := int(np.isnan(events.timestamps).sum()):
            said.append(f"Events without a timestamp{kept}: {unknown:,}.")
        said += ["The position is each user's order, not the timestamp."] * log.positioned
    if events.ratings is None:
        said.append("It has no ratings.")
    counts = {"Items without a title": log.catalog.titles.count("")}
    if tables.item_names:
        text = tables.text("items", tables.item_names["item_id"])
        total, used, distinct = tables.ask(
            f"SELECT count(*), count(_text), count(DISTINCT _text) FROM items LEFT JOIN "
            f"(SELECT DISTINCT _text FROM item_codes) ON {text} = _text"
        )[0]
        counts["Rows of items without an event, dropped"] = total - used
        counts["Further rows of an item, dropped"] = used - distinct
    sizes = f"{len(events):,} events of {events.n_users:,} users and {events.n_items:,} items"
    listed = [f"{what}: {count:,}." for what, count in counts.items() if count]
    return [
        note("size", f"It holds {sizes}."),
        *(note("columns", each) for each in [*said, *listed]),
    ]
