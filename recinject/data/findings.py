"""What a log looks like to a careful eye: findings with level, fact, examples and fix."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from recinject.foundation.errors import RecinjectError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that was found in a log.

    Examples:
        >>> print(Finding("warning", "one-event-users", "Users with one event: 3.", ("'u7'",)))
        Users with one event: 3. For example 'u7'.
    """

    level: Literal["note", "warning", "error"]
    name: str  # of the kind, such as ``missing-looking-ids``
    fact: str  # a sentence
    examples: tuple[str, ...] = ()  # values as they stand in the files
    fix: str = ""  # what to do about it, such as a setting to write

    def __str__(self) -> str:
        """Write the fact, its examples and the fix as one text."""
        shown = f" For example {', '.join(self.examples)}." if self.examples else ""
        return f"{self.fact}{shown}{f' Fix: {self.fix}.' if self.fix else ''}"

    @classmethod
    def of_dict(cls, stored: Mapping[str, Any]) -> Finding:
        """Make a finding of what ``dataclasses.asdict`` returned and JSON stored."""
        return cls(**{**stored, "examples": tuple(stored["examples"])})


class LogError(RecinjectError):
    """A log that was read and has an error among its ``findings``."""

    def __init__(self, place: str, findings: Sequence[Finding]) -> None:
        errors = [finding for finding in findings if finding.level == "error"]
        facts = "\n".join(f"{place}: {replace(finding, fix='')}" for finding in errors)
        super().__init__(facts, hint="; ".join(finding.fix for finding in errors))
        self.place, self.findings = place, findings

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.place, self.findings)


def note(name: str, fact: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding("note", name, fact)


def _warn(name: str, fact: str, fix: str = "", examples: Sequence[object] = ()) -> Finding:
    return Finding("warning", name, fact, tuple(map(str, examples[:_SHOWN])), fix)


def setting(key: str, value: object) -> str:
    """Write an override as a shell takes it.

    Examples:
        >>> print(setting("data.keep", {"event": ["buy"]}))
        'data.keep={"event": ["buy"]}'
    """
    return f"'{key}={json.dumps(value, ensure_ascii=False)}'"


def quoted(name: str) -> str:
    """Return a column's name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


_MANY_EVENTS, _SAMPLE = 2_000_000, 20_000  # above, a share of the users or rows is looked at
_SHOWN, _FEW_VALUES = 5, 20
_MISSING = r"(<?\(?#?(na|n/a|nan|null|none|nil|undefined|unknown|anonymous)\)?>?|\\n|-+|\?|-1)"
_TIMELY = re.compile(
    r"time|date|stamp|\bts|ts\b|_at\b|when|created|posted|datum|fecha|day|clicked|viewed|played"
)
_COUNTS = re.compile(r"count|play|quantity|qty|amount|weight|hours|freq|times|listen|click|views")
_KINDS = re.compile(r"event|action|behaviou?r|interaction|activity|type|kind|feedback")
_VERBS = "(view|click|buy|(add.?to)?cart|purchase|pv|fav|like|play|transaction|order|share)s?"
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_DATES = [day + clock for day in ("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y") for clock in _CLOCKS]
_DATES += ["%a %b %d %H:%M:%S %z %Y", "%b %d, %Y", "%B %d, %Y", "Posted %B %d, %Y."]


def examine(
    connection: DuckDBPyConnection,
    names: Mapping[str, str],
    item_names: Mapping[str, str] | None = None,
    sql: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Look at a log's tables and tell what a careful person would ask about, the gravest first.

    Args:
        connection: holds the table or view ``events``, in the order of the log's rows, and
            ``items`` where ``item_names`` is given.
        names: our column names to those of ``events``; further columns of it are looked at too.
        item_names: our column names to those of ``items``.
        sql: that of our columns of events, where their plain text or number is not what is meant,
            such as timestamps in seconds; and of the ``items``' own ids.
    """
    eye = _Eye(connection, names, item_names or {}, sql or {})
    found = [finding for look in _LOOKS for finding in look(eye)] if eye.size else []
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level))


class _Eye:
    """The tables of a log; ``seen`` has user, item, rating and time of the events."""

    def __init__(self, connection: DuckDBPyConnection, *given: Mapping[str, str]) -> None:
        self.connection, (self.names, self.item_names, sql) = connection, given
        self.types = {"events": self._types("events")}
        plain = {ours: self.text(name) for ours, name in self.names.items()}
        numbers = {ours: f"TRY_CAST({text} AS DOUBLE)" for ours, text in plain.items()}
        chosen = {"user_id": "_u", "item_id": "_i", "rating": "_r", "timestamp": "_t"}
        found = {**numbers, **{ours: plain[ours] for ours in ("user_id", "item_id")}, **sql}
        listed = ", ".join(
            f"{found.get(ours, 'NULL::DOUBLE')} AS {x}" for ours, x in chosen.items()
        )
        self.rows(f"CREATE OR REPLACE TEMP VIEW seen AS SELECT *, {listed} FROM events")
        if self.item_names:
            self.types["items"] = self._types("items")
            self.item_id = sql.get("items") or self.text(self.item_names["item_id"], "items")
        self.size = int(self.rows("SELECT count(*) FROM events")[0][0])
        self.part = f"hash(_u) % {max(1, self.size // _MANY_EVENTS)} = 0"

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(sql).fetchall()

    def _types(self, table: str) -> dict[str, str]:
        return dict(self.rows(f"SELECT column_name, column_type FROM (DESCRIBE {table})"))

    def text(self, name: str, table: str = "events") -> str:
        """Return the SQL of a column's text, missing where it is empty."""
        column, whole = quoted(name), "NULL"
        if self.types[table][name] in ("DOUBLE", "FLOAT"):  # as an id, 7.0 is 7
            whole = f"if({column} = trunc({column}), TRY_CAST({column} AS HUGEINT)::VARCHAR, NULL)"
        return f"coalesce({whole}, nullif(trim({column}::VARCHAR), ''))"

    def counts(self, name: str) -> list[tuple[str, int]]:
        """Return a column's most frequent values with how many events have each."""
        group = f"SELECT v, count(*) FROM (SELECT {self.text(name)} AS v FROM events) WHERE v <> ''"
        return self.rows(f"{group} GROUP BY v ORDER BY 2 DESC, 1 LIMIT {_FEW_VALUES}")

    def varies(self, name: str) -> bool:
        """Whether a column tells of events, and not of users or items alone."""
        differ = f"HAVING count(DISTINCT {quoted(name)}) > 1 LIMIT 1"
        return all(self.rows(f"SELECT 1 FROM seen GROUP BY {own} {differ}") for own in ("_u", "_i"))


def _listed(counts: Sequence[tuple[Any, int]]) -> str:
    return ", ".join(f"{v if isinstance(v, str) else f'{v:g}'} ({n:,})" for v, n in counts)


def number_form(text: str) -> str:
    """Return the SQL of an id that, if it is a number, has no leading zeros and no ``.0``."""
    plain = f"ltrim(regexp_replace({text}, '\\.0+$', ''), '0')"
    number = f"if({plain} = '', '0', {plain})"
    return f"if(regexp_full_match({text}, '[0-9]+(\\.0+)?'), {number}, {text})"


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({100 * count / total:.0f} %)"


def _ids(eye: _Eye) -> Iterator[Finding]:
    """Ids that look missing, and one user with a large share of the events."""
    for ours, column in (("user_id", "_u"), ("item_id", "_i")):
        group = f"SELECT {column} AS v, count(*) AS n FROM seen GROUP BY ALL"
        looks = f"FROM ({group}) WHERE regexp_full_match(lower(v), '{_MISSING}') ORDER BY n DESC, v"
        missing, drop = eye.rows(looks), " data.bad_rows=drop leaves these events out"
        known = [value for value, _ in missing]
        if missing:
            count = _of(sum(n for _, n in missing), eye.size)
            fact = f"{ours} looks missing in {count} events, and each such text is read as an id."
            shown = [_listed([each]) for each in missing]
            yield _warn("missing-looking-ids", fact, setting("data.missing", known) + drop, shown)
        most, n, total = eye.rows(
            f"SELECT *, count(*) OVER () FROM ({group}) ORDER BY n DESC LIMIT 1"
        )[0]
        if column == "_u" and total > _FEW_VALUES and n > eye.size / 5 and most not in known:
            fix = f"{setting('data.missing', [most])}{drop}, if the id stands for nobody"
            yield _warn("dominant-user", f"One user has {_of(n, eye.size)} events.", fix, [most])


def _users(eye: _Eye) -> Iterator[Finding]:
    """Users with one event, and what the k-cores leave."""
    single, users, example = eye.rows("""SELECT count(*) FILTER (n = 1), count(*), min(_u) FILTER
        (n = 1) FROM (SELECT _u, count(*) AS n FROM seen GROUP BY _u)""")[0]
    if single:
        fact = f"Users with one event: {_of(single, users)}; nothing of theirs can be a test."
        found = _warn("one-event-users", fact, "", [example])
        yield found if 2 * single > users else replace(found, level="note")
    cores, kept = _cores(eye), "{2:,} events of {0:,} users and {1:,} items from k={3} on"
    said = [kept.format(*core, k) for k, core in cores.items() if core != cores.get(k - 1)]
    most = max(k for k, core in cores.items() if core[2])
    found = _warn("k-core", f"Users and items with k events or more: {'; '.join(said)}.")
    if most == max(cores):
        yield replace(found, level="note")
    elif single == users:
        yield replace(found, fix="a longer log: no user has two events, so nothing can be held out")
    else:
        yield replace(found, fix=f"data.k_core={most} is the largest that leaves something")


def _cores(eye: _Eye) -> dict[int, tuple[int, ...]]:
    """Return for each k the number of users, items and events of the k-core."""
    eye.rows("CREATE OR REPLACE TEMP TABLE core AS SELECT hash(_u) AS u, hash(_i) AS i FROM seen")
    few, sizes = "{0} IN (SELECT {0} FROM core GROUP BY {0} HAVING count(*) < {1})", {}
    for k in range(1, _SHOWN + 1):
        drop = f"DELETE FROM core WHERE {few.format('u', k)} OR {few.format('i', k)}"
        while k > 1 and eye.rows(drop)[0][0]:
            pass
        counted = "SELECT count(DISTINCT u), count(DISTINCT i), count(*) FROM core"
        sizes[k] = tuple(map(int, eye.rows(counted)[0]))
    eye.rows("DROP TABLE core")
    return sizes


def _times(eye: _Eye) -> Iterator[Finding]:
    """No time at all, or times of strange years."""
    first, last = eye.rows("SELECT min(_t), max(_t) FROM seen WHERE _t <> 0")[0]
    if "timestamp" not in eye.names and "position" not in eye.names:
        fact = "No column of times was taken: a run puts each user's events in random order."
        fix = "data.columns.timestamp=NAME names the column, if there is one, and data.order=rows"
        fix += " trusts the order of the rows"
        yield _warn("no-time", fact, fix)
    elif first is not None:
        years = [1970 + value / 31_556_952 for value in (first, last)]
        if years[0] < 1990 or years[1] > 2050:
            fact = f"{eye.names['timestamp']} spans the years {years[0]:.0f} to {years[1]:.0f}."
            fix = "data.time_unit or data.time_format, or nothing where numbers are no dates"
            yield _warn("strange-years", fact, fix, [f"{value:.15g}" for value in (first, last)])


def _order(eye: _Eye) -> Iterator[Finding]:
    """An order among events without a time of their own that follows item ids or ratings."""
    timed = "timestamp" in eye.names
    whole = eye.rows("SELECT bool_and(TRY_CAST(_i AS BIGINT) IS NOT NULL) FROM seen")[0][0]
    item = "TRY_CAST(_i AS BIGINT)" if whole else "_i"
    tests = "count(*) FILTER (tied AND {0} > {0}0), count(*) FILTER (tied AND {0} <> {0}0)"
    tied, events, *counts = eye.rows(f"""SELECT count(*) FILTER (tied), count(*),
        {tests.format("x")}, {tests.format("r")} FROM (
        SELECT x, r, lag(x) OVER w AS x0, lag(r) OVER w AS r0, t IS NOT DISTINCT FROM lag(t) OVER w
        AND row_number() OVER w > 1 AS tied FROM (SELECT _u AS u, {item} AS x, _r AS r, _t AS t,
        row_number() OVER () AS seq FROM seen WHERE {eye.part})
        WINDOW w AS (PARTITION BY u ORDER BY t, seq))""")[0]
    if timed and 10 * tied > events and "position" not in eye.names:
        fact = f"{_of(tied, events)} events have the time of the user's event before them."
        fix = "data.ties=hash orders them by chance; as it is, the rows' order does"
        yield Finding("note", "tied-times", fact, (), fix)
    for name, up, pairs in zip(("items", "ratings"), counts[::2], counts[1::2], strict=True):
        # The two-sided p of so many ascents, where each has the chance of 1/2.
        p = math.erfc(max(0.0, abs(up - pairs / 2) - 0.5) / math.sqrt(max(pairs, 1) / 2))
        if "position" not in eye.names and p < 1e-3 and abs(2 * up - pairs) > 0.2 * pairs:
            fact = f"Of a user's neighbouring events with {'one' if timed else 'no'} time, {name} "
            fact += (
                f"ascend in {_of(up, pairs)}, where chance gives 50 % (p = {max(p, 1e-99):.1g})."
            )
            fix = "data.ties=hash" if timed else "data.order=time (the default) puts them at random"
            yield _warn(f"order-follows-{name}", fact, f"{fix}; sorted rows are no order of use")


def _ratings(eye: _Eye) -> Iterator[Finding]:
    """Ratings that are constants, sentinels, counts or a continuous scale; their values."""
    group = "SELECT _r AS r, count(*) AS n FROM seen WHERE _r IS NOT NULL GROUP BY _r"
    ends = f"(FROM ({group}) ORDER BY r LIMIT {_FEW_VALUES})"
    values = sorted(eye.rows(f"{ends} UNION (FROM ({group}) ORDER BY r DESC LIMIT 3)"))
    if not values:
        return
    column, without = eye.names["rating"], "data.columns.rating='' leaves it out"
    sizes = f"SELECT count(*), sum(n)::BIGINT, bool_and(r = trunc(r)) FROM ({group})"
    many, total, whole = eye.rows(sizes)[0]
    low, high = values[0][0], values[-1][0]
    if many == 1:
        yield _warn("constant-rating", f"All ratings are {low:g}: the log is implicit.", without)
        return
    if many <= _FEW_VALUES:
        yield note("rating-values", f"{column} has {many} values: {_listed(values)}.")
    if lone := _sentinels(values, many, total):
        fact = f"{column}: {_listed(lone)} of {total:,} stand apart: not rated?"
        fix = f"{setting('data.unrated', [value for value, _ in lone])} keeps the events unrated"
        yield _warn("sentinel-ratings", fact, fix)
    counts = [n for _, n in values]
    falls = counts[:_SHOWN] == sorted(counts[:_SHOWN], reverse=True) and 2 * counts[0] > total
    counted = _COUNTS.search(column.lower()) or (many > _SHOWN and falls and high > many)
    if whole and low >= 0 and (many > _FEW_VALUES or (counted and not lone)):
        kind, what, how = "counts-as-ratings", "whole numbers, as counts have them", "log"
    elif many > _FEW_VALUES:
        kind, what, how = "continuous-ratings", "values: a continuous scale, and no labels", "bins"
    else:
        return
    fix = f"{setting('data.rating_of', {'column': column, 'as': how})}, or {without}"
    yield _warn(kind, f"{column} has {many:,} {what}, from {low:g} to {high:g}.", fix)


def _sentinels(
    values: Sequence[tuple[float, int]], many: int, total: int
) -> list[tuple[float, int]]:
    """Return values at the ends of a scale that stand apart from it, as -1, 0 and 99 do."""
    if many < 4:
        return []
    (low, few), (second, _), *_, (last, _), (high, often) = values
    below = low < 0 <= second and low == round(low)
    zeros = low == 0 and few > total / 5 and many <= _FEW_VALUES
    above = high - last > 2 * (last - second) and (often > total / 20 or many < _FEW_VALUES)
    return [values[0]] * (below or zeros) + [values[-1]] * above


def _pairs(eye: _Eye) -> Iterator[Finding]:
    """Pairs of a user and an item that are there again, with the same rating or several."""
    again, differ, events, shown = eye.rows(f"""SELECT sum(n - 1)::BIGINT, count(*) FILTER
        (low < high), sum(n)::BIGINT, min(format('user {{}}, item {{}}: {{:g}} and {{:g}}', u, i,
        low, high)) FILTER (low < high) FROM (SELECT _u AS u, _i AS i, count(*) AS n,
        min(_r) AS low, max(_r) AS high FROM seen WHERE {eye.part} GROUP BY ALL)""")[0]
    if again:
        fact = f"{_of(again, events)} events repeat an item that the user had before."
        yield note("repeated-pairs", fact)
    if differ:
        fact = f"{differ:,} pairs of a user and an item have several ratings."
        fix = "data.repeats=first or data.repeats=last says which one counts"
        yield _warn("several-ratings", fact, fix, [shown])


def _columns(eye: _Eye) -> Iterator[Finding]:
    """Columns that were not taken, and hold times, kinds of events or quantities."""
    others = [name for name in eye.types["events"] if name not in eye.names.values()]
    chosen = ", ".join(f"{eye.text(name)} AS {quoted(name)}" for name in others) or "1 AS x"
    where = f"hash(_u, _i) % {max(1, eye.size // _SAMPLE)} = 0"
    eye.rows(f"CREATE OR REPLACE TEMP TABLE few AS SELECT {chosen} FROM seen WHERE {where}")
    dated = [name for name in others if _holds_dates(eye, name) and eye.varies(name)]
    if dated:
        fact = f"Columns that hold times and were not taken: {', '.join(map(repr, dated))}."
        fix = f"data.columns.timestamp={dated[0]}"
        found = _warn("unread-times", fact, fix, [eye.counts(name)[0][0] for name in dated])
        yield replace(found, level="note") if "timestamp" in eye.names else found
    for name in others:
        if name not in dated:
            yield from _kind_or_quantity(eye, name)


def _holds_dates(eye: _Eye, name: str) -> bool:
    """Whether nearly all values of a column are dates, or numbers of a time by its name."""
    tests = ["TRY_CAST(v AS TIMESTAMP) IS NOT NULL", f"try_strptime(v, {_DATES}) IS NOT NULL"]
    is_timely = _TIMELY.search(name.lower())
    # Numbers of seconds may as well be ids; those of milliseconds and less hardly are.
    powers = (8, 11, 14, 17) if is_timely else (11, 14, 17)
    tests += [f"TRY_CAST(v AS DOUBLE) BETWEEN 5e{n} AND 25e{n}" for n in powers]
    tests += ["try_strptime(v, '%Y%m%d') > '1970-01-01'"] if is_timely else []
    good, known = eye.rows(f"""SELECT count(*) FILTER ({" OR ".join(tests)}), count(v)
        FROM (SELECT {quoted(name)} AS v FROM few)""")[0]
    return bool(known) and good >= 0.95 * known


def _kind_or_quantity(eye: _Eye, name: str) -> Iterator[Finding]:
    many, known, numbers, below, verbs = eye.rows(f"""SELECT count(DISTINCT v), count(v), count(x),
        count(*) FILTER (x < 0), count(*) FILTER (regexp_full_match(lower(v), '{_VERBS}'))
        FROM (SELECT {quoted(name)} AS v, TRY_CAST(v AS DOUBLE) AS x FROM few)""")[0]
    is_kind = many <= _FEW_VALUES and (verbs or _KINDS.search(name.lower()))
    is_quantity = numbers == known and (below or _COUNTS.search(name.lower()))
    if many < 2 or not (is_kind or is_quantity) or not eye.varies(name):
        return
    counts = eye.counts(name)
    if is_kind:
        fact = f"{name} has {len(counts)} values, and all are events alike: {_listed(counts)}."
        bought = [v for v, _ in counts if re.search("buy|purchase|transaction|order", v.lower())]
        fix = f"{setting('data.keep', {name: [*bought, counts[0][0]][:1]})} keeps one kind"
        yield _warn("event-types", fact, fix)
        return
    returned = [value for value, _ in counts if value[0] == "-"]
    fact = f"{name} holds quantities that are not used: {_listed(counts[:_SHOWN])}."
    fix = f"{setting('data.drop', {name: '<0'})} leaves returns out"
    yield _warn("quantities", fact, fix, returned) if below else note("quantities", fact)


def _items(eye: _Eye) -> Iterator[Finding]:
    """An item table that knows few of the log's ids, or has several rows an item."""
    if not eye.item_names:
        return
    own = eye.item_id
    log, table = "SELECT DISTINCT _i AS v FROM seen", f"SELECT DISTINCT {own} AS v FROM items"
    known, rows, matched = eye.rows(f"""SELECT count(*), (SELECT count(*) FROM ({table})), (SELECT
        count(*) FROM ({log}) SEMI JOIN ({table}) USING (v)) FROM ({log})""")[0]
    if matched < known:
        fact = f"Of the log's items {_of(matched, known)} are in the item table of {rows:,} ids."
        if 2 * matched >= known:
            yield note("unmatched-items", fact)
        else:
            shown, fix = _near(eye, log, table, known)
            fix += ", or data.partial_items=true goes on without what is unknown"
            yield Finding("error", "unmatched-items", fact, shown, fix)
    for name in (name for ours, name in eye.item_names.items() if ours != "item_id"):
        value = eye.text(name, "items")
        found = eye.rows(f"""SELECT format('{{}}: {{}} and {{}}', i, min(v), max(v)) FROM (SELECT
            {own} AS i, {value} AS v FROM items) GROUP BY i HAVING min(v) < max(v) ORDER BY i""")
        if found:
            fact = f"{name}: {len(found):,} items have several rows that differ; the first counts."
            yield _warn(
                "item-rows-differ", fact, "leave one row an item", [own for (own,) in found]
            )


def _near(eye: _Eye, log: str, table: str, known: int) -> tuple[tuple[str, ...], str]:
    """Return two ids that may be meant as one, side by side, and how the tables would match."""
    tries = [(log, table, number_form("v"), "data.numeric_ids=true reads 007 and 7.0 as 7")]
    for kind, key in (("items", "item_columns"), ("events", "columns")):
        others = {own for ours, own in eye.names.items() if kind == "events" and ours != "item_id"}
        for name in eye.types[kind].keys() - others:
            own = f"SELECT DISTINCT {eye.text(name, kind)} AS v FROM {kind}"
            two = (log, own) if kind == "items" else (own, table)
            tries += [(*two, "v", f"data.{key}.item_id={name}")]
    digits = "ltrim(regexp_extract(v, '[0-9]+'), '0')"
    shown = "{!r} of the items against {!r} of the log"
    tries += [(log, table, "lower(v)", "write the ids of both tables in the same capitals")]
    tries += [(log, table, digits, "write the ids of both tables alike")]
    for one, other, form, fix in tries:
        matched, ours, theirs, total = eye.rows(f"""SELECT count(DISTINCT a.v), min(a.v),
            min_by(b.v, a.v), (SELECT count(*) FROM ({one})) FROM (SELECT v, {form} AS f
            FROM ({one})) AS a JOIN (SELECT v, {form} AS f FROM ({other})) AS b USING (f)""")[0]
        if 2 * matched >= max(total, known // 2) > 0:  # and ratings of 1 to 5 are no ids
            return (shown.format(theirs, ours),), fix
    firsts = (eye.rows(f"SELECT min(v) FROM ({each})")[0][0] for each in (table, log))
    return (shown.format(*firsts),), "data.items=FILE names another table of items"


def _titles(eye: _Eye) -> Iterator[Finding]:
    """Titles that differ by Unicode form or blanks alone."""
    table, names = ("items", eye.item_names) if eye.item_names else ("events", eye.names)
    if "title" in names:
        title = f"{quoted(names['title'])}::VARCHAR"
        alike = eye.rows(f"""SELECT min(t), max(t) FROM (SELECT {title} AS t FROM {table}) GROUP BY
            trim(regexp_replace(nfc_normalize(t), '\\s+', ' ', 'g'))
            HAVING min(t) < max(t) ORDER BY 1""")
        if alike:
            fact = f"Titles that differ by Unicode form or blanks alone: {len(alike):,}."
            yield _warn("alike-titles", fact, "", [f"{low!a} and {high!a}" for low, high in alike])


_LOOKS = (_ids, _items, _times, _order, _ratings, _pairs, _columns, _users, _titles)
