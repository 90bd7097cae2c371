"""MovieLens as GroupLens gives it: the forms of 100K, of 1M and 10M, and of 20M and later."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path

import pandas as pd

from recinject.data.delimited import Dialect, read_delimited
from recinject.data.table import Problem, Table, numbered
from recinject.data.table_reader import read_table, read_text
from recinject.foundation.errors import RecinjectError

_FILES = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
_RATINGS = ("user_id", "item_id", "rating", "timestamp")
DIALECTS = {"u.data": Dialect("\t", header=_RATINGS), "ratings.dat": Dialect("::", header=_RATINGS)}
_NO_GENRES = "(no genres listed)"
_GENRES = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"]
_GENRES += ["Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"]
_GENRES += ["Romance", "Sci-Fi", "Thriller", "War", "Western"]


def ratings_files(path: Path) -> list[Path]:
    """Return the files of ratings in a folder, or a file itself, known by their names."""
    files = [path] if path.is_file() else [path / name for name in _FILES]
    # Many a log calls its file ratings.csv; only MovieLens has movies.csv beside it.
    return [
        file
        for file in files
        if file.name in _FILES
        and file.is_file()
        and (file.suffix != ".csv" or file.with_name("movies.csv").is_file())
    ]


def movies_file(ratings: Path) -> Path:
    """Return where the file of movies belongs."""
    return ratings.with_name(_FILES.get(ratings.name, "movies.csv"))


def read_movielens(path: Path, _used: Container[str] | None) -> Table:
    """Read one of MovieLens's files, or any table, by its name.

    Movies get ``genres`` separated by ``|``, an empty text for none (``unknown`` in 100K).
    """
    if path.name in DIALECTS:
        return read_delimited(path, read_text(path), DIALECTS[path.name])
    if path.name == "u.item":
        return _with_flags(path)
    table = _titled(path, "::", ["genres"]) if path.name == "movies.dat" else read_table(path)
    if "genres" in table.frame:
        table.frame["genres"] = table.frame["genres"].replace(_NO_GENRES, "")
    return table


def _titled(path: Path, separator: str, tail: Sequence[str]) -> Table:
    """Read lines of an id, a title that may hold the separator, and a tail of fields."""
    rows, numbers, wrong = [], [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        item_id, *rest = line.rstrip("\r").split(separator, 1)
        fields = [item_id, *(rest[0].rsplit(separator, len(tail)) if rest else [])]
        if len(fields) == len(tail) + 2:
            rows.append(fields)
            numbers.append(number)
        else:
            what = f"{len(fields)} fields where there must be {len(tail) + 2}"
            wrong.append((number, what))
    frame = pd.DataFrame(rows, columns=["item_id", "title", *tail], dtype=object)
    hint = f"mend or remove that line; fields are separated by {separator}"
    return Table(path, frame, numbered(numbers), problems=Problem.of(wrong, hint))


def _with_flags(path: Path) -> Table:
    genres = _genre_names(path.with_name("u.genre"))
    table = _titled(path, "|", ["release_date", "video_release_date", "url", *genres])
    flags = table.frame.iloc[:, 5:]
    # One flag too many would shift all genres by one, with the first flag for the address.
    wrong = ~flags.isin(["0", "1"]).all(axis=1) | table.frame["url"].isin(["0", "1"])
    what = f"does not end in {len(genres)} flags of 0 and 1"
    hint = "mend that line, or the list of genres in u.genre"
    found = table.find(wrong.to_numpy(bool), lambda row: what, hint)
    named = [
        "|".join(name for name in compress(genres, row) if name != "unknown")
        for row in (flags == "1").to_numpy()
    ]
    kept = table.frame[["item_id", "title", "release_date"]]
    return replace(table, frame=kept.assign(genres=named), problems=[*table.problems, *found])


def _genre_names(path: Path) -> list[str]:
    """Return the genre of each flag, from ``u.genre`` where it is there."""
    if not path.is_file():
        return _GENRES
    lines = [line.strip().rpartition("|") for line in read_text(path).split("\n") if line.strip()]
    if [number for _, _, number in lines] != [str(number) for number in range(len(lines))]:
        raise RecinjectError(
            f"{path}: is no list of genres numbered from 0",
            hint="write NAME|NUMBER a line, in order, or remove the file for MovieLens's own list",
        )
    return [name for name, _, _ in lines]
