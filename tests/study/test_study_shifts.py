"""``[[shifts]]``: what a study file takes, and what is said of mistakes in it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jsonschema
import pytest
from study_files import MINIMAL

from metaeval.errors import StudyError
from metaeval.study import Study, json_schema, load_study
from metaeval.study.identity import study_hash
from metaeval.study.load import restore_study

EVERY = """
[[shifts]]
source = "cifar10.1"
version = "v4"
[[shifts]]
source = "cifar10-c"
names = ["fog", "spatter"]
[[shifts]]
source = "cifar100-c"
names = ["fog"]
prefix = "c100-"
path = "sets"
[[shifts]]
source = "imagenet-c"
prefix = "i-"
severities = [5, 1]
[[shifts]]
source = "corruptions"
names = ["snow"]
[[shifts]]
source = "data"
name = "new"
data = { source = "npz", path = "new.npz" }
[[shifts]]
source = "callable"
transform = "lenses:fisheye"
[[shifts]]
source = "attacked"
attack = "pgd@torchattacks"
norm = "linf"
epsilon = "8/255"
settings = { iterations = 5, relative_step_size = "1/4" }
"""


def load(tmp_path: Path, extra: str) -> Study:
    path = tmp_path / "study.toml"
    path.write_text(MINIMAL + extra)
    return load_study(path)


def mistakes(tmp_path: Path, extra: str) -> list[str]:
    with pytest.raises(StudyError) as error:
        load(tmp_path, extra)
    return [str(problem) for problem in error.value.problems]


def test_names_and_defaults(tmp_path: Path) -> None:
    study = load(tmp_path, EVERY)
    names = [name for table in study.shifts for name in table.shifts]
    assert names[:4] == ["cifar10.1", "fog", "spatter", "c100-fog"]
    assert names[4] == "i-gaussian_noise"
    assert len(names) == 4 + 15 + 4
    assert names[-4:] == ["snow", "new", "fisheye", "pgd"]
    assert study.shifts[1].severities == (1, 2, 3, 4, 5)  # type: ignore[union-attr]
    assert study.shifts[2].path == tmp_path / "sets"  # type: ignore[union-attr]
    assert study.shifts[-1].settings == {"iterations": 5, "relative_step_size": 0.25}  # type: ignore[union-attr]
    assert restore_study(study.to_dict(), study.path).to_dict() == study.to_dict()
    assert load(tmp_path, "").shifts == ()


def test_the_schema_for_editors_knows_them(tmp_path: Path) -> None:
    schema = json_schema()
    jsonschema.validate(tomllib.loads(MINIMAL + EVERY), schema)
    for wrong in ('source = "corruptions"\nnames = ["fogg"]', 'source = "corruptions"\nseverities = [6]'):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tomllib.loads(f"{MINIMAL}\n[[shifts]]\n{wrong}"), schema)


def test_the_hash_is_of_paths_as_written(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert study_hash(load(tmp_path / "a", EVERY)) == study_hash(load(tmp_path / "b", EVERY))
    assert study_hash(load(tmp_path / "a", EVERY)) != study_hash(load(tmp_path / "a", ""))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('source = "corruption"', "did you mean 'corruptions'"),
        ('source = "corruptions"\nnames = ["fogg"]', "did you mean 'fog'"),
        ('source = "corruptions"\nnames = ["spatter"]', "unknown corruption 'spatter'"),
        ('source = "corruptions"\nnames = ["fog", "fog"]', "'fog' is listed twice"),
        ('source = "corruptions"\nseverities = [0]', "severities are whole numbers from 1 to 5, got 0"),
        ('source = "corruptions"\nseverities = []', "must not be empty"),
        ('source = "corruptions"\nseverity = [1]', "did you mean 'severities'"),
        ('source = "cifar10.1"\nversion = "v5"', "allowed: v4, v6"),
        ('source = "data"\nname = "n"', "shifts[0].data: missing"),
        ('source = "data"\nname = "n"\ndata = { source = "npx", path = "a" }', "did you mean 'npz'"),
        ('source = "data"\nname = "n"\ndata = { source = "npz" }', "shifts[0].data.path: missing"),
        ('source = "data"\nname = "a/b"\ndata = { source = "digits" }', "it names a folder"),
        ('source = "attacked"\nattack = "fgsm"\nnorm = "l7"', "allowed: l1, l2, linf"),
        ('source = "attacked"\nattack = "fgsm"\nnorm = "linf"\nepsilon = "x"', "expected a number"),
    ],
)
def test_mistakes_in_one_shift(tmp_path: Path, table: str, said: str) -> None:
    found = mistakes(tmp_path, f"\n[[shifts]]\n{table}\n")
    assert len(found) == 1
    assert said in found[0]


def test_names_are_unique(tmp_path: Path) -> None:
    twice = '\n[[shifts]]\nsource = "corruptions"\nnames = ["fog"]\n' * 2
    assert "a shift 'fog' is there already (shifts[0]); set prefix" in mistakes(tmp_path, twice)[0]
    attacked = '\n[[shifts]]\nsource = "attacked"\nattack = "fgsm"\nnorm = "linf"\nepsilon = {}\n'
    found = mistakes(tmp_path, attacked.format("0.1") + attacked.format("0.2"))
    assert "a shift 'fgsm' is there already (shifts[0]); set name" in found[0]
    named = attacked.format("0.2") + 'name = "fgsm-0.2"\n'
    assert len(load(tmp_path, attacked.format("0.1") + named).shifts) == 2
