"""What a log looks like to a careful eye: findings with level, fact, examples and fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found in a log.

    Examples:
        >>> print(Finding("warning", "one-event-users", "Users with one event: 3.", ("'u7'",)))
        Users with one event: 3. For example 'u7'.
    """

    level: Level
    name: str  # of the kind, such as ``missing-looking-ids``
    fact: str  # a sentence
    examples: tuple[str, ...] = ()  # values as they stand in the files
    fix: str = ""  # what to do about it, such as a setting to write

    def __str__(self) -> str:
        """Write the fact, its examples and the fix as one text."""
        shown = f" For example {', '.join(self.examples)}." if self.examples else ""
        return f"{self.fact}{shown}{f' Fix: {self.fix}.' if self.fix else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON can hold it."""
        return asdict(self) | {"examples": list(self.examples)}

    @classmethod
    def of_dict(cls, stored: Mapping[str, Any]) -> Finding:
        """Make a finding of what :meth:`to_dict` returned."""
        return cls(**{**stored, "examples": tuple(stored["examples"])})


def note(name: str, fact: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding("note", name, fact)
