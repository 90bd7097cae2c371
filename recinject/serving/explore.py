"""The page as one file: lists of stored users, to look at without a service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recinject.evaluation.evaluate import EvaluationSettings, StoredQueries
from recinject.foundation.progress import say
from recinject.foundation.randomness import derive_rng
from recinject.pipeline.run import Run
from recinject.recommenders.language_model import LanguageModel
from recinject.samples.builder import REWORDED
from recinject.serving.service import ListKey, Question, Shop, lists

PAGE = Path(__file__).parent / "page"
_PEOPLE, _DIGITS = 200, 5
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_page(
    run: Run,
    file: str | Path | None = None,
    *,
    baselines: Sequence[str] = (),
    people: int = _PEOPLE,
    k: int = 10,
) -> Path:
    """Write the service's page over users of the test as one HTML file.

    It shows the lists that the model and baselines give each user, in the order of the history and
    shuffled, in both wordings, with hits, prompt, tokens and reasons.

    Args:
        run: finished; the users are drawn by its seed.
        file: where the page goes; ``explore.html`` in the run's folder if not given.
        baselines: who is asked beside the model; those of ``popularity`` and ``ease`` that the
            recipe has, if none is given.
        people: how many users.
        k: how many items a list has.
    """
    usual = [name for name in ("ease", "popularity") if name in run.recipe.evaluation.baselines]
    shop = Shop.of_run(run, baselines or usual)
    content = _content(run, shop, people, k)
    target = Path(file or run.recipe.folder / "explore.html")
    target.write_text(_inlined(content), encoding="utf-8")
    say(f"{target}: {len(content['people'])} users, to be opened in a browser")
    return target


def _content(run: Run, shop: Shop, people: int, k: int) -> dict[str, Any]:
    tests = shop.tests
    drawn = derive_rng(run.recipe.seed, "explore").permutation(tests)[:people]
    known = [shop.person_numbers(int(number)) for number in np.sort(drawn)]
    mixed = [derive_rng(run.recipe.seed, "explore", int(n)).permutation(h) for n, h, _ in known]
    settings = EvaluationSettings(seen=run.recipe.evaluation.seen)
    seen = StoredQueries(shop.data, run.samples, settings).keeps_seen
    usual = [Question(np.asarray(history)) for _, history, _ in known]
    shuffled = [Question(np.asarray(history)) for history in mixed]
    found: list[dict[str, dict[str, Any]]] = [{} for _ in known]
    for name, recommender in shop.recommenders.items():
        ways = {"usual": (usual, False), "shuffled": (shuffled, False)}
        if isinstance(recommender, LanguageModel) and recommender.worded(REWORDED):
            ways["reworded"] = usual, True
        for way, (questions, reworded) in ways.items():
            key = ListKey(k, seen, explain=True, reworded=reworded)
            for own, answer in zip(found, lists(shop, recommender, key, questions), strict=True):
                own.setdefault(name, {})[way] = _compact(shop, answer)
    log = shop.data.split.interactions
    return {
        "run": shop.name,
        "recommenders": list(shop.recommenders),
        "items": list(zip(shop.data.catalog.item_ids, shop.data.catalog.titles, strict=True)),
        "people": [
            {
                "user": str(log.user_ids[user]),
                "liked": history.tolist(),
                "target": target,
                "lists": own,
            }
            for (user, history, target), own in zip(known, found, strict=True)
        ],
    }


def _compact(shop: Shop, answer: Mapping[str, Any]) -> dict[str, Any]:
    numbers = shop.numbers
    rows = [
        [
            numbers[row["item_id"]],
            round(row["score"], _DIGITS),
            [[own["text"], round(own["value"], _DIGITS)] for own in row["why"]],
        ]
        for row in answer["items"]
    ]
    return {"items": rows, **({"prompt": answer["prompt"]} if "prompt" in answer else {})}


def _inlined(content: Mapping[str, Any]) -> str:
    """Put style, script and content into the page."""
    page, style, script = (
        (PAGE / name).read_text("utf-8") for name in ("index.html", "page.css", "page.js")
    )
    # Within a script nothing ends it, whatever a title says.
    data = json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    data = data.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    page = page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{policy}')
    page = page.replace('<link rel="stylesheet" href="page.css">', f"<style>\n{style}</style>")
    held = f'<script type="application/json" id="stored">{data}</script>'
    own = '<script src="page.js" defer></script>'
    return page.replace(own, f"{held}\n<script>\n{script}</script>")
