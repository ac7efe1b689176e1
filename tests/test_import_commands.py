"""`metaeval import` as a user calls it: cubes, exit codes, and what the other commands say of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from test_cli import STUDY, metaeval
from test_house import HEAVY, imported_by

import metaeval as package
from metaeval.analysis.reading import imported
from metaeval.cube import importing
from metaeval.cube.store import CubeStore
from metaeval.errors import UsageError

TABLE = "model,clean,fog,snow\na,90,50,\nb,80,40,30\n"


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text(TABLE)
    result = metaeval(tmp_path, "import", "table", "t.csv")
    assert result.returncode == 0, result.stderr
    assert "2 models, 3 settings, 5 results, 1 holes" in result.stdout
    return tmp_path / "reports" / "t"


def test_an_imported_cube_goes_through_the_other_commands(cube: Path) -> None:
    folder = cube.parents[1]
    status = metaeval(folder, "status", "--json")
    rows = {row["group"]: row for row in json.loads(status.stdout)}
    assert rows["/shifts"]["sizes"] == "model 2, class 1, shift 2, severity 1"
    assert rows["/shifts"]["status"] == "imported"
    assert metaeval(folder, "verify", str(cube)).returncode == 0
    assert metaeval(folder, "report").returncode == 0
    assert "Accuracy under shift" in (cube / "report.html").read_text()
    refused = metaeval(folder, "verify", "--evidence", str(cube))
    assert refused.returncode == 2
    assert "keep no adversarials" in refused.stderr
    assert "the cube holds no such outcomes" in metaeval(folder, "refine", str(cube)).stdout
    refused = metaeval(folder, "refine", "--run", str(cube))
    assert refused.returncode == 2
    assert "imported results, which come without the models" in refused.stderr


def test_provenance_and_checksums(cube: Path) -> None:
    tree = package.open_cube(cube)
    said = imported(tree)
    assert said is not None
    assert said["kind"] == "table"
    assert said["files"][0]["name"] == "t.csv"
    assert len(said["files"][0]["sha256"]) == 64
    assert said["options"]["unit"] == "percent"
    assert set(said["checksums"]) == {
        f"{node.path.lstrip('/')}/{name}"
        for node in tree.subtree
        for name in node.to_dataset(inherit=False).variables
    }
    array = zarr.open_array(cube / "cube.zarr", path="shifts/accuracy", mode="r+")
    array[0, 0, 0, 0] = 0.51
    result = metaeval(cube.parents[1], "verify", str(cube))
    assert result.returncode == 3
    assert "shifts/accuracy: it is not what was imported" in result.stdout


def test_importing_again_replaces_and_a_run_is_never_replaced(cube: Path) -> None:
    folder = cube.parents[1]
    (folder / "t.csv").write_text(TABLE + "c,70,30,20\n")
    assert metaeval(folder, "import", "table", "t.csv").returncode == 0
    assert package.open_cube(cube)["models"].sizes["model"] == 3
    assert [path.name for path in cube.iterdir() if path.name.startswith(".cube")] == []
    (cube / "journal").mkdir()
    refused = metaeval(folder, "import", "table", "t.csv")
    assert refused.returncode == 2
    assert "holds results of a run" in refused.stderr


def test_a_run_never_touches_an_imported_cube(cube: Path) -> None:
    folder = cube.parents[1]
    (folder / "tried.toml").write_text(STUDY)
    before = {path: path.read_bytes() for path in cube.rglob("*") if path.is_file()}
    refused = metaeval(folder, "run", "tried.toml", "-o", str(cube))
    assert refused.returncode == 2
    assert refused.stderr == (
        f"{cube} holds published results that were imported; a run never adds to them or replaces them; "
        "choose another output folder (--output) or remove this one\n"
    )
    with pytest.raises(UsageError, match="were imported"):
        CubeStore.open_or_create(cube)
    assert {path: path.read_bytes() for path in cube.rglob("*") if path.is_file()} == before


def test_exit_codes_and_messages(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("model,fog\na,130\n")
    wrong = metaeval(tmp_path, "import", "table", "t.csv")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("t.csv:2:1: fog: 130 is no accuracy")
    missing = metaeval(tmp_path, "import", "table", "tt.csv")
    assert missing.returncode == 4
    assert "did you mean 't.csv'?" in missing.stderr
    unknown = metaeval(tmp_path, "import", "robustbenhc", "x")
    assert unknown.returncode == 2
    assert "Did you mean 'robustbench'" in unknown.stderr
    assert not (tmp_path / "reports").exists()


def test_robustbench_gives_one_cube_for_each_table(tmp_path: Path, shared_data: Path) -> None:
    path = str(shared_data / "robustbench_model_info.zip")
    result = metaeval(tmp_path, "import", "robustbench", path, "--json")
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)
    models = {Path(row["cube"]).parts[1]: row["counts"]["models"] for row in made}
    assert models["robustbench-cifar10-linf"] == 99
    assert len(made) == 7
    only = ("--dataset", "cifar10", "--threat-model", "L2")
    one = metaeval(tmp_path, "import", "robustbench", path, *only, "-o", "o")
    assert one.returncode == 0
    tree = package.open_cube(tmp_path / "o")
    assert tree["l2"].sizes["epsilon"] == 1
    assert str(tree["l2"]["epsilon_label"].values[0]) == "0.5"


def test_predictions_and_their_warning(tmp_path: Path) -> None:
    label = np.arange(1000) % 10
    said = np.tile((label + 1) % 10, (3, 1))
    np.savez(tmp_path / "p.npz", label=label, prediction=said, model=["a", "b", "c"])
    result = metaeval(tmp_path, "import", "predictions", "p.npz")
    assert result.returncode == 0
    assert "warning: original: the best model is right on 0.0 %" in result.stderr
    assert metaeval(tmp_path, "report").returncode == 0
    assert "Beware:" in (tmp_path / "reports/p/report.html").read_text()


def test_no_torch_and_nothing_heavy_for_help() -> None:
    loaded = imported_by(
        "import sys; sys.argv = ['metaeval', 'import', 'table', '--help']; import metaeval.cli\n"
        "try: metaeval.cli.main()\nexcept SystemExit: pass"
    )
    assert loaded & HEAVY <= {"pydantic"}  # typer loads it itself for the options of a command
    modules = ("robustbench", "predictions", "table")
    code = "".join(f"import metaeval.sources.published.{name}\n" for name in modules)
    assert "torch" not in imported_by(f"{code}import metaeval.cube.importing, metaeval.report.page")


def test_arrays_of_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    groups = {"clean": {"model": ["a"], "class": ["all"], "accuracy": np.ones((2, 1))}}
    with pytest.raises(ValueError, match=r"clean/accuracy \(2, 1\) does not fit"):
        importing.write(tmp_path, ["a"], {}, groups, {"kind": "table"})
    assert not (tmp_path / "cube.zarr").exists()


def test_a_folder_without_a_cube_has_no_provenance(tmp_path: Path) -> None:
    assert importing.provenance_of(tmp_path) is None
    (tmp_path / "cube.zarr").mkdir()
    with pytest.raises(UsageError, match="never replaces"):
        importing.write(tmp_path, ["a"], {}, {}, {"kind": "table"})
