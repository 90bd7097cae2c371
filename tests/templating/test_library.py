from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from recinject.data.schema import Catalog
from recinject.foundation.errors import RecinjectError
from recinject.foundation.ragged import Ragged
from recinject.foundation.storage import shipped_folder
from recinject.samples.tokenizer import load_tokenizer
from recinject.tasks.task import TASKS
from recinject.templating.language import load_templates, lower
from recinject.templating.phrases import Phrasebook, Pieces
from recinject.templating.writers import Contexts, SlotKind

SLOTS = {"history": SlotKind.ITEMS, "target": SlotKind.ITEM, "rating": SlotKind.RATING}
FILE = {
    "task": "own",
    "version": 3,
    "phrases": {"history": "{{ item }}", "target": "{{ title }}"},
    "templates": [
        {"name": "a", "prompt": "{{ history | join('; ') }}?", "completion": "{{ target }}"},
        {"name": "b", "prompt": "{{ target }}?", "completion": "{{ rating }}", "use": "evaluation"},
    ],
}


@pytest.fixture
def catalog_of():
    return lambda *titles: Catalog(pd.DataFrame({"item_id": range(len(titles)), "title": titles}))


def load(folder: Path, content, **arguments):
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    return load_templates("own", SLOTS, folder, **arguments)


def test_a_file_of_ones_own(tmp_path):
    found = load(tmp_path, FILE, phrases={"target": "{{ brand }}", "pair": "another task's"})
    assert [(t.name, t.held_out) for t in found.templates] == [("a@3", False), ("b@3", True)]
    assert (found.version, found.path) == (3, tmp_path / "own.yaml")
    assert found.phrases == {"history": "{{ item }}", "target": "{{ brand }}"}
    both = {"target": "{{ brand }}", "own": {"target": "{{ title }}!"}, "others": {"history": ""}}
    assert load(tmp_path, FILE, phrases=both).phrases["target"] == "{{ title }}!"


def test_a_bound_template_writes_both_sides_and_says_where_its_words_end(tmp_path):
    file = FILE | {"templates": [*FILE["templates"], {**FILE["templates"][0], "name": "c"}]}
    file["templates"][2] |= {"completion": "{{ target }}{{ rating }}"}
    pieces = Pieces({"history": ["Cup", "Rag Doll"], "target": ["#0", "#1"]}, np.array([4.5]))
    templates = load(tmp_path, file).templates
    found = [template.bind(pieces) for template in templates]
    assert [(template.name, template.splits_at_blanks) for template in templates] == [
        ("a@3", True),
        ("b@3", True),
        ("c@3", False),
    ]
    slots = {"history": Ragged.from_rows([[1, 0], [1]]), "target": Ragged.from_rows([[0], [1]])}
    contexts = Contexts(np.zeros(2), slots, labels=np.array([4.5, 4.5]))
    texts = [[pieces.write(side).to_pylist() for side in bound.write(contexts)] for bound in found]
    assert texts == [
        [["Rag Doll; Cup?", "Rag Doll?"], ["#0", "#1"]],
        [["#0?", "#1?"], ["4.5", "4.5"]],
        [["Rag Doll; Cup?", "Rag Doll?"], ["#04.5", "#14.5"]],
    ]


def test_a_mistaken_phrase_is_looked_for_where_it_was_given(tmp_path, catalog_of):
    found = load(tmp_path, FILE, phrases={"target": "{{ colour }}"})
    with pytest.raises(RecinjectError, match=r"^samples\.phrases\.target: .* 'colour'"):
        found.write_items(Phrasebook(catalog_of("Cup"), ["#0"]))


def test_a_folder_without_the_task_leaves_the_shipped_words(tmp_path):
    task = TASKS["bpr"]
    assert (
        load_templates("bpr", task.slots, tmp_path).path == shipped_folder("prompts") / "bpr.yaml"
    )
    with pytest.raises(RecinjectError, match="no templates for the task 'own'"):
        load_templates("own", SLOTS, tmp_path)


def template(**changes):
    return FILE | {"templates": [FILE["templates"][0] | changes]}


REFUSED = {
    "unknown key": (FILE | {"phrase": {}}, ["own.yaml: phrase: extra inputs", "version, phrases"]),
    "unknown key of a template": (template(text="a"), ["templates.0.text", "completion"]),
    "missing key": ({"task": "own"}, ["version", "field required"]),
    "wrong use": (template(use="test"), ["templates.0.use", "'training' or 'evaluation'"]),
    "name with spaces": (template(name="A B"), ["templates.0.name"]),
    "one name twice": (
        FILE | {"templates": [FILE["templates"][0]] * 2},
        ["2 templates are called 'a'", "a name of its own"],
    ),
    "no version": (FILE | {"version": 0}, ["version", "greater than or equal to 1"]),
    "no templates": (FILE | {"templates": []}, ["templates", "at least 1"]),
    "wrong task": (FILE | {"task": "other"}, ["says 'task: other'", "write 'task: own'"]),
    "all held out": (template(use="evaluation"), ["every template is marked 'use: evaluation'"]),
    "missing phrase": (
        FILE | {"phrases": {"history": "{{ item }}"}},
        ["phrases are given for ['history'], the task has ['history', 'target']"],
    ),
    "phrase for a rating": (
        FILE | {"phrases": FILE["phrases"] | {"rating": "a"}},
        ["phrases are given for ['history', 'rating', 'target']", "exactly one phrase"],
    ),
    "bad template": (template(prompt="{{ x }}"), ["own.yaml: a.prompt: unknown slot 'x'"]),
    "bad completion": (template(completion="{{ y }}"), ["own.yaml: a.completion: unknown slot"]),
    "not YAML": ("task: [own", ["own.yaml: not YAML", "mend the line it names"]),
    "empty": ("", ["own.yaml", "a file has task, version, phrases, templates"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_files_are_refused(tmp_path, case):
    content, fragments = REFUSED[case]
    with pytest.raises(RecinjectError) as caught:
        load(tmp_path, content)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


def shipped(task: str):
    return load_templates(task, TASKS[task].slots)


@pytest.mark.parametrize("task", TASKS)
def test_shipped_prompts_have_wordings_to_train_on_and_to_hold_out(task):
    found = shipped(task)
    assert Counter(template.held_out for template in found.templates) >= Counter(
        {False: 8, True: 3}
    )
    names = [template.name for template in found.templates]
    sources = [template.source for template in found.templates]
    assert len(set(names)) == len(set(sources)) == len(names)
    assert not any("\n" in source for source in sources)


def test_every_shipped_file_is_a_tasks():
    assert {path.stem for path in shipped_folder("prompts").glob("*.yaml")} == {*TASKS, "sequence"}


@pytest.mark.parametrize("task", TASKS)
def test_t5_can_spell_the_shipped_words(task, shared_data):
    file = shared_data / "t5-tokenizer" / "tokenizer.json"
    if not file.is_file():
        pytest.skip(f"no tokenizer at {file}")
    tokenizer = load_tokenizer(file)
    slots = TASKS[task].slots
    content = yaml.safe_load((shipped_folder("prompts") / f"{task}.yaml").read_text("utf-8"))
    for entry in content["templates"]:
        for source in (entry["prompt"], entry["completion"]):
            # The words of a segment are its text, or the separators and what is beside its slot.
            words = [
                word
                for segment in lower(source, slots, "")
                for word in (segment.before, *segment.arguments, segment.after)
            ]
            assert "<unk>" not in tokenizer.encode(" ".join(words)).tokens, source
