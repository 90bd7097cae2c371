import json
import re

from recinject.pipeline.facts import result_of
from recinject.pipeline.recipe import load_recipe
from recinject.pipeline.run import Run
from recinject.reporting.result import ROWS, Result


def test_the_report_is_there_in_both_forms(finished):
    report = finished.folder / "report"
    page, text = ((report / f"report.{kind}").read_text("utf-8") for kind in ("html", "md"))
    for name in ("ALS", "popularity", "item kNN", "language model"):
        assert name in page and name in text
    assert (report / "figures" / "metrics_retrieval_hr_10.png").stat().st_size > 1000
    assert not re.search(r'(src|href)="https?:', page), "it must open offline"


def test_three_sentences_end_a_run(finished):
    *_, blank, won, much, after, also_blank, report = finished.output.splitlines()
    assert not blank and not also_blank and report.startswith("Report: ")
    assert " on retrieval" in won and after.startswith("Next: ")
    figures = re.findall(r"HR@10 (0\.\d+ \[[\d., ]+\])", much)
    text = (finished.folder / "report" / "report.md").read_text("utf-8")
    assert figures and all(figure in " ".join(text.split()) for figure in figures)


def test_the_models_card_speaks_of_its_results(finished):
    card = (finished.folder / "model" / "README.md").read_text("utf-8")
    assert "AutoModelForSeq2SeqLM" in card and "HR@10" in card


def test_what_the_report_shows_is_gathered_from_the_stages(finished, tiny_recipe):
    overrides = [f"runs={finished.folder.parent}", "report.examples=4"]
    result = result_of(Run(load_recipe(str(tiny_recipe), overrides)))
    evaluation, facts = finished.folder / "evaluation", result.facts
    stored = json.loads((evaluation / "examples.json").read_text("utf-8"))
    tasks = ["retrieval", "ranking", "rating"]
    # Four in all, dealt evenly: the first task has the one that is left over.
    assert list(result.examples["task"]) == ["retrieval", *tasks]
    assert len(stored) == 150 and {row["task"] for row in stored} == set(tasks)
    assert facts.durations.keys() == {"data", "identifiers", "samples", "model", "evaluation"}
    assert facts.sampled_candidates == 9 and facts.seed == 1
    assert facts.training and facts.model.adaptation == "full"
    trained = {row.task for row in facts.samples if row.mean_prompt_tokens is not None}
    assert len(trained) == 6


def test_a_runs_evaluation_is_a_result_and_saves_the_same_bytes(finished, tmp_path):
    evaluation = finished.folder / "evaluation"
    result = Result.load(evaluation)
    result.save(tmp_path / "saved")
    for name in ROWS:
        file = f"{name}.json"
        assert (tmp_path / "saved" / file).read_bytes() == (evaluation / file).read_bytes()
    assert {task for task, _ in result.predictions} == set(result.metrics["task"])
    frame = result.predictions["retrieval", "language_model"]
    assert frame.equals(Result.load(tmp_path / "saved").predictions["retrieval", "language_model"])
