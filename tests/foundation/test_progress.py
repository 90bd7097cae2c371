import io
import time

import pytest
from rich.console import Console

from recinject.foundation import progress


@pytest.fixture
def output(monkeypatch, request):
    """What is written when every bar and line is shown at once; on a terminal if asked so."""
    terminal = getattr(request, "param", False)
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, highlight=False)
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(progress, "_SECONDS_TO_BAR", 0.0)
    monkeypatch.setattr(progress, "_SECONDS_TO_LINE", 0.0)
    return file


def test_lines_count_items_by_their_size_and_what_was_done_before(output):
    batches = [range(1000)] * 2
    started = time.monotonic()
    for batch in progress.track(batches, "Building", 6000, size=len, done=3000):
        time.sleep(len(batch) / 50_000)
    first, second = output.getvalue().splitlines()
    assert first.startswith("  Building: 4,000 of 6,000, ")
    assert second.startswith("  Building: 5,000 of 6,000, ")
    rate = float(second.split()[4].replace(",", ""))
    # What was done before counts for no speed.
    assert 2000 / (time.monotonic() - started) <= rate <= 50_000


def test_the_total_is_the_length_where_there_is_one(output):
    assert list(progress.track("abc", "Reading")) == ["a", "b", "c"]
    assert list(progress.track(iter("ab"), "Reading")) == ["a", "b"]
    told = [line.split(",")[0] for line in output.getvalue().splitlines()]
    assert told == [f"  Reading: {n} of 3" for n in (1, 2, 3)] + ["  Reading: 1", "  Reading: 2"]


def test_what_is_quick_prints_nothing(output, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_TO_LINE", 60.0)
    assert list(progress.track(range(6), "Building")) == list(range(6))
    assert output.getvalue() == ""


@pytest.mark.parametrize("output", [True], indirect=True)
def test_a_terminal_gets_a_bar_that_ends_with_the_work(output):
    with pytest.raises(ZeroDivisionError):
        for item in progress.track([1, 0], "Dividing"):
            1 / item
    assert "Dividing" in output.getvalue()
    assert output.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # cursor shown, bar erased


@pytest.mark.parametrize("output", [False, True], indirect=True)
def test_a_bar_shows_a_note(output):
    bar = progress.Bar("Training", 4)
    bar.update(2, ", loss 0.500")
    time.sleep(0.02)
    bar.update(3, ", loss 0.250")
    bar.close()
    assert "loss 0.250" in output.getvalue()


def test_what_is_said_is_no_markup(output):
    progress.say("[bold]5 items[/nothing]")
    assert output.getvalue() == "[bold]5 items[/nothing]\n"
