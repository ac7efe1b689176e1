"""The command line: parse, call, print. Every heavy import is inside the command that needs it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from metaeval import import_commands
from metaeval.errors import MetaevalError, MissingInputError, UsageError
from metaeval.listing import print_table
from metaeval.places import load, locate, opened, refresh

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Statistical meta-analysis of classifiers' robustness: a study file in, one cube and one page out.",
)
app.add_typer(import_commands.app, name="import")

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (TOML).")]
Place = Annotated[
    Path | None,
    typer.Argument(
        metavar="[STUDY | CUBE]", help="A study file, a cube or its folder; default: the newest cube."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", envvar="METAEVAL_OUTPUT", help="Folder for the cube and the report."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N samples of the study.")]
Only = Annotated[
    str | None,
    typer.Option(
        help="Run only the tasks that match this pattern of model/norm/attack, model/shift/name or "
        "model/measures/name, as in 'cnn*/linf/*'."
    ),
]
Device = Annotated[str, typer.Option(envvar="METAEVAL_DEVICE", help="auto, cpu, cuda or cuda:N.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, envvar="METAEVAL_BATCH_SIZE", help="Samples at a time; default: found automatically."
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Use only what is there; never the network (as METAEVAL_OFFLINE=1)."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of failed tasks.")]


class Listing(StrEnum):
    """What `metaeval list` can list."""

    attacks = "attacks"
    data = "data"
    figures = "figures"
    measures = "measures"
    models = "models"
    shifts = "shifts"
    studies = "studies"


def version_and_exit(value: bool) -> None:
    """Print the version."""
    if value:
        from importlib.metadata import version

        print(version("metaeval"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=version_and_exit, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that belong to no command."""


@app.command()
def run(
    study: StudyPath,
    output: Output = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    only: Only = None,
    limit: Limit = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Evaluate a study into its cube, continuing where an earlier run stopped, and write the report."""
    stay_offline(offline)
    try:
        from metaeval.report.page import write_report
        from metaeval.runner.run import run_study

        summary = run_study(
            load(study),
            output=output,
            device=device,
            batch_size=batch_size,
            only=only,
            limit=limit,
            quiet=quiet or as_json,
            verbose=verbose,
        )
        page = write_report(summary.directory, summary.directory / "report.html")
    except KeyboardInterrupt:
        print(f"\ninterrupted; finished tasks are kept. To continue: {resume_command()}", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps({**summary.as_dict(), "report": str(page)}, indent=2))
    elif not quiet:
        print(summary.sentence())
        print(f"cube    {summary.directory / 'cube.zarr'}")
        print(f"report  {page}")
    for failure in summary.failures:
        print(f"failed: {failure}", file=sys.stderr)
    if summary.failures:
        raise typer.Exit(3)


@app.command()
def report(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[STUDY | CUBE]...", help="Study files, cubes or their folders; default: the newest cube."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page to write; default: report.html beside the cube."),
    ] = None,
) -> None:
    """Turn a cube into one static page."""
    from metaeval.report.page import write_report

    named: list[Path | None] = [*places] if places else [None]
    folders = [(place, locate(place)) for place in named]
    if output and len(folders) > 1:
        raise UsageError("--output takes one page, so name one study or cube")
    for place, folder in folders:
        refresh(folder)
        print(write_report(opened(place, folder), output or folder / "report.html"))


@app.command()
def check(study: StudyPath, as_json: AsJson = False) -> None:
    """Check a study file, its data and its models, without computing anything."""
    from metaeval.errors import StudyError
    from metaeval.runner.needed import missing
    from metaeval.runner.prepare import prepare

    try:
        loaded = load(study)
        prepared = prepare(loaded)
        plan = prepared.plan
        if absent := missing(loaded):
            raise StudyError(absent, missing=True)
    except StudyError as error:
        if as_json:
            print(json.dumps([vars(problem) for problem in error.problems], indent=2))
            raise typer.Exit(error.exit_code) from None
        raise
    if as_json:
        print("[]")
    else:
        shifts = f", {len(prepared.shifts)} shifts" if prepared.shifts else ""
        measures = f", {len(plan.measures)} measures" if plan.measures else ""
        print(
            f"{study}: no problem found "
            f"({len(plan.models)} models, {len(plan.attacks)} attacks{shifts}{measures}, "
            f"{plan.samples} samples)"
        )


@app.command()
def plan(
    study: StudyPath,
    output: Output = None,
    device: Device = "auto",
    only: Only = None,
    limit: Limit = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Show what will run, what is done already, what it will cost; exit code 4 if files are missing."""
    stay_offline(offline)
    from metaeval.runner.devices import choose_device
    from metaeval.runner.forecast import forecast
    from metaeval.runner.prepare import prepare

    prepared = prepare(load(study), only=only, limit=limit)
    expected = forecast(prepared, directory=output or prepared.study.output, device=choose_device(device))
    print(json.dumps(expected.as_dict(), indent=2) if as_json else expected.text())
    if expected.missing:
        raise MissingInputError(
            f"{len(expected.missing)} files are missing; `metaeval fetch` brings them or says how"
        )


@app.command()
def fetch(study: StudyPath, offline: Offline = False, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Bring and verify all that a study needs from elsewhere; exit code 4 if something is missing then."""
    stay_offline(offline)
    from metaeval.runner import fetch as fetching

    results = fetching.fetch(load(study), quiet=quiet)
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    elif not quiet:
        print_table([result.row() for result in results])
    if any(result.state == fetching.MISSING for result in results):
        raise MissingInputError(f"{study}: {fetching.count(results)}")
    if not as_json and not quiet:
        print(f"{study}: {fetching.count(results)}; everything is there and fits")


@app.command()
def status(place: Place = None, as_json: AsJson = False) -> None:
    """Show, for every model and attack of a cube, what is done, pending and failed."""
    from metaeval.cube.importing import contents, provenance_of
    from metaeval.cube.status import status as read_status

    folder = locate(place)
    # Nothing of an imported cube can be pending, so what it holds is shown.
    imported = provenance_of(folder) is not None
    rows = contents(folder) if imported else [asdict(row) for row in read_status(folder)]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)


@app.command()
def verify(
    place: Place = None,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Check every kept adversarial again: box, norm and label.")
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Check every finished task of a cube against its record; exit code 3 if anything differs."""
    from metaeval.cube.importing import provenance_of
    from metaeval.cube.locks import Lock
    from metaeval.cube.verify import verify as find_differences
    from metaeval.runner.recount import recount

    folder = locate(place)
    if evidence and provenance_of(folder) is not None:
        raise UsageError(f"{folder} holds imported results, which keep no adversarials to check again")
    with Lock(folder, "layout", exclusive=False, wait=60):
        findings = [*find_differences(folder), *recount(folder)]
    columns = []
    if evidence:
        from metaeval.runner.records import read_lock
        from metaeval.runner.replay import replay

        study = load(place) if place and place.suffix == ".toml" else read_lock(folder)
        columns = replay(study, folder, device=device)
    if as_json:
        both = {"findings": [vars(finding) for finding in findings], "evidence": [asdict(c) for c in columns]}
        print(json.dumps(both, indent=2))
    else:
        for finding in findings:
            print(finding)
        if columns:
            print_table([column.row() for column in columns])
        for line in (line for column in columns for line in column.lines()):
            print(line)
    if findings or not all(column.good for column in columns):
        raise typer.Exit(3)
    if not as_json:
        print(f"{folder}: every record agrees with the cube" + ", every adversarial is confirmed" * evidence)


@app.command()
def refine(
    place: Place = None,
    compute: Annotated[
        bool, typer.Option("--run", help="Attack the proposed epsilons, one after the other.")
    ] = False,
    budget: Annotated[int, typer.Option(min=1, help="With --run: epsilons at most.")] = 10,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Leave cells of this width alone; default: a hundredth of the largest epsilon."),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Propose the epsilon that tells most about where robustness curves cross, and attack there."""
    from metaeval import refining

    if tolerance is not None and not tolerance > 0:
        raise UsageError(f"--tolerance {tolerance:g} is not above 0")
    folder = locate(place)
    refresh(folder)
    steps: list[refining.Step] = []
    if compute:
        from metaeval.report.page import write_report

        study, steps, advice = refining.refine(
            folder,
            budget=budget,
            tolerance=tolerance,
            note=lambda text: None if quiet else print(text, file=sys.stderr),
            device=device,
            batch_size=batch_size,
            quiet=quiet or as_json,
        )
        write_report(folder, folder / "report.html")
    else:
        advice = refining.advise(opened(place, folder), tolerance)
    if as_json:
        computed = [asdict(step) for step in steps]
        print(json.dumps({"computed": computed, **refining.as_dict(advice)}, indent=2))
        return
    if rows := refining.table(advice):
        print_table(rows)
    if steps:
        print(f"{len(steps)} epsilon{'s' * (len(steps) > 1)} computed; to keep them in the study file:")
        for norm in dict.fromkeys(step.norm for step in steps):
            threat = next(threat for threat in study.threat_models if threat.norm == norm)
            labels = ", ".join(json.dumps(epsilon.label) for epsilon in threat.epsilons)
            print(f"  {norm}: epsilons = [{labels}]")
    print(advice.sentence())


@app.command("list")
def list_command(what: Listing, as_json: AsJson = False) -> None:
    """List what studies can name: attacks, data, figures, measures, models, shifts, ./studies."""
    from metaeval.listing import LISTINGS, print_rows

    rows = LISTINGS[what.value]()
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_rows(rows)


@app.command()
def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    from metaeval.study.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


def stay_offline(offline: bool) -> None:
    """Forbid the network to this process and those that it starts, if asked to."""
    if offline:
        os.environ["METAEVAL_OFFLINE"] = "1"


def resume_command() -> str:
    """Return the command line that was typed, which is also the one that continues."""
    import shlex

    return shlex.join(["metaeval", *sys.argv[1:]])


def main() -> None:
    """Run the command line and exit with the code that `metaeval.errors` gives the outcome."""
    # Read by the OpenMP of torch: threads that spin while they wait make a busy machine many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
    except MetaevalError as error:
        print(f"{error}" if isinstance(error, UsageError) else f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors", "pyautoattack", "torchattacks"):
            raise
        print(
            f"error: {error.name} is missing; this command needs: pip install 'metaeval[run]'",
            file=sys.stderr,
        )
        sys.exit(UsageError.exit_code)
