"""Checks the tables of a log, and makes of them dense integers and a catalogue."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.data.findings import Finding, LogError, examine, note, setting
from recinject.data.loading import LogTables, literal, quoted
from recinject.data.schema import Catalog, Interactions, Log, empty_array, release
from recinject.data.tables import (
    IDS,
    NUMBERS,
    SHOWN,
    labels,
    match_items_among_events,
    value_text,
)
from recinject.data.times import NUMERIC, seconds
from recinject.foundation.errors import RecinjectError, did_you_mean

_ROWS_AT_ONCE, _ROWS_HELD = 1 << 17, 1 << 22
_WRONG = {
    "user_id": "is empty",
    "item_id": "is empty",
    "timestamp": "is neither seconds since 1970 nor a date such as 2014-03-01T10:00:00",
}
_BOUND = r"\s*(<=|>=|<|>)\s*([-+.0-9eE]+)\s*"


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
        _check_items(tables)
    seen = look_at(tables, numbers) if tables.examined else []
    if any(finding.level == "error" for finding in seen):
        place = tables.tables["items" if tables.item_names else "read_events"].sources[0].path
        raise LogError(str(place), [*tables.findings, *seen])
    for ours, table in (("user_id", "user_codes"), ("item_id", "item_codes")):
        _number(tables, ours, table)
    interactions = _interactions(tables, numbers)
    catalog, taken = _catalog(tables)
    names = {ours: name for ours, name in tables.names.items() if ours in IDS or ours in numbers}
    of_items = dict(tables.item_names)
    if of_items and of_items.pop("item_id") != names["item_id"]:
        of_items["item_id of items"] = tables.item_names["item_id"]
    named = {**names, **of_items}
    renamed = {ours: name for ours, name in named.items() if ours != name} | taken
    listed = ", ".join(f"{ours} from {name!r}" for ours, name in renamed.items())
    source = f"{tables.source} ({listed})" if listed else tables.source
    read = [note("columns", f"{listed.replace(' from ', ' is read from ', 1)}.")] if listed else []
    first = [each for each in tables.findings if each.name == "format"]
    log = Log(interactions, catalog, source, positioned="position" in numbers)
    said = [note("text", text) for each in tables.tables.values() for text in each.said]
    others = [each for each in tables.findings if each.name != "format"]
    findings = [*first, *read, *said, *_findings(tables, log), *others, *seen]
    return replace(log, findings=findings, users=_user_table(tables))


def look_at(tables: LogTables, numbers: Mapping[str, str]) -> list[Finding]:
    """Examine the events that are kept, whose numbers are given as SQL, and the items."""
    asked = tables.settings
    names = {ours: name for ours, name in tables.names.items() if ours in (*IDS, *numbers)}
    names |= {f"kept by {name}": name for name in (*asked.keep, *asked.drop)}
    if not tables.item_names and tables.guess_items:
        loaded, given = tables.tables["read_events"], dict(asked.columns)
        path = loaded.sources[0].path
        names |= match_items_among_events(path, loaded.names, tables.names, given)
    if asked.rating_of is not None:
        names |= {"rating_of": asked.rating_of.column, "rating": "rating"}
    sql = {ours: tables.text("read_events", tables.names[ours]) for ours in IDS}
    if tables.item_names:
        sql["items"] = tables.text("items", tables.item_names["item_id"])
    found = examine(tables.connection, names, tables.item_names, {**sql, **numbers})
    if not asked.partial_items:
        return found
    return [
        replace(each, level="note") if each.name == "unmatched-items" else each for each in found
    ]


def check(tables: LogTables) -> dict[str, str]:
    """Return the SQL of the events' numbers, and restrict the events to those that are kept.

    A column without any value is left out.

    Raises:
        RecinjectError: values are missing or broken, and ``bad_rows`` does not drop them.
    """
    settings = tables.settings
    _keep_and_drop(tables)
    numbers: dict[str, str] = {}
    faults: dict[str, str] = {ours: _bad_id(tables, tables.names[ours]) for ours in IDS}
    names = dict(tables.names)
    if settings.rating_of is not None:
        names["rating"] = settings.rating_of.column
        _known_column(tables, names["rating"], "data.rating_of.column")
    for ours in NUMBERS:
        if ours not in names:
            continue
        text = tables.text("read_events", names[ours])
        value, may_miss = _value(tables, ours, names[ours], text)
        known, filled = tables.ask(
            f"SELECT count({value}), count({quoted(names[ours])}) "
            f"FROM read_events WHERE {tables.selected}"
        )[0]
        if not known and not filled:
            continue
        bad = f"({value} IS NULL OR NOT isfinite({value}))"
        bad = f"({bad} AND {quoted(names[ours])} IS NOT NULL)" if may_miss else bad
        numbers[ours], faults[ours] = value, bad
    _settle(tables, faults, names)
    if "rating" in numbers:
        numbers["rating"] = _rating(tables, numbers["rating"])
    tables.connection.execute(
        f"CREATE OR REPLACE VIEW events AS FROM read_events WHERE {tables.selected}"
    )
    return numbers


def _known_column(tables: LogTables, name: str, setting: str) -> None:
    known = tables.tables["read_events"].names
    if name not in known:
        path = tables.tables["read_events"].sources[0].path
        raise RecinjectError(
            f"{setting}: {path} has no column {name!r}", hint=did_you_mean(name, known)
        )


def _keep_and_drop(tables: LogTables) -> None:
    """Restrict the events as ``data.keep`` and ``data.drop`` say, and say how many are left."""
    for rule, given in (("keep", tables.settings.keep), ("drop", tables.settings.drop)):
        for name, values in given.items():
            _known_column(tables, name, f"data.{rule}")
            text = tables.text("read_events", name)
            tests = [_test(text, value) for value in values]
            met = f"COALESCE({' OR '.join(tests) or 'false'}, false)"
            condition = met if rule == "keep" else f"NOT {met}"
            before, left = tables.ask(
                f"SELECT count(*), count(*) FILTER ({condition}) FROM read_events "
                f"WHERE {tables.selected}"
            )[0]
            tables.selected += f" AND {condition}"
            said = f"data.{rule}: {', '.join(values)} of {name!r}"
            fact = f"{said} left out {before - left:,} of {before:,} events."
            tables.findings.append(note(rule, fact))
            if not left:
                found = tables.ask(
                    f"SELECT {text} FROM read_events GROUP BY 1 ORDER BY count(*) DESC LIMIT 9"
                )
                raise RecinjectError(
                    f"{said} leaves no event of {before:,}",
                    hint=f"{name!r} has the values {', '.join(str(row[0]) for row in found)}",
                )


def _test(text: str, value: str) -> str:
    """Return the SQL of whether a text is a value, or a number within a bound such as ``>=4``."""
    if found := re.fullmatch(_BOUND, value):
        return f"TRY_CAST({text} AS DOUBLE) {found[1]} {float(found[2])}"
    return f"{text} = {literal(value)}"


def _bad_id(tables: LogTables, name: str) -> str:
    kind = tables.types("read_events")[name]
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")):
        return "true"
    text = tables.text("read_events", name)
    if kind != "VARCHAR":
        return f"({quoted(name)} IS NULL)"
    nested = (
        f"SELECT {text} FROM read_events WHERE ({text} LIKE '[%' OR {text} LIKE '{{%') "
        f"AND json_valid({text})"
    )
    if not tables.ask(f"{nested} LIMIT 1"):
        return f"({text} IS NULL)"
    return f"({text} IS NULL OR {text} IN ({nested}))"


def _value(tables: LogTables, ours: str, name: str, text: str) -> tuple[str, bool]:
    """Return the SQL of a column's numbers, and whether they may be missing."""
    path = tables.tables["read_events"].sources[0].path
    if ours == "timestamp":
        value, found = seconds(tables, path, name)
        tables.findings += found
        return value, True
    kind, column = tables.types("read_events")[name], quoted(name)
    if kind == "VARCHAR":
        value = f"TRY_CAST({column} AS DOUBLE)"
        comma = f"TRY_CAST(replace({text}, ',', '.') AS DOUBLE)"
        if tables.settings.decimal == ",":
            value = comma
        elif tables.settings.decimal is None:
            odd, fits = tables.ask(
                "SELECT count(*), count(*) FILTER "
                f"(regexp_full_match({text}, '-?[0-9]+,[0-9]{{1,2}}')) FROM read_events "
                f"WHERE {text} IS NOT NULL AND {value} IS NULL AND {tables.selected}"
            )[0]
            if odd and odd == fits:
                value = comma
                tables.findings.append(
                    note("decimal", f"{name!r} has decimal commas (data.decimal=,).")
                )
    elif kind == "FLOAT":
        value = f"CAST(CAST({column} AS VARCHAR) AS DOUBLE)"
    elif kind in NUMERIC or kind.startswith("DECIMAL"):
        value = f"CAST({column} AS DOUBLE)"
    else:
        value = "CAST(NULL AS DOUBLE)"
    return value, ours == "rating" and bool(tables.settings.missing)


def _settle(tables: LogTables, faults: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Refuse or drop events with faults, and the lines that could not be made out.

    ``faults`` has the SQL of which values of each of our columns are at fault.
    """
    loaded, drop = tables.tables["read_events"], tables.settings.bad_rows == "drop"
    counts = ", ".join(f"count(*) FILTER ({bad})" for bad in faults.values())
    row = tables.ask(f"SELECT {counts} FROM read_events WHERE {tables.selected}")[0]
    wrong = {ours: count for ours, count in zip(faults, row, strict=True) if count}
    if drop:
        for ours, count in wrong.items():
            fact = f"Events with a {ours} that {_fault(ours)}, dropped: {count:,}."
            tables.findings.append(Finding("warning", "bad-rows", fact))
            tables.selected += f" AND NOT {faults[ours]}"
        if lines := sum(problem.count for _, problem in loaded.problems):
            fact = f"Lines that are no rows, dropped: {lines:,}."
            tables.findings.append(Finding("warning", "bad-rows", fact))
        if not tables.ask(f"SELECT count(*) FROM read_events WHERE {tables.selected}")[0][0]:
            raise RecinjectError(
                f"{loaded.sources[0].path}: holds no events, without its bad rows",
                hint="set data.bad_rows=refuse to see what is wrong with them",
            )
        return
    found = []
    for ours, count in wrong.items():
        column = quoted(names[ours])
        rows = tables.ask(
            f"SELECT rowid, {column} FROM read_events WHERE {tables.selected} AND {faults[ours]} "
            f"ORDER BY rowid LIMIT {SHOWN}"
        )
        value = rows[0][1]
        shown = "" if value is None else value_text(value).strip()[:40]
        is_nested = ours in IDS and (isinstance(value, list | dict) or shown[:1] in "[{")
        is_nested = bool(is_nested and shown)
        what = f"{ours} {shown!r} {'is a list or an object' if is_nested else _fault(ours)}"
        values = tables.ask(
            f"SELECT {tables.text('read_events', names[ours])} AS v FROM read_events WHERE "
            f"{tables.selected} AND {faults[ours]} GROUP BY v ORDER BY count(*) DESC, v LIMIT 4"
        )
        alike = [str(v)[:40] for (v,) in values if v is not None]
        found.append(([row for row, _ in rows], count, what, _hint(ours, alike)))
    loaded.refuse(found)


def _fault(ours: str) -> str:
    return _WRONG.get(ours, "is not a number")


def _hint(ours: str, values: Sequence[str]) -> str:
    mend = "mend or remove it, or drop such rows with data.bad_rows=drop"
    if ours in IDS:
        return mend
    missing = ""
    if ours == "rating":
        missing = f", or keep the event without it with {setting('data.missing', values)}"
    if ours == "timestamp":
        missing = f", or take it as unknown with {setting('data.missing', values)}"
        missing += ", or say how to read it with data.time_format"
    return f"{mend}{missing}, or do without the column with data.columns.{ours}=''"


def _rating(tables: LogTables, value: str) -> str:
    """Return the SQL of ratings: without those that stand for none, and made of a count."""
    settings = tables.settings
    if settings.unrated:
        listed = ", ".join(map(str, settings.unrated))
        (count,) = tables.ask(
            f"SELECT count(*) FROM read_events WHERE {tables.selected} AND {value} IN ({listed})"
        )[0]
        value = f"CASE WHEN NOT {value} IN ({listed}) THEN {value} END"
        fact = f"Events whose rating stands for none (data.unrated): {count:,}."
        tables.findings.append(note("unrated", fact))
    if settings.rating_of is None:
        return value
    made = f"The rating is made of {settings.rating_of.column!r} (as: {settings.rating_of.how})."
    tables.findings.append(note("rating", made))
    if settings.rating_of.how == "log":
        return f"CASE WHEN {value} > 0 THEN floor(log2({value})) + 1 WHEN {value} <= 0 THEN 0.0 END"
    if settings.rating_of.how == "bins":
        (edges,) = tables.ask(
            f"SELECT quantile_disc({value}, [0.2, 0.4, 0.6, 0.8]) FROM read_events "
            f"WHERE {tables.selected}"
        )[0]
        above = " + ".join(f"({value} > {edge})::INT" for edge in dict.fromkeys(edges))
        return f"CAST(1 + {above} AS DOUBLE)"
    return value


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
    columns |= {"part": _part_sql(tables)} if tables.parts else {}
    chosen = ", ".join(f"{sql} AS {quoted(ours)}" for ours, sql in columns.items())
    users, items = (quoted(tables.names[ours]) for ours in IDS)
    events = (
        f"SELECT {chosen}, read_events.rowid AS _row FROM read_events "
        f"JOIN user_codes u ON read_events.{users} = u._raw "
        f"JOIN item_codes i ON read_events.{items} = i._raw WHERE {tables.selected}"
    )
    key = "position" if "position" in numbers else "timestamp" if "timestamp" in numbers else "0"
    if (
        key == "timestamp"
        and tables.ask(
            f"SELECT count(*) FROM read_events WHERE {tables.selected} AND ({numbers[key]}) IS NULL"
        )[0][0]
    ):
        # An event of unknown time stays behind the event that it follows in the log.
        key = "last_value(timestamp IGNORE NULLS) OVER (PARTITION BY user ORDER BY _row)"
    shown = ", ".join(map(quoted, [ours for ours in columns if ours != "position"]))
    query = (
        f"SELECT {shown} FROM (SELECT *, {key} AS _key FROM ({events})) "
        f'ORDER BY "user", _key NULLS FIRST, _row'
    )
    (count,) = tables.ask(f"SELECT count(*) FROM read_events WHERE {tables.selected}")[0]
    arrays = _fetch(tables, query, count)
    ids = tables.ask("SELECT DISTINCT _number, _text FROM user_codes ORDER BY 1")
    n_items = tables.ask("SELECT max(_number) + 1 FROM item_codes")[0][0]
    return Interactions(
        users=arrays["user"],
        items=arrays["item"],
        ratings=_known(arrays.get("rating")),
        timestamps=arrays.get("timestamp"),
        user_ids=[text for _, text in ids],
        n_items=n_items,
        parts=arrays.get("part"),
    )


def _known(values: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if values is None or np.isnan(values).all() else values


def _part_sql(tables: LogTables) -> str:
    starts = tables.tables["read_events"].starts
    cases = [
        f"WHEN read_events.rowid >= {start} THEN {part}"
        for start, part in zip(starts, tables.parts, strict=True)
    ]
    return f"CASE {' '.join(reversed(cases))} END"


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
    ids = tables.ask("SELECT DISTINCT _number, _text FROM item_codes ORDER BY 1")
    frame = pd.DataFrame({"item_id": [text for _, text in ids], "title": ""}, dtype=object)
    taken: dict[str, str] = {}
    if tables.item_names:
        columns = _item_columns(tables)
    else:
        taken = _among_events(tables)
        columns = _first_of_each(tables, taken)
    for ours, values in columns.items():
        if any(value is not None for value in values):
            frame[ours] = pd.Series(values, dtype=object)
    frame["title"] = [value or "" for value in frame["title"]]
    return Catalog(frame), taken


def _check_items(tables: LogTables) -> None:
    """Refuse a table of items with broken rows."""
    loaded, text = tables.tables["items"], tables.text("items", tables.item_names["item_id"])
    rows = tables.ask(f"SELECT rowid FROM items WHERE {text} IS NULL ORDER BY rowid LIMIT {SHOWN}")
    if tables.settings.bad_rows == "refuse":
        (count,) = tables.ask(f"SELECT count(*) FROM items WHERE {text} IS NULL")[0]
        what = f"item_id '' {_WRONG['item_id']}"
        found = [([row for (row,) in rows], count, what, _hint("item_id", ""))]
        loaded.refuse(found if rows else [])


def _item_columns(tables: LogTables) -> dict[str, list[Any]]:
    """Return the columns of the table of items for each item in use, None without a value."""
    names, loaded = tables.item_names, tables.tables["items"]
    text = tables.text("items", names["item_id"])
    known = ("", *names.values(), "item_id", "title", "brand", "category", "categories")
    columns = {**names, **{name: name for name in loaded.names if name not in known}}
    del columns["item_id"]
    if not columns:
        return {}
    first = (
        f"SELECT _number, min(items.rowid) AS _first FROM items JOIN item_codes ON {text} = _text "
        "GROUP BY 1"
    )
    fields = [f"items.{quoted(name)}" for name in columns.values()]
    query = (
        f"SELECT {', '.join(fields)} FROM (SELECT DISTINCT _number FROM item_codes) "
        f"LEFT JOIN ({first}) USING (_number) LEFT JOIN items ON items.rowid = _first "
        "ORDER BY _number"
    )
    return _tidy(tables, "items", columns, query)


def _tidy(
    tables: LogTables, table: str, columns: Mapping[str, str], query: str
) -> dict[str, list[Any]]:
    """Return the columns of a query as texts, and as lists of texts for categories."""
    rows, kinds = tables.ask(query), tables.types("read_events" if table == "events" else table)
    sequences = tables.tables["read_events" if table == "events" else table].sequences
    found: dict[str, list[Any]] = {}
    for place, (ours, name) in enumerate(columns.items()):
        values = [row[place] for row in rows]
        nested = ours == "category" and "categories" not in columns and _holds_lists(values)
        if ours == "categories" or nested:
            separator = None if name in sequences else "|"
            lists = [labels(_parsed(value), separator) or None for value in values]
            found["categories"] = lists
            continue
        if kinds[name] in ("FLOAT", "DOUBLE"):
            known = [value for value in values if value is not None and value == value]
            if not all(value.is_integer() for value in known):
                values = [
                    None if value is None or value != value else repr(value) for value in values
                ]
            values = [None if value != value else value for value in values]
        parse = _parsed if ours not in ("title", "item_id") else (lambda value: value)
        texts = [None if value is None else value_text(parse(value)).strip() for value in values]
        found[ours] = [text or None for text in texts]
    return found


def _holds_lists(values: Sequence[Any]) -> bool:
    first = next((value for value in values if value is not None), None)
    return isinstance(_parsed(first), list | tuple)


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
        asked = {**dict.fromkeys(("title", "brand", "category", "categories"), ""), **asked}
    path = loaded.sources[0].path
    candidates = match_items_among_events(path, loaded.names, tables.names, asked)

    def holds_one_value_an_item(name: str) -> bool:
        text, item = tables.text("read_events", name), quoted(tables.names["item_id"])
        several, filled = tables.ask(
            "SELECT count(*) FILTER (least <> most), count(least) FROM (SELECT _number, "
            f"min({text}) AS least, max({text}) AS most FROM read_events "
            f"JOIN item_codes ON {item} = _raw WHERE {tables.selected} GROUP BY 1)"
        )[0]
        return bool(filled) and not several

    return {
        ours: name
        for ours, name in candidates.items()
        if asked.get(ours) or holds_one_value_an_item(name)
    }


def _first_of_each(tables: LogTables, names: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return the first value that the events have of each item in each column."""
    if not names:
        return {}
    item = quoted(tables.names["item_id"])
    fields = [
        f"arg_min({quoted(name)}, read_events.rowid) FILTER ({quoted(name)} IS NOT NULL)"
        for name in names.values()
    ]
    query = (
        f"SELECT {', '.join(fields)} FROM read_events JOIN item_codes ON {item} = _raw "
        f"WHERE {tables.selected} GROUP BY _number ORDER BY _number"
    )
    return _tidy(tables, "events", names, query)


def _user_table(tables: LogTables) -> pd.DataFrame | None:
    """Return what is known of the log's users, a row for each of them in their order."""
    if not tables.user_names:
        return None
    name = tables.user_names["user_id"]
    text = tables.text("users", name)
    others = [own for own in tables.tables["users"].names if own != name]
    fields = ", ".join(["c._text AS user_id", *(f"users.{quoted(own)}" for own in others)])
    found: pd.DataFrame = tables.connection.sql(
        f"SELECT {fields} FROM (SELECT DISTINCT _number, _text FROM user_codes) c LEFT JOIN "
        f"(SELECT {text} AS _own, min(rowid) AS _first FROM users GROUP BY 1) f ON _own = _text "
        "LEFT JOIN users ON users.rowid = f._first ORDER BY c._number"
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
