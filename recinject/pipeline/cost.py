"""What a run will cost on this machine: its stages, minutes and disk, before it starts."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from recinject.foundation.errors import RecinjectError
from recinject.foundation.storage import RunManifest
from recinject.pipeline.recipe import RECIPE, Recipe
from recinject.pipeline.run import Run

STAGES = ("data", "identifiers", "samples", "model", "evaluation", "report")
# What a step does beside its forward and backward pass: the optimizer, the batch, the log.
_OVERHEAD = 1.15
_LARGEST_TIMED = 50_000_000  # parameters; a step of larger models takes too long to try
# Training samples that cost as much as one test query of a kind, by trial on the simulated shop.
_QUERY_SAMPLES = {"retrieval": 5.0, "ranking": 5.0, "rating": 1.0}
_TOKENS_AN_ITEM, _TOKENS_OF_WORDS, _COMPLETION = 3, 12, 4
_BYTES_AN_EVENT_READ, _EVENTS_A_SECOND, _SAMPLES_A_SECOND = 40, 200_000, 20_000
_BYTES_A_SAMPLE, _STARTING = 250, 10.0


@dataclass(frozen=True)
class Machine:
    """What there is to work with."""

    cores: int
    memory: int  # bytes
    gpus: int

    @classmethod
    def here(cls) -> Machine:
        """Look at this machine: the cores that this process may use, and the memory."""
        import torch

        may = getattr(os, "sched_getaffinity", None)
        cores = len(may(0)) if may else os.cpu_count() or 1
        names = getattr(os, "sysconf_names", {})
        known = {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else 8 << 30
        return cls(cores, memory, torch.cuda.device_count() if torch.cuda.is_available() else 0)

    def __str__(self) -> str:
        """Write it in words."""
        gpus = f", {self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else ", no GPU"
        cores = f"{self.cores} CPU core{'s' * (self.cores > 1)}"
        return f"{cores}, {self.memory / 2**30:.0f} GB of memory{gpus}"


def prompt_tokens(recipe: Recipe) -> int:
    """Guess the tokens of a usual prompt, from how many items a history shows."""
    shown = [int(getattr(task, "history_length", 10)) for task in recipe.tasks()]
    tokens = _TOKENS_OF_WORDS + _TOKENS_AN_ITEM * max(shown, default=10)
    return min(recipe.samples.max_prompt_tokens, tokens)


def step_seconds(recipe: Recipe) -> float | None:
    """Time one training step of a recipe's model here.

    None where it is taken by name, which may be slow to load, or is too large to try.
    """
    import torch

    from recinject.models.building import count_parameters
    from recinject.pipeline.model import base_model
    from recinject.pipeline.prepare import given_tokenizer
    from recinject.samples.tokenizer import train_tokenizer

    if recipe.model.config is None:
        return None
    tokenizer = given_tokenizer(recipe.model.tokenizer)
    model = base_model(recipe, tokenizer or train_tokenizer([], recipe.model.vocab_size))
    if count_parameters(model)[1] > _LARGEST_TIMED:
        return None
    cpu = not torch.cuda.is_available() or _arguments(recipe).get("use_cpu")
    with torch.random.fork_rng():
        if tokenizer is None:
            model.resize_token_embeddings(recipe.model.vocab_size, mean_resizing=False)
        return _OVERHEAD * _fastest_step(recipe, model.to("cpu" if cpu else "cuda").train())


def _fastest_step(recipe: Recipe, model: Any) -> float:
    import torch

    shape = _batch_size(recipe), prompt_tokens(recipe)
    words = torch.randint(4, model.get_input_embeddings().num_embeddings, shape).to(model.device)
    labels = words[:, :_COMPLETION] if model.config.is_encoder_decoder else words
    times = []
    for _ in range(4):
        wall, own = time.perf_counter(), time.process_time()
        model(input_ids=words, labels=labels.contiguous()).loss.backward()
        if words.is_cuda:
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - wall, time.process_time() - own
        # On a CPU the less of both: what other programs take now is not the run's.
        times.append(elapsed[0] if words.is_cuda else min(elapsed))
    return min(times)


def _arguments(recipe: Recipe) -> dict[str, Any]:
    return recipe.training.arguments if recipe.training else {}


def _batch_size(recipe: Recipe) -> int:
    return int(_arguments(recipe).get("per_device_train_batch_size", 8))


@dataclass(frozen=True)
class Sizes:
    """How large a log is, or about how large."""

    events: int
    users: int

    @classmethod
    def of(cls, run: Run) -> Sizes | None:
        """Return what is known of a run's log: from its stage, its simulator or its file."""
        data = run.recipe.data
        if (found := _finished(run, "data")) is not None:
            last = found.facts["cleaning"][-1]
            return cls(last["events"], last["users"])
        if run.log is not None:
            return cls(len(run.log.interactions), run.log.interactions.n_users)
        if data.path is None:
            shop = data.simulator
            return cls(shop.users * shop.events_per_user, shop.users)
        if isinstance(data.path, Path) and data.path.is_file():
            events = max(1, data.path.stat().st_size // _BYTES_AN_EVENT_READ)
            return cls(events, ceil(events / 10))
        return None


@dataclass(frozen=True)
class StageCost:
    """What a stage takes: None where nobody can tell before it begins."""

    stage: str
    seconds: float | None
    size: int | None  # bytes
    state: str = ""  # such as ``done``


def costs(recipe: Recipe, sizes: Sizes | None, step: float | None) -> list[StageCost]:
    """Estimate what each stage of a recipe takes.

    Args:
        recipe: of one run.
        sizes: of its log, None where they are not known.
        step: see :func:`step_seconds`.
    """
    events, users = (sizes.events, sizes.users) if sizes else (None, None)
    samples = None if events is None else recipe.samples.passes * _samples(recipe, events, users)
    found = [
        StageCost("data", events and 2 + events / _EVENTS_A_SECOND, events and 10 * events),
        StageCost("identifiers", events and 1.0, events and events // 10),
        StageCost(
            "samples",
            samples and 5 + samples / _SAMPLES_A_SECOND,
            samples and samples * _BYTES_A_SAMPLE,
        ),
    ]
    if recipe.training is not None:
        found.append(_training(recipe, samples, step))
    found.append(StageCost("evaluation", _evaluation(recipe, users, step), None))
    return [*found, StageCost("report", _STARTING, 1 << 20)]


def _samples(recipe: Recipe, events: int, users: int | None) -> int:
    most = [getattr(task, "max_per_user", None) for task in recipe.tasks()]
    counts = [
        events if a_user is None else min(events, a_user * (users or events)) for a_user in most
    ]
    limit = recipe.samples.limit
    return sum(min(count, limit) if limit else count for count in counts)


def _training(recipe: Recipe, samples: int | None, step: float | None) -> StageCost:
    own, batch = _arguments(recipe), _batch_size(recipe)
    together = int(own.get("gradient_accumulation_steps", 1))
    steps = own.get("max_steps", -1)
    if steps < 0 and samples is not None:
        steps = ceil(own.get("num_train_epochs", 3) * samples / batch / together)
    seconds = steps * step * together + _STARTING if step and steps > 0 else None
    return StageCost("model", seconds, None)


def _evaluation(recipe: Recipe, users: int | None, step: float | None) -> float | None:
    asked = min(filter(None, (users, recipe.evaluation.limit)), default=None)
    if asked is None or (recipe.has_model and step is None):
        return None
    a_sample = (step or 0.0) / _batch_size(recipe)
    section = recipe.evaluation
    times = 1 + section.reworded + section.shuffled
    queries = sum(_QUERY_SAMPLES.get(task.answer or "", 0.0) for task in recipe.tasks())
    return times * asked * queries * a_sample + 2 * _STARTING


def plan(run: Run) -> list[StageCost]:
    """Say what a run's stages are, which are done, and what the others will take."""
    stored = run.folder("") / RECIPE
    text = stored.read_text("utf-8", errors="replace") if stored.is_file() else ""
    same = text.startswith(run.resolved.text())
    there = {stage for stage in STAGES if _finished(run, stage)}
    is_cheap = same and {"model", "evaluation"} <= there
    step = None if is_cheap or not run.recipe.has_model else step_seconds(run.recipe)
    planned = []
    for cost in costs(run.recipe, Sizes.of(run), step):
        if cost.stage in there:
            state = "done" if same else "done before, made again where settings differ"
            cost = replace(cost, state=state, seconds=0.0 if same else cost.seconds)
        planned.append(cost)
    return planned


def _finished(run: Run, stage: str) -> RunManifest | None:
    try:
        return RunManifest.read(run.folder(stage))
    except RecinjectError:  # damage, for which the stage is made again
        return None


def shown(planned: Sequence[StageCost], folder: Path) -> Iterator[str]:
    """Write a plan in lines, with the disk that is free."""
    yield f"plan of {folder}:"
    for cost in planned:
        yield f"  {cost.stage:12} {cost.state or duration(cost.seconds)}"
    left = [cost for cost in planned if cost.state != "done"]
    known = [cost.seconds for cost in left if cost.seconds is not None]
    more = " and what is not known yet" if len(known) < len(left) else ""
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(nearest).free
    need = sum(cost.size or 0 for cost in left)
    yield (
        f"  in all: {duration(sum(known))}{more}; {need / 1e6:,.0f} MB of disk or more, "
        f"{free / 1e9:,.0f} GB are free"
    )


def duration(seconds: float | None) -> str:
    """Write about how long something takes.

    >>> duration(20.0), duration(400.0), duration(None)
    ('under a minute', 'about 7 minutes', 'not known yet')
    """
    if seconds is None:
        return "not known yet"
    if seconds < 60:
        return "under a minute"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"about {minutes} minute{'s' * (minutes > 1)}"
    return f"about {minutes / 60:.0f} hours"
