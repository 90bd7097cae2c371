import json
import re

from recinject.pipeline.facts import gather
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run


def test_the_report_is_there_in_both_forms(finished):
    report = finished.folder / "report"
    page, text = ((report / f"report.{kind}").read_text("utf-8") for kind in ("html", "md"))
    for name in ("ALS", "popularity", "item kNN", "language model"):
        assert name in page and name in text
    assert (report / "figures" / "metrics_retrieval.png").stat().st_size > 1000
    assert not re.search(r'(src|href)="https?:', page), "it must open offline"


def test_the_headline_that_is_said_is_the_one_that_is_written(finished):
    (said,) = re.findall(r"^The language model .*$", finished.output, re.MULTILINE)
    text = (finished.folder / "report" / "report.md").read_text("utf-8")
    assert said.split(":")[0] in text


def test_the_models_card_speaks_of_its_results(finished):
    card = (finished.folder / "model" / "README.md").read_text("utf-8")
    assert "AutoModelForSeq2SeqLM" in card and "HR@10" in card


def test_what_the_report_shows_is_gathered_from_the_stages(finished, tiny_recipe):
    overrides = [f"runs={finished.folder.parent}", "report.examples=4"]
    inputs = gather(Run(load_recipe(str(tiny_recipe), overrides), "recinject run tiny"))
    stored = json.loads((finished.folder / "evaluation" / "examples.json").read_text("utf-8"))
    tasks = ["retrieval", "ranking", "rating"]
    # Four in all, dealt evenly: the first task has the one that is left over.
    assert [row.task for row in inputs.examples] == ["retrieval", *tasks]
    assert len(stored) == 150 and {row["task"] for row in stored} == set(tasks)
    assert inputs.durations.keys() == {"data", "identifiers", "samples", "training", "evaluation"}
    assert inputs.sampled_candidates == 9 and inputs.seed == 1
    assert inputs.training and inputs.model.adaptation == "full"
    trained = {row.task for row in inputs.samples if row.mean_prompt_tokens is not None}
    assert len(trained) == 6
