import threading
import time

import pytest

from recinject.foundation.errors import RecinjectError
from recinject.serving.batching import Batcher, QueueFullError


class Slow:
    """Answers when it is let, and remembers what it was asked at once."""

    def __init__(self):
        self.batches, self.gate = [], threading.Event()

    def __call__(self, key, questions):
        self.gate.wait(10)
        self.batches.append((key, list(questions)))
        if "bad" in questions:
            raise RecinjectError("bad", hint="mend it")
        if "worse" in questions:
            raise ValueError("inside")
        if "fewer" in questions:
            return []
        return [f"{key}{question}" for question in questions]


def test_what_waits_is_answered_together_by_key():
    slow = Slow()
    batcher = Batcher(slow, most=10)
    first = batcher.ask("a", 0)
    time.sleep(0.05)
    futures = [batcher.ask(key, n) for n in range(3) for key in "ab"]
    slow.gate.set()
    assert [f.result(5) for f in (first, *futures)] == ["a0", *["a0", "b0", "a1", "b1", "a2", "b2"]]
    assert slow.batches == [("a", [0]), ("a", [0, 1, 2]), ("b", [0, 1, 2])]
    batcher.close()


def test_a_batch_has_so_many_at_most():
    slow = Slow()
    batcher = Batcher(slow, most=2)
    futures = [batcher.ask("a", n) for n in range(7)]
    slow.gate.set()
    assert [f.result(5) for f in futures] == [f"a{n}" for n in range(7)]
    assert max(len(questions) for _, questions in slow.batches) == 2
    batcher.close()


def test_beyond_its_room_it_refuses_and_loses_nothing_it_took():
    slow = Slow()
    batcher = Batcher(slow, most=1, room=3)
    taken, refused = [], 0
    for number in range(20):
        try:
            taken.append((number, batcher.ask("a", number)))
        except QueueFullError:
            refused += 1
    assert refused >= 16 and len(taken) + refused == 20
    slow.gate.set()
    batcher.close()
    assert [future.result(0) for _, future in taken] == [f"a{number}" for number, _ in taken]
    with pytest.raises(QueueFullError):
        batcher.ask("a", 1)


def test_one_that_is_at_fault_spoils_no_other():
    slow = Slow()
    batcher = Batcher(slow, most=10)
    first = batcher.ask("a", 0)
    time.sleep(0.05)
    good, bad, other = (batcher.ask("a", each) for each in (1, "bad", 2))
    slow.gate.set()
    assert (first.result(5), good.result(5), other.result(5)) == ("a0", "a1", "a2")
    with pytest.raises(RecinjectError, match="bad"):
        bad.result(5)
    with pytest.raises(ValueError, match="inside"):
        batcher.ask("a", "worse").result(5)
    with pytest.raises(ValueError, match="shorter"):
        batcher.ask("a", "fewer").result(5)
    assert batcher.ask("a", 3).result(5) == "a3"
    batcher.close()


def test_nobody_is_asked_for_what_nobody_waits_for():
    slow = Slow()
    batcher = Batcher(slow)
    first = batcher.ask("a", 0)
    time.sleep(0.05)
    dropped = batcher.ask("a", 1)
    assert dropped.cancel()
    slow.gate.set()
    batcher.close()
    assert first.result(0) == "a0" and slow.batches == [("a", [0])]
