"""The command line: one verb for each thing that the package does, and no logic."""

# Modules that import torch, pandas or yaml are imported by the verbs that need them, and rich does
# not draw the help: it comes at once.
from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

import recinject
from recinject.foundation.boundary import explain
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import cell, echo, say

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Inject recommendation knowledge into language models, and compare them honestly with "
    "collaborative filtering.\n\n"
    "First steps: `recinject run quickstart`, then open `runs/quickstart/report/report.html`; "
    "`recinject new log.csv` writes a recipe for your own log.",
)
_INTERRUPTED = 130  # what typer makes of Ctrl-C
_FAULT, _FRAMES = 70, 3
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name or a .yaml file")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, or its name below runs/")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that replace the recipe's"),
]


NoWait = Annotated[
    bool, typer.Option("--no-wait", help="End with 3 where another process fills the run's folder")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the Python files that the run names, as you trust them")
]


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit")] = False,
) -> None:
    if version:
        echo(f"recinject {recinject.__version__}")
        raise typer.Exit


def _run(recipe: str, overrides: list[str] | None) -> Any:
    from recinject.pipeline.recipe import load_recipe
    from recinject.pipeline.run import Run

    return Run(load_recipe(recipe, overrides or []))


def _do(module: str, verb: str, run: Any, no_wait: bool = False, tells_plan: bool = False) -> None:
    from recinject.pipeline.lock import only_writer
    from recinject.pipeline.run import is_first_process

    first = is_first_process()  # of several that are launched together, all are there
    if module != "prepare":
        from recinject.pipeline.check import check_settings

        check_settings(run.recipe)
    work = getattr(import_module(f"recinject.pipeline.{module}"), verb)
    if tells_plan and first:
        from recinject.pipeline.cost import plan, shown

        for line in shown(plan(run), run.recipe.folder):
            say(line)
    with only_writer(run, wait=not no_wait):
        work(run)


@app.command()
def run(recipe: RecipeName, overrides: Overrides = None, no_wait: NoWait = False) -> None:
    """Run every stage, from the log to the report.

    Finished stages are skipped.

    Example: `recinject run quickstart name=short training.max_steps=100`
    """
    started = _run(recipe, overrides)
    last = ("report", "report") if started.recipe.sweep is None else ("sweep", "make_sweep")
    _do(*last, started, no_wait, tells_plan=started.recipe.sweep is None)


@app.command()
def new(
    log: Annotated[str, typer.Argument(metavar="LOG", help="A log's file or folder")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Of the recipe and its run")] = None,
) -> None:
    """Write a commented recipe for a log.

    The log is looked at, and sizes fit it and this machine.

    Example: `recinject new log.csv`, then `recinject run log.yaml`
    """
    from recinject.pipeline.new import new_recipe
    from recinject.pipeline.recipe import lay_over

    given: dict[str, Any] = {}
    lay_over(given, overrides or [])
    if strange := given.keys() - {"data"}:
        hint = "settings of reading go here, such as data.items=items.csv; the others into the file"
        raise RecinjectError(f"new: {min(strange)} is not of the section data", hint=hint)
    made = new_recipe(log, name=name, **given.get("data", {}))
    typer.echo(made)
    say(f"{made.file}: read it, then recinject run {made.file}")


@app.command()
def compare(
    first: RunName,
    second: RunName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .csv file for all metrics")
    ] = None,
    trust: Trust = False,
) -> None:
    """Set two finished runs side by side, with paired tests.

    Settings that differ are listed, too.

    Example: `recinject compare quickstart longer`
    """
    from rich.console import Console

    from recinject.pipeline.compare import compare as compare_runs
    from recinject.pipeline.compare import tables
    from recinject.pipeline.run import Run

    found = compare_runs(*(Run.open(name, trust_code=trust) for name in (first, second)))
    for table in tables(found):
        Console().print(table)
    if output is not None:
        found.metrics.to_csv(output, index=False)


@app.command()
def sweep(
    recipe: RecipeName,
    overrides: Overrides = None,
    vary: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE,VALUE", help="A setting, once for each")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="SEED,SEED", help="Run each setting with all of them")
    ] = None,
    no_wait: NoWait = False,
) -> None:
    """Run a recipe with other settings and seeds, in one table.

    Example: `recinject sweep quickstart --vary training.learning_rate=1e-3,3e-3 --seeds 1,2,3`
    """
    pairs = [each.partition("=") for each in vary or []]
    varied = ", ".join(f"{key}: [{values}]" for key, _, values in pairs)
    settings = [f"sweep.vary={{{varied}}}"] if vary else []
    settings += [f"sweep.seeds=[{seeds}]"] if seeds else []
    _do("sweep", "make_sweep", _run(recipe, [*(overrides or []), *settings]), no_wait)


@app.command()
def prepare(recipe: RecipeName, overrides: Overrides = None, no_wait: NoWait = False) -> None:
    """Read, clean and split the log, and name its items.

    Example: `recinject prepare quickstart data.path=log.csv data.columns.item_id=sku`
    """
    _do("prepare", "prepare", _run(recipe, overrides), no_wait)


@app.command()
def build(
    recipe: RecipeName,
    overrides: Overrides = None,
    no_wait: NoWait = False,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Build this part of the shards alone")
    ] = None,
) -> None:
    """Write the samples of every task to disk.

    They are Parquet and, if asked, JSON lines.

    Example: `recinject build quickstart samples.jsonl=true samples.workers=2`

    On several machines: `recinject build quickstart --part 1/3` on the first, and so on; then
    `recinject gather quickstart`.
    """
    started = _run(recipe, overrides)
    if part is None:
        _do("prepare", "build", started, no_wait)
        return
    from recinject.pipeline.check import check_settings
    from recinject.pipeline.parts import build_part

    check_settings(started.recipe)
    build_part(started, part)


@app.command()
def gather(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Put together what `build --part` built.

    The result is the same as if one machine had built it.

    Example: `recinject gather quickstart`
    """
    from recinject.pipeline.parts import gather as join

    join(_run(recipe, overrides))


@app.command()
def train(recipe: RecipeName, overrides: Overrides = None, no_wait: NoWait = False) -> None:
    """Fine-tune the model on the mixture of tasks.

    It goes on where it was interrupted.

    Example: `accelerate launch -m recinject train quickstart`
    """
    _do("train", "train", _run(recipe, overrides), no_wait)


@app.command()
def evaluate(recipe: RecipeName, overrides: Overrides = None, no_wait: NoWait = False) -> None:
    """Evaluate the model and the baselines on the same queries.

    Example: `recinject evaluate quickstart evaluation.limit=200`
    """
    _do("evaluate", "evaluate", _run(recipe, overrides), no_wait)


@app.command()
def report(
    recipe: RecipeName,
    overrides: Overrides = None,
    explore: Annotated[
        bool, typer.Option("--explore", help="Write explore.html, too: lists of 200 test users")
    ] = False,
    no_wait: NoWait = False,
) -> None:
    """Write the report.

    Stages that it still needs are run first: the same as `run`.

    Example: `recinject report quickstart --explore`
    """
    run(recipe, overrides, no_wait)
    if explore:
        from recinject.serving.explore import write_page

        write_page(_run(recipe, overrides))


@app.command()
def recommend(
    name: RunName,
    liked: Annotated[
        list[str] | None, typer.Option(help="A title or an item id; once an item, oldest first")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Recommend to every user")] = False,
    users: Annotated[Path | None, typer.Option(help="A file with a user's id a line")] = None,
    questions: Annotated[
        Path | None, typer.Option("--input", help="JSON lines in a file, or - for standard input")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items to recommend")] = 10,
    recommender: Annotated[
        str | None, typer.Option(help="A baseline to ask in place of the model, such as ease")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A .parquet or .jsonl file, or its URL")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line")] = False,
    seen: Annotated[
        bool, typer.Option("--include-seen/--exclude-seen", help="List items of the history, too")
    ] = False,
    only: Annotated[Path | None, typer.Option(help="A file with an item to list a line")] = None,
    where: Annotated[
        str | None, typer.Option(help="List items of which this holds: \"category = 'Books'\"")
    ] = None,
    max_per: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=N", help="At most N items alike in a column")
    ] = None,
    new: Annotated[
        float, typer.Option(min=0, max=1, help="A fraction for items without training events")
    ] = 0.0,
    explain: Annotated[bool, typer.Option("--explain", help="Say why each item is listed")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Prompts that the model searches together")
    ] = None,
    exact: Annotated[
        bool | None,
        typer.Option("--exact/--fast", help="Decode in double precision; with -o, the default"),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="With -o: local, or ray for a cluster; else the recipe's")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="With -o: processes that ask")] = None,
    trust: Trust = False,
) -> None:
    """Recommend items with a run's model, or with a baseline.

    Example: `recinject recommend quickstart --liked "Stillframe Deluxe Padded Tripod" -k 5`

    To everybody: `recinject recommend quickstart --all -o lists.parquet`; it goes on where it was
    interrupted. To others: `--users ids.txt`, or `--input people.jsonl` with lines such as
    `{"liked": ["P00009", "P00219"]}`.
    """
    from recinject.pipeline import recommend as room
    from recinject.pipeline.run import Run

    filters: dict[str, Any] = {
        "seen": seen,
        "only": room.read_lines(only) if only else None,
        "where": where,
    }
    filters |= {"new": new, "max_per": dict(_pair(each) for each in max_per or ())}
    asked = {key: value for key, value in filters.items() if value} | {"explain": explain}
    run = Run.open(name, trust_code=trust)
    people, wrong = room.read_people(
        run, everybody=everybody, users=users, questions=questions, liked=liked
    )
    exact = output is not None if exact is None else exact
    model = room.recommender_of(run, recommender, batch_size=batch_size, exact=exact)
    if output is not None:
        own: dict[str, Any] = {"fingerprint": room.fingerprint_of(run, exact=exact)}
        own |= {"engine": room.engine_of(run, engine, workers)}
        file = room.recommend_all(model, people, output, k, **own, **asked)
        say(f"{file}: the lists of {len(people):,} people")
    else:
        for row, items in zip(people, room.recommend(model, people, k, **asked), strict=True):
            if as_json or not liked:
                echo(json.dumps({**row, "recommended": items}, ensure_ascii=False))
            else:
                _print_list(items)
    for line in wrong:
        say(f"error: {line}")
    raise typer.Exit(bool(wrong))


@app.command()
def serve(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs' folders, or their names")
    ],
    recommender: Annotated[
        list[str] | None, typer.Option(help="A baseline to serve beside each run's model")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 opens it to the network")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="RECINJECT_TOKEN", help="Requests need this bearer token"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests answered together, at most")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; 429 beyond")] = 256,
    seconds: Annotated[float, typer.Option(help="How long a request may take")] = 30.0,
    log_histories: Annotated[
        bool, typer.Option("--log-histories", help="Log whose history was asked about")
    ] = False,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Answer an assistant on standard input, not HTTP")
    ] = False,
    trust: Trust = False,
) -> None:
    """Answer over HTTP, with a page to look at lists.

    Lists, slates and ratings of finished runs can be asked for.

    Example: `recinject serve quickstart --recommender ease`, then open http://127.0.0.1:8000
    """
    from recinject.serving.service import open_service

    room = _extra(f"recinject.serving.{'mcp' if mcp else 'app'}", "serve")
    limits = {"batch": batch, "queue": queue, "seconds": seconds}
    service = open_service(names, recommender or (), limits, trust_code=trust)
    if mcp:
        room.talk(service)
        return
    room.serve(service, host=host, port=port, token=token, log_histories=log_histories)


def _extra(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise RecinjectError(
            f"{error.name} is not installed", hint=f"pip install 'recinject[{extra}]'"
        ) from error


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _print_list(items: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    explained = ["why"] if any("why" in item for item in items) else []
    table = Table("", "title", "item id", "score", *explained)
    # Ids and titles keep what the log held, and a terminal would obey some of it.
    for item in items:
        texts = [cell(item["title"]), cell(item["item_id"]), f"{item['score']:.2f}"]
        why = [f"{cell(own['text'])} {own['value']:.2g}" for own in item.get("why", ())]
        table.add_row(str(item["rank"]), *texts, *(["  ".join(why)] if explained else []))
    Console().print(table)


@app.command()
def simulate(
    name: RunName,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as rounds=5 users=200")
    ] = None,
    trust: Trust = False,
) -> None:
    """Let a run's lists become the next log, for some rounds.

    The lists are those of its model and of its baselines.

    Example: `recinject simulate quickstart rounds=5`
    """
    from recinject.pipeline.run import Run
    from recinject.pipeline.simulate import simulate as play

    play(Run.open(name, trust_code=trust), settings or [])


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/mine")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub")],
    public: Annotated[bool, typer.Option("--public", help="Make the repository public")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload the files listed")] = False,
) -> None:
    """Upload a trained model to a hub.

    Without --yes the files that would be uploaded are listed, and nothing else happens.

    Example: `recinject push runs/quickstart me/quickstart-t5 --yes`
    """
    from recinject.pipeline.report import push as upload

    upload(run, repo, public=public, yes=yes)


@app.command()
def export(
    name: RunName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new folder; export/ in the run's")
    ] = None,
    trust: Trust = False,
) -> None:
    """Write a run as plain files for other programs.

    These are the model, the tree of items and the samples.

    Example: `recinject export quickstart -o handed_over`
    """
    from recinject.pipeline.export import export as write
    from recinject.pipeline.run import Run

    write(Run.open(name, trust_code=trust), output)


@app.command()
def preview(
    recipe: RecipeName,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option(help="Only this task")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Samples of each split")] = 1,
) -> None:
    """Print rendered samples with their token counts.

    Example: `recinject preview quickstart --task retrieval -n 3`
    """
    from recinject.pipeline.check import preview_samples

    for sample, tokens in preview_samples(_run(recipe, overrides), task, count):
        echo(f"\n{sample.sample_id}  {sample.template}")
        echo(f"  prompt ({tokens[0]} tokens): {sample.prompt}")
        echo(f"  completion ({tokens[1]} tokens): {sample.completion}")


@app.command()
def identifiers(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Print the items' identifiers as a tree with titles.

    Measures of their quality follow.

    Example: `recinject identifiers quickstart identifiers.kind=semantic`
    """
    from rich.console import Console

    from recinject.pipeline.check import view_identifiers
    from recinject.pipeline.prepare import prepare as stage

    stage(started := _run(recipe, overrides))
    Console().print(view_identifiers(started))


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|LOG", help="Or a log's file or folder")],
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One finding of a log a line")] = False,
) -> None:
    """Check a log, or all that a recipe says, and write nothing.

    Of a recipe every setting is checked, the log read, and every template rendered.

    Of a log alone, it prints what was found in it, and ends with 1 if that is an error.

    Example: `recinject check my_recipe.yaml`, or `recinject check log.csv data.items=items.csv`
    """
    if _is_log(recipe):
        from recinject.data.readers import look

        findings = look(recipe, **(_reading(overrides) if overrides else {}))
        for found in findings:
            own = asdict(found)
            shown = [f"{own['level']}, {own['name']}: {own['fact']}"]
            shown += [f"  e.g. {', '.join(found.examples)}"] if found.examples else []
            shown += [f"  fix: {found.fix}"] if found.fix else []
            echo(json.dumps(own, ensure_ascii=False) if as_json else "\n".join(shown))
        raise typer.Exit(any(found.level == "error" for found in findings))

    from recinject.pipeline.check import check_run

    for line in check_run(_run(recipe, overrides)):
        say(line)


def _is_log(name: str) -> bool:
    """Whether a name is of a log, and of no recipe: a file or folder, or by its ending."""
    from recinject.foundation.storage import shipped_folder

    if (
        Path(name).suffix in (".yaml", ".yml")
        or (shipped_folder("recipes") / f"{name}.yaml").exists()
    ):
        return False
    return "://" in name or Path(name).exists() or bool(Path(name).suffix)


def _reading(overrides: list[str]) -> dict[str, Any]:
    from recinject.pipeline.prepare import reading_settings
    from recinject.pipeline.recipe import load_recipe

    return reading_settings(load_recipe("quickstart", overrides).data)


@app.command()
def verify(name: RunName) -> None:
    """Compare every file of a run with what was written.

    Files are read whole. The exit status is 1 where one differs.

    How long that takes is about what sealing the files cost the run.

    Example: `recinject verify quickstart`
    """
    from recinject.pipeline.run import find_run, find_whole_damage, seconds_of

    folder, began = find_run(name), time.perf_counter()
    damage = list(find_whole_damage(folder))
    spent, whole = time.perf_counter() - began, seconds_of(folder)
    for line in damage or ["every file is as it was written"]:
        say(line)
    say(f"read in {spent:.2f} s, {spent / whole:.1%} of the {whole:,.1f} s that they took to make")
    raise typer.Exit(bool(damage))


@app.command()
def ls() -> None:
    """List the shipped recipes, each with its first line.

    Example: `recinject ls`
    """
    from recinject.pipeline.recipe import shipped_recipes

    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        echo(f"{name:24} {first}")


@app.command()
def show(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Print a recipe with every default written out.

    Example: `recinject show quickstart training.max_steps=10`
    """
    echo(_run(recipe, overrides).recipe.text().rstrip("\n"))


@app.command()
def cp(
    name: Annotated[str, typer.Argument(help="A recipe, or a folder of templates: prompts")],
    destination: Annotated[Path, typer.Argument(help="The file or the folder to write")],
) -> None:
    """Copy a recipe or the shipped templates, to change them.

    Example: `recinject cp quickstart my_recipe.yaml`, or `recinject cp prompts words`
    """
    from recinject.pipeline.recipe import copy_shipped

    copy = copy_shipped(name, destination)
    use = f"recinject run {copy}" if copy.is_file() else f"use it with samples.prompts={copy}"
    say(f"{copy}: change it, then {use}")


@app.command()
def doctor() -> None:
    """Print what this machine has, and what is missing.

    Versions, devices, precision and optional packages are listed.

    Example: `recinject doctor`
    """
    from recinject.doctor import examine

    for line in examine():
        echo(line)


def main() -> None:
    """Run the command line.

    What the user can mend ends with one clear error and exit code 2, or 1 where it is no mistake of
    the command; what nobody foresaw with a short report and 70.
    """
    # What libraries tell each other about their next versions; a user cannot mend it.
    warnings.simplefilter("ignore", FutureWarning)
    try:
        app()
    except RecinjectError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            say("stopped; the same command goes on from what is done")
        raise
    except Exception as error:
        if (known := explain(error)) is not None:
            say(f"error: {known}")
            sys.exit(known.exit_code)
        _report_fault(error)
        sys.exit(_FAULT)


def _report_fault(error: Exception) -> None:
    """Print what belongs in a report of a fault, and where the whole traceback was written."""
    say(f"error: recinject {recinject.__version__} failed: {type(error).__name__}: {error}")
    say(f"  command: {shlex.join(['recinject', *sys.argv[1:]])}")
    for frame in traceback.extract_tb(error.__traceback__)[-_FRAMES:]:
        say(f"  {frame.filename}, line {frame.lineno}, in {frame.name}")
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="recinject-", suffix=".txt", delete=False
        ) as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return
    say(f"  fix: 'recinject verify RUN' finds damaged files; else report this with {file.name}")
