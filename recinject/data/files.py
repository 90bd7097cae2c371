"""Blocks of rows from one file, whatever its kind and packing; errors name file and line."""

from __future__ import annotations

import ast
import codecs
import difflib
import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from recinject.data.tables import (
    NUMBERS,
    Block,
    Problem,
    ReadSettings,
    Wanted,
    match_names,
    refuse,
    refuse_repeated,
    value_text,
)
from recinject.foundation.errors import RecinjectError

_NAMES_SHOWN = 12
_AT_ONCE, _BLOCK, _ROWS_AT_ONCE = 1 << 24, 1 << 20, 50_000
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
JSON_LINES = (".jsonl", ".ndjson", ".json")
PACKED = (".gz", ".zst")
ALL = Wanted()
_LONGEST_LINE, _LARGE, _DENSEST = 1 << 26, 1 << 28, 100  # bytes; how often larger unpacked


def read_table(path: Path, wanted: Wanted = ALL) -> Iterator[Block]:
    """Read a file of any kind: by its ending, or as lines of columns where that tells nothing.

    Raises:
        RecinjectError: the file is absent, empty or broken.
    """
    return KINDS.get(kind_of(path), read_delimited)(path, wanted)


def unpacked(path: Path) -> Path:
    """Return a path without the ending ``.gz`` or ``.zst``, in whatever case."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def kind_of(path: Path) -> str:
    """Return a file's ending without ``.gz``, e.g. ``.csv`` for ``log.csv.gz``."""
    return unpacked(path).suffix.lower()


def require_path(path: Path, setting: str) -> None:
    """Refuse a path that is neither a file nor a folder, naming what lies near it."""
    if path.exists():
        return
    parent = next(folder for folder in path.absolute().parents if folder.is_dir())
    names = listing(parent)
    near = difflib.get_close_matches(path.name, names, n=3)
    advice = f"did you mean {' or '.join(near)}? " if near else ""
    raise RecinjectError(
        f"{path}: there is no such file or folder",
        hint=f"{advice}set {setting}=PATH; {parent} holds {shown(names)}",
    )


def listing(folder: Path) -> list[str]:
    """Return the names in a folder, sorted, hidden ones left out."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def shown(names: Sequence[str]) -> str:
    """Join names for a message, cut short when they are many."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(names[:_NAMES_SHOWN]) or "nothing") + more


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise RecinjectError(
            f"{path}: cannot be read ({error})",
            hint="the file is cut off, broken or locked: fetch it again or mend its permissions",
        ) from error


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, unpacked if its name ends in ``.gz`` or ``.zst``."""
    kind = path.suffix.lower()
    if kind == ".zst":
        return cast(BinaryIO, pa.input_stream(path, compression="zstd"))
    return cast(BinaryIO, gzip.open(path)) if kind == ".gz" else path.open("rb")


def refuse_dense(path: Path, unpacked_size: int) -> None:
    """Refuse a packed file that has many times its size unpacked: it would fill the memory.

    Raises:
        RecinjectError: it has.
    """
    if unpacked_size > max(_LARGE, _DENSEST * (size := path.stat().st_size)):
        raise RecinjectError(
            f"{path}: has {size:,} bytes, and {unpacked_size:,} or more unpacked",
            hint="no log is so dense; if it is one, unpack it yourself",
        )


def _chunks(path: Path) -> Iterator[bytes]:
    read = 0
    with _explained(path), open_bytes(path) as stream:
        while chunk := stream.read(_AT_ONCE):
            read += len(chunk)
            if path.suffix.lower() in PACKED:
                refuse_dense(path, read)
            yield chunk


@dataclass(frozen=True)
class Text:
    """What the bytes of a text file are: their encoding, and whether there are quotes in it."""

    path: Path
    encoding: str
    quotes: int = 0
    said: str = ""

    @classmethod
    def of(cls, path: Path, encoding: str | None = None) -> Text:
        """Look at every byte of a file once; without an ``encoding`` it is detected.

        Raises:
            RecinjectError: the file is absent, empty, broken or no text.
        """
        quotes, blank, odd = 0, True, False
        decoder = codecs.getincrementaldecoder("utf-8")()
        first = next(_chunks(path), b"")
        if encoding is None and (wide := _wide(first)):
            encoding = wide
        for chunk in _chunks(path):
            quotes += chunk.count(b'"')
            blank = blank and not chunk.removeprefix(codecs.BOM_UTF8).strip()
            if encoding is None and not odd:
                if b"\0" in chunk:
                    raise RecinjectError(
                        f"{path}: is not text in UTF-8 or another encoding (it holds zero bytes)",
                        hint="save it as UTF-8, or give it the ending of what it is",
                    )
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    odd = True
        if blank:
            raise RecinjectError(
                f"{path}: is empty", hint="give a file with a header line and rows"
            )
        if encoding is None and (odd or decoder.getstate()[0]):
            encoding = _detect(path)
            said = f"{path.name} is not UTF-8: it is read as {encoding}"
            return cls(path, encoding, quotes, f"{said}; data.encoding sets another.")
        return cls(path, encoding or "utf-8", quotes)

    def chunks(self, whole: bool = True) -> Iterator[bytes]:
        """Yield the text as UTF-8 without its mark; ``whole`` chunks end where a line ends."""
        rest = b""
        try:
            decoder = codecs.getincrementaldecoder(self.encoding)()
        except LookupError:
            raise RecinjectError(
                f"data.encoding: {self.encoding!r} is no encoding",
                hint="write one that Python knows, such as utf-8, cp1252, gbk or shift_jis",
            ) from None
        is_first = True
        for chunk in _chunks(self.path):
            if self.encoding != "utf-8":
                chunk = self._decode(decoder, chunk)
            if is_first:
                chunk, is_first = chunk.removeprefix(codecs.BOM_UTF8), not chunk
            if not whole:
                yield chunk
                continue
            lines, end, rest = (rest + chunk).rpartition(b"\n")
            if end:
                yield lines + end
            _refuse_long(self.path, rest)
        if rest:
            yield rest + b"\n"

    def _decode(self, decoder: codecs.IncrementalDecoder, chunk: bytes) -> bytes:
        try:
            return decoder.decode(chunk).encode("utf-8", "replace")
        except UnicodeError as error:
            raise RecinjectError(
                f"{self.path}: is not text in {self.encoding} ({error})",
                hint="set data.encoding to the file's own, such as utf-8, cp1252, gbk or shift_jis",
            ) from error

    def lines(self) -> Iterator[tuple[int, str]]:
        r"""Yield every line that is not blank, with its number; only ``\n`` ends a line."""
        number = 0
        for chunk in self.chunks():
            # str.splitlines would also cut at U+2028 inside a title.
            for line in chunk.decode()[:-1].split("\n"):
                number += 1
                if line and not line.isspace():
                    yield number, line


def _refuse_long(path: Path, rest: bytes | str) -> None:
    if len(rest) > _LONGEST_LINE + _AT_ONCE:
        raise RecinjectError(
            f"{path}: a line, or an object of JSON, is longer than {_LONGEST_LINE:,} bytes",
            hint="write one row or object a line",
        )


def text_lines(path: Path, wanted: Wanted = ALL) -> Iterator[tuple[int, str]]:
    """Yield every line of a text file that is not blank, with its number."""
    return Text.of(path, wanted.settings.encoding).lines()


def _wide(data: bytes) -> str | None:
    """Return the encoding of text whose letters take two or four bytes, told by mark or zeros."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = data[0::2].count(0), data[1::2].count(0)
    half = max(1, len(data) // 2)
    if max(even, odd) / half > 0.4 and min(even, odd) == 0:
        return "utf-16-be" if even > odd else "utf-16-le"
    return None


_NOT_WESTERN = ["gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp1251", "koi8_r"]
_NOT_WESTERN += ["cp1253", "cp1255", "cp1256"]
_HIGH = re.compile(rb"[\x80-\xff]+")


def _detect(path: Path) -> str:
    """Return the encoding of a text that is not UTF-8.

    In Western text letters beyond ASCII stand alone; in others they come in runs.
    """
    sample = b""
    for chunk in _chunks(path):
        sample += b"\n".join(line for line in chunk.split(b"\n") if not line.isascii())
        if len(sample) > 1 << 16:
            break
    runs = [len(run) for run in _HIGH.findall(sample)]
    kana = sum(map(sample.count, (b"\x81", b"\x82", b"\x83")))  # rare in Western text
    western = "latin-1" if re.search(rb"[\x81\x8d\x8f\x90\x9d]", sample) else "cp1252"
    if sum(length == 1 for length in runs) > 0.6 * len(runs) and kana < 0.1 * sum(runs):
        return western
    from charset_normalizer import from_bytes  # takes a while to import

    # Rare separators would count as signs of a wrong guess.
    words = re.sub(rb"[^\w\x80-\xff]+", b" ", sample[: 1 << 16])
    found = from_bytes(words, cp_isolation=_NOT_WESTERN).best()
    return western if found is None else found.encoding


def read_records(
    path: Path,
    wanted: Wanted = ALL,
    keep: Callable[[str], bool] = lambda line: True,
    left_out: frozenset[str] = frozenset(),
) -> Iterator[Block]:
    """Read objects of JSON, one a line or in one array, or Python's dictionaries, one a line.

    An object with a list of objects in it gives a row for each of them.
    """
    text = Text.of(path, wanted.settings.encoding)
    is_array = next(text.chunks(whole=False)).lstrip().startswith(b"[")
    lines = ((number, parse_object(line)) for number, line in text.lines() if keep(line))
    objects = _array_items(text) if is_array else lines
    hint = 'write one JSON object a line, e.g. {"user_id": "u1", "item_id": "i1"}, or mend the line'
    while group := list(islice(objects, _ROWS_AT_ONCE)):
        records: list[dict[str, Any]] = []
        numbers: list[int] = []
        wrong = []
        for number, record in group:
            if isinstance(record, str):
                wrong.append((number, record))
                continue
            rows = _spread(record)
            records += ({k: v for k, v in row.items() if k not in left_out} for row in rows)
            numbers += [number] * len(rows)
        yield Block(_texts(records), numbers, Problem.of(wrong, hint), text.said)


def parse_object(line: str) -> dict[str, Any] | str:
    """Return the object of a line, or what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        if not line.lstrip().startswith(("{'", "{u'")):
            return f"is not JSON ({error})"
        try:
            record = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as python:
            return f"is not JSON, nor a Python dictionary: {python}"
    if not isinstance(record, dict):
        return f"is JSON, but no object: {line.strip()[:40]}"
    return record


_OPENING, _BETWEEN = re.compile(r"\s*\[\s*"), re.compile(r"[\s,]*")


def _array_items(text: Text) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the objects of one JSON array, or what is wrong with them, with their first lines."""
    decoder, rest, line = json.JSONDecoder(), "", 1
    opened, letters = False, codecs.getincrementaldecoder("utf-8")()
    for chunk in chain(text.chunks(whole=False), [b""]):
        rest += letters.decode(chunk)
        _refuse_long(text.path, rest)
        place = 0
        while True:
            found = (_BETWEEN if opened else _OPENING).match(rest, place)
            opened, at = opened or bool(found), found.end() if found else place
            line += rest.count("\n", place, at)
            place = at
            if place >= len(rest) or rest[place] == "]":
                break
            try:
                value, end = decoder.raw_decode(rest, place)
            except (ValueError, RecursionError) as error:
                if chunk and not isinstance(error, RecursionError):
                    break  # it may go on in the next chunk
                yield line, f"is not JSON ({error})"
                return
            is_object = isinstance(value, dict)
            yield line, value if is_object else f"is JSON, but no object: {value!s:.40}"
            line += rest.count("\n", place, end)
            place = end
        rest = rest[place:]


def _spread(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each object of an object's only list of objects."""
    lists = [
        name
        for name, value in record.items()
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
    ]
    if len(lists) != 1 or any(name in record for name in ("item_id", "asin", "parent_asin")):
        return [record]
    own = {name: value for name, value in record.items() if name != lists[0]}
    return [{**own, **each} for each in record[lists[0]]]


def _texts(records: Sequence[dict[str, Any]]) -> pa.Table:
    """Return objects as columns of text; what is nested in them stays JSON."""
    names = dict.fromkeys(name for record in records for name in record)
    columns = {value_text(str(n)): [_text(each.get(n)) for each in records] for n in names}
    return pa.table({name: pa.array(own, pa.string()) for name, own in columns.items()})


def _text(value: Any) -> str | None:
    if value is None:
        return None
    nested = isinstance(value, list | tuple | dict)
    return value_text(json.dumps(value, ensure_ascii=False, default=str) if nested else value)


def _read_parquet(path: Path, wanted: Wanted) -> Iterator[Block]:
    try:
        packed = unpacked(path) != path
        source = pa.BufferReader(b"".join(_chunks(path))) if packed else path
        file = parquet.ParquetFile(source)
        names = file.schema_arrow.names
        refuse_repeated(path, names)
        kept = [name for name in names if name not in ("", "__index_level_0__")]
        empty = file.schema_arrow.empty_table().select(kept)
        blocks = file.iter_batches(1 << 18, columns=kept)
        for rows in (empty, *blocks) if not file.metadata.num_rows else blocks:
            rows.validate(full=True)  # a broken page may hold texts that are none
            yield Block(rows)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise RecinjectError(
            f"{path}: is no readable Parquet file ({str(error).partition(chr(10))[0]})",
            hint="fetch or write the file again",
        ) from error


@dataclass(frozen=True)
class CsvDialect:
    """How the lines of a file are cut into columns.

    The separator is one ASCII letter, or ``::``; None takes the header's most frequent.
    """

    separator: str | None = None
    quoted: bool = True  # whether quotes may enclose a value
    header: tuple[str, ...] = ()  # the columns' names, when the first line does not name them
    typed: bool = False  # whether the first line names them as ``NAME:TYPE``, as RecBole does

    @property
    def letter(self) -> str:
        """The letter that separates; no text has the one that stands for longer separators."""
        return "\x1f" if len(self.separator or ",") > 1 else self.separator or ","

    def rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that is not empty, with its first line: slow, for errors."""
        end = f"({re.escape(self.letter)}|\\r\\n|\\r|\\n|\\Z)"
        value = f"[^{re.escape(self.letter)}\\r\\n]*"
        if self.quoted:
            value = f'"[^"]*(?:""[^"]*)*(?:"{value}|\\Z)|{value}'
        row: list[str] = []
        start = line = 1
        for found in re.finditer(f"({value}){end}", text):
            row.append(found[1])
            line += len(_LINE_END.findall(found[0]))
            if found[2] != self.letter:
                if row != [""]:
                    yield start, row
                row, start = [], line

    def head(self, text: str) -> list[list[str]]:
        """Return a text's first two rows, without quotes."""
        rows = [row for _, row in islice(self.rows(text), 2)]
        return [list(map(self.unquote, row)) for row in rows]

    def unquote(self, name: str) -> str:
        """Take the quotes off a value."""
        if not (self.quoted and name.startswith('"')):
            return name
        return name[1:].removesuffix('"').replace('""', '"')


_LINE_END = re.compile(r"\r\n|\r|\n")
_FIRST_BYTES = 1 << 16
DIALECTS = {
    ".inter": CsvDialect("\t", quoted=False, typed=True),
    ".item": CsvDialect("\t", quoted=False, typed=True),
    ".user": CsvDialect("\t", quoted=False, typed=True),
}


def read_delimited(
    path: Path, wanted: Wanted = ALL, dialect: CsvDialect | None = None
) -> Iterator[Block]:
    """Read a file whose lines are rows of columns, all of them text.

    Rows that have not the header's columns, and a quote that never closes, are its problems.

    Raises:
        RecinjectError: the file or its header is at fault, or it is no table at all.
    """
    asked, own = wanted.settings, dialect or DIALECTS.get(kind_of(path), CsvDialect())
    text = Text.of(path, asked.encoding)
    start = next(text.chunks()).decode().lstrip("\n\r ")[:_FIRST_BYTES]
    dialect = replace(
        own,
        separator=asked.separator or own.separator or _separator(start, kind_of(path)),
        header=asked.header or own.header,
    )
    if dialect.letter == "\t" and dialect.quoted and text.quotes:
        dialect = replace(dialect, quoted=not _one_row_a_line(text))
    if dialect.letter == "\x1f":
        start = start.replace(str(dialect.separator), "\x1f")
    head = dialect.head(start)
    if not dialect.header and not dialect.typed:
        refuse_headless(path, head)
    header = list(dialect.header) or head[0]
    refuse_repeated(path, header)
    kinds = _plain_names(path, header, dialect)
    sequences = frozenset(name for name, kind in kinds.items() if kind.endswith("_seq"))
    ragged: list[Any] = []
    lines = partial(_lines, text, dialect, len(header))
    types = {} if asked.missing else _types(dialect, start, header, asked)
    done = 0
    try:
        try:
            for rows in _parse(text, dialect, header, ragged, types) if types else ():
                yield Block(rows.rename_columns(list(kinds)), lines, (), text.said, sequences)
                done += len(rows)
        except (_OddNumberError, pa.ArrowException):
            types = {}  # what was read as whole numbers has the same text
        for rows in _parse(text, dialect, header, ragged, {}) if not types else ():
            done, new = max(0, done - len(rows)), rows.slice(done)
            if len(new) or not len(rows):
                yield Block(new.rename_columns(list(kinds)), lines, (), text.said, sequences)
    except pa.ArrowException as error:
        refuse(path, "line", _wrong_rows(text, dialect, len(header)))
        raise RecinjectError(
            f"{path}: cannot be read as a table ({str(error).splitlines()[0]})",
            hint="save the table anew, as csv with quotes or as jsonl",
        ) from error
    # An odd number of quotes is the one trace that a quote swallowing the file's end leaves.
    if ragged or (dialect.quoted and text.quotes % 2):
        empty = pa.table({name: pa.array([], pa.string()) for name in kinds})
        yield Block(empty, lines, _wrong_rows(text, dialect, len(header)))


def _separator(start: str, kind: str) -> str:
    line = start.split("\n", 1)[0]
    if kind == ".tsv":
        return "\t"
    known = ",;\t|" if kind == ".csv" else ("::", "\t", ",", ";", "|", " ")
    return max(known, key=line.count)


def _one_row_a_line(text: Text) -> bool:
    """Say whether all lines have as many tabs as the first: then no quote holds tab or line end."""
    counts = {line.count("\t") for _, line in text.lines()}
    return len(counts) == 1


def refuse_headless(path: Path, head: Sequence[Sequence[str]]) -> None:
    """Refuse a first line that holds values, and offer names for them.

    Raises:
        RecinjectError: a value of the first line is a number; 0, 1, 2 and so on may be names.
    """
    first, values = head[0], head[-1]
    named = [name for name in first if name]
    if named == [str(n) for n in range(len(named))] or not any(map(_is_number, first)):
        return
    free = ["user_id", "item_id"]
    names: list[str] = []
    for place, value in enumerate(values):
        number = float(value) if _is_number(value) else None
        if place > 1 and number is not None and number >= 1e8 and "timestamp" not in names:
            names.append("timestamp")
        elif place > 1 and number is not None and -10 <= number <= 10 and "rating" not in names:
            names.append("rating")
        else:
            names.append(free.pop(0) if free else f"column_{place + 1}")
    raise RecinjectError(
        f"{path}, line 1: the first line looks like a row and not like the columns' names "
        f"({', '.join(first[:6])})",
        hint=f"set data.header=[{','.join(names)}], if these are its columns, in their order",
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text.strip().lower() not in ("nan", "inf", "infinity")


def _plain_names(path: Path, names: Sequence[str], dialect: CsvDialect) -> dict[str, str]:
    """Return the columns' names without types, each with its type; refuse what is no header."""
    parts = [name.rpartition(":") if dialect.typed else (name, "", "") for name in names]
    for name, (_, _, kind) in zip(names, parts, strict=True):
        if dialect.typed and kind not in _RECBOLE_TYPES:
            raise RecinjectError(
                f"{path}, line 1: the column {name!r} has no RecBole type",
                hint="write the header as name:type, separated by tabs, e.g. user_id:token; "
                f"types: {', '.join(_RECBOLE_TYPES)}",
            )
    refuse_repeated(path, [name for name, _, _ in parts])
    return {name: kind for name, _, kind in parts}


class _OddNumberError(Exception):
    """A whole number is spelled such that its text is lost with it, such as 007."""


_WHOLE, _DECIMAL = re.compile(r"-?[1-9]\d{0,17}|0"), re.compile(r"-?\d+(\.\d+)?")
_ODD = (b",+", b",-0", b",00", b",01")  # once ends of lines and values, and digits, are alike


def _types(
    dialect: CsvDialect, start: str, header: Sequence[str], asked: ReadSettings
) -> dict[str, pa.DataType]:
    """Return the types of the columns that hold nothing but numbers, as far as a start tells."""
    rows = [row for _, row in dialect.rows(start)][0 if dialect.header else 1 : -1]
    named = [name.rpartition(":")[0] if dialect.typed else name for name in header]
    columns = {ours: name for ours, name in asked.columns.items() if name in named}
    guessed = match_names("", named, NUMBERS, (), columns).values()
    types = {}
    for place, name in enumerate(header):
        values = [row[place] for row in rows if len(row) == len(header)]
        values = [dialect.unquote(value) for value in values if value]
        if values and all(map(_WHOLE.fullmatch, values)):
            types[name] = pa.int64()
        elif values and named[place] in guessed and all(map(_DECIMAL.fullmatch, values)):
            types[name] = pa.float64()
    return types


def _parse(
    text: Text,
    dialect: CsvDialect,
    header: Sequence[str],
    ragged: list[Any],
    types: Mapping[str, pa.DataType],
) -> Iterator[pa.Table]:
    """Yield the rows that have the header's columns, and note the others."""

    def note(row: Any) -> str:
        ragged.append(None)
        return "skip"

    convert = arrow_csv.ConvertOptions(
        column_types={**dict.fromkeys(header, pa.string()), **types},
        null_values=[""],
        strings_can_be_null=True,
    )
    unquote = not dialect.quoted and dialect.letter == "\t" and not dialect.typed and text.quotes
    names: list[str] | None = list(dialect.header) or None
    for chunk in _whole_rows(text, dialect):
        if types and _has_odd_numbers(chunk, dialect.letter):
            raise _OddNumberError
        table = arrow_csv.read_csv(
            pa.BufferReader(chunk),
            arrow_csv.ReadOptions(column_names=names, block_size=_BLOCK),
            arrow_csv.ParseOptions(
                delimiter=dialect.letter,
                quote_char='"' if dialect.quoted else False,
                newlines_in_values=dialect.quoted and text.quotes > 0,
                invalid_row_handler=note,
            ),
            convert,
        )
        names = list(header)
        if unquote:
            table = pa.table({name: _without_quotes(table[name]) for name in header})
        yield table


def _whole_rows(text: Text, dialect: CsvDialect) -> Iterator[bytes]:
    """Yield chunks that end where a row ends; a long separator is one letter in them."""
    rest, old, new = b"", str(dialect.separator).encode(), dialect.letter.encode()
    for chunk in text.chunks():
        rest += chunk if old == new else chunk.replace(old, new)
        # An odd number of quotes has one open.
        if rest.strip() and not (dialect.quoted and text.quotes and rest.count(b'"') % 2):
            yield rest
            rest = b""
    if rest.strip():
        yield rest


def _has_odd_numbers(chunk: bytes, letter: str) -> bool:
    ends = f'\n"{letter}'.encode()
    alike = chunk.translate(bytes.maketrans(b"23456789" + ends, b"1" * 8 + b"," * len(ends)))
    return any(each in alike for each in _ODD)


def _without_quotes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Take off quotes that enclose a whole value, and single those that are doubled in it."""
    if not pa.types.is_string(column.type):
        return column
    whole = pc.match_substring_regex(column, r'^"([^"]|"")*"$')
    inner = pc.replace_substring(pc.utf8_slice_codeunits(column, 1, -1), '""', '"')
    return pc.if_else(pc.fill_null(whole, False), inner, column)


def _rows_of(text: Text, dialect: CsvDialect, end: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a file, and of a text after it, with their lines, its header first."""
    content = b"".join(text.chunks()).decode() + end
    if dialect.letter == "\x1f":
        content = content.replace(str(dialect.separator), "\x1f")
    return dialect.rows(content)


def _wrong_rows(text: Text, dialect: CsvDialect, width: int) -> list[Problem]:
    """Find the rows of another length than the header, and a quote that never closes."""
    end = ["end of the file"]
    line, row, ragged = 1, end, []
    expected = f"there must be {width}" if dialect.header else f"the header has {width}"
    for line, row in _rows_of(text, dialect, f"{end[0]}"):
        if len(row) != width and row != end:
            ragged.append((line, f"{len(row)} columns where {expected}"))
    quoting = "; a separator inside a value needs quotes, closed ones" if dialect.quoted else ""
    problems = Problem.of(ragged, f"mend or remove that line{quoting}")
    opened = [] if row == end else [(line, "a quote opens and never closes")]
    return problems + Problem.of(opened, 'close the quote, or write it as "" inside a quoted value')


def _lines(text: Text, dialect: CsvDialect, width: int, rows: Sequence[int]) -> list[int]:
    """Return the lines on which some rows of the header's length stand."""
    wanted, first = set(rows), 0 if dialect.header else 1
    whole = (line for line, row in _rows_of(text, dialect) if len(row) == width)
    found = islice(whole, first, first + max(rows) + 1)
    return [line for number, line in enumerate(found) if number in wanted]


KINDS: dict[str, Callable[[Path, Wanted], Iterator[Block]]] = {
    **dict.fromkeys((".csv", ".tsv", *DIALECTS), read_delimited),
    **dict.fromkeys(JSON_LINES, read_records),
    ".parquet": _read_parquet,
}
