"""Times of every spelling as seconds since 1970, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from recinject.data.findings import Finding, quoted
from recinject.data.loading import LogTables, literal
from recinject.foundation.errors import RecinjectError

_FIRST_MILLISECONDS = 1e11  # as seconds, this is the year 5138; as milliseconds, 1973
_UNITS = {"s": 0, "ms": 1, "us": 2, "ns": 3}
_PLAUSIBLE = (631_152_000, 4_102_444_800)  # 1990 to 2100
_CLOCKS: tuple[str, ...] = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_DAYS: tuple[str, ...] = (
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%m-%d-%Y",
    "%d-%m-%Y",
    "%d.%m.%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
)
_DAYS += ("%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%m/%d/%y", "%d/%m/%y")
_WHOLE: tuple[str, ...] = (
    "%a %b %d %H:%M:%S %z %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S %Z",
)
_WHOLE += ("%a %b %d %H:%M:%S %Z %Y", "%a %b %d %H:%M:%S %Y", "%d/%b/%Y:%H:%M:%S %z")
_WHOLE += ("Posted %B %d, %Y.", "%Y-%m-%d %I:%M:%S %p", "%Y-%m-%dT%H:%M:%S %Z", "%m %d, %Y")
_WHOLE += tuple(
    f"{day}{clock} {zone}" for day in _DAYS for clock in _CLOCKS[1:] for zone in ("%z", "%Z")
)
FORMATS = (*_WHOLE, *(f"{day}{clock}" for day in _DAYS for clock in _CLOCKS))
_COMPACT = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def seconds(tables: LogTables, name: str) -> str:
    """Return the SQL of a column's times as seconds since 1970, NULL where they are no times.

    Numbers are seconds, or milliseconds and what is smaller still, by their size. Texts are such
    numbers, ISO dates, or dates in the one known format that fits all of them.

    Raises:
        RecinjectError: two formats fit, and mean different days.
    """
    settings, kind, column = tables.settings, tables.types("read_events")[name], quoted(name)
    if kind == "TIMESTAMP_NS":
        return f"epoch_ns({column}) / 1e9"
    if kind.startswith(("TIMESTAMP", "DATE")):
        return f"epoch_us({column}::TIMESTAMPTZ) / 1e6"
    text = tables.text("read_events", name)
    if settings.time_format:
        tables.say("times", f"{name!r} is read by data.time_format={settings.time_format!r}.")
        return _parsed(f"CAST({text} AS VARCHAR)", settings.time_format)
    number = tables.number(name)
    number = f"CASE WHEN isfinite({number}) THEN {number} END"
    scaled = _scaled(tables, name, number)
    date = _dates(tables, name, text, number) if kind == "VARCHAR" else None
    return (
        scaled if date is None else f"CASE WHEN {number} IS NOT NULL THEN {scaled} ELSE {date} END"
    )


def _parsed(text: str, layout: str) -> str:
    return f"epoch_us(TRY_STRPTIME({text}, {literal(layout)})::TIMESTAMPTZ) / 1e6"


def _scaled(tables: LogTables, name: str, number: str) -> str:
    """Return the SQL of numbers as seconds, by the unit that is set or told by their size."""
    settings = tables.settings
    if settings.time_unit:
        return _divided(number, _UNITS[settings.time_unit])
    bounds = [_FIRST_MILLISECONDS * 1000.0**power for power in range(3)]
    counts = ", ".join(f"count(*) FILTER (abs(x) <= {bound})" for bound in bounds)
    low, high = _PLAUSIBLE
    total, *within, whole, least, most = tables.ask(
        f"SELECT count(x), {counts}, bool_and(x = trunc(x)), min(x), max(x) "
        f"FROM (SELECT {number} AS x FROM read_events WHERE {tables.selected})"
    )[0]
    if not total:
        return number
    if whole and (layout := _compact(tables, number, least, most)):
        said = f"{name!r} holds dates written as numbers ({layout}), such as {least:.0f}."
        tables.say("times", said)
        return _parsed(_digits(number), layout)
    unit = next((n for n, count in enumerate(within) if 2 * count > total), 3)
    usual = _divided(number, unit)
    fits = [f"{_divided(number, power)} BETWEEN {low} AND {high}" for power in range(4)]
    others = [fit for power, fit in enumerate(fits) if power != unit]
    odd, good = tables.kept(
        f"count(*) FILTER (NOT ({fits[unit]}) AND ({' OR '.join(others)})), "
        f"count(*) FILTER ({fits[unit]})"
    )[0]
    if not odd or 2 * good < total:
        return usual
    cases = " ".join(
        f"WHEN {fit} THEN {_divided(number, n)}" for n, fit in enumerate(fits) if n != unit
    )
    fact = f"{name!r} holds times of several units: {odd:,} of {total:,} are no {[*_UNITS][unit]}."
    fix = "they are read by their size; data.time_unit=s takes all as one unit"
    tables.findings.append(Finding("warning", "mixed-time-units", fact, fix=fix))
    return f"CASE WHEN {fits[unit]} THEN {usual} {cases} ELSE {usual} END"


def _divided(number: str, thousands: int) -> str:
    return f"({number}{' / 1e3' * thousands})"


def _digits(number: str) -> str:
    return f"CAST(CAST({number} AS BIGINT) AS VARCHAR)"


def _compact(tables: LogTables, number: str, least: float, most: float) -> str | None:
    """Return the layout of numbers such as 20101201 that are all dates."""
    first, last = f"{least:.0f}", f"{most:.0f}"
    layout = _COMPACT.get(len(first))
    if layout is None or len(last) != len(first) or first[:2] not in ("19", "20"):
        return None
    (odd,) = tables.ask(
        f"SELECT count(*) FROM read_events WHERE {number} IS NOT NULL AND "
        f"TRY_STRPTIME({_digits(number)}, {literal(layout)}) IS NULL"
    )[0]
    return None if odd else layout


def _dates(tables: LogTables, name: str, text: str, number: str) -> str | None:
    """Return the SQL of texts that are no numbers as seconds; None where there are none."""
    iso = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    iso = f"CASE WHEN isfinite({iso}) THEN epoch_us({iso}) / 1e6 END"
    texts = (
        f"SELECT DISTINCT {text} AS t FROM read_events WHERE {tables.selected} AND {number} IS NULL"
    )
    tables.connection.execute(
        f"CREATE OR REPLACE TEMP TABLE dates AS SELECT t FROM ({texts}) WHERE t IS NOT NULL"
    )
    total, rest = tables.ask(
        "SELECT count(*), count(*) FILTER (TRY_CAST(t AS TIMESTAMPTZ) IS NULL) FROM dates"
    )[0]
    if not total:
        return None
    fitting = _fitting(tables) if rest else []
    if not fitting:
        return iso
    first = fitting[0]
    parse = [f"TRY_STRPTIME(t, {literal(each)})" for each in fitting]
    differing = [
        other
        for other, sql in zip(fitting[1:], parse[1:], strict=True)
        if tables.ask(f"SELECT count(*) FROM dates WHERE {sql} IS DISTINCT FROM {parse[0]}")[0][0]
    ]
    if differing and not ("%p" in first and first.startswith("%m")):  # Americans say AM and PM
        (example,) = tables.ask("SELECT min(t) FROM dates")[0]
        raise RecinjectError(
            f"{tables.place()}: times of {name!r} such as {example!r} may be read by {first!r} or "
            f"by {differing[0]!r}",
            hint=f"set data.time_format='{first}' or data.time_format='{differing[0]}'",
        )
    tables.say("times", f"{name!r} holds dates, read by {first!r}; data.time_format sets another.")
    return _parsed(text, first)


def _fitting(tables: LogTables) -> Sequence[str]:
    """Return the known formats that most dates have, all of them equally many."""
    formats, fits = list(FORMATS), [0]
    for source in (
        "(SELECT t FROM dates USING SAMPLE reservoir(200 ROWS) REPEATABLE (1))",
        "dates",
    ):
        counts = ", ".join(f"count(TRY_STRPTIME(t, {literal(each)}))" for each in formats)
        total, *fits = tables.ask(f"SELECT count(*), {counts} FROM {source}")[0]
        known = [(each, n) for each, n in zip(formats, fits, strict=True) if n > 0.8 * total]
        if not known:
            return []
        formats, fits = [each for each, _ in known], [n for _, n in known]
    return [each for each, count in zip(formats, fits, strict=True) if count == max(fits)]
