"""Report and push: what people read of a run, and what of it is uploaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.storage import MANIFEST_NAME, RunManifest
from recinject.pipeline.evaluate import evaluate
from recinject.pipeline.facts import result_of
from recinject.pipeline.run import Facts, Run, is_first_process
from recinject.reporting.closing import closing
from recinject.reporting.report import model_card

_CARD = "README.md"


def report(run: Run) -> None:
    """Make the folder ``report``, and before it what it needs; then say who won, and what next."""
    evaluate(run)
    if not is_first_process():
        return
    settings = {**run.recipe.report.model_dump(), "command": run.command}
    stage = run.stage("report", settings, run.fingerprints("evaluation"))
    stage.run_here(lambda folder: _report(run, folder))
    say("\n" + "\n".join(closing(result_of(run), run.recipe.name)) + "\n")
    say(f"Report: {stage.folder / 'report.html'}")


def _report(run: Run, folder: Path) -> Facts:
    result = result_of(run)
    result.report(folder)
    if run.recipe.training is not None:
        versions = run.manifest("samples").facts["prompt_versions"]
        card = model_card(result, prompt_versions=versions, base_model=run.recipe.model.name)
        model = run.sealed("model")
        (model / _CARD).write_text(card, encoding="utf-8")
        run.manifest("model").add(model, _CARD)
    return {}


def push(folder: Path, repo: str, *, public: bool = False, yes: bool = False) -> list[Path]:
    """Upload a run's model, or its folder ``model``, to the hub, or say what would go there.

    A repository that is made anew is private unless ``public``. Without ``yes`` nothing leaves
    this machine.

    Returns:
        The files, without the manifest, which names local paths.

    Raises:
        RecinjectError: there is no whole model, or the hub cannot be reached or refuses.
    """
    model = folder / "model" if (folder / "model").is_dir() else folder
    files = sorted(_uploaded(model))
    sizes = [(model / file).stat().st_size for file in files]
    say(f"{model} -> {repo} ({'public' if public else 'private'} if it is made anew)")
    for file, size in zip(files, sizes, strict=True):
        say(f"  {size:>14,} bytes  {file}")
    say(f"  {sum(sizes):>14,} bytes in {len(files)} files")
    if yes:
        _upload(model, files, repo, public)
        say(f"uploaded to {repo}")
    else:
        say("nothing is uploaded yet: add --yes")
    return files


def _uploaded(model: Path) -> Iterator[Path]:
    # A stage's manifest is its last file: without it the model was cut off while it was written.
    weights = [] if any(model.glob("model-*.safetensors")) else ["model.safetensors"]
    needed = ["config.json", *weights, MANIFEST_NAME]
    if missing := [name for name in needed if not (model / name).is_file()]:
        hint = "give the folder of a run whose training has ended, such as runs/quickstart"
        raise RecinjectError(f"{model}: no finished model, {missing[0]} is missing", hint=hint)
    if known := RunManifest.read(model):
        known.refuse_damage(model)
    for path in model.rglob("*"):
        name = path.relative_to(model)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.name != MANIFEST_NAME:
            yield name


def _upload(model: Path, files: list[Path], repo: str, public: bool) -> None:
    api = HfApi()
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=model, allow_patterns=[file.as_posix() for file in files]
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        hint = "log in with 'hf auth login', unset HF_HUB_OFFLINE, and name it as USER/MODEL"
        raise RecinjectError(f"{repo}: cannot be uploaded to ({reason})", hint=hint) from error
