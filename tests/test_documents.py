"""The quickstart and every command and snippet of the documents, run as a reader would run them.

The two install commands of the README are run by `.ci/run`; everything else is run here, in order, on the
cube of the quickstart study.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from test_house import WITHOUT_TORCH

import metaeval
from metaeval.sources.published.mapping import read_mapping
from metaeval.study import load_study

ROOT = Path(__file__).parents[1]
SHARED_DATA = Path(os.environ["METAEVAL_SHARED_DATA"])  # always set by conftest.py
PUBLISHED = ("robustbench_model_info.zip", "cifar10_predictions.npz", "imagenet_testbed_top1.csv")
REPORTED = ("reports/robustbench-cifar10-linf",)
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the README's quickstart (without its installation) in a copy of the studies; return the folder."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "studies", folder / "studies")
    for file in PUBLISHED if SHARED_DATA.is_dir() else ():
        (folder / file).symlink_to(SHARED_DATA / file)
    command = blocks(ROOT / "README.md", "sh")[0].split("&&")[-1].split()
    assert command[0] == ".venv/bin/metaeval"
    started = time.monotonic()
    run(folder, command[1:])
    print(f"quickstart: {time.monotonic() - started:.0f} s")
    return folder


def run(folder: Path, arguments: list[str]) -> str:
    result = subprocess.run(
        [sys.executable, "-c", "from metaeval.cli import main; main()", *arguments],
        cwd=folder,
        env={**os.environ, "METAEVAL_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.timeout(900)
def test_quickstart_gives_a_complete_cube(quickstart: Path) -> None:
    cube = metaeval.open_cube(quickstart / "reports" / "quickstart")
    assert cube["models"].sizes["model"] >= 6
    assert len({*cube["linf"].attack.values, *cube["l2"].attack.values} - {"worst-case"}) == 6
    for norm in ("linf", "l2"):
        group = cube[norm].to_dataset()
        assert group.sizes["attack"] >= 5  # with the worst case
        assert (group.status == group.status.flag_meanings.split().index("ok")).all()
        assert int(group.total.sum()) >= 200
        accuracy = (group.correct.sum("class") / group.total.sum("class")).transpose(
            "model", "attack", "epsilon"
        )
        assert np.isfinite(accuracy).all()
        assert (np.diff(accuracy.values) <= 0).all()
        # Adversarial training is seen: at the largest epsilon these models are ahead of the standard ones.
        worst = accuracy.sel(attack="worst-case").isel(epsilon=-1)
        trained = (cube["models"].to_dataset().adversarial_epsilon.fillna(0) > 0).values
        assert worst[trained].min() > worst[~trained].max()
    assert "queries 500" in str(cube["linf"].to_dataset().reduced.sel(attack="square").values)


def test_quickstart_trains_what_it_says() -> None:
    models = tomllib.loads((ROOT / "studies/quickstart.toml").read_text())["models"]
    assert len({table["architecture"] for table in models}) >= 2


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.exists()], ids=lambda path: path.name
)
def test_commands_of_the_documents(document: Path, quickstart: Path) -> None:
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    for line in lines:
        command = line.split("#")[0].split()
        if {*PUBLISHED, *REPORTED} & {*command} and not SHARED_DATA.is_dir():
            continue
        if command[:1] == [".venv/bin/metaeval"]:
            assert run(quickstart, command[1:])


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.exists()], ids=lambda path: path.name
)
def test_snippets_of_the_documents(document: Path, quickstart: Path) -> None:
    for code in blocks(document, "python"):
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=quickstart,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, code + result.stderr


@pytest.mark.timeout(900)
def test_studies_of_the_documents_can_be_loaded(quickstart: Path, tmp_path: Path) -> None:
    for document in DOCUMENTS:
        for number, text in enumerate(blocks(document, "toml") if document.exists() else []):
            if "schema_version" in text:
                path = tmp_path / f"{document.stem}{number}.toml"
                path.write_text(text)
                (tmp_path / "test.npz").touch()
                (tmp_path / "small.safetensors").touch()
                assert load_study(path).models
            elif "layout" in text:
                (tmp_path / "mapping.toml").write_text(text)
                assert read_mapping(tmp_path / "mapping.toml").claims


@pytest.mark.timeout(900)
def test_plain_xarray_opens_the_cube_without_a_warning(quickstart: Path) -> None:
    code = """
import xarray
for group in ("models", "clean", "linf", "l2", "cost", "samples/clean", "samples/linf"):
    xarray.open_zarr("reports/quickstart/cube.zarr", group=group).load()
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=quickstart,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.timeout(900)
def test_a_cube_is_reported_without_torch(quickstart: Path) -> None:
    code = f"{WITHOUT_TORCH}sys.argv = ['metaeval', 'report', 'reports/quickstart']\n"
    code += "from metaeval.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=quickstart, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "reports/quickstart/report.html"


@pytest.mark.timeout(900)
def test_nothing_is_written_elsewhere(quickstart: Path) -> None:
    found = {path.name for path in quickstart.iterdir() if not path.is_symlink()}  # links are the shared data
    assert found == {"studies", "reports", "cache"}
    written = {path.name for path in (quickstart / "reports" / "quickstart").iterdir()}
    assert written == {"cube.zarr", "journal", "locks", "log.jsonl", "report.html", "study.lock.toml"}


def test_published_study_can_be_read_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METAEVAL_SHARED_DATA", str(tmp_path))
    study = load_study(ROOT / "studies" / "published_mnist.toml")
    assert [model.name for model in study.models] == ["kw_mnist", "mmr_univ_mnist"]
    # A relative value of the variable starts where the shell is, not at the study file.
    monkeypatch.setenv("METAEVAL_SHARED_DATA", "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert load_study(ROOT / "studies" / "published_mnist.toml").data.path == tmp_path / "elsewhere/mnist.npz"
