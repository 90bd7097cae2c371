"""Files of a finished run that are cut off, emptied, flipped or removed, and what commands do.

``RECINJECT_FAULTS=0/1 pytest -m "" tests/faults`` tries every file; ``0/8`` every eighth.
"""

import random
import shutil
from itertools import product

import pytest

DAMAGES = ("cut off", "emptied", "flipped", "removed")
VERBS = ("recommend", "run", "train", "report")


def damage(path, how, chance):
    size = path.stat().st_size
    if how == "removed":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    if how == "flipped" and size:
        content[chance.randrange(size)] ^= 1 << chance.randrange(8)
    path.write_bytes(content[: {"cut off": size // 2, "emptied": 0}.get(how, size)])


def cases(whole):
    files = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())
    found = [*product(files, DAMAGES, VERBS)]
    random.Random(0).shuffle(found)
    return found


@pytest.fixture(scope="module")
def asked(recinject, whole, lists):
    """What is asked of the run, and what it answers when it is whole."""
    words = ("recommend", whole, "--liked", "P00001", "--liked", "P00003", "--json", "-k", 3)
    right = lists(recinject(*words).output)
    assert len(right[0]["recommended"]) == 3
    return words[2:], right


@pytest.fixture
def check(recinject, whole, recipe, copy, judge, tally, asked, lists):
    """Try some of the cases."""

    words, right = asked

    def case(number, name, how, verb):
        run = copy(str(number))
        damage(run / name, how, random.Random(number))
        if verb == "recommend":
            ended = recinject("recommend", run, *words)
            found = judge(ended.code, ended.output, run, only="nothing")
            if not ended.code and lists(ended.output) != right:
                found = "silently wrong"
        else:
            ended = recinject(verb, recipe, f"runs={run.parent}")
            found = judge(ended.code, ended.output, run, only="model" if verb == "train" else "")
        tally.note(f"file, {verb}", found, f"{name} {how}: {ended.output[-600:]}")
        shutil.rmtree(run.parent)

    def run(tried):
        for number, each in enumerate(tried):
            case(number, *each)
        assert not tally.worst, "\n".join(tally.worst)

    return run


@pytest.mark.slow
def test_damages(check, whole, share):
    check(share(cases(whole), 60))
