"""Processes that are killed, several writers, full disks, workers that die, odd clocks."""

import os
import random
import time

import psutil
import pytest

SMALL_SHARDS = "from recinject.samples import store; store.SAMPLES_PER_SHARD = 9"


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    start, finish, share, recipe, tmp_path, judge, tally
):
    """``RECINJECT_FAULTS`` gives the share of 100 kills; 8 if it is not set."""
    for name in ("first", "second"):  # the first one waits for imports, which others need not
        began = time.monotonic()
        assert finish(start("run", recipe, f"runs={tmp_path / name}")).code == 0
        lasted = time.monotonic() - began
    chance, alive = random.Random(0), 0
    kills = share(list(range(100)), 8)
    for count, number in enumerate(kills, 1):
        process = start("run", recipe, f"runs={tmp_path / 'cut'}")
        process.join(chance.uniform(0.0, 0.6 * lasted))  # what goes on is sooner at its end
        alive += process.is_alive()
        process.kill()
        process.join()
        if count % 4 and count < len(kills):
            continue
        # After up to four kills it comes to its end, and must be as it should be.
        ended = finish(start("run", recipe, f"runs={tmp_path / 'cut'}"))
        found = judge(*ended, tmp_path / "cut" / "small")
        tally.note("kills of main", found, ended.output[-500:])
        (tmp_path / "cut").rename(tmp_path / f"done-{number}")
    assert 2 * alive > len(kills), "it had ended before most of the kills"
    assert not tally.worst, "\n".join(tally.worst)


def workers_of(process, seconds=60):
    """Wait for two workers of a process, and return them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.is_alive():
        found = [
            each
            for each in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(each.cmdline())
        ]
        if len(found) >= 2:
            return found
        time.sleep(0.01)
    return []


@pytest.mark.slow
def test_killed_workers_end_the_build_and_a_killed_main_leaves_no_orphan(
    start, finish, share, recipe, tmp_path, tally
):
    alone = ("build", recipe, f"runs={tmp_path / 'alone'}")
    assert finish(start(*alone, before=SMALL_SHARDS)).code == 0
    right = shards_of(tmp_path / "alone")
    assert len(right) > 8
    for number in share(list(range(8)), 2):
        runs = tmp_path / str(number)
        words = ("build", recipe, f"runs={runs}", "samples.workers=2")
        process = start(*words, before=SMALL_SHARDS)
        workers = workers_of(process)
        assert len(workers) == 2, "".join(process.said)
        time.sleep(random.Random(number).uniform(0, 2))
        if number % 2:
            process.kill()
            process.join()
            _, alive = psutil.wait_procs(workers, 20)
            assert not alive
        else:
            if workers[0].is_running():
                workers[0].kill()
            ended = finish(process, 120)
            assert ended.code in (0, 1), ended.output
            assert ended.code == 0 or "a worker died while" in ended.output
            how = "refused" if ended.code else "harmless"
            tally.note("kill of a worker", how, ended.output)
        ended = finish(start(*words, before=SMALL_SHARDS))
        assert ended.code == 0 and shards_of(runs) == right, ended.output
        kind = "main killed, workers too" if number % 2 else "after the kill of a worker"
        tally.note(kind, "redone", ended.output)


def shards_of(runs):
    return {path.name: path.read_bytes() for path in runs.glob("small/samples/*/*.parquet")}


@pytest.mark.slow
def test_several_writers(start, finish, recipe, tmp_path, judge, tally):
    runs = f"runs={tmp_path / 'several'}"
    same = [start("run", recipe, runs) for _ in range(2)]
    while not (tmp_path / "several" / ".small.lock.json").exists() and same[0].is_alive():
        time.sleep(0.01)
    hasty, other = start("run", recipe, runs, "--no-wait"), start("run", recipe, runs, "seed=2")
    for process, codes in ((same[0], [0]), (same[1], [0]), (hasty, [0, 3]), (other, [0, 2])):
        ended = finish(process)
        assert ended.code in codes, ended.output
        how = "refused" if ended.code else judge(*ended, tmp_path / "several" / "small")
        tally.note("several writers", how, ended.output[-500:])
    assert not tally.worst, "\n".join(tally.worst)


@pytest.mark.slow
def test_full_disks(start, finish, share, recipe, tmp_path, judge, tally):
    for limit in share([10, 400, 2_000, 6_000, 20_000, 60_000, 200_000, 500_000], 3):
        runs = f"runs={tmp_path / str(limit)}"
        for most in (limit, -1):
            ended = finish(start("run", recipe, runs, limit=most))
            found = judge(*ended, tmp_path / str(limit) / "small")
            tally.note("full disk", found, f"{most} bytes: {ended.output[-800:]}")
    assert not tally.worst, "\n".join(tally.worst)


@pytest.mark.slow
def test_a_clock_that_goes_backwards(recinject, recipe, copy, judge, tally, monkeypatch):
    run = copy("clock")
    for path in run.rglob("*"):
        os.utime(path, (4e9, 4e9))
    now = iter(range(2_000_000_000, 0, -1_000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    for words in ([], ["seed=1"], ["report.examples=1"]):
        ended = recinject("run", recipe, f"runs={run.parent}", *words)
        tally.note("clock", judge(ended.code, ended.output, run), ended.output[-500:])
    assert not tally.worst, "\n".join(tally.worst)
