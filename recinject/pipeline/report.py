"""Report: what people read of a run, and the card of its model."""

from __future__ import annotations

from pathlib import Path

from recinject.foundation.progress import say
from recinject.pipeline.evaluate import evaluate
from recinject.pipeline.facts import gather
from recinject.pipeline.run import Facts, Run, is_first_process
from recinject.reporting.cards import model_card
from recinject.reporting.headline import headline
from recinject.reporting.report import subject, write_report


def report(run: Run) -> None:
    """Make the folder ``report``, and before it what it needs; then say the headline."""
    evaluate(run)
    if not is_first_process():
        return
    settings = {**run.recipe.report.model_dump(), "command": run.command}
    run.stage("report", settings, run.fingerprints("evaluation")).run(
        lambda folder: _report(run, folder)
    )
    inputs = gather(run)
    said = headline(inputs.metrics, inputs.comparisons, subject(inputs.model))
    say(f"\n{' '.join(said)}\n")
    say(f"Report: {run.folder('report') / 'report.html'}")


def _report(run: Run, folder: Path) -> Facts:
    inputs = gather(run)
    write_report(inputs, folder)
    if run.recipe.training is not None:
        versions = run.manifest("samples").facts["prompt_versions"]
        base = run.recipe.model.name
        card = model_card(inputs, prompt_versions=versions, base_model=base)
        (run.folder("training") / "README.md").write_text(card, encoding="utf-8")
    return {}
