"""Report: what people read of a run, and the card of its model."""

from __future__ import annotations

from pathlib import Path

from recinject.foundation.progress import say
from recinject.pipeline.evaluate import evaluate
from recinject.pipeline.facts import result_of
from recinject.pipeline.run import Facts, Run, is_first_process
from recinject.reporting.cards import model_card


def report(run: Run) -> None:
    """Make the folder ``report``, and before it what it needs; then say the headline."""
    evaluate(run)
    if not is_first_process():
        return
    settings = {**run.recipe.report.model_dump(), "command": run.command}
    stage = run.stage("report", settings, run.fingerprints("evaluation"))
    stage.run_here(lambda folder: _report(run, folder))
    say(f"\n{result_of(run).headline}\n")
    say(f"Report: {stage.folder / 'report.html'}")


def _report(run: Run, folder: Path) -> Facts:
    result = result_of(run)
    result.report(folder)
    if run.recipe.training is not None:
        versions = run.manifest("samples").facts["prompt_versions"]
        card = model_card(result, prompt_versions=versions, base_model=run.recipe.model.name)
        (run.folder("model") / "README.md").write_text(card, encoding="utf-8")
    return {}
