"""Export: what other programs need of a run, as plain files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import recinject
from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.foundation.storage import MANIFEST_NAME, atomic_folder
from recinject.pipeline.recommend import recommender_of
from recinject.pipeline.run import Run
from recinject.recommenders.language_model import LanguageModel
from recinject.samples.builder import Builder
from recinject.samples.store import shards
from recinject.tasks.task import BPR

_AT_ONCE = 4000
_HANDOVER = Path(__file__).parent / "handover"
_README = """# {name}, exported by recinject {version}

| file | what it is |
|---|---|
| `model/` | the trained model, adapters merged, with its tokenizer: plain transformers loads it |
| `trie.npz` | the tree of all items' tokens: arrays `tokens`, `first_child`, `items`, `item_ids` |
| `allowed.py` | reads the tree with numpy alone and says which tokens may come next |
| `decode.py` | recommends by plain `generate`: `python decode.py "PROMPT"` |
| `items.jsonl` | each item's id, title and name in the model's words |
| `messages/` | the samples, a conversation a line: `{{"messages": [...]}}` |
| `preference.jsonl` | `{{"prompt", "chosen", "rejected"}}`, of the task bpr, where the run has it |

`AllowedTokens.process` is the callable that vLLM takes for a request, and `process_batch` the body
of a custom logit processor of SGLang; both serve causal models alone. A prompt is worded as those
in `messages/retrieval-test.jsonl`.
"""


def export(run: Run, folder: str | Path | None = None) -> Path:
    """Write model, tree of items, samples and an example into a folder.

    Args:
        run: finished, with a trained model.
        folder: new, or of an earlier export; ``export`` in the run's folder if not given.

    Returns:
        The folder.

    Raises:
        RecinjectError: there is no trained model, its adapter cannot be merged, or the folder is
            something else.
    """
    target = Path(folder or run.recipe.folder / "export")
    if target.exists() and any(target.iterdir()) and not (target / "trie.npz").is_file():
        raise RecinjectError(f"{target}: not empty", hint="choose a new folder for the export")
    model = recommender_of(run)
    assert isinstance(model, LanguageModel)
    if run.recipe.experts is not None:
        raise RecinjectError(
            f"{run.recipe.folder}: experts choose by sequence, and merge into no plain model",
            hint="model/ is the base, and model/adapters/ has an adapter a task",
        )
    with atomic_folder(target) as place:
        shutil.copytree(
            run.sealed("model"), place / "model", ignore=shutil.ignore_patterns(MANIFEST_NAME)
        )
        _write_items(run, model, place)
        _write_messages(run, place / "messages")
        _write_preference(run, place / "preference.jsonl")
        for name in ("allowed.py", "decode.py"):
            shutil.copy(_HANDOVER / name, place / name)
        text = _README.format(name=run.recipe.name, version=recinject.__version__)
        (place / "README.md").write_text(text, encoding="utf-8")
    say(f"{target}: the model, its tree of items, and samples for other trainers")
    return target


def _write_items(run: Run, model: LanguageModel, folder: Path) -> None:
    """Write the tree of the names that the retrieval task gives items, and a line an item."""
    catalog, (task, texts) = run.data.catalog, model.names
    trie = model.trie(task)
    arrays: dict[str, Any] = {"tokens": trie.tokens, "first_child": trie.first_child}
    arrays |= {"items": trie.items, "depth": trie.paths.shape[1]}
    np.savez(folder / "trie.npz", item_ids=np.array(catalog.item_ids, str), **arrays)
    rows = zip(catalog.item_ids, catalog.titles, texts, strict=True)
    _write_lines(
        folder / "items.jsonl",
        ({"item_id": item, "title": title, "name": name} for item, title, name in rows),
    )


def _write_messages(run: Run, folder: Path) -> None:
    folder.mkdir()
    for row in run.samples.rows:
        if row["samples"]:
            name = f"{row['task']}-{row['split']}.jsonl"
            _write_lines(folder / name, _messages(run, row["task"], row["split"]))


def _messages(run: Run, task: str, split: str) -> Iterator[dict[str, Any]]:
    for file in shards(run.samples.folder, task, split, ".parquet"):
        for batch in pq.ParquetFile(file).iter_batches(_AT_ONCE, columns=["prompt", "completion"]):
            for own in batch.to_pylist():
                yield {
                    "messages": [
                        {"role": "user", "content": own["prompt"]},
                        {"role": "assistant", "content": own["completion"]},
                    ]
                }


def _write_preference(run: Run, file: Path) -> None:
    """Write what was chosen and what was not, of the training samples of every task like BPR."""
    factory = run.samples.factory
    own = [b for b in factory.builders() if isinstance(b.task, BPR)]
    training = [each for each in own if each.split == Part.TRAIN.label and len(each)]
    if training:
        _write_lines(file, (row for each in training for row in _preferences(each)))


def _preferences(builder: Builder) -> Iterator[dict[str, Any]]:
    names = builder.wording.phrases["target"]
    for start in range(0, len(builder), _AT_ONCE):
        batch = builder.batch(np.arange(start, min(start + _AT_ONCE, len(builder))))
        pairs, targets = batch.contexts.slots["pair"], batch.contexts.targets
        assert targets is not None
        prompts = builder.table(batch)["prompt"].to_pylist()
        for row, prompt in enumerate(prompts):
            chosen = int(targets[row])
            other = next(int(item) for item in pairs[row] if item != chosen)
            yield {"prompt": prompt, "chosen": names[chosen], "rejected": names[other]}


def _write_lines(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
