"""What is known of users stands in a prompt where a template has the slot, and nowhere else."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import recinject as ri
from recinject.data.simulator import simulate_shop
from recinject.foundation.errors import RecinjectError

TEMPLATE = """
task: retrieval
version: 1
phrases: {history: "{{ identifier }}", target: "{{ identifier }}"}
templates:
  - name: told
    prompt: "A customer (%s) chose: {{ history | join('; ') }}. Next?"
    completion: "{{ target }}"
"""


@pytest.fixture(scope="module")
def data():
    log = simulate_shop(users=20, items=30, events_per_user=6, seed=1)
    ids = log.interactions.user_ids
    known = {"user_id": ids, "plan": ["paid", None] * 10, "age": [31.0, 7.0] * 10}
    return ri.prepare(replace(log, users=pd.DataFrame(known)), k_core=2)


def prompts_with(data, folder: Path, slots: str):
    (folder / "retrieval.yaml").write_text(TEMPLATE % slots)
    samples = ri.build_samples(data, ["retrieval"], prompts=folder)
    frame = samples.to_pandas("retrieval", "test")
    return samples, dict(zip(frame["user"], frame["prompt"], strict=True))


def test_a_slot_tells_of_the_sample_s_own_user(data, tmp_path):
    samples, prompts = prompts_with(data, tmp_path, "{{ attribute.plan }}, {{ attribute.age }}")
    for user, prompt in prompts.items():
        plan, age = data.users["plan"][user], data.users["age"][user]
        assert prompt.startswith(
            f"A customer ({plan if isinstance(plan, str) else 'unknown'}, {age:g}) chose: #"
        )
    asker = samples.factory.asker("retrieval")
    assert asker.ask([[1, 2]])[0].startswith("A customer (unknown, unknown) chose:")
    retitled = samples.factory.retitled({0: "Other"}).asker("retrieval")
    assert retitled.ask([[1, 2]]) == asker.ask([[1, 2]])


def test_without_the_slot_nothing_is_told(data):
    frame = ri.build_samples(data, ["retrieval"]).to_pandas("retrieval", "test")
    assert not frame["prompt"].str.contains("paid|unknown").any()


@pytest.mark.parametrize("slot", ["{{ attribute.plam }}", "{{ atribute.plan }}"])
def test_an_unknown_attribute_is_refused_with_what_there_is(data, tmp_path, slot):
    with pytest.raises(RecinjectError, match="no 'plam'|not part of the sample language") as found:
        prompts_with(data, tmp_path, slot)
    assert "plan" in found.value.hint or "attribute" in found.value.hint
