"""`metaeval import`: published results in, a cube out. Every heavy import is inside the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from metaeval.sources.published.content import Published

app = typer.Typer(
    no_args_is_help=True,
    help="Turn published results into cubes; `metaeval report` shows them like any other.",
)

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="The files to read.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", envvar="METAEVAL_OUTPUT", help="Folder for the cube; default: in reports/."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command()
def robustbench(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="RobustBench's model_info: folder, zip, JSON files."),
    ],
    dataset: Annotated[str | None, typer.Option(help="Only this data set, such as cifar10.")] = None,
    threat_model: Annotated[
        str | None, typer.Option(help="Only this threat model: Linf, L2, L1 or corruptions.")
    ] = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Import RobustBench's published results, one cube for each data set and threat model.

    Several cubes go to folders that begin with the name of --output (reports/robustbench-cifar10-linf ...).
    """
    from metaeval.sources.published.robustbench import read

    results = read(paths, dataset, threat_model)
    stem = output or Path("reports/robustbench")
    single = output is not None and len(results) == 1
    folders = [stem if single else stem.with_name(f"{stem.name}-{result.name}") for result in results]
    write(results, folders, as_json)


@app.command()
def predictions(
    files: Files,
    labels: Annotated[Path | None, typer.Option(help="File with the true classes, for npy files.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes, in order, with commas between.")
    ] = None,
    original: Annotated[
        str | None, typer.Option(help="The test set that the others are shifts of; default: the first.")
    ] = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Import predicted classes per model and sample: npz, npy, csv, json or parquet, several test sets."""
    from metaeval.sources.published.predictions import read

    names = [name.strip() for name in classes.split(",")] if classes else None
    result = read(files, labels=labels, classes=names, original=original)
    write([result], [output or Path("reports") / result.name], as_json)


@app.command()
def table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A table of accuracies (CSV).")],
    mapping: Annotated[
        Path | None,
        typer.Option(help="What the columns mean (TOML); without it their names decide."),
    ] = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Import a published table, one row for each model (wide) or for each number (long)."""
    from metaeval.sources.published.table import read

    result = read(file, mapping)
    write([result], [output or Path("reports") / result.name], as_json)


def write(results: Sequence[Published], folders: Sequence[Path], as_json: bool) -> None:
    """Write each result into its folder and print where it is and what it holds."""
    from metaeval.cube import importing

    rows = []
    for result, folder in zip(results, folders, strict=True):
        said = result.provenance()
        named = {"name": folder.name, "title": result.title}
        cube = importing.write(
            folder, result.models, result.columns, result.groups, said, result.attributes, **named
        )
        rows.append({"cube": str(cube), **said})
        for warning in result.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if not as_json:
            print(f"{cube}  {', '.join(f'{count:,} {what}' for what, count in result.counts.items())}")
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print(f"the page: metaeval report {folders[0]}")
