"""Copies of what ships, to be changed."""

from __future__ import annotations

from pathlib import Path

from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import shipped_folder
from recinject.recipe.loading import find_recipe


def copy_shipped(name: str, destination: Path) -> Path:
    """Copy a recipe, or the templates of ``prompts`` or of a folder in it; return where it lies.

    Args:
        name: a recipe's name or file; or ``prompts``, ``prompts/tiger`` and the like.
        destination: a file or a folder for a recipe; a new folder for templates.

    Raises:
        RecinjectError: there is no such recipe; or the copy exists already or cannot be written.
    """
    folder = shipped_folder("prompts").parent / name
    if Path(name).parts[:1] == ("prompts",) and folder.is_dir():
        texts = {destination / path.name: path.read_text("utf-8") for path in folder.glob("*.yaml")}
        _write(destination, texts)
        return destination
    source = find_recipe(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.suffix not in (".yaml", ".yml"):
        target = target.with_name(f"{target.name}.yaml")
    lines = source.read_text("utf-8").splitlines(keepends=True)
    # A copy goes by its file's name, or it would fill the run that it was copied from.
    kept = [line for line in lines if not line.startswith("name:")]
    _write(target, {target: "".join(kept)})
    return target


def _write(target: Path, texts: dict[Path, str]) -> None:
    if target.exists():
        raise RecinjectError(f"{target}: exists already", hint="choose another name")
    try:
        for path, text in texts.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as error:
        raise RecinjectError(
            f"{target}: cannot be written ({error.strerror})",
            hint="choose a folder that is there and open to you",
        ) from error
