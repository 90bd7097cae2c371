"""Parts of the samples, built apart and gathered."""

import json
import shutil

import pytest

from recinject.foundation.stores import Store
from recinject.pipeline.lock import only_writer
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
from recinject.samples import store


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SAMPLES_PER_SHARD", 50)


@pytest.fixture
def part(recinject, tiny_recipe, tmp_path):
    """Run a verb of the tiny recipe in a folder; several parts one after another."""

    def run(verb, *words):
        ended = recinject(verb, tiny_recipe, f"runs={tmp_path}", *words)
        return ended.code, ended.output

    return run


def contents(folder):
    """Every file, and the manifest without the times that it took."""
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {str(name): content for name, content in found.items() if name.name != "manifest.json"}


def manifest(folder):
    content = json.loads((folder / "manifest.json").read_text("utf-8"))
    facts = {k: v for k, v in content.pop("facts").items() if k not in ("seconds", "finished")}
    return {k: v for k, v in content.items() if k != "seal"} | {"facts": facts}


@pytest.fixture
def whole(recinject, tiny_recipe, tmp_path):
    """What one machine builds, in a run of the same place that is then moved away."""
    assert recinject("build", tiny_recipe, f"runs={tmp_path}").code == 0
    return (tmp_path / "tiny").rename(tmp_path / "whole") / "samples"


def test_parts_and_gather_give_the_bytes_of_one_machine(part, whole, tmp_path):
    for number in (3, 1, 2):
        assert part("build", f"--part={number}/3")[0] == 0
    folders = sorted((tmp_path / "tiny" / "parts").iterdir())
    shards = [len(list(folder.rglob("*.parquet"))) for folder in folders if folder.is_dir()]
    assert sum(shards) == len(list(whole.rglob("*.parquet"))) and max(shards) - min(shards) <= 1
    assert not (tmp_path / "tiny" / "samples").exists()
    assert part("gather")[0] == 0
    gathered = tmp_path / "tiny" / "samples"
    assert contents(gathered) == contents(whole)
    assert manifest(gathered) == manifest(whole)
    assert {path.name for path in gathered.parent.iterdir()} == {
        *("data", "identifiers", "samples", "recipe.yaml"),
    }
    code, output = part("build")
    assert code == 0 and "samples: nothing to do" in output
    assert part("gather")[0] == 0


def nothing_gathered(folder):
    return not [path for path in folder.iterdir() if "samples" in path.name]


def test_a_missing_part_is_named(part, tmp_path):
    assert part("build", "--part=2/3")[0] == 0
    code, output = part("gather")
    assert code == 2 and "2 of 3 parts are missing: 1/3, 3/3" in output
    assert "recinject build RECIPE --part 1/3" in output
    assert nothing_gathered(tmp_path / "tiny")


def test_a_part_with_other_settings_is_named(part, tmp_path):
    assert part("build", "--part=1/2")[0] == 0
    assert part("build", "--part=2/2", "samples.max_prompt_tokens=200")[0] == 0
    code, output = part("gather")
    assert code == 2
    assert "part 2/2 was built otherwise: max_prompt_tokens changed" in output
    assert nothing_gathered(tmp_path / "tiny")


def test_a_damaged_part_is_named(part, tmp_path):
    assert part("build", "--part=1/1")[0] == 0
    file = next((tmp_path / "tiny" / "parts").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-1])
    code, output = part("gather")
    assert code == 2 and file.name in output and "--part 1/1" in output
    assert nothing_gathered(tmp_path / "tiny")


def test_parts_of_several_numbers_are_refused(part, tmp_path):
    assert part("gather")[0] == 2
    assert part("build", "--part=1/2")[0] == 0
    folder = tmp_path / "tiny" / "parts" / "00001-of-00002"
    shutil.copytree(folder, folder.with_name("00001-of-00003"))
    code, output = part("gather")
    assert code == 2 and "parts of 2 and of 3" in output


def test_the_second_of_two_gathers_ends_at_once(part, tiny_recipe, tmp_path):
    assert part("build", "--part=1/1")[0] == 0
    run = Run(load_recipe(tiny_recipe, {"runs": str(tmp_path)}))
    with only_writer(run):
        code, output = part("gather")
    assert code == 3 and "fills it" in output
    assert nothing_gathered(tmp_path / "tiny")
    assert part("gather")[0] == 0


@pytest.mark.parametrize("wrong", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_what_is_no_part_is_refused(part, wrong, tmp_path):
    code, output = part("build", f"--part={wrong}")
    assert code == 2 and f"'{wrong}' is no part" in output
    assert not (tmp_path / "tiny").exists()


def test_machines_that_share_a_store_alone_gather_the_same(part, whole, tmp_path):
    store = "store=memory://gathered"
    for number in (1, 2):
        assert part("build", f"--part={number}/2", store)[0] == 0
        (tmp_path / "tiny").rename(tmp_path / f"machine{number}")
    code, output = part("gather", store)
    assert code == 0 and "data: fetched from memory://gathered/tiny/data" in output
    gathered = tmp_path / "tiny" / "samples"
    assert contents(gathered) == contents(whole)
    assert manifest(gathered) == manifest(whole)
    shutil.rmtree(tmp_path / "tiny")
    code, output = part("build", store)
    assert code == 0 and "samples: fetched" in output
    assert contents(gathered) == contents(whole)
    assert {"data", "identifiers", "samples"} <= (Store("memory://gathered") / "tiny").names()
    assert not (Store("memory://gathered") / "tiny" / "parts").names()


def test_a_part_that_the_store_lacks_is_named(part, tmp_path):
    store = "store=memory://lacking"
    assert part("build", "--part=1/2", store)[0] == 0
    shutil.rmtree(tmp_path / "tiny")
    code, output = part("gather", store)
    assert code == 2 and "1 of 2 parts are missing: 2/2" in output
    assert nothing_gathered(tmp_path / "tiny")
