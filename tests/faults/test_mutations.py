"""Recipes and command lines that somebody got wrong, or meant badly.

``RECINJECT_FAULTS=0/1`` tries all 2,000; ``0/8`` every eighth.
"""

import random
import re
import time

import pytest

BASE = """\
name: small
seed: 1
data: {simulator: {users: 30, items: 30, events_per_user: 8}, k_core: 2}
identifiers: {kind: number}
samples: {tasks: {retrieval: {history_length: 10}}, max_prompt_tokens: 128, phrases: {history: "{{ title }}"}}
model: {config: {d_model: 8, d_kv: 4, d_ff: 8, num_layers: 1, num_heads: 2}, vocab_size: 400}
training: {max_steps: 4, learning_rate: 1e-3, use_cpu: true, mixture: {retrieval: 1.0}}
evaluation: {baselines: [popularity, {ease: {regularization: 10.0}}], resamples: 100, cutoffs: [1, 5]}
"""  # noqa: E501
HOSTILE = (
    *("-1", "0", ".nan", ".inf", "-.inf", "1e400", str(2**63), "9" * 6000, "null", "true", "''"),
    *("[]", "{}", "[" * 3000, "{a: " * 3000, "&a [*a]", "&a {b: *a}", "*nobody"),
    *("!!python/object/apply:os.system ['touch evil']", "!!python/name:os", "!!binary '='"),
    *("2024-01-01", "0x10", "1_0", "../../evil", "/evil", "~/evil", "x" * 300),
    *("\x1b[2J", "'\\0'", '"\\0"', '"\\x1b[31m"', "\u202e", "\ud7ff"),
    *("{{ 'x' * 1000000000 }}", '"{% for a in b %}"', "%", "@", "`", "- -", "? :", "|", ">"),
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def mutated(text, chance):
    """Change a text in one to three places."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(text))
        end = min(len(text), start + chance.randint(0, 20))
        words = [(found.start(), found.end()) for found in re.finditer(r"[\w.'\"/-]+", text)]
        match chance.randrange(5):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:end] + text[start:]
            case 2:
                text = text[:start] + chance.choice(HOSTILE) + text[start:]
            case _ if words:  # a whole word is another
                start, end = chance.choice(words)
                text = text[:start] + chance.choice(HOSTILE) + text[end:]
        text = text or "x"
    return text


def check(recinject, words, folder):
    """Run a command; it ends soon, well or with an error, and writes nowhere else."""
    before, began = {path.name for path in folder.iterdir()}, time.process_time()
    ended = recinject(*words)
    shown = f"{[str(word)[:200] for word in words]}: {ended.output[-1500:]}"
    assert ended.code in (0, 1, 2, 3) and "Traceback" not in ended.output, shown
    assert not CONTROL.search(ended.output), shown
    assert time.process_time() - began < 10, shown
    assert {path.name for path in folder.iterdir()} - before <= {"runs"}, shown
    return ended.code


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, whose neighbours are watched."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path / "here"
    assert {path.name for path in tmp_path.iterdir()} == {"here"}


def test_mutated_recipes(recinject, folder, share):
    codes = []
    (folder / "small.yaml").touch()
    for seed in share(list(range(1000)), 60):
        chance = random.Random(seed)
        text = mutated(BASE, chance).encode("utf-8", "surrogateescape")
        (folder / "small.yaml").write_bytes(text)
        verb = "prepare" if seed % 20 == 0 else "show"
        codes.append(check(recinject, (verb, folder / "small.yaml"), folder))
    assert 0 < codes.count(2) < len(codes)  # some are harmless, and most are not


@pytest.mark.slow
def test_mutated_command_lines(recinject, folder, share):
    (folder / "small.yaml").write_text(BASE, "utf-8")
    keys = [f"{place}={value}" for place in _keys() for value in HOSTILE]
    codes = []
    for seed in share(list(range(1000)), 60):
        chance = random.Random(seed)
        words = ["show", "small.yaml", chance.choice(keys)]
        match chance.randrange(6):
            case 0:
                words = [mutated(word, chance) for word in words]
            case 1:
                words[2] = mutated(words[2], chance)
            case 2:
                words = ["recommend", chance.choice(HOSTILE), "--liked", chance.choice(HOSTILE)]
        words = [word.replace("\0", "").encode("utf-8", "replace").decode() for word in words]
        codes.append(check(recinject, words, folder))
    assert 0 < codes.count(2) < len(codes)


def _keys():
    return (
        *("name", "seed", "runs", "data", "data.k_core", "data.path", "data.max_text", "plugins"),
        *("data.simulator.users", "identifiers.kind", "samples.tasks.retrieval.history_length"),
        *("samples.phrases.history", "samples.prompts", "samples.workers", "model.name", "model"),
        *("training.learning_rate", "training.max_steps", "training.mixture.retrieval", "sweep"),
        *("evaluation.baselines", "evaluation.cutoffs", "evaluation.resamples", "seeds", "lora"),
    )
