"""What is said about study files that are wrong: all of it at once, each thing at its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_files import MINIMAL, NPZ, problems, write

from metaeval.errors import MissingInputError, StudyError, UsageError
from metaeval.study import load_study

MANY = """\
schema_version = 1
titel = "T"
[study]
name = "s"
sead = 1
[data]
source = "digits"
samples = "ten"
select = "frist"
[[models]]
source = "trian"
"größe" = 1
grid = { "dépth" = [1], depth = [2, "drei", 2], epochs = [5], dropout = [0.5, "4/3"] }
epochs = 3
[[models]]
source = "checkpoint"
architecture = "cnn"
weights = "${METAEVAL_NO_SUCH_VARIABLE}/w.safetensors"
[[threat_models]]
norm = "linf"
epsilons = [0, "1/255", "8//255", "2/510"]
attacks = ["apgd-ce", "sqare"]
[[threat_models.attack]]
name = "square"
queries = 500
[[threat_models]]
norm = "linf"
epsilons = "0:8/255"
attacks = ["fab"]
[analysis]
confidence = "95"
"""

SAID = [
    (
        "2:1: titel: unknown key; the study file takes analysis, data, measures, models, report, "
        "schema_version, shifts, study, threat_models"
    ),
    "5:1: study.sead: unknown key; [study] takes name, precision, seed, title; did you mean 'seed'?",
    "8:1: data.samples: expected a whole number of at least 1, or 'all', got 'ten'",
    ("9:1: data.select: unknown select 'frist'; allowed: first, random, stratified; did you mean 'first'?"),
    "10:3: models[0].architecture: missing: a built-in name or 'module:callable'",
    (
        "11:1: models[0].source: unknown source 'trian'; allowed: checkpoint, robustbench, train; "
        "did you mean 'train'?"
    ),
    (
        "12:1: models[0].\"größe\": unknown key; [[models]] of source 'train' takes adversarial_epsilon, "
        "adversarial_method, adversarial_norm, adversarial_steps, architecture, architecture_settings, "
        "augmentation, batch_norm, batch_size, depth, dropout, epochs, family, grid, kernel, learning_rate, "
        "momentum, name, normalize, optimizer, sample, schedule, seed, source, target_loss, trades_beta, "
        "weight_decay, width"
    ),
    (
        "13:10: models[0].grid.\"dépth\": unknown key; [models.grid] of source 'train' takes "
        "adversarial_epsilon, adversarial_method, adversarial_norm, adversarial_steps, augmentation, "
        "batch_norm, batch_size, depth, dropout, epochs, kernel, learning_rate, momentum, optimizer, "
        "schedule, seed, target_loss, trades_beta, weight_decay, width; did you mean 'depth'?"
    ),
    "13:37: models[0].grid.depth[1]: expected a whole number, got 'drei'",
    "13:45: models[0].grid.depth[2]: 2 is listed twice",
    "13:49: models[0].grid.epochs: given for all models too; write it once, here or in the table",
    "13:79: models[0].grid.dropout[1]: must be below 1, got '4/3'",
    "18:1: models[1].weights: the environment variable METAEVAL_NO_SUCH_VARIABLE is not set",
    "21:25: threat_models[0].epsilons[2]: expected a number or a fraction such as '8/255', got '8//255'",
    ("21:35: threat_models[0].epsilons[3]: '1/255' and '2/510' are the same epsilon (0.00392156862745098)"),
    (
        "24:1: threat_models[0].attack[0].name: 'square' is not among this threat model's attacks: "
        "apgd-ce, sqare; did you mean 'sqare'?"
    ),
    "27:1: threat_models[1].norm: 'linf' has a threat model already (threat_models[0]); put all in one",
    (
        "28:1: threat_models[1].epsilons: expected a list of numbers or a range 'start:stop:count', as in "
        "'0:8/255:9', got '0:8/255'"
    ),
    "31:1: analysis.confidence: must be below 1, got '95'",
]


def test_all_mistakes_are_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METAEVAL_SHARED_DATA", raising=False)  # it would be suggested
    assert problems(tmp_path, MANY) == SAID


# What is replaced in the minimal study, by what, and what is said then.
SINGLE = [
    (
        'source = "digits"',
        "",
        "5:2: data.source: missing; allowed: digits, images, npz",
    ),
    (
        'source = "digits"',
        "source = 3",
        "6:1: data.source: expected one of digits, images, npz, got 3",
    ),
    (
        'source = "digits"',
        'source = "robustbench"',
        "6:1: data.source: unknown source 'robustbench'; allowed: digits, images, npz",
    ),
    (
        'source = "digits"',
        'source = "npz"',
        "5:2: data.path: missing: the .npz file",
    ),
    (
        'source = "digits"',
        'source = "npz"\npath = 3',
        "7:1: data.path: expected a path in quotes, got 3",
    ),
    (
        'source = "digits"',
        'source = "npz"\npath = "x"\nclass_names = ["a", "b", "a"]',
        "8:26: data.class_names[2]: 'a' is listed twice",
    ),
    (
        '[study]\nname = "s"\n[data]\nsource = "digits"',
        'data = 3\n[study]\nname = "s"',
        "3:1: data: expected a table, got 3",
    ),
    (
        "schema_version = 1",
        "",
        "1:1: schema_version: missing; allowed: 1",
    ),
    (
        "schema_version = 1",
        "schema_version = 2",
        "2:1: schema_version: this version of metaeval reads schema_version 1, got 2",
    ),
    (
        'name = "s"',
        'name = "my study"',
        "4:1: study.name: expected letters, digits, '.', '_' and '-' only, a letter or digit first (it "
        "names a folder), got 'my study'; did you mean 'my_study'?",
    ),
    (
        'name = "s"',
        'name = "s"\nseed = -1',
        "5:1: study.seed: must be at least 0, got -1",
    ),
    (
        'name = "s"',
        'name = "s"\nseed = 1.0',
        "5:1: study.seed: expected a whole number, got 1.0",
    ),
    (
        'name = "s"',
        'name = "s"\nseed = true',
        "5:1: study.seed: expected a whole number, got true",
    ),
    (
        'name = "s"',
        'name = "s"\nseed = 2020-01-01',
        "5:1: study.seed: expected a whole number, got a date",
    ),
    (
        'name = "s"',
        'nmae = "s"',
        "4:1: study.nmae: unknown key; [study] takes name, precision, seed, title; did you mean 'name'?",
    ),
    (
        'name = "s"',
        'name = "s"\ntitle = ""',
        "5:1: study.title: must not be empty",
    ),
    (
        'name = "s"',
        'name = "s"\ntitle = 3',
        "5:1: study.title: expected text in quotes, got 3",
    ),
    (
        "[[models]]",
        "[models]",
        "7:2: models: expected an array of tables, written [[models]], got a table",
    ),
    (
        'architecture = "cnn"',
        "architecture = 1",
        "9:1: models[0].architecture: expected text in quotes, got 1",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\nbatch_norm = 1',
        "10:1: models[0].batch_norm: expected true or false, got 1",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\noptimizer = "adm"',
        "10:1: models[0].optimizer: unknown optimizer 'adm'; allowed: adam, adamw, rmsprop, sgd; did you "
        "mean 'adam'?",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\ngrid.optimizer = ["adam", 3]',
        "10:27: models[0].grid.optimizer[1]: expected one of adam, adamw, rmsprop, sgd, got 3",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\ngrid = 3',
        "10:1: models[0].grid: expected a table, got 3",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\ngrid.width = 3',
        "10:6: models[0].grid.width: expected a list, got 3",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\ngrid.width = []',
        "10:6: models[0].grid.width: must not be empty",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\nadversarial_norm = "l2"',
        "10:1: models[0].adversarial_norm: has no effect without adversarial_epsilon",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\ngrid.trades_beta = [1, 6]',
        "10:6: models[0].grid.trades_beta: has no effect without adversarial_epsilon",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\nsample = 60',
        "10:1: models[0].sample: has no effect without a grid",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\nschedule = "cosin"',
        "10:1: models[0].schedule: unknown schedule 'cosin'; allowed: constant, cosine, step, warmup-cosine; "
        "did you mean 'cosine'?",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\nnormalize = { mean = [0, 0], std = [1] }',
        "10:1: models[0].normalize: mean has 2 values and std 1; one per channel each",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\nnormalize = { mean = [0], std = [0] }',
        "10:34: models[0].normalize.std[0]: must be above 0, got 0",
    ),
    (
        'architecture = "cnn"',
        'architecture = "cnn"\narchitecture_settings = { ratio = inf }',
        "10:27: models[0].architecture_settings.ratio: expected a finite number, got inf",
    ),
    (
        'source = "train"',
        'source = "checkpoint"\nweights = "w.pt"\npublished_accuracy = 98.2',
        "10:1: models[0].published_accuracy: accuracies are fractions between 0 and 1, got 98.2; did you "
        "mean '0.982'?",
    ),
    (
        'source = "train"',
        'source = "checkpoint"\nweights = "w.pt"\nsha256 = "abc"',
        "10:1: models[0].sha256: expected a sha256 of 64 hexadecimal digits, got 'abc'",
    ),
    (
        'norm = "linf"',
        "",
        "10:3: threat_models[0].norm: missing; allowed: l1, l2, linf",
    ),
    (
        'norm = "linf"',
        'norm = "linff"',
        "11:1: threat_models[0].norm: unknown norm 'linff'; allowed: l1, l2, linf; did you mean 'linf'?",
    ),
    (
        '"1/255", "8/255"]',
        "8]",
        "12:16: threat_models[0].epsilons[1]: a linf epsilon is at most 1 because inputs lie in [0, 1], "
        "got 8; did you mean '8/255'?",
    ),
    (
        '[0, "1/255", "8/255"]',
        '"0:8:9"',
        "12:1: threat_models[0].epsilons: a linf epsilon is at most 1 because inputs lie in [0, 1], got "
        "'0:8:9'",
    ),
    (
        '[0, "1/255", "8/255"]',
        '"0:1e-7:3"',
        "12:1: threat_models[0].epsilons: '0' and '1/20000000' are nearer to each other than float32 images "
        "can tell apart (0.0, 5e-08)",
    ),
    (
        '"8/255"]',
        "0]",
        "12:25: threat_models[0].epsilons[2]: '0' is listed twice",
    ),
    (
        '[0, "1/255", "8/255"]',
        "[]",
        "12:1: threat_models[0].epsilons: must not be empty",
    ),
    (
        '[0, "1/255", "8/255"]',
        "3",
        "12:1: threat_models[0].epsilons: expected a list, got 3",
    ),
    (
        '[0, "1/255", "8/255"]',
        '"8/255"',
        "12:1: threat_models[0].epsilons: expected a list of numbers or a range 'start:stop:count', as in "
        "'0:8/255:9', got '8/255'",
    ),
    (
        '"square"]',
        '"apgd-ce"]',
        "13:23: threat_models[0].attacks[1]: 'apgd-ce' is listed twice",
    ),
    (
        '"square"]',
        '"square"]\n[threat_models.attack]\nname = "square"',
        "14:16: threat_models[0].attack: expected an array of tables, written [[threat_models.attack]], "
        "got a table",
    ),
    (
        '"square"]',
        '"square"]\nattack = [{ name = "square" }, { name = "square" }]',
        "14:34: threat_models[0].attack[1].name: 'square' has its settings in another table already",
    ),
    (
        '"square"]',
        '"square"]\n[[threat_models.attack]]\nqueries = 3',
        "14:17: threat_models[0].attack[0].name: missing: one of the threat model's attacks",
    ),
    (
        '"square"]',
        '"square"]\n[analysis]\nreference_epsilons = [0.031]',
        "15:23: analysis.reference_epsilons[0]: 0.031 is not an epsilon of any threat model; epsilons are "
        "compared exactly; did you mean '8/255'?",
    ),
    (
        '"square"]',
        '"square"]\n[analysis]\nfamily = "achitecture"',
        "15:1: analysis.family: unknown family 'achitecture'; allowed: adversarial_epsilon, "
        "adversarial_method, adversarial_norm, adversarial_steps, architecture, augmentation, batch_norm, "
        "batch_size, depth, dropout, epochs, family, kernel, learning_rate, momentum, optimizer, schedule, "
        "seed, source, target_loss, trades_beta, weight_decay, width; did you mean 'architecture'?",
    ),
    (
        '"square"]',
        '"square"]\n[report]\nfigures = ["a", 1]',
        "15:1: report.figures: expected 'all' or a list of figures' names, got a list",
    ),
    (
        '"square"]',
        '"square"]\nmood = "cascade"',
        "14:1: threat_models[0].mood: unknown key; [[threat_models]] takes attack, attacks, epsilons, "
        "evidence, mode, norm, search; did you mean 'mode'?",
    ),
    (
        '"square"]',
        '"square"]\nmode = "cascde"',
        "14:1: threat_models[0].mode: unknown mode 'cascde'; allowed: cascade, individual; "
        "did you mean 'cascade'?",
    ),
    (
        '["apgd-ce", "square"]',
        '["apgd-ce", 3]',
        "13:1: threat_models[0].attacks: expected a list of attacks' names or a preset's name, got a list",
    ),
    (
        '"square"]',
        '"square"]\n[[threat_models]]\nnorm = "linf"\nepsilons = [0, "1/255"]\n'
        'attacks = "autoattack-standard"',
        "16:1: threat_models[1].epsilons: 'linf' has other epsilons in threat_models[0]; "
        "an individual and a cascade threat model of one norm share theirs",
    ),
    (
        '"square"]',
        '"square"]\nmode = "cascade"\n[[threat_models]]\nnorm = "linf"\n'
        'epsilons = [0, "1/255", "8/255"]\nattacks = "autoattack-standard"',
        "16:1: threat_models[1].norm: 'linf' has a threat model already (threat_models[0]); put all in one",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), SINGLE, ids=[case[2].split(": ")[1] for case in SINGLE])
def test_one_mistake(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in MINIMAL
    assert problems(tmp_path, MINIMAL.replace(old, new, 1)) == [expected]


def test_unknown_attacks_are_found_with_the_rest(tmp_path: Path) -> None:
    text = MINIMAL.replace('"square"]', '"sqare"]').replace("schema_version = 1", "")
    path = write(tmp_path, text)
    with pytest.raises(StudyError) as raised:
        load_study(path, attacks=["apgd-ce", "square"])
    assert [str(problem).removeprefix(f"{path}:") for problem in raised.value.problems] == [
        "1:1: schema_version: missing; allowed: 1",
        "13:23: threat_models[0].attacks[1]: unknown attack 'sqare'; allowed: apgd-ce, square; did you mean "
        "'square'?",
    ]


def test_missing_tables_are_all_named(tmp_path: Path) -> None:
    assert problems(tmp_path, "schema_version = 1\n") == [
        "1:1: data: missing; write a table [data]",
        "1:1: models: missing; write [[models]]",
        "1:1: study: missing; write a table [study]",
        "1:1: threat_models: missing; write [[threat_models]]",
    ]


SYNTAX = [
    (
        "a = 1\na = 2\n",
        "2:1: a: duplicate key",
    ),
    (
        "[a]\n[b]\n[a]\n",
        "3:2: TOML: duplicate key",
    ),
    (
        "a b = 1\n",
        "1:3: TOML: key with no value, expected `=`",
    ),
    (
        "epsilon = 8/255\n",
        "1:11: epsilon: not a TOML value; text and fractions stand in quotes, truth values are true and "
        "false; did you mean '\"8/255\"'?",
    ),
    (
        "x = True\n",
        "1:5: x: not a TOML value; text and fractions stand in quotes, truth values are true and false; "
        "did you mean 'true'?",
    ),
    (
        "norms = [linf]\n",
        "1:10: norms: not a TOML value; text and fractions stand in quotes, truth values are true and "
        "false; did you mean '\"linf\"'?",
    ),
    (
        "é = 1\n",
        "1:1: TOML: invalid unquoted key, expected letters, numbers, `-`, `_`",
    ),
    (
        'a = "é" b = 1\n',
        "1:9: a: unexpected key or value, expected newline, `#`",
    ),
    (
        'a = "x\n',
        '1:7: a: invalid basic string, expected `"`',
    ),
]


@pytest.mark.parametrize(("text", "expected"), SYNTAX)
def test_what_is_not_toml_is_placed(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text) == [expected]


def test_numbers_beyond_python_are_problems_too(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, "a = 1" + "0" * 5000)
    assert problem.startswith("1:")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    with pytest.raises(MissingInputError, match=r"did you mean '.*study\.toml'\?") as raised:
        load_study(tmp_path / "stduy.toml")
    assert raised.value.exit_code == 4
    with pytest.raises(MissingInputError):
        load_study(tmp_path / "no" / "such.toml")
    with pytest.raises(UsageError, match="is a folder"):
        load_study(path.parent)


def test_empty_and_misspelt_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAEVAL_SHARED_DATA", "")
    assert problems(tmp_path, NPZ.replace("{}", "${METAEVAL_SHARED_DATA}/m.npz")) == [
        "7:1: data.path: the environment variable METAEVAL_SHARED_DATA is empty"
    ]
    assert problems(tmp_path, NPZ.replace("{}", "${METAEVAL_SHARED_DAT}/m.npz")) == [
        "7:1: data.path: the environment variable METAEVAL_SHARED_DAT is not set; did you mean "
        "'METAEVAL_SHARED_DATA'?"
    ]


def test_problems_of_other_rooms_are_placed(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, MINIMAL))
    for loc, place, key in [
        (("threat_models", 0, "attacks", 1), (13, 23), "threat_models[0].attacks[1]"),
        (("models", 0, "weights"), (7, 3), "models[0].weights"),  # not written: its table
        (("analysis", "confidence"), (1, 1), "analysis.confidence"),
    ]:
        problem = study.problem(loc, "m", "s")
        assert (problem.line, problem.column, problem.key) == (*place, key)
    assert str(study.problem(("data", "select"), "m", "s")).endswith(
        "study.toml:5:2: data.select: m; did you mean 's'?"
    )
