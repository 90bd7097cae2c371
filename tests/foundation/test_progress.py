import io
import itertools

import pytest
from rich.console import Console

from recinject.foundation import progress


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


@pytest.fixture(autouse=True)
def ten_seconds_a_look(monkeypatch):
    clock = itertools.count(step=10)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))


def test_plain_lines_tell_how_long_it_will_take(monkeypatch):
    monkeypatch.setattr(progress, "console", console(terminal=False))
    assert list(progress.track(range(6), "Building")) == list(range(6))
    lines = progress.console.file.getvalue().splitlines()
    assert lines[0] == "  Building: 1 of 6, about 100 s left"
    assert len(lines) == 3


def test_without_a_total_lines_only_count(monkeypatch):
    monkeypatch.setattr(progress, "console", console(terminal=False))
    assert list(progress.track(iter("ab"), "Reading")) == ["a", "b"]
    assert progress.console.file.getvalue() == "  Reading: 1\n"


def test_a_terminal_gets_a_bar_that_ends_with_the_work(monkeypatch):
    monkeypatch.setattr(progress, "console", console(terminal=True))
    with pytest.raises(ZeroDivisionError):
        for item in progress.track([1, 0], "Dividing"):
            1 / item
    assert "Dividing" in progress.console.file.getvalue()


def test_what_is_said_is_no_markup(monkeypatch):
    monkeypatch.setattr(progress, "console", console(terminal=False))
    progress.say("[bold]5 items[/nothing]")
    assert progress.console.file.getvalue() == "[bold]5 items[/nothing]\n"
