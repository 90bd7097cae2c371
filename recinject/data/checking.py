"""Checks the values of a log's tables: refuses, drops or keeps, and says what stands out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from recinject.data.findings import Finding, examine, quoted, setting
from recinject.data.loading import LogTables, literal
from recinject.data.tables import IDS, NUMBERS, SHOWN, match_items_among_events, value_text
from recinject.data.times import seconds
from recinject.foundation.errors import RecinjectError, did_you_mean

_WRONG = {
    "user_id": "is empty",
    "item_id": "is empty",
    "timestamp": "is neither seconds since 1970 nor a date such as 2014-03-01T10:00:00",
}
_BOUND = r"\s*(<=|>=|<|>)\s*([-+.0-9eE]+)\s*"


def look_at(tables: LogTables, numbers: Mapping[str, str]) -> list[Finding]:
    """Examine the events that are kept, whose numbers are given as SQL, and the items."""
    asked = tables.settings
    names = {ours: name for ours, name in tables.names.items() if ours in (*IDS, *numbers)}
    names |= {f"kept by {name}": name for name in (*asked.keep, *asked.drop)}
    if not tables.item_names and tables.guess_items:
        known = tables.tables["read_events"].names
        names |= match_items_among_events(tables.place(), known, tables.names, asked.columns)
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
        value, column = _value(tables, ours, names[ours]), quoted(names[ours])
        if not any(tables.kept(f"count({value}), count({column})")[0]):
            continue
        bad = f"({value} IS NULL OR NOT isfinite({value}))"
        may_miss = ours == "timestamp" or (ours == "rating" and settings.missing)
        numbers[ours] = value
        faults[ours] = f"({bad} AND {column} IS NOT NULL)" if may_miss else bad
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
        fact = f"{setting}: {tables.place()} has no column {name!r}"
        raise RecinjectError(fact, hint=did_you_mean(name, known))


def _keep_and_drop(tables: LogTables) -> None:
    """Restrict the events as ``data.keep`` and ``data.drop`` say, and say how many are left."""
    for rule, given in (("keep", tables.settings.keep), ("drop", tables.settings.drop)):
        for name, values in given.items():
            _known_column(tables, name, f"data.{rule}")
            text = tables.text("read_events", name)
            tests = [_test(text, value) for value in values]
            met = f"COALESCE({' OR '.join(tests) or 'false'}, false)"
            condition = met if rule == "keep" else f"NOT {met}"
            before, left = tables.kept(f"count(*), count(*) FILTER ({condition})")[0]
            tables.selected += f" AND {condition}"
            said = f"data.{rule}: {', '.join(values)} of {name!r}"
            tables.say(rule, f"{said} left out {before - left:,} of {before:,} events.")
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


def _value(tables: LogTables, ours: str, name: str) -> str:
    """Return the SQL of a column's numbers; commas are decimal where that is set or fits all."""
    if ours == "timestamp":
        return seconds(tables, name)
    value, decimal = tables.number(name), tables.settings.decimal
    if tables.types("read_events")[name] != "VARCHAR" or decimal == ".":
        return value
    column = quoted(name)
    if decimal is None:
        odd, fits = tables.kept(
            f"count(*), count(*) FILTER (regexp_full_match({column}, '-?[0-9]+,[0-9]{{1,2}}'))",
            f"AND {column} IS NOT NULL AND {value} IS NULL",
        )[0]
        if not odd or odd != fits:
            return value
        tables.say("decimal", f"{name!r} has decimal commas (data.decimal=,).")
    return f"TRY_CAST(replace({column}, ',', '.') AS DOUBLE)"


def _settle(tables: LogTables, faults: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Refuse or drop events with faults, and the lines that could not be made out.

    ``faults`` has the SQL of which values of each of our columns are at fault.
    """
    loaded, drop = tables.tables["read_events"], tables.settings.bad_rows == "drop"
    row = tables.kept(", ".join(f"count(*) FILTER ({bad})" for bad in faults.values()))[0]
    wrong = {ours: count for ours, count in zip(faults, row, strict=True) if count}
    if drop:
        for ours, count in wrong.items():
            fact = f"Events with a {ours} that {_fault(ours)}, dropped: {count:,}."
            tables.findings.append(Finding("warning", "bad-rows", fact))
            tables.selected += f" AND NOT {faults[ours]}"
        if lines := sum(problem.count for _, problem in loaded.problems):
            fact = f"Lines that are no rows, dropped: {lines:,}."
            tables.findings.append(Finding("warning", "bad-rows", fact))
        if not tables.kept("count(*)")[0][0]:
            raise RecinjectError(
                f"{tables.place()}: holds no events, without its bad rows",
                hint="set data.bad_rows=refuse to see what is wrong with them",
            )
        return
    found = []
    for ours, count in wrong.items():
        column = quoted(names[ours])
        rows = tables.kept(f"rowid, {column}", f"AND {faults[ours]} ORDER BY rowid LIMIT {SHOWN}")
        value = rows[0][1]
        shown = "" if value is None else value_text(value).strip()[:40]
        is_nested = ours in IDS and (isinstance(value, list | dict) or shown[:1] in ("[", "{"))
        fault = "is a list or an object" if is_nested and shown else _fault(ours)
        what = f"{ours} {shown!r} {fault}"
        values = tables.kept(
            f"{tables.text('read_events', names[ours])} AS v",
            f"AND {faults[ours]} GROUP BY v ORDER BY count(*) DESC, v LIMIT 4",
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
        (count,) = tables.kept("count(*)", f"AND {value} IN ({listed})")[0]
        value = f"CASE WHEN NOT {value} IN ({listed}) THEN {value} END"
        tables.say("unrated", f"Events whose rating stands for none (data.unrated): {count:,}.")
    if settings.rating_of is None:
        return value
    column, how = settings.rating_of.column, settings.rating_of.how
    tables.say("rating", f"The rating is made of {column!r} (as: {how}).")
    if how == "log":
        return f"CASE WHEN {value} > 0 THEN floor(log2({value})) + 1 WHEN {value} <= 0 THEN 0.0 END"
    if how == "bins":
        (edges,) = tables.kept(f"quantile_disc({value}, [0.2, 0.4, 0.6, 0.8])")[0]
        above = " + ".join(f"({value} > {edge})::INT" for edge in dict.fromkeys(edges))
        return f"CAST(1 + {above} AS DOUBLE)"
    return value


def check_items(tables: LogTables) -> None:
    """Refuse a table of items with broken rows.

    Raises:
        RecinjectError: an id is empty.
    """
    text, what = tables.text("items", tables.item_names["item_id"]), "item_id '' is empty"
    rows = tables.ask(
        f"SELECT rowid, count(*) OVER () FROM items WHERE {text} IS NULL ORDER BY 1 LIMIT {SHOWN}"
    )
    found = [([row for row, _ in rows], rows[0][1], what, _hint("item_id", ""))] if rows else []
    if tables.settings.bad_rows == "refuse":
        tables.tables["items"].refuse(found)
