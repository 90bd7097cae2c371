"""Fusion: several recommenders answer as one, by weights that are chosen on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from recinject.data.schema import Integers, Interactions
from recinject.evaluation.audit import Finding
from recinject.evaluation.selection import Blend, Validation
from recinject.foundation.errors import RecinjectError, pick
from recinject.identifiers.data import Data
from recinject.recommenders.protocol import Prediction, Queries, Recommender, make_recommender

_RATING = "rating"


class Fusion(Recommender):
    """The recommender ``blend``: a weighted sum of what its members answer.

    Members are recommenders beside it, such as ``language_model``, by their names there, and others
    by name, or by name with settings, which are fitted for it. See
    :class:`~recinject.evaluation.selection.Blend` for how answers are weighed: with weights for
    each way of answering. It answers what all members do, where there are validation queries.

    Args:
        members: two or more.

    Examples:
        >>> make_recommender({"blend": ["language_model", "ease"]}).name
        'language_model_with_ease'
    """

    name: ClassVar[str] = "blend"
    tasks: ClassVar[frozenset[str]] = frozenset({"retrieval", "ranking", _RATING})

    def __init__(self, *, members: list[str | dict[str, dict[str, Any] | None]]) -> None:
        self.asked = list(members)
        if len(self.asked) < 2:
            raise RecinjectError(
                f"blend: {len(self.asked)} member", hint="name two, as in [language_model, ease]"
            )
        names = [each if isinstance(each, str) else next(iter(each)) for each in self.asked]
        self.name = "_with_".join(names)  # type: ignore[misc]  # its own, beside the class's
        self.members: list[Recommender] = []
        self._blends: dict[str, Blend] = {}
        self._length = 1

    def fit(self, training: Interactions, seed: int) -> None:
        """Refuse: weights are chosen beside the members, see :meth:`join`."""
        raise RecinjectError(
            f"{self.name}: its weights are chosen on validation samples",
            hint="evaluate it: recinject.evaluate([model, {'blend': [...]}], data, samples)",
        )

    def join(
        self,
        known: Mapping[str, Recommender],
        fit: Callable[[Recommender], Recommender],
        validations: Mapping[str, Validation | None],
        data: Data,
    ) -> list[Finding]:
        """Take members, and choose their weights.

        Args:
            known: fitted recommenders by name, which are asked as they are.
            fit: what fits the other members.
            validations: the validation queries by way of answering, see :attr:`Queries.kind`.
            data: what all of them know.

        Returns:
            What the weights are.
        """
        self.members = [
            known[each] if isinstance(each, str) and each in known else fit(_made(each, known))
            for each in self.asked
        ]
        shared = frozenset.intersection(*(each.tasks for each in self.members))
        chosen = {kind: own for kind, own in validations.items() if kind in shared and own}
        self.tasks = frozenset(chosen)  # type: ignore[misc]
        self.reads_prompts = any(e.reads_prompts for e in self.members)  # type: ignore[misc]
        self.knows_strangers = all(e.knows_strangers for e in self.members)  # type: ignore[misc]
        self.data = data  # type: ignore[misc]
        found = list[Finding]()
        for kind, validation in chosen.items():
            assert validation is not None
            self._length = max(self._length, validation.length)
            self._blends[kind] = Blend.chosen(self.name, self.members, validation)
            found.append(self._blends[kind].describe(validation))
        return found

    def predict(self, queries: Queries, k: int) -> Prediction:
        """Ask every member, and weigh the answers."""
        length = max(k, self._length)
        answers = [each.predict(queries, length) for each in self.members]
        found = self._blends[queries.kind].predict(answers, queries)
        if found.items is None or found.scores is None:
            return found
        return replace(found, items=found.items[:, :k], scores=found.scores[:, :k])

    def _ask(self, histories: Sequence[Integers]) -> tuple[str, list[str]]:
        asked = [each._ask(histories) for each in self.members if each.reads_prompts]
        return asked[0] if asked else super()._ask(histories)


def _made(asked: str | dict[str, dict[str, Any] | None], known: Mapping[str, Any]) -> Recommender:
    if asked == "language_model":
        pick("language_model", known, "blend: there is no recommender")
    return make_recommender(asked)
