"""What a careful eye finds in logs, whatever their columns, separators and types look like."""

from __future__ import annotations

import csv
import io
import json
import pickle
import random
import tempfile
from ast import literal_eval
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recinject.cli import main
from recinject.data.findings import Finding, LogError, examine, setting
from recinject.data.readers import look, read_log
from recinject.data.schema import Log

Rows = list[dict[str, Any]]
NAMES = {"user_id": "who", "item_id": "what", "rating": "stars", "timestamp": "seen", "title": "t"}


@dataclass(frozen=True)
class Dress:
    """How the rows of a log are written, and read into DuckDB."""

    separator: str
    order: int  # of the columns
    prefix: str  # of the columns' names
    typed: bool

    def load(self, connection: Any, table: str, rows: Rows) -> dict[str, str]:
        """Write rows to a file, load it as a table, and return our names to its names."""
        columns = list(rows[0])
        random.Random(self.order).shuffle(columns)
        text = io.StringIO(newline="")
        header = [self.prefix + NAMES.get(name, name) for name in columns]
        writer = csv.writer(text, delimiter=self.separator)
        writer.writerow(header)
        writer.writerows([[row[name] for name in columns] for row in rows])
        options = f"delim='{self.separator}', header=true, all_varchar={not self.typed}"
        with tempfile.NamedTemporaryFile("w", suffix=".csv", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            connection.execute(
                f"CREATE TABLE {table} AS FROM read_csv('{file.name}', quote='\"', {options})"
            )
        return {name: self.prefix + NAMES[name] for name in columns if name in NAMES}


PLAIN = Dress(",", 0, "", typed=False)
DRESSES = st.builds(
    Dress,
    separator=st.sampled_from(",;\t|"),
    order=st.integers(0, 99),
    prefix=st.sampled_from(["", "my ", 'q"', "Ü_"]),
    typed=st.booleans(),
)
in_any_dress = given(dress=DRESSES)
few = settings(max_examples=3)


def shop(users: int = 30, items: int = 25, each: int = 8, seed: int = 3) -> Rows:
    """Make a log that leaves nothing to be desired."""
    chance, rows = random.Random(seed), []
    for user in range(users):
        time = 1_600_000_000 + chance.randrange(10_000_000)
        for item in chance.sample(range(items), each):
            time += chance.randrange(60, 90_000)
            stars = chance.randint(1, 5)
            rows.append(
                {
                    "user_id": f"u{user}",
                    "item_id": f"i{item:02d}",
                    "rating": stars,
                    "timestamp": time,
                }
            )
    return rows


def changed(rows: Rows, **columns: Callable[[dict[str, Any]], Any]) -> Rows:
    """Give each row new values, each made of the whole row."""
    return [{**row, **{name: make(row) for name, make in columns.items()}} for row in rows]


def without(rows: Rows, *names: str) -> Rows:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def found(rows: Rows, dress: Dress = PLAIN, items: Rows | None = None) -> dict[str, Finding]:
    """Return what is found in a log in some dress, by kind."""
    with duckdb.connect(config={"threads": 1}) as connection:
        names = dress.load(connection, "events", rows)
        item_names = dress.load(connection, "items", items) if items else {}
        return {own.name: own for own in examine(connection, names, item_names)}


def grave(findings: Mapping[str, Finding]) -> dict[str, str]:
    """Return the kinds and levels of all that is no note."""
    return {name: own.level for name, own in findings.items() if own.level != "note"}


def titled(rows: Rows, title: Callable[[str], str]) -> Rows:
    """Make an item table for a log."""
    return [{"item_id": own, "title": title(own)} for own in sorted({r["item_id"] for r in rows})]


@few
@in_any_dress
def test_a_good_log_is_left_in_peace(dress: Dress) -> None:
    items = titled(shop(), lambda item: f"Title {item}")
    assert grave(found(shop(), dress, items)) == {}
    numbers = changed(
        shop(), item_id=lambda r: int(r["item_id"][1:]), rating=lambda r: r["rating"] / 2
    )
    assert grave(found(numbers, dress)) == {}


@few
@given(dress=DRESSES, marker=st.sampled_from(["NA", "nan", "NULL", "None", "\\N", "-", "n/a"]))
def test_ids_that_look_missing_are_counted(dress: Dress, marker: str) -> None:
    dress = replace(dress, typed=False)
    rows = changed(shop(), user_id=lambda r: marker if r["timestamp"] % 3 == 0 else r["user_id"])
    count = sum(row["user_id"] == marker for row in rows)
    finding = found(rows, dress)["missing-looking-ids"]
    assert (finding.level, finding.examples) == ("warning", (f"{marker} ({count:,})",))
    assert f"user_id looks missing in {count} of {len(rows)} " in finding.fact
    assert finding.fix.startswith(setting("data.missing", [marker]) + " data.bad_rows=drop")
    items = changed(shop(), item_id=lambda r: marker if r["timestamp"] % 9 == 0 else r["item_id"])
    assert "item_id" in found(items, dress)["missing-looking-ids"].fact


@few
@in_any_dress
def test_one_user_with_a_large_share_of_the_events_is_named(dress: Dress) -> None:
    rows = changed(shop(), user_id=lambda r: "guest" if r["timestamp"] % 3 else r["user_id"])
    assert found(rows, dress)["dominant-user"].examples == ("guest",)


JOINS: list[tuple[Callable[[int], str], Callable[[int], str], str]] = [
    (lambda n: f"{n:07d}", str, "data.numeric_ids=true"),
    (lambda n: f"{n}.0", str, "data.numeric_ids=true"),
    (str, lambda n: f"{n:05d}", "data.numeric_ids=true"),
    (lambda n: f"ab{n}", lambda n: f"AB{n}", "capitals"),
    (lambda n: f"tt{n:05d}", str, "alike"),
    (lambda n: f"x{n}", lambda n: f"{n + 900}", "data.items=FILE"),
]


@pytest.mark.parametrize(("ours", "theirs", "fix"), JOINS)
@settings(max_examples=2)
@in_any_dress
def test_items_that_do_not_match_are_an_error(
    ours: Callable[[int], str], theirs: Callable[[int], str], fix: str, dress: Dress
) -> None:
    rows = changed(shop(), item_id=lambda r: ours(int(r["item_id"][1:]) + 1))
    items = [{"item_id": theirs(n + 1), "title": f"Title {n}"} for n in range(25)]
    finding = found(rows, replace(dress, typed=False), items)["unmatched-items"]
    assert finding.level == "error"
    assert finding.fact.startswith("Of the log's items 0 of 25 (0 %) are in the item table of 25")
    assert fix in finding.fix
    their, _, our = (
        finding.examples[0].removesuffix(" of the log").partition(" of the items against ")
    )
    assert (literal_eval(their), literal_eval(our)) in [
        (theirs(n), ours(n)) for n in range(1, 26)
    ] or "FILE" in fix


@few
@in_any_dress
def test_a_column_that_would_match_is_named(dress: Dress) -> None:
    items = [{"item_id": f"row{n}", "sku": f"i{n:02d}", "title": f"T {n}"} for n in range(25)]
    fix = found(shop(), dress, items)["unmatched-items"].fix
    assert fix.startswith(f"data.item_columns.item_id={dress.prefix}sku, or ")
    rows = changed(shop(), sku=lambda r: f"row{int(r['item_id'][1:])}")
    items = without(items, "sku")
    assert (
        found(rows, dress, items)["unmatched-items"].fix.partition(", or ")[0]
        == f"data.columns.item_id={dress.prefix}sku"
    )


def test_half_of_the_items_are_enough() -> None:
    rows = [row for row in shop() if row["item_id"] < "i20"]
    half = titled(rows, str)[:10]
    assert found(rows, items=half)["unmatched-items"].level == "note"
    assert found(rows, items=half[1:])["unmatched-items"].level == "error"


@few
@in_any_dress
def test_rows_of_an_item_that_differ_are_named(dress: Dress) -> None:
    items = titled(shop(), lambda item: f"Title {item}")
    twice = [*items, *({**row, "title": f"{row['title']} II"} for row in items[:3])]
    finding = found(shop(), dress, twice)["item-rows-differ"]
    assert finding.examples[0] == "i00: Title i00 and Title i00 II"
    assert ": 3 items" in finding.fact
    assert "item-rows-differ" not in found(shop(), dress, [*items, *items])


@few
@given(dress=DRESSES, ways=st.sampled_from([("Café", "Cafe\u0301"), ("A B", "A  B"), ("A", "A ")]))
def test_titles_that_look_the_same_are_named(dress: Dress, ways: tuple[str, str]) -> None:
    items = titled(shop(), lambda item: f"{ways[int(item[1:]) % 2]} {int(item[1:]) // 2}")
    finding = found(shop(), dress, items)["alike-titles"]
    assert finding.level == "warning"
    assert finding.fact.endswith("alone: 12.")


WRITTEN = {
    "iso": "%Y-%m-%d %H:%M:%S",
    "rees46": "%Y-%m-%d %H:%M:%S UTC",
    "us": "%m/%d/%Y %I:%M:%S %p",
    "german": "%d.%m.%Y %H:%M",
    "twitter": "%a %b %d %H:%M:%S +0000 %Y",
    "steam": "Posted %B %d, %Y.",
}


def date(row: dict[str, Any], form: str) -> str:
    return datetime.fromtimestamp(row["timestamp"], UTC).strftime(form)


@few
@given(
    dress=DRESSES,
    form=st.sampled_from(sorted(WRITTEN)),
    name=st.sampled_from(["seen_at", "x", "dt"]),
)
def test_columns_that_hold_dates_are_named(dress: Dress, form: str, name: str) -> None:
    rows = changed(shop(), **{name: lambda r: date(r, WRITTEN[form])})
    findings = found(without(rows, "timestamp"), dress)
    assert findings["no-time"].level == "warning"
    assert findings["unread-times"].level == "warning"
    assert findings["unread-times"].fix == f"data.columns.timestamp={dress.prefix}{name}"
    assert found(rows, dress)["unread-times"].level == "note"
    of_items = changed(rows, **{name: lambda r: f"2001-01-{int(r['item_id'][1:]) + 1:02d}"})
    assert "unread-times" not in found(of_items, dress)


@few
@given(dress=DRESSES, unit=st.sampled_from([1, 1000, 1_000_000]))
def test_numbers_are_times_where_the_name_says_so(dress: Dress, unit: int) -> None:
    rows = changed(shop(), click_ts=lambda r: r["timestamp"] * unit, code=lambda r: r["timestamp"])
    finding = found(without(rows, "timestamp"), dress)["unread-times"]
    assert finding.fix == f"data.columns.timestamp={dress.prefix}click_ts"


@few
@in_any_dress
def test_strange_years_are_named(dress: Dress) -> None:
    for make in (lambda r: r["timestamp"] - 1_599_999_999, lambda r: r["timestamp"] * 1_000_000):
        finding = found(changed(shop(), timestamp=make), dress)["strange-years"]
        assert "years 1970 to 197" in finding.fact or "years 507" in finding.fact


@few
@given(dress=DRESSES, name=st.sampled_from(["items", "ratings"]), reverse=st.booleans())
def test_a_sorted_order_is_told_from_chance(dress: Dress, name: str, reverse: bool) -> None:
    rows = without(shop(each=12), "timestamp")
    key = f"{name[:-1]}_id" if name == "items" else "rating"
    in_order = sorted(rows, key=lambda row: row[key], reverse=reverse)
    finding = found(in_order, dress)[f"order-follows-{name}"]
    assert ("(0 %)" if reverse else "(100 %)") in finding.fact
    assert "p = " in finding.fact
    random.Random(1).shuffle(rows)
    assert grave(found(rows, dress)) == {"no-time": "warning"}


@few
@in_any_dress
def test_ids_that_are_numbers_are_compared_as_numbers(dress: Dress) -> None:
    rows = changed(without(shop(each=12), "timestamp"), item_id=lambda r: int(r["item_id"][1:]) * 7)
    in_order = sorted(rows, key=lambda row: row["item_id"])
    assert "(100 %)" in found(in_order, dress)["order-follows-items"].fact


@few
@in_any_dress
def test_tied_times_are_looked_at_and_a_position_is_trusted(dress: Dress) -> None:
    rows = sorted(shop(each=12), key=lambda row: row["item_id"])
    days = changed(rows, timestamp=lambda r: r["timestamp"] // 864_000 * 864_000)
    findings = found(days, dress)
    assert findings["order-follows-items"].fix.startswith("data.ties=hash")
    assert findings["tied-times"].level == "note"
    assert grave(found(rows, dress)) == {}
    with duckdb.connect(config={"threads": 1}) as connection:
        place = changed(without(rows, "timestamp"), place=lambda r: 1)
        names = PLAIN.load(connection, "events", place) | {"position": "place"}
        assert grave({own.name: own for own in examine(connection, names)}) == {}


RATINGS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "constant-rating": (lambda r: 1, "data.columns.rating=''"),
    "sentinel-ratings": (lambda r: r["rating"] if r["timestamp"] % 2 else -1, "[-1.0]"),
    "counts-as-ratings": (lambda r: r["timestamp"] % 35_000 + 1, '"as": "log"'),
    "continuous-ratings": (lambda r: r["timestamp"] % 2000 / 100 - 10, '"as": "bins"'),
}


@pytest.mark.parametrize("kind", RATINGS)
@settings(max_examples=2)
@in_any_dress
def test_ratings_that_are_none_are_named(kind: str, dress: Dress) -> None:
    make, fix = RATINGS[kind]
    findings = found(changed(shop(), rating=make), dress)
    assert grave(findings) == {kind: "warning"}
    assert fix in findings[kind].fix


@few
@in_any_dress
def test_zeros_high_sentinels_and_small_counts_are_told_from_scales(dress: Dress) -> None:
    def kinds(make: Callable[[dict[str, Any]], Any]) -> set[str]:
        return set(grave(found(changed(shop(), rating=make), dress)))

    assert kinds(lambda r: r["rating"] if r["timestamp"] % 2 else 0) == {"sentinel-ratings"}
    assert kinds(lambda r: r["rating"] if r["timestamp"] % 2 else 99) == {"sentinel-ratings"}
    steep = lambda r: min(int(random.Random(r["timestamp"]).paretovariate(1.2)), 15)  # noqa: E731
    assert kinds(steep) == {"counts-as-ratings"}
    for fine in (
        lambda r: r["rating"] - 1,
        lambda r: r["rating"] % 2 * 2 - 1,
        lambda r: r["rating"] * 20,
    ):
        assert kinds(fine) == set()


@few
@in_any_dress
def test_the_values_of_ratings_are_listed(dress: Dress) -> None:
    rows = changed(shop(), rating=lambda r: r["rating"] / 2)
    count = sum(row["rating"] == 0.5 for row in rows)
    assert f"has 5 values: 0.5 ({count}), 1 (" in found(rows, dress)["rating-values"].fact


@few
@in_any_dress
def test_pairs_with_several_ratings_are_counted(dress: Dress) -> None:
    again = changed(shop()[:7], rating=lambda r: 6 - r["rating"] if r["rating"] != 3 else 1)
    finding = found([*shop(), *again], dress)["several-ratings"]
    assert finding.fact.startswith("7 pairs")
    assert finding.examples[0].startswith("user u0, item i")
    findings = found([*shop(), *shop()], dress)
    assert "several-ratings" not in findings
    assert "240 of 480 (50 %)" in findings["repeated-pairs"].fact


@few
@given(dress=DRESSES, name=st.sampled_from(["event_type", "behavior", "x"]))
def test_kinds_of_events_are_listed_with_a_filter(dress: Dress, name: str) -> None:
    kinds = ("view", "cart", "buy", "remove_from_cart")
    rows = changed(shop(), **{name: lambda r: kinds[r["timestamp"] % 4]})
    finding = found(rows, dress)["event-types"]
    assert finding.fix.startswith(setting("data.keep", {dress.prefix + name: ["buy"]}))
    assert f"buy ({sum(row[name] == 'buy' for row in rows)})" in finding.fact
    of_users = changed(shop(), user_type=lambda r: kinds[int(r["user_id"][1:]) % 4])
    assert "event-types" not in found(of_users, dress)


@few
@given(dress=DRESSES, name=st.sampled_from(["Quantity", "units"]))
def test_quantities_and_returns_are_named(dress: Dress, name: str) -> None:
    rows = changed(
        shop(), **{name: lambda r: -1 if r["timestamp"] % 7 == 0 else r["timestamp"] % 30}
    )
    finding = found(rows, dress)["quantities"]
    assert (finding.level, finding.examples) == ("warning", ("-1",))
    assert finding.fix.startswith(setting("data.drop", {dress.prefix + name: "<0"}))
    bought = found(changed(shop(), qty=lambda r: r["timestamp"] % 30), dress)["quantities"]
    assert bought.level == "note"


@few
@in_any_dress
def test_users_with_one_event_and_what_the_cores_leave(dress: Dress) -> None:
    lone = [{**row, "user_id": f"lone{n}"} for n, row in enumerate(shop()[:5])]
    findings = found([*shop(), *lone], dress)
    assert "5 of 35 (14 %)" in findings["one-event-users"].fact
    assert findings["k-core"].level == "note"
    assert "245 events of 35 users and 25 items from k=1 on; 240 events" in findings["k-core"].fact
    single = [{**row, "user_id": f"u{n}"} for n, row in enumerate(shop())]
    assert "no user has two events" in found(single, dress)["k-core"].fix
    three = shop(items=10, each=3)
    assert "data.k_core=3 is the largest" in found(three, dress)["k-core"].fix


def test_findings_are_stored_and_an_error_is_raised_whole(tmp_path: Path) -> None:
    findings = [
        Finding("error", "kind", "It is so.", ("a", "b"), "mend it"),
        Finding("note", "n", "N."),
    ]
    error = pickle.loads(pickle.dumps(LogError("log.csv", findings)))
    assert str(error) == "log.csv: It is so. For example a, b.\n  fix: mend it"
    assert error.findings == findings
    log = replace(read_log(write(tmp_path / "log.csv", shop())), findings=findings)
    log.save(tmp_path / "log")
    assert Log.load(tmp_path / "log").findings == findings


def write(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_log_whose_items_do_not_match_is_refused(tmp_path: Path) -> None:
    log = write(
        tmp_path / "interactions.csv", changed(shop(), item_id=lambda r: "00" + r["item_id"][1:])
    )
    write(tmp_path / "items.csv", [{"item_id": n + 1, "title": f"T {n}"} for n in range(24)])
    with pytest.raises(LogError, match=r"(?s)0 of 25 .*'1' of the items against '0001' of the log"):
        read_log(log)
    assert any(own.name == "unmatched-items" for own in look(log))


def test_titles_among_the_events_are_looked_at_too(tmp_path: Path) -> None:
    forms = ("Caf\u00e9", "Cafe\u0301")
    rows = changed(shop(), title=lambda r: forms[int(r["item_id"][1:]) % 2])
    assert any(own.name == "alike-titles" for own in look(write(tmp_path / "log.csv", rows)))


@pytest.mark.parametrize("bad", ["0000{}", "{}.0"])
def test_the_fix_of_ids_that_are_numbers_works(bad: str, tmp_path: Path) -> None:
    rows = changed(shop(), item_id=lambda r: bad.format(int(r["item_id"][1:]) + 1))
    log = write(tmp_path / "log.csv", rows)
    items = [{"item_id": n + 1, "title": f"T {n}"} for n in range(25)]
    known = write(tmp_path / "known.csv", items)
    with pytest.raises(LogError, match=r"0 of 25 (?s:.*)fix: data.numeric_ids=true"):
        read_log(log, items=known)
    found = read_log(log, items=known, numeric_ids=True)
    assert sorted(found.catalog.titles) == sorted(row["title"] for row in items)
    assert found.catalog.item_ids == sorted(str(row["item_id"]) for row in items)


FIXES: list[tuple[str, dict[str, Callable[[dict[str, Any]], Any]], dict[str, Any]]] = [
    ("sentinel-ratings", {"rating": lambda r: r["rating"] if r["timestamp"] % 2 else -1},
     {"unrated": [-1.0]}),
    ("counts-as-ratings", {"rating": lambda r: r["timestamp"] % 35_000 + 1},
     {"rating_of": {"column": "rating", "as": "log"}}),
    ("continuous-ratings", {"rating": lambda r: r["timestamp"] % 2000 / 100 - 10},
     {"rating_of": {"column": "rating", "as": "bins"}}),
    ("constant-rating", {"rating": lambda r: 1}, {"columns": {"rating": ""}}),
    ("event-types", {"event": lambda r: ("buy", "view")[r["timestamp"] % 2]},
     {"keep": {"event": ["buy"]}}),
    ("quantities", {"Quantity": lambda r: r["timestamp"] % 5 - 1}, {"drop": {"Quantity": "<0"}}),
    ("missing-looking-ids", {"user_id": lambda r: r["user_id"] if r["timestamp"] % 5 else "NA"},
     {"missing": ["NA"], "bad_rows": "drop"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "columns", "fix"), FIXES)
def test_a_fix_that_is_followed_leaves_no_finding_of_its_kind(
    name: str, columns: Any, fix: dict[str, Any], tmp_path: Path
) -> None:
    log = write(tmp_path / "log.csv", changed(shop(), **columns))
    before = {own.name: own for own in look(log)}
    for key, value in fix.items():
        written = "data.columns.rating=''" if key == "columns" else setting(f"data.{key}", value)
        assert written in before[name].fix or f"data.{key}={value}" in before[name].fix
    after = {own.name: own.level for own in look(log, **fix)}
    assert after.get(name, "note") == "note"


def test_check_of_a_log_prints_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "log.csv", changed(shop(), rating=lambda r: 1))
    lines = checked(capsys, 0, str(path), "--json")
    kinds = {each["name"]: each for each in map(json.loads, lines)}
    assert kinds["constant-rating"]["fix"] == "data.columns.rating='' leaves it out"
    assert "warning, constant-rating: All ratings" in "\n".join(checked(capsys, 0, str(path)))
    assert "constant" not in "\n".join(checked(capsys, 0, str(path), "data.columns.rating=''"))
    assert checked(capsys, 1, str(tmp_path / "lgo.csv"))[0].startswith("error, unreadable: ")


def checked(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("sys.argv", ["recinject", "check", *words])
        main()
    assert (end.value.code or 0) == code
    return capsys.readouterr().out.splitlines()
