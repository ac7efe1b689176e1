"""The command line as a new user meets it: answers, messages, exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr

from metaeval.cli import main
from metaeval.hashing import hash_array
from metaeval.listing import print_rows

ROOT = Path(__file__).parents[1]
STUDY = """
schema_version = 1

[study]
name = "tried"
title = "Tried"

[data]
source = "digits"
samples = 50

[[models]]
source = "train"
architecture = "mlp"
epochs = 1
grid = { width = [8, 16] }

[[threat_models]]
norm = "linf"
epsilons = "0:8/255:3"
attacks = ["apgd-ce"]
"""


@dataclass
class Result:
    """How a command line ended."""

    returncode: int
    stdout: str
    stderr: str


def metaeval(folder: Path, *arguments: str) -> Result:
    """Run the command line in this process: importing torch anew for each would take minutes."""
    out, err = io.StringIO(), io.StringIO()
    code: int | str | None = 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        before, sys.argv = sys.argv, ["metaeval", *arguments]
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.argv = before
    return Result(int(code or 0), out.getvalue(), err.getvalue())


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "tried.toml"
    path.write_text(STUDY)
    return path


def test_help_and_version_answer(tmp_path: Path) -> None:
    assert "verify" in metaeval(tmp_path, "--help").stdout
    assert metaeval(tmp_path, "--version").stdout.strip() == "0.1.0"
    result = metaeval(tmp_path, "rum")
    assert result.returncode == 2
    assert "Did you mean" in result.stderr


def test_a_good_study_passes_the_check(study: Path) -> None:
    result = metaeval(study.parent, "check", str(study))
    assert result.returncode == 0, result.stderr
    assert "2 models, 1 attacks, 50 samples" in result.stdout
    shift = '[[shifts]]\nsource = "attacked"\nattack = "fgsm"\nnorm = "linf"\nepsilon = 0.1\n'
    study.write_text(f"{STUDY}\n{shift}")
    result = metaeval(study.parent, "check", str(study))
    assert "2 models, 1 attacks, 1 shifts, 50 samples" in result.stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('attacks = ["apgd-ce"]', 'attacks = ["apgd-cee"]', "did you mean 'apgd-ce'?"),
        ('attacks = ["apgd-ce"]', 'attack = ["apgd-ce"]', "attack"),
        ("samples = 50", "sample = 50", "did you mean 'samples'?"),
        ('epsilons = "0:8/255:3"', 'epsilons = ["1/255", "2/510"]', "2/510"),
        ('epsilons = "0:8/255:3"', 'epsilons = "0:8/255"', "epsilons"),
        ('norm = "linf"', 'norm = "l3"', "linf"),
        ('attacks = ["apgd-ce"]', 'attacks = ["deepfool@torchattacks"]', "l2"),
        ('attacks = ["apgd-ce"]', 'attacks = ["pifgsm@torchattacks"]', "needs images of 3 channels"),
        ("width = [8, 16]", "width = []", "width"),
        ('architecture = "mlp"', 'architecture = "mpl"', "did you mean 'mlp'?"),
        ("samples = 50", "samples = 5000", "samples"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    study: Path, old: str, new: str, message: str
) -> None:
    assert old in STUDY
    line = STUDY[: STUDY.index(old)].count("\n") + 1
    study.write_text(STUDY.replace(old, new))
    for command in ("check", "plan", "run"):
        result = metaeval(study.parent, command, str(study))
        assert result.returncode == 2, result.stdout + result.stderr
        assert f"tried.toml:{line}:" in result.stderr
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert not (study.parent / "reports").exists()


def test_an_attack_without_an_epsilon_is_refused(study: Path) -> None:
    study.write_text(STUDY.replace('"0:8/255:3"', "[0]"))
    result = metaeval(study.parent, "check", str(study))
    assert result.returncode == 2
    assert "tried.toml:21:12: threat_models[0].attacks[0]: apgd-ce needs an epsilon above 0" in result.stderr


def test_an_unknown_figure_is_found_before_the_run(study: Path) -> None:
    study.write_text(STUDY + '\n[report]\nfigures = ["curves", "clases"]\n')
    result = metaeval(study.parent, "run", str(study))
    assert result.returncode == 2
    assert "tried.toml:24:22: report.figures[1]: unknown figure 'clases'" in result.stderr
    assert "did you mean 'classes'?" in result.stderr
    assert not (study.parent / "reports").exists()


def test_all_mistakes_are_reported_at_once(study: Path) -> None:
    text = STUDY.replace('"apgd-ce"', '"apgd-cee"').replace('"mlp"', '"mpl"')
    study.write_text(text)
    result = metaeval(study.parent, "check", str(study))
    assert "apgd-cee" in result.stderr
    assert "mpl" in result.stderr
    problems = json.loads(metaeval(study.parent, "check", str(study), "--json").stdout)
    assert [problem["line"] for problem in problems] == [14, 21]


def test_a_missing_study_and_a_missing_cube(tmp_path: Path) -> None:
    assert metaeval(tmp_path, "check", "nothing.toml").returncode == 4
    for command in ("report", "status", "verify"):
        result = metaeval(tmp_path, command)
        assert result.returncode == 4
        assert "no cube" in result.stderr


def test_plan_says_what_will_run(study: Path) -> None:
    result = metaeval(study.parent, "plan", str(study))
    assert result.returncode == 0, result.stderr
    assert "2 tasks to do, 0 recorded" in result.stdout
    expected = json.loads(metaeval(study.parent, "plan", str(study), "--json").stdout)
    assert set(expected["models"]) == {"mlp-width=8", "mlp-width=16"}
    assert expected["seconds"] > 0
    assert not (study.parent / "reports").exists()


def test_run_report_status_verify(study: Path) -> None:
    ran = metaeval(study.parent, "run", str(study), "--json")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert summary["computed"] == 2
    assert Path(study.parent / summary["report"]).stat().st_size > 100_000
    rows = json.loads(metaeval(study.parent, "status", "--json").stdout)
    assert len(rows) >= 2
    assert metaeval(study.parent, "verify", "reports/tried").returncode == 0
    again = metaeval(study.parent, "report", "reports/tried/cube.zarr", "--output", "page.html")
    assert again.returncode == 0, again.stderr
    assert (study.parent / "page.html").exists()
    by_study = metaeval(study.parent, "report", str(study))
    assert by_study.stdout.strip() == "reports/tried/report.html"
    page = study.parent / "reports" / "tried" / "report.html"
    assert "Intervals are Wilson's at 95\u00a0%" in page.read_text()
    # What the file says of the analysis now is obeyed without a run; the cube stays as it was.
    study.write_text(f'{STUDY}[analysis]\nmodels = ["*=8"]\nclasses = ["3"]\nconfidence = 0.5\n')
    assert metaeval(study.parent, "report", str(study)).returncode == 0
    text = page.read_text()
    assert "Intervals are Wilson's at 50\u00a0%" in text
    assert "only 1 of 2 models" in text
    assert "only 1 of 10 classes" in text
    assert metaeval(study.parent, "report", "reports/tried").returncode == 0
    assert "Intervals are Wilson's at 95\u00a0%" in page.read_text()
    study.write_text(f'{STUDY}[analysis]\nmodels = ["mpl*"]\n')
    assert "no model of the cube is called 'mpl*'" in metaeval(study.parent, "report", str(study)).stderr


def test_only_and_limit(study: Path) -> None:
    result = metaeval(study.parent, "run", str(study), "--only", "mlp-width=8/*", "--limit", "20", "--json")
    assert json.loads(result.stdout)["computed"] == 1
    result = metaeval(study.parent, "run", str(study), "--only", "nothing/*")
    assert result.returncode == 2
    assert "matches no task" in result.stderr


@pytest.mark.parametrize("what", ["attacks", "data", "figures", "measures", "models", "studies"])
def test_lists(what: str) -> None:
    result = metaeval(ROOT, "list", what)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) > 2
    assert json.loads(metaeval(ROOT, "list", what, "--json").stdout)


def test_wide_lists_fit_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    rows = [{"name": "a", "text": "word " * 40, "sign": "0"}, {"name": "b", "text": "", "sign": "+1"}]
    print_rows(rows)
    assert max(map(len, capsys.readouterr().out.splitlines())) > 200  # for a file, one row each
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_rows(rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(lines).split().count("word") == 40
    assert [line for line in lines if not line.startswith(" ")] == ["a", "b"]


def test_schema_is_json() -> None:
    schema = json.loads(metaeval(ROOT, "schema").stdout)
    assert {"study", "data", "models", "threat_models"} <= set(schema["properties"])


def test_a_damaged_cube_is_found(study: Path) -> None:
    assert metaeval(study.parent, "run", str(study), "--only", "mlp-width=8/*").returncode == 0
    chunks = [
        p for p in (study.parent / "reports/tried/cube.zarr/samples/linf/distance").rglob("*") if p.is_file()
    ]
    chunk = next(path for path in chunks if path.name != "zarr.json")
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    result = metaeval(study.parent, "verify", "reports/tried")
    assert result.returncode == 3
    assert "linf" in result.stdout


def test_distances_between_classes_are_computed_again(study: Path) -> None:
    assert metaeval(study.parent, "run", str(study), "--limit", "30").returncode == 0
    cube = study.parent / "reports/tried/cube.zarr"
    array = zarr.open_array(cube, path="interclass/distance", mode="r+")
    array[0, 3] *= 1.001
    group = zarr.open_group(cube, path="interclass", mode="r+")
    group.attrs["checksum"] = hash_array(np.asarray(array[...]))  # as if a wrong number had been computed
    result = metaeval(study.parent, "verify", "reports/tried")
    assert result.returncode == 3
    assert "interclass/distance/linf: the distances are not those of the samples" in result.stdout
    (study.parent / "reports/tried/study.lock.toml").unlink()
    result = metaeval(study.parent, "verify", "reports/tried")
    assert result.returncode == 0
    assert "distances between classes are not computed again: there is no" in result.stderr
