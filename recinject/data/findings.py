"""What a log looks like to a careful eye: findings with level, fact, examples and fix."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from recinject.foundation.errors import RecinjectError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Level = Literal["note", "warning", "error"]
_LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that was found in a log.

    Examples:
        >>> print(Finding("warning", "one-event-users", "Users with one event: 3.", ("'u7'",)))
        Users with one event: 3. For example 'u7'.
    """

    level: Level
    name: str  # of the kind, such as ``missing-looking-ids``
    fact: str  # a sentence
    examples: tuple[str, ...] = ()  # values as they stand in the files
    fix: str = ""  # what to do about it, such as a setting to write

    def __str__(self) -> str:
        """Write the fact, its examples and the fix as one text."""
        shown = f" For example {', '.join(self.examples)}." if self.examples else ""
        return f"{self.fact}{shown}{f' Fix: {self.fix}.' if self.fix else ''}"

    def text(self) -> str:
        """Write the finding on lines of its own, for a list of them."""
        shown = f"\n  e.g. {', '.join(self.examples)}" if self.examples else ""
        fix = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{self.level}, {self.name}: {self.fact}{shown}{fix}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON can hold it."""
        return asdict(self) | {"examples": list(self.examples)}

    @classmethod
    def of_dict(cls, stored: Mapping[str, Any]) -> Finding:
        """Make a finding of what :meth:`to_dict` returned."""
        return cls(**{**stored, "examples": tuple(stored["examples"])})


class LogRefused(RecinjectError):
    """A log that was read and has an error among its ``findings``."""

    def __init__(self, place: str, findings: Sequence[Finding]) -> None:
        errors = [finding for finding in findings if finding.level == "error"]
        facts = [str(replace(finding, fix="")) for finding in errors]
        hint = "; ".join({finding.fix: 0 for finding in errors})
        super().__init__("\n".join(f"{place}: {fact}" for fact in facts), hint=hint)
        self.place, self.findings = place, findings

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.place, self.findings)


def refuse_errors(place: str, findings: Sequence[Finding]) -> None:
    """Raise :class:`LogRefused` where one of a log's findings is an error."""
    if any(finding.level == "error" for finding in findings):
        raise LogRefused(place, findings)


def note(name: str, fact: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding("note", name, fact)


def examine(
    connection: DuckDBPyConnection,
    names: Mapping[str, str],
    item_names: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Look at a log's tables and tell what a careful person would ask about, the gravest first.

    Args:
        connection: holds the table or view ``events``, in the order of the log's rows, and
            ``items`` where ``item_names`` is given.
        names: our column names to those of ``events``; further columns of it are looked at too.
        item_names: our column names to those of ``items``.
    """
    eye = _Eye(connection, dict(names), dict(item_names or {}))
    found = [finding for look in _LOOKS for finding in look(eye)] if eye.size else []
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level))


def setting(key: str, value: object) -> str:
    """Write an override as a shell takes it.

    Examples:
        >>> print(setting("data.missing", ["NA", "-"]))
        "data.missing=['NA', '-']"
        >>> print(setting("data.keep", {"event": ["buy"]}))
        "data.keep={'event': ['buy']}"
    """
    return f'"{key}={_yaml(value)}"'


def _yaml(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{_yaml(name)}: {_yaml(own)}" for name, own in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else f"{value:.15g}"


_MANY_EVENTS = 2_000_000  # above, what needs sorting is looked at in a share of the users
_SAMPLE = 20_000  # rows that tell what a column holds
_SHOWN = 5
_FEW_VALUES = 20
_MISSING = "na n/a #n/a nan null (null) <na> none nil undefined \\n - -- ? -1".split()
_DATES = ["%Y-%m-%d %H:%M:%S UTC", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%m/%d/%Y"]
_DATES += ["%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M %p"]
_DATES += ["%d/%m/%Y", "%d/%m/%Y %H:%M", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"]
_DATES += ["%a %b %d %H:%M:%S %z %Y", "%d %b %Y", "%b %d, %Y", "%B %d, %Y", "%d %B %Y"]
_COMPACT = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
_TIMELY = re.compile(r"time|date|stamp|\bts|ts\b|_at\b|when|created|posted", re.IGNORECASE)
_COUNTS = re.compile(
    r"count|play|quantity|qty|amount|weight|hours|freq|times|listen|click|view|num"
)
_KINDS = re.compile(r"event|action|behaviou?r|interaction|activity|type|kind", re.IGNORECASE)
_VERBS = "view click buy cart purchase pv fav like play transaction addtocart order share".split()
_UNITS = {0: "seconds", 1: "milliseconds", 2: "microseconds", 3: "nanoseconds"}
_NUMERIC = re.compile(r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*)$")


@dataclass(frozen=True)
class _Eye:
    """The tables of a log, and what SQL calls their columns."""

    connection: DuckDBPyConnection
    names: dict[str, str]
    item_names: dict[str, str]
    types: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for table in ("events", "items") if self.item_names else ("events",):
            found = self.rows(f"SELECT column_name, column_type FROM (DESCRIBE {table})")
            self.types[table] = {str(name): str(kind) for name, kind in found}

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(sql).fetchall()

    @cached_property
    def size(self) -> int:
        """The number of events."""
        return int(self.rows("SELECT count(*) FROM events")[0][0])

    @cached_property
    def part(self) -> str:
        """The condition that keeps the users that are looked at where events are many."""
        return f"hash({self.id('user_id')}) % {max(1, self.size // _MANY_EVENTS)} = 0"

    def text(self, name: str, table: str = "events") -> str:
        """Return the expression of a column's text; whole numbers have no ``.0`` by type alone."""
        column = _name(name)
        if self.types[table][name] in ("DOUBLE", "FLOAT"):
            whole = f"CAST(TRY_CAST({column} AS HUGEINT) AS VARCHAR)"
            return f"if({column} = trunc({column}), {whole}, CAST({column} AS VARCHAR))"
        return f"trim(CAST({column} AS VARCHAR))"

    def id(self, ours: str, table: str = "events") -> str:
        """Return the expression of one of our text columns, missing where it is empty."""
        names = self.names if table == "events" else self.item_names
        return f"nullif({self.text(names[ours], table)}, '')"

    def number(self, name: str) -> str:
        """Return the expression of a column's finite numbers."""
        typed = _NUMERIC.match(self.types["events"][name])
        number = f"TRY_CAST({_name(name) if typed else self.text(name)} AS DOUBLE)"
        return f"if(isfinite({number}), {number}, NULL)"

    def time(self, name: str) -> str:
        """Return the expression of a column's times: seconds, or whatever the numbers count."""
        dates = f"epoch(TRY_CAST({self.text(name)} AS TIMESTAMP))"
        return f"coalesce({self.number(name)}, {dates})"

    def counts(self, name: str, most: int = _FEW_VALUES) -> list[tuple[str, int]]:
        """Return a column's values with how many events have each, the most frequent first."""
        value = self.text(name)
        group = f"SELECT {value} AS v, count(*) FROM events WHERE v <> '' GROUP BY v"
        return [(str(v), int(n)) for v, n in self.rows(f"{group} ORDER BY 2 DESC, 1 LIMIT {most}")]

    def varies(self, name: str) -> bool:
        """Whether a column tells of events, and not of users or items alone."""
        return all(
            self.rows(
                f"SELECT 1 FROM events GROUP BY {self.id(ours)} "
                f"HAVING count(DISTINCT {_name(name)}) > 1 LIMIT 1"
            )
            for ours in ("user_id", "item_id")
        )


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(counts: Sequence[tuple[object, int]]) -> str:
    return ", ".join(f"{value} ({count:,})" for value, count in counts)


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / total:.0%})".replace("%", " %")


def _number_form(text: str) -> str:
    """Return the expression of an id without leading zeros and ``.0``."""
    plain = f"ltrim(regexp_replace({text}, '\\.0+$', ''), '0')"
    return (
        f"if(regexp_full_match({text}, '[0-9]+(\\.0+)?'), if({plain} = '', '0', {plain}), {text})"
    )


def _ids(eye: _Eye) -> Iterator[Finding]:
    """Ids that look missing, one user with a large share, and ids that are one number."""
    markers = ", ".join(map(_literal, _MISSING))
    for ours in ("user_id", "item_id"):
        column = eye.id(ours)
        group = f"SELECT {column} AS v, count(*) AS n FROM events WHERE v IS NOT NULL GROUP BY v"
        sql = f"SELECT v, n FROM ({group}) WHERE lower(v) IN ({markers}) ORDER BY n DESC, v"
        missing = [(str(value), int(count)) for value, count in eye.rows(sql)]
        if missing:
            count = sum(count for _, count in missing)
            fact = (
                f"{ours} looks missing in {_of(count, eye.size)} events; each such text is an id."
            )
            shown = tuple(
                f"{value!r} ({count:,})".replace("\\\\", "\\") for value, count in missing
            )
            marks = setting("data.missing", [value for value, _ in missing])
            fix = f"{marks} data.bad_rows=drop leaves these events out"
            yield Finding("warning", "missing-looking-ids", fact, shown[:_SHOWN], fix)
        sql = (
            f"SELECT v, n, (SELECT count(*) FROM ({group})) FROM ({group}) ORDER BY n DESC LIMIT 1"
        )
        most, count, total = eye.rows(sql)[0]
        known = {value for value, _ in missing}
        if ours == "user_id" and total > _FEW_VALUES and count > eye.size / 5 and most not in known:
            fact = f"One user has {_of(count, eye.size)} events."
            fix = (
                f"{setting('data.missing', [most])} data.bad_rows=drop, if the id stands for nobody"
            )
            yield Finding("warning", "dominant-user", fact, (repr(most),), fix)
        same = (
            f"SELECT min(v), max(v) FROM ({group}) GROUP BY {_number_form('v')} HAVING count(*) > 1"
        )
        alike = eye.rows(f"{same} ORDER BY 1")
        if alike:
            fact = (
                f"{ours}: {len(alike):,} numbers are written in several ways, each of them an id."
            )
            shown = tuple(f"{one!r} and {other!r}" for one, other in alike[:_SHOWN])
            yield Finding("warning", "alike-ids", fact, shown, "write each id in one way")


def _users(eye: _Eye) -> Iterator[Finding]:
    """Users with one event, and what the k-cores leave."""
    group = f"SELECT {eye.id('user_id')} AS u, count(*) AS n FROM events GROUP BY u"
    single, users, example = eye.rows(
        f"SELECT count(*) FILTER (n = 1), count(*), min(u) FILTER (n = 1) FROM ({group})"
    )[0]
    if single:
        fact = f"Users with one event: {_of(single, users)}; nothing of theirs can be a test."
        level: Level = "warning" if 2 * single > users else "note"
        yield Finding(level, "one-event-users", fact, (repr(example),))
    cores, said = _cores(eye), []
    for k, core in cores.items():
        counts = "{2:,} events of {0:,} users and {1:,} items".format(*core)
        said.append(f"k={k} leaves {counts if core[2] else 'nothing'}")
    most = max((k for k, core in cores.items() if core[2]), default=0)
    level = "note" if most == max(cores) else "warning"
    fix = f"data.k_core={most} is the largest of these that leaves something"
    if single == users:
        fix = "give a log with a longer history: no user has two events, so nothing can be held out"
    yield Finding(level, "k-core", f"{'; '.join(said)}.", (), "" if level == "note" else fix)


def _cores(eye: _Eye, most: int = 5) -> dict[int, tuple[int, ...]]:
    """Return users, items and events of the k-core for each k; repeated events count."""
    u, i = (f"hash({eye.id(ours)}) AS {ours[0]}" for ours in ("user_id", "item_id"))
    eye.rows(f"CREATE OR REPLACE TEMP TABLE core AS SELECT {u}, {i} FROM events")
    rest, sizes = "SELECT count(DISTINCT u), count(DISTINCT i), count(*) FROM core", {}
    for k in range(1, most + 1):
        few = [f"{x} IN (SELECT {x} FROM core GROUP BY {x} HAVING count(*) < {k})" for x in "ui"]
        while k > 1 and eye.rows(f"DELETE FROM core WHERE {' OR '.join(few)}")[0][0]:
            pass
        sizes[k] = tuple(map(int, eye.rows(rest)[0]))
    eye.rows("DROP TABLE core")
    return sizes


def _times(eye: _Eye) -> Iterator[Finding]:
    """No time at all; times of several units, of a strange range, or dates read as numbers."""
    if (column := eye.names.get("timestamp")) is None:
        if "position" not in eye.names:
            fact = "No column of times was taken: the order of the rows is all that orders events."
            fix = "data.columns.timestamp=NAME names the column, if there is one"
            yield Finding("warning", "no-time", fact, (), fix)
        return
    number, text = eye.number(column), eye.text(column)
    unit = "(abs(x) > 1e11)::INT + (abs(x) > 1e14)::INT + (abs(x) > 1e17)::INT"
    sql = f"SELECT {unit} AS unit, count(*), min(x), max(x), min(v) FROM (SELECT {number} AS x, "
    sql += f"{text} AS v FROM events) WHERE x <> 0 GROUP BY unit ORDER BY unit"
    found = eye.rows(sql)
    if len(found) > 1:
        said = ", ".join(f"{_UNITS[unit]} in {count:,} events" for unit, count, *_ in found)
        shown = tuple(str(example) for *_, example in found)
        fix = "write one unit in the file, or name it with data.time_unit"
        yield Finding("warning", "mixed-time-units", f"{column} holds {said}.", shown, fix)
    for digits, form in _COMPACT.items():
        date = f"try_strptime({text}, {_literal(form)})"
        likely = f"length({text}) = {digits} AND year({date}) BETWEEN 1970 AND 2100"
        if eye.rows(f"SELECT bool_and({likely}) FROM events WHERE {text} <> ''")[0][0]:
            fact = f"{column} holds dates such as {form}, and no seconds."
            yield Finding(
                "warning", "compact-dates", fact, (found[0][4],), f"data.time_format={form}"
            )
            return
    if len(found) == 1:
        unit, count, first, last, _ = found[0]
        years = [1970 + value / 1000**unit / 31_556_952 for value in (first, last)]
        if years[0] < 1990 or years[1] > 2050:
            fact = f"{column} spans the years {years[0]:.0f} to {years[1]:.0f} ({_UNITS[unit]})."
            fix = "nothing, if the numbers count and are no dates: their order alone is used"
            shown = (f"{first:.15g}", f"{last:.15g}")
            yield Finding("warning", "strange-years", fact, shown, fix)


def _order(eye: _Eye) -> Iterator[Finding]:
    """An order among events without a time of their own that follows item ids or ratings."""
    if "position" in eye.names:
        return
    column, user, item = eye.names.get("timestamp"), eye.id("user_id"), eye.id("item_id")
    time, raw = (eye.time(column), eye.text(column)) if column else ("0", "''")
    whole = f"SELECT count(*) = count(TRY_CAST({item} AS BIGINT)) FROM events"
    keys = {"item ids": f"TRY_CAST({item} AS BIGINT)" if eye.rows(whole)[0][0] else item}
    if "rating" in eye.names:
        keys["ratings"] = eye.number(eye.names["rating"])
    chosen = ", ".join(f"{key} AS k{number}" for number, key in enumerate(keys.values()))
    before = ", ".join(f"lag(k{number}) OVER w AS b{number}" for number in range(len(keys)))
    test = "count(*) FILTER (tied AND k{0} > b{0}), count(*) FILTER (tied AND k{0} <> b{0})"
    tests = ", ".join(test.format(number) for number in range(len(keys)))
    sql = f"""SELECT count(*) FILTER (tied), count(*), {tests} FROM (
        SELECT *, {before}, raw IS NOT DISTINCT FROM lag(raw) OVER w AND row_number() OVER w > 1
        AS tied FROM (SELECT {user} AS u, {time} AS t, {raw} AS raw, {chosen},
        row_number() OVER () AS seq FROM events) WHERE {eye.part.replace(user, "u")}
        WINDOW w AS (PARTITION BY u ORDER BY t, seq))"""
    tied, events, *counts = eye.rows(sql)[0]
    if column and 10 * tied > events:
        fact = f"{_of(tied, events)} events have the time of the user's event before them."
        fix = "data.ties=hash orders them by chance; as it is, the rows' order does"
        yield Finding("note", "tied-times", fact, (), fix)
    for number, name in enumerate(keys):
        up, pairs = counts[2 * number : 2 * number + 2]
        p = _p_value(up, pairs)
        if p < 1e-3 and abs(2 * up - pairs) > 0.2 * pairs:
            where = "the same time" if column else "no time"
            fact = (
                f"Of neighbouring events of a user with {where}, {name} ascend in {_of(up, pairs)}"
            )
            fact += f", where chance gives 50 % (p = {p:.1g}): the rows were sorted by something."
            fix = "data.ties=hash" if column else "data.columns.timestamp=NAME, if times exist"
            kind = f"order-follows-{name.split()[0].removesuffix('s')}s"
            yield Finding("warning", kind, fact, (), f"{fix}; this order is no order of use")


def _p_value(up: int, pairs: int) -> float:
    """Return the two-sided p of so many ascents where each has the chance of 1/2."""
    distance = max(0.0, abs(up - pairs / 2) - 0.5)
    return math.erfc(distance / math.sqrt(max(pairs, 1) / 2))


def _ratings(eye: _Eye) -> Iterator[Finding]:
    """Ratings that are constants, sentinels, counts or a continuous scale; their values."""
    if (column := eye.names.get("rating")) is None:
        return
    group = f"SELECT {eye.number(column)} AS r, count(*) AS n FROM events WHERE r IS NOT NULL GROUP BY r"
    ends = f"(FROM ({group}) ORDER BY r LIMIT {_FEW_VALUES}) UNION "
    values = sorted(eye.rows(f"{ends} (FROM ({group}) ORDER BY r DESC LIMIT 3)"))
    kinds, total, whole, mode = eye.rows(
        f"SELECT count(*), sum(n), bool_and(r = trunc(r)), arg_max(r, n) FROM ({group})"
    )[0]
    if not values:
        return
    shown = [(f"{value:g}", int(count)) for value, count in values]
    lone = _sentinels(values, kinds, total)
    if kinds <= _FEW_VALUES:
        yield note("rating-values", f"{column} has {kinds} values: {_listed(shown)}.")
    if lone:
        fact = f"{column}: {_listed([(f'{value:g}', n) for value, n in lone])} of {total:,} stand apart"
        fix = f"{setting('data.unrated', [value for value, _ in lone])} keeps the events unrated"
        yield Finding("warning", "sentinel-ratings", f"{fact}: not rated?", (), fix)
    rest = [pair for pair in values if pair not in lone]
    without = "data.columns.rating='' leaves it out"
    if kinds == 1:
        fact = f"All ratings are {shown[0][0]}: the log is implicit."
        yield Finding("warning", "constant-rating", fact, (), without)
    elif (
        whole
        and rest[0][0] >= 0
        and (kinds > _FEW_VALUES or _falls(rest) or _COUNTS.search(column.lower()))
    ):
        fact = f"{column} looks like counts, and no ratings: {kinds:,} whole numbers from "
        fact += f"{shown[0][0]} to {shown[-1][0]}, most often {mode:g}."
        fix = f"{setting('data.rating_of', {'column': column, 'as': 'log'})}, or {without}"
        yield Finding("warning", "counts-as-ratings", fact, (), fix)
    elif kinds > _FEW_VALUES:
        fact = f"{column} has {kinds:,} different values: a continuous scale, and no labels."
        fix = f"{setting('data.rating_of', {'column': column, 'as': 'bins'})}, or {without}"
        yield Finding("warning", "continuous-ratings", fact, (), fix)


def _falls(values: Sequence[tuple[float, int]]) -> bool:
    """Whether there are ever fewer events of ever larger values, as counts have them."""
    counts = [count for _, count in values]
    half = len(counts) > _SHOWN and values[-1][0] > len(counts) and 2 * counts[0] > sum(counts)
    return half and counts[:_SHOWN] == sorted(counts[:_SHOWN], reverse=True)


def _sentinels(
    values: Sequence[tuple[float, int]], kinds: int, total: int
) -> list[tuple[float, int]]:
    """Return values at the ends of a scale that stand apart from it, as -1, 0 and 99 do."""
    if kinds < 4:
        return []
    (low, few), (next_low, _), *_, (next_high, _), (high, many) = values
    found = [(low, few)] if low < 0 <= next_low and low == round(low) else []
    zeros = few > total / 5 and values[1][1] != few
    found += [(low, few)] if low == 0 and zeros and kinds <= _FEW_VALUES else []
    gap = high - next_high > 2 * (next_high - next_low) and (many > total / 20 or kinds < 12)
    return found + ([(high, many)] if gap else [])


def _pairs(eye: _Eye) -> Iterator[Finding]:
    """Pairs of a user and an item that are there again, with the same rating or several."""
    user, item = eye.id("user_id"), eye.id("item_id")
    rating = eye.number(eye.names["rating"]) if "rating" in eye.names else "NULL::DOUBLE"
    again, differ, events, example = eye.rows(
        "SELECT sum(n - 1), count(*) FILTER (low < high), sum(n), "
        "min([u, i, low::VARCHAR, high::VARCHAR]) FILTER (low < high) FROM ("
        f"SELECT {user} AS u, {item} AS i, count(*) AS n, min({rating}) AS low, max({rating}) AS high "
        f"FROM events WHERE {eye.part} GROUP BY ALL)"
    )[0]
    if again:
        fact = f"{_of(int(again), int(events))} events repeat an item that the user had before."
        yield note("repeated-pairs", fact)
    if differ:
        fact = f"{differ:,} pairs of a user and an item have several ratings."
        shown = "user {0!r}, item {1!r}: {2} and {3}".format(*example)
        fix = "data.repeats=first or data.repeats=last says which one counts"
        yield Finding("warning", "several-ratings", fact, (shown,), fix)


def _columns(eye: _Eye) -> Iterator[Finding]:
    """Columns that were not taken, and hold times, kinds of events or quantities."""
    others = [name for name in eye.types["events"] if name not in eye.names.values()]
    if not others:
        return
    step = max(1, eye.size // _SAMPLE)
    chosen = ", ".join(f"{eye.text(name)} AS {_name(name)}" for name in others)
    where = f"hash({eye.id('user_id')}, {eye.id('item_id')}) % {step} = 0"
    eye.rows(f"CREATE OR REPLACE TEMP TABLE few AS SELECT {chosen} FROM events WHERE {where}")
    dated = [name for name in others if _holds_dates(eye, name) and eye.varies(name)]
    if dated:
        fact = f"Columns that hold times and were not taken: {', '.join(map(repr, dated))}."
        shown = tuple(eye.counts(name, 1)[0][0] for name in dated)
        level: Level = "note" if "timestamp" in eye.names else "warning"
        fix = f"data.columns.timestamp={dated[0]}"
        yield Finding(level, "unread-times", fact, shown, fix)
    for name in others:
        if name not in dated:
            yield from _kind_or_quantity(eye, name)
    eye.rows("DROP TABLE few")


def _holds_dates(eye: _Eye, name: str) -> bool:
    """Whether nearly all values of a column are dates, or seconds or milliseconds by name."""
    column, formats = _name(name), ", ".join(map(_literal, _DATES))
    number = f"TRY_CAST({column} AS DOUBLE)"
    spans = " OR ".join(f"{number} BETWEEN 5e{8 + n} AND 25e{8 + n}" for n in (0, 3, 6, 9))
    compact = f"try_strptime({column}, '%Y%m%d') BETWEEN '1970-01-01' AND '2100-01-01'"
    counted = f" OR {spans} OR {compact}" if _TIMELY.search(name) else ""
    dated = f"TRY_CAST({column} AS TIMESTAMP) IS NOT NULL OR "
    dated += f"try_strptime({column}, [{formats}]) IS NOT NULL{counted}"
    good, known = eye.rows(
        f"SELECT count(*) FILTER ({dated}), count(*) FROM few WHERE {column} <> ''"
    )[0]
    return bool(known) and good >= 0.95 * known


def _kind_or_quantity(eye: _Eye, name: str) -> Iterator[Finding]:
    column, verbs = _name(name), ", ".join(map(_literal, _VERBS))
    number = f"TRY_CAST({column} AS DOUBLE)"
    kinds, known, numbers, below, doing = eye.rows(
        f"SELECT count(DISTINCT {column}), count({column}), count({number}), "
        f"count(*) FILTER ({number} < 0), count(*) FILTER (lower({column}) IN ({verbs})) FROM few"
    )[0]
    is_kind = 2 <= kinds <= _FEW_VALUES and (doing or _KINDS.search(name))
    is_quantity = (
        known and numbers == known and (below or _COUNTS.search(name.lower())) and kinds > 1
    )
    if not (is_kind or is_quantity) or not eye.varies(name):
        return
    counts = eye.counts(name)
    if is_kind:
        fact = f"{name} has {len(counts)} values, and all are events alike: {_listed(counts)}."
        fix = f"{setting('data.keep', {name: [counts[-1][0]]})} keeps one kind"
        yield Finding("warning", "event-types", fact, (), fix)
        return
    negative = f"{eye.number(name)} < 0"
    count = int(eye.rows(f"SELECT count(*) FROM events WHERE {negative}")[0][0])
    fact = f"{name} holds quantities that are not used"
    if not count:
        yield note("quantities", f"{fact}: {_listed(counts[:_SHOWN])} and so on.")
        return
    returned = [float(value) for value, _ in counts if float(value) < 0]
    fix = f"{setting('data.drop', {name: returned})} leaves returns out"
    fact += f", and {_of(count, eye.size)} are below zero: returns?"
    yield Finding("warning", "quantities", fact, tuple(f"{v:g}" for v in returned[:_SHOWN]), fix)


def _items(eye: _Eye) -> Iterator[Finding]:
    """An item table that knows few of the log's ids, or has several rows an item."""
    if not eye.item_names:
        return
    item, own = eye.id("item_id"), eye.id("item_id", "items")
    log, table = _distinct(item, "events"), _distinct(own, "items")
    both = f"SELECT count(*), (SELECT count(*) FROM ({table})), "
    known, rows, matched = eye.rows(
        f"{both} (SELECT count(*) FROM ({log}) SEMI JOIN ({table}) USING (v)) FROM ({log})"
    )[0]
    if matched < known:
        fact = f"Of the log's items {_of(matched, known)} are in the item table of {rows:,} ids."
        few = 2 * matched < known
        shown, fix = _near(eye, log, table) if few else ((), "")
        yield Finding("error" if few else "note", "unmatched-items", fact, shown, fix)
    columns = {ours: name for ours, name in eye.item_names.items() if ours != "item_id"}
    for name in columns.values():
        value = eye.text(name, "items")
        differ = f"SELECT {own} AS i, min({value}), max({value}) FROM items GROUP BY i "
        found = eye.rows(f"{differ} HAVING count(DISTINCT {value}) > 1 ORDER BY 1")
        if found:
            fact = f"{name}: {len(found):,} items have several rows that differ; the first counts."
            shown = tuple("{0!r}: {1!r} and {2!r}".format(*each) for each in found[:_SHOWN])
            yield Finding("warning", "item-rows-differ", fact, shown, "leave one row an item")


def _distinct(column: str, table: str) -> str:
    return f"SELECT DISTINCT {column} AS v FROM {table} WHERE v IS NOT NULL"


def _near(eye: _Eye, log: str, table: str) -> tuple[tuple[str, ...], str]:
    """Return two ids that may be meant as one, side by side, and how the tables would match."""
    tries = [
        (log, table, _number_form("v"), "data.numeric_ids=true reads 007 and 7.0 as 7"),
        (log, table, "lower(v)", "write the ids of both tables in the same capitals"),
        (log, table, "ltrim(regexp_extract(v, '[0-9]+'), '0')", "write the ids of both alike"),
    ]
    for name in eye.types["items"]:
        other = _distinct(f"nullif({eye.text(name, 'items')}, '')", "items")
        tries.append((log, other, "v", f"data.item_columns.item_id={name}"))
    for name in eye.types["events"]:
        other = _distinct(f"nullif({eye.text(name)}, '')", "events")
        tries.append((other, table, "v", f"data.columns.item_id={name}"))
    for one, other, form, fix in tries:
        sql = f"SELECT count(DISTINCT a.v), min(a.v), min_by(b.v, a.v), (SELECT count(*) FROM ({one})) "
        sql += f"FROM (SELECT v, {form} AS f FROM ({one})) AS a "
        sql += f"JOIN (SELECT v, {form} AS f FROM ({other})) AS b ON a.f = b.f AND a.f <> ''"
        count, ours, theirs, total = eye.rows(sql)[0]
        if 2 * count >= total > 0:
            return (f"{theirs!r} of the items against {ours!r} of the log",), fix
    ours, theirs = (eye.rows(f"SELECT min(v) FROM ({each})")[0][0] for each in (log, table))
    fix = "data.items=FILE names another table of items, or data.item_columns.item_id=NAME its ids"
    return (f"{theirs!r} of the items against {ours!r} of the log",), fix


def _titles(eye: _Eye) -> Iterator[Finding]:
    """Titles that differ by Unicode form or blanks alone, and items of one title."""
    table = "items" if eye.item_names else "events"
    names = eye.item_names or eye.names
    if "title" not in names:
        return
    title = f"CAST({_name(names['title'])} AS VARCHAR)"
    form = "trim(regexp_replace(nfc_normalize(t), '\\s+', ' ', 'g'))"
    group = (
        f"SELECT {form} AS f, min(t), max(t), count(DISTINCT i) AS n, count(DISTINCT t) AS ways "
    )
    group += f"FROM (SELECT {eye.id('item_id', table)} AS i, {title} AS t FROM {table}) GROUP BY f"
    for several, name, what in (
        ("ways > 1", "alike-titles", "titles differ by Unicode form or blanks alone: each is one"),
        ("n > 1", "shared-titles", "titles are of several items"),
    ):
        found = eye.rows(f"SELECT * FROM ({group}) WHERE f <> '' AND {several} ORDER BY f")
        if found:
            shown = tuple(f"{low!a} and {high!a}" for _, low, high, *_ in found[:_SHOWN])
            level: Level = "warning" if several[0] == "w" else "note"
            shown = shown if level == "warning" else tuple(repr(each[0]) for each in found[:_SHOWN])
            yield Finding(level, name, f"{len(found):,} {what}.", shown)


_LOOKS = (_ids, _items, _times, _order, _ratings, _pairs, _columns, _users, _titles)
