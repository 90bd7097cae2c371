"""What a finished stage remembers of itself, so that the same command need not repeat it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recinject.foundation.storage import hash_value, read_json, write_json

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class RunManifest:
    """The record of one finished stage of a run; the file is written last in its folder."""

    stage: str  # its name, which is its folder's
    version: str  # of recinject
    settings: dict[str, Any]  # the plain arguments that the stage was called with
    inputs: dict[str, str]  # hashes of what it read: earlier stages by name, files by path
    facts: dict[str, Any] = field(default_factory=dict)  # what the report and the cards show

    @property
    def fingerprint(self) -> str:
        """Hash of everything the stage's output depends on."""
        return hash_value([self.stage, self.version, self.settings, self.inputs])

    def difference(self, other: RunManifest) -> str:
        """Say in words what sets another manifest of the same stage apart from this one."""
        if self.version != other.version:
            return f"version {other.version} became {self.version}"
        changed = _changed(other.settings, self.settings)
        changed += _changed(other.inputs, self.inputs, "input ")
        return ", ".join(changed[:3]) + (" and more" if len(changed) > 3 else "")

    def write(self, folder: Path) -> None:
        """Write the manifest into a stage's folder."""
        write_json(folder / MANIFEST_NAME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> RunManifest | None:
        """Read a stage's manifest, or return None when the stage was never finished."""
        try:
            return cls(**read_json(folder / MANIFEST_NAME))
        except (FileNotFoundError, NotADirectoryError):
            return None


def _changed(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    changes: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _changed(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key} changed")
    return changes
