"""MovieLens in all its forms: one log, written three times, reads the same three times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recinject.data.formats import _GENRES
from recinject.data.readers import read_log
from recinject.data.schema import Log
from recinject.foundation.errors import RecinjectError

RATINGS = [("7", "1", "4", 30), ("7", "3", "2", 10), ("8", "1", "5", 20), ("8", "2", "1", 20)]
MOVIES = [
    ("1", "Léon: The | Professional :: Cut (1994)", ["Action", "Sci-Fi"]),
    ("2", '"Quoted" &amp; <b>, The:', []),
    ("3", ":Plain", ["Children's"]),
]
Writer = Callable[[Path], None]


def write_100k(folder: Path, genres: list[str] = _GENRES, listed: bool = False) -> None:
    rows = "".join(f"{user}\t{item}\t{rating}\t{at}\n" for user, item, rating, at in RATINGS)
    (folder / "u.data").write_text(rows)
    lines = ""
    for item, title, own in MOVIES:
        flags = "|".join("01"[name in (own or ["unknown"])] for name in genres)
        lines += f"{item}|{title}|01-Jan-1995||http://us.imdb.com/M?{item}|{flags}\n"
    (folder / "u.item").write_bytes(lines.encode("latin-1"))
    if listed:
        text = "".join(f"{name}|{number}\n" for number, name in enumerate(genres))
        (folder / "u.genre").write_text(f"{text}\n")


def write_1m(folder: Path, encoding: str = "latin-1", end: str = "\n") -> None:
    rows = "".join(f"{'::'.join(map(str, row))}{end}" for row in RATINGS)
    (folder / "ratings.dat").write_text(rows, newline="")
    lines = [
        f"{item}::{title}::{'|'.join(own) or '(no genres listed)'}{end}"
        for item, title, own in MOVIES
    ]
    (folder / "movies.dat").write_bytes("".join(lines).encode(encoding))


def write_25m(folder: Path) -> None:
    rows = "".join(f"{','.join(map(str, row))}\n" for row in RATINGS)
    (folder / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}")
    lines = "movieId,title,genres\n"
    for item, title, own in MOVIES:
        quoted = title.replace('"', '""')
        lines += f'{item},"{quoted}",{"|".join(own) or "(no genres listed)"}\n'
    (folder / "movies.csv").write_text(lines, "utf-8")


FORMS: dict[str, Writer] = {
    "100K": write_100k,
    "100K with its genres in another order": lambda f: write_100k(
        f, ["Western", *_GENRES[:-1]], listed=True
    ),
    "1M": write_1m,
    "1M with CRLF": lambda folder: write_1m(folder, end="\r\n"),
    "10M": lambda folder: write_1m(folder, "utf-8"),
    "25M": write_25m,
}


def facts(log: Log) -> list[object]:
    events = log.interactions
    assert events.ratings is not None and events.timestamps is not None
    return [
        list(events.user_ids),
        *(values.tolist() for values in (events.users, events.items)),
        *(values.tolist() for values in (events.ratings, events.timestamps)),
        log.catalog.frame[["item_id", "title", "categories"]].to_dict("records"),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_log(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path)
    log = read_log(tmp_path, columns={})
    assert facts(log) == [
        ["7", "8"],
        [0, 0, 1, 1],
        [2, 0, 0, 1],
        [2.0, 4.0, 5.0, 1.0],
        [10.0, 30.0, 20.0, 20.0],
        [
            {"item_id": item, "title": title, "categories": own or None}
            for item, title, own in MOVIES
        ],
    ]
    assert log.source.startswith("MovieLens ")


def test_a_file_of_ratings_finds_its_movies_and_may_go_without(tmp_path: Path) -> None:
    write_1m(tmp_path)
    assert read_log(tmp_path / "ratings.dat", columns={}).catalog.titles[2] == ":Plain"
    (tmp_path / "movies.dat").unlink()
    log = read_log(tmp_path, columns={})
    assert log.catalog.titles == ["", "", ""] and log.source == "MovieLens ratings.dat"


def test_ratings_without_movies_are_any_table(tmp_path: Path) -> None:
    write_25m(tmp_path)
    (tmp_path / "movies.csv").unlink()
    assert read_log(tmp_path / "ratings.csv", columns={}).source.startswith("table ")
    assert read_log(tmp_path, columns={}).source.startswith("table ")
    read_log(tmp_path / "ratings.csv", columns={}, format="movielens")


LINE = "1|Title|01-Jan-1995||http://x|" + "|".join("1" + "0" * 18)


@pytest.mark.parametrize(
    ("name", "content", "fragments"),
    [
        ("u.data", "1\t2\t3\t4\n1\t2\t3\n", ["u.data, line 2", "3 columns where there must be 4"]),
        ("u.data", "1\t2\tgood\t4\n", ["u.data, line 1", "rating 'good'"]),
        ("u.data", "1\t2\t3\t4\n\n1\t\t3\t4\n", ["u.data, line 3", "item_id '' is empty"]),
        ("u.item", "1|Short|0|1\n", ["u.item, line 1", "4 fields where there must be 24"]),
        ("u.item", f"{LINE}\n\n{LINE[:-1]}2\n", ["u.item, line 3", "19 flags of 0 and 1"]),
        ("u.item", f"{LINE}|0\n", ["u.item, line 1", "u.genre"]),
        ("u.item", "\n", ["u.item", "is empty"]),
        ("u.genre", "Action|0\nDrama|2\n", ["u.genre", "numbered from 0", "NAME|NUMBER"]),
        ("ratings.dat", "1::2::3::4\n1::2::3::4::5\n", ["ratings.dat, line 2", "5 columns"]),
        ("ratings.dat", "1::2::3::4\r\n1::2::x::4\r\n", ["ratings.dat, line 2", "rating 'x'"]),
        ("movies.dat", "1::A::B\n\n2::A\n", ["movies.dat, line 3", "2 fields"]),
        ("movies.dat", "1::A::B\n::A::B\n", ["movies.dat, line 2", "item_id '' is empty"]),
        ("movies.csv", "movieId,title,genres\n1,a\n", ["movies.csv, line 2", "header has 3"]),
    ],
)
def test_broken_files_are_refused_with_their_line(
    tmp_path: Path, name: str, content: str, fragments: list[str]
) -> None:
    {"u": write_100k, "r": write_1m, "m": write_1m}[name[0]](tmp_path)
    if name == "movies.csv":
        write_25m(tmp_path)
        (tmp_path / "ratings.dat").unlink()
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(RecinjectError) as caught:
        read_log(tmp_path, columns={})
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


def test_a_folder_of_two_forms_is_a_question(tmp_path: Path) -> None:
    write_100k(tmp_path)
    write_1m(tmp_path)
    with pytest.raises(RecinjectError, match=r"2 files match.*\n.*holds u.data, ratings.dat"):
        read_log(tmp_path, columns={})
    (tmp_path / "ratings.dat").unlink()
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
    with pytest.raises(
        RecinjectError, match=r"recbole or movielens \(it holds movies.dat"
    ) as found:
        read_log(tmp_path, columns={})
    assert "data.format=recbole" in str(found.value) and "amazon: " in str(found.value)
    assert len(read_log(tmp_path, columns={}, format="movielens").catalog) == 3


def test_the_wrong_format_says_what_the_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\n1,2\n")
    with pytest.raises(RecinjectError, match=r"no files match.*u.data and.*\n.*holds log.csv"):
        read_log(tmp_path, columns={}, format="movielens")


def test_movielens_1m_itself(shared_data: Path) -> None:
    log = read_log(shared_data / "ml-1m", columns={})
    counts = (log.interactions.n_users, len(log.catalog), len(log.interactions))
    assert counts == (6_040, 3_424, 999_619)
    assert "" not in log.catalog.titles and log.catalog.frame["categories"].notna().all()
    assert any("é" in title for title in log.catalog.titles)
