"""`metaeval fetch`: what a study needs comes from a real server and is verified, or is said to be missing."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from served import Server, serving
from small_sets import SmallSet, md5, write

from metaeval.cli import main
from metaeval.errors import StudyError
from metaeval.runner.fetch import fetch_data
from metaeval.runner.needed import missing
from metaeval.sources.data import open_data
from metaeval.sources.data.standards import STANDARDS, Archive
from metaeval.sources.models.architectures import mlp
from metaeval.sources.needs import Need, needs
from metaeval.sources.shifts import needs as shift_needs
from metaeval.study import load_study

ROOT = Path(__file__).parents[2]
COUNTS = {"train": (2,) * 10, "test": (1, 2) * 5}
STUDY = """
schema_version = 1
[study]
name = "elsewhere"
[data]
source = "cifar10"
samples = 12
select = "stratified"
[[models]]
source = "checkpoint"
architecture = "mlp"
weights = "{weights}"
sha256 = "{sha256}"
expect = false
[[threat_models]]
norm = "linf"
epsilons = [0, 0.01]
attacks = ["apgd-ce"]
"""


class Ran(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def metaeval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Ran]:
    """Return a function that runs the command line in this process, in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAEVAL_OFFLINE", "")  # what --offline sets is undone after the test

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["metaeval", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        monkeypatch.setenv("METAEVAL_OFFLINE", "")
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving(monkeypatch, tmp_path / "cache") as running:
        yield running


class Elsewhere(NamedTuple):
    """A study whose data and weights are on a server."""

    study: Path
    archive: Path
    weights: bytes
    packed: bytes
    small: SmallSet


@pytest.fixture
def elsewhere(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    small = SmallSet("cifar10", COUNTS, monkeypatch)
    (packed,) = small.packed.values()
    at_server(monkeypatch, Archive("cifar-10-python.tar.gz", server.url("cifar.tar.gz"), md5(packed)))
    torch.manual_seed(0)
    weights = save(mlp((3, 32, 32), 10).state_dict())
    server.files |= {"/cifar.tar.gz": packed, "/w.safetensors": weights}
    sha256 = hashlib.sha256(weights).hexdigest()
    study = tmp_path / "elsewhere.toml"
    study.write_text(STUDY.format(weights=server.url("w.safetensors"), sha256=sha256))
    return Elsewhere(study, tmp_path / "cache" / "data" / "cifar-10-python.tar.gz", weights, packed, small)


def at_server(monkeypatch: pytest.MonkeyPatch, archive: Archive) -> None:
    """Let the small CIFAR-10 come from another address."""
    known = STANDARDS["cifar10"]
    splits = {
        name: replace(split, parts=tuple(replace(part, archive=archive) for part in split.parts))
        for name, split in known.splits.items()
    }
    monkeypatch.setitem(STANDARDS, "cifar10", replace(known, splits=splits))


def test_everything_is_fetched_once_and_then_runs_offline(
    metaeval: Callable[..., Ran], server: Server, elsewhere: Elsewhere
) -> None:
    study = str(elsewhere.study)
    for command in ("check", "plan"):
        result = metaeval(command, study)
        assert result.code == 4
        said = result.err.splitlines()
        assert len(said) == 2
        assert f"data.source: data cifar10: {elsewhere.archive} is missing; `metaeval fetch" in said[0]
        assert "models[0].weights: weights w: " in said[1]
    offline = metaeval("fetch", study, "--offline", "--json")
    assert offline.code == 4
    rows = json.loads(offline.out)
    assert [(row["state"], row["reason"]) for row in rows] == [("missing", "METAEVAL_OFFLINE is set")] * 2
    assert metaeval("run", study, "--offline").code == 4
    assert server.sent == []

    result = metaeval("fetch", study)
    assert result.code == 0, result.err
    assert [line.split()[:3] for line in result.out.splitlines()[1:3]] == [
        ["data", "cifar10", "fetched"],
        ["weights", "w", "fetched"],
    ]
    assert "2 fetched; everything is there and fits" in result.out
    assert elsewhere.archive.read_bytes() == elsewhere.packed
    sent = list(server.sent)
    assert sorted(path for path, _ in sent) == ["/cifar.tar.gz", "/w.safetensors"]
    again = metaeval("fetch", study, "--offline", "--json")
    assert [row["state"] for row in json.loads(again.out)] == ["have"] * 2
    assert metaeval("check", study).code == 0
    result = metaeval("run", study, "--offline", "-q")
    assert result.code == 0, result.err
    assert server.sent == sent


def test_a_wrong_study_fetches_nothing(
    metaeval: Callable[..., Ran], server: Server, elsewhere: Elsewhere
) -> None:
    elsewhere.study.write_text(elsewhere.study.read_text().replace("apgd-ce", "apgd-cee"))
    for command in ("fetch", "run"):
        result = metaeval(command, str(elsewhere.study))
        assert result.code == 2
        assert "did you mean 'apgd-ce'" in result.err
    assert server.sent == []


def test_run_fetches_what_it_needs(
    metaeval: Callable[..., Ran], server: Server, elsewhere: Elsewhere
) -> None:
    result = metaeval("run", str(elsewhere.study), "--limit", "3")
    assert result.code == 0, result.err
    assert f"fetching {server.url('cifar.tar.gz')}" in result.err
    assert len(server.sent) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype html><title>Sign in</title>", "it is a web page, not data: '<!doctype html>"),
        (b"", "the file is empty"),
        (b"sorry", "it is no .gz file; it begins with b'sorry'"),
        (b"\x1f\x8b\x08 another file", "its md5 is "),
        (None, "the server answered 404"),
    ],
)
def test_what_is_not_the_archive_is_not_kept(
    metaeval: Callable[..., Ran], server: Server, elsewhere: Elsewhere, content: bytes | None, message: str
) -> None:
    if content is None:
        del server.files["/cifar.tar.gz"]
    else:
        server.files["/cifar.tar.gz"] = content
    result = metaeval("fetch", str(elsewhere.study))
    assert result.code == 4
    (row,) = [line for line in result.out.splitlines() if line.startswith("data cifar10")]
    assert "missing" in row
    assert message in row
    assert f"get it from {server.url('cifar.tar.gz')} and put it there" in row
    assert "weights w" in result.out
    assert "1 fetched, 1 missing" in result.err
    assert not list(elsewhere.archive.parent.iterdir())


def test_a_download_that_broke_off_is_continued(
    metaeval: Callable[..., Ran], server: Server, elsewhere: Elsewhere
) -> None:
    server.break_off = 1000
    result = metaeval("fetch", str(elsewhere.study))
    assert result.code == 4
    assert f"cut off after 1000 of {len(elsewhere.packed)} bytes" in result.out
    assert not elsewhere.archive.exists()
    server.break_off = None
    assert metaeval("fetch", str(elsewhere.study)).code == 0
    assert ("/cifar.tar.gz", len(elsewhere.packed) - 1000) in server.sent


def test_what_was_put_there_by_hand_is_checked(
    metaeval: Callable[..., Ran], elsewhere: Elsewhere, server: Server, tmp_path: Path
) -> None:
    server.files.clear()
    write(tmp_path / "cache" / "data", elsewhere.small.plain)
    result = metaeval("fetch", str(elsewhere.study), "--json")
    assert [row["state"] for row in json.loads(result.out)] == ["have", "missing"]
    batch = tmp_path / "cache" / "data" / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(batch.read_bytes()[:-10])
    result = metaeval("fetch", str(elsewhere.study))
    assert result.code == 2
    assert "test_batch in " in result.err
    assert "no readable pickle" in result.err


FILES = {
    "cifar10": ["cifar-10-python.tar.gz"],
    "cifar100": ["cifar-100-python.tar.gz"],
    "mnist": ["MNIST/raw/t10k-images-idx3-ubyte.gz", "MNIST/raw/t10k-labels-idx1-ubyte.gz"],
    "fashion_mnist": [f"FashionMNIST/raw/t10k-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")],
    "svhn": ["test_32x32.mat"],
    "gtsrb": ["gtsrb/GTSRB_Final_Test_Images.zip", "gtsrb/GTSRB_Final_Test_GT.zip"],
    "tiny_imagenet": ["tiny-imagenet-200.zip"],
    "har": ["UCI HAR Dataset.zip"],
    "imagenet": ["val"],
}


def data_needs(study: Any) -> list[Need]:
    return [need for need in needs(study) if need.kind == "data"]


@pytest.mark.parametrize("source", FILES)
def test_every_standard_set_says_what_it_needs(
    write_study: Any, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAEVAL_OFFLINE", "1")
    study = write_study(f'source = "{source}"\nroot = "data"')
    found = [need for need in data_needs(study) if "train" not in need.place.name.lower()]
    assert sorted(str(need.place.relative_to(tmp_path / "data")) for need in found) == sorted(FILES[source])
    assert not any(need.have for need in found)
    with pytest.raises(StudyError) as raised:
        open_data(study, study.data.split)
    assert raised.value.exit_code == 4
    with pytest.raises(StudyError) as raised:
        fetch_data(study)
    assert raised.value.exit_code == 4
    for need in found:
        assert str(need.place) in str(raised.value)
        assert (need.address in str(raised.value)) == (source != "imagenet" or not need.address)
    for need in data_needs(study):
        need.place.parent.mkdir(parents=True, exist_ok=True)
        need.place.mkdir() if source == "imagenet" else need.place.touch()
    assert all(need.have for need in data_needs(study))
    assert missing(study) == []


def test_files_of_the_user_are_needs_too(write_study: Any, tmp_path: Path) -> None:
    for data, names in {
        'source = "npz"\npath = "d.npz"': ["d.npz"],
        'source = "images"\npath = "folder"': ["folder"],
        'source = "npy"\nx = "x_{split}.npy"\ny = "y.npy"': ["x_test.npy", "y.npy"],
        'source = "csv"\npath = "d_{split}.csv"': ["d_test.csv", "d_train.csv"],
        'source = "parquet"\npath = "d.parquet"\nbounds = [0, 1]': ["d.parquet"],
    }.items():
        study = write_study(data, 'source = "checkpoint"\narchitecture = "mlp"\nweights = "w.safetensors"')
        said = [problem.message for problem in missing(study)]
        assert [line.split(": ")[1].split(" is missing")[0] for line in said] == [
            str(tmp_path / name) for name in [*names, "w.safetensors"]
        ]
        assert all("it is a file of yours" in line for line in said)


def test_the_study_of_five_published_models_says_what_is_missing(
    metaeval: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("robustbench") is None:
        pytest.skip("needs robustbench")
    monkeypatch.setenv("METAEVAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    shutil.copy(ROOT / "studies" / "robustbench_2023.toml", tmp_path)
    names = load_study(tmp_path / "robustbench_2023.toml").models[0].names
    assert len(names) == 5
    for command in (["check"], ["plan"], ["fetch", "--offline"], ["run", "--offline"]):
        result = metaeval(command[0], "robustbench_2023.toml", *command[1:])
        assert result.code == 4
        said = result.out + result.err
        assert "Traceback" not in said
        assert str(tmp_path / "cache" / "data" / "cifar-10-python.tar.gz") in said
        for name in names:
            assert str(tmp_path / "cache" / "robustbench" / "cifar10" / "Linf" / f"{name}.pt") in said
            assert "https://drive.usercontent.google.com/download?id=" in said
    assert not (tmp_path / "reports").exists()


SHIFTED = """
schema_version = 1
[study]
name = "shifted"
[data]
source = "npz"
path = "d.npz"
[[models]]
source = "checkpoint"
architecture = "mlp"
weights = "w.safetensors"
expect = false
[[threat_models]]
norm = "linf"
epsilons = [0, 0.01]
attacks = ["apgd-ce"]
[[shifts]]
source = "cifar10-c"
names = ["fog", "snow"]
severities = [1, 5]
[[shifts]]
source = "cifar10.1"
[[shifts]]
source = "data"
name = "own"
data = { source = "npz", path = "own.npz" }
"""


@pytest.fixture
def shifted(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a study of two published shifts on a server and one of the user's own."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8), np.arange(20) % 10
    np.savez(tmp_path / "d.npz", x_test=x, y_test=y)
    torch.manual_seed(0)
    save_file(mlp((3, 32, 32), 10).state_dict(), tmp_path / "w.safetensors")
    arrays = {
        "CIFAR-10-C/labels": np.tile(y, 5),
        **{f"CIFAR-10-C/{name}": np.tile(x, (5, 1, 1, 1)) for name in ("fog", "snow", "frost")},
        "cifar10.1_v6_data": x[:7],
        "cifar10.1_v6_labels": y[:7],
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            server.files[f"/{name}.npy"] = content.getvalue()
            info = tarfile.TarInfo(f"{name}.npy")
            info.size = len(content.getvalue())
            tar.addfile(info, io.BytesIO(content.getvalue()))
    server.files["/c.tar"] = packed.getvalue()
    archive = Archive("CIFAR-10-C.tar", server.url("c.tar"), md5(packed.getvalue()))
    monkeypatch.setitem(shift_needs.ARCHIVES, "cifar10-c", archive)
    monkeypatch.setattr(shift_needs, "CIFAR101", server.url(""))
    study = tmp_path / "shifted.toml"
    study.write_text(SHIFTED)
    return study


def test_files_of_shifts_are_named_and_fetched(
    metaeval: Callable[..., Ran], server: Server, shifted: Path, tmp_path: Path
) -> None:
    data = tmp_path / "cache" / "data"
    places = [
        *(data / "CIFAR-10-C" / f"{name}.npy" for name in ("labels", "fog", "snow")),
        *(data / "cifar10.1" / f"cifar10.1_v6_{name}.npy" for name in ("data", "labels")),
        tmp_path / "own.npz",
    ]
    for command in (["check"], ["plan"], ["run", "--offline"], ["fetch", "--offline"]):
        result = metaeval(command[0], str(shifted), *command[1:])
        assert result.code == 4
        assert [place for place in places if str(place) not in result.out + result.err] == []
    said = metaeval("check", str(shifted)).err
    assert f"{shifted}:18:1: shifts[0].source: shift cifar10-c labels: {places[0]} is missing" in said
    assert server.sent == []
    result = metaeval("fetch", str(shifted), "--json")
    assert result.code == 4
    assert [row["state"] for row in json.loads(result.out)] == ["have"] * 2 + ["fetched"] * 5 + ["missing"]
    assert [path for path, _ in server.sent].count("/c.tar") == 1
    assert not (data / "CIFAR-10-C" / "frost.npy").exists()
    np.savez(tmp_path / "own.npz", x_test=np.zeros((2, 32, 32, 3)), y_test=[0, 1])
    assert metaeval("fetch", str(shifted), "--offline").code == 0
    assert "1 models, 1 attacks, 4 shifts, 20 samples" in metaeval("check", str(shifted)).out
    result = metaeval("run", str(shifted), "--offline", "-q", "--limit", "5")
    assert result.code == 0, result.err


def test_an_archive_of_corruptions_put_there_by_hand_is_checked(
    metaeval: Callable[..., Ran], server: Server, shifted: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "cache" / "data" / "CIFAR-10-C.tar"
    archive.parent.mkdir(parents=True)
    good = server.files["/c.tar"]
    for content, reason in ((good[:20000], "its md5 is "), (b"<html>", "its md5 is ")):
        archive.write_bytes(content)
        result = metaeval("fetch", str(shifted), "--offline")
        assert result.code == 4
        assert reason in result.out
        assert not list((archive.parent / "CIFAR-10-C").glob("*"))
    archive.write_bytes(good)
    result = metaeval("fetch", str(shifted), "--offline", "--json")
    assert [row["state"] for row in json.loads(result.out)][2:5] == ["fetched"] * 3


def test_imagenet_c_says_which_folders_are_missing(
    metaeval: Callable[..., Ran], shifted: Path, tmp_path: Path
) -> None:
    table = 'source = "imagenet-c"\nnames = ["fog"]\nseverities = [2, 3]\npath = "c"\n'
    shifted.write_text(SHIFTED[: SHIFTED.index("[[shifts]]")] + f"[[shifts]]\n{table}")
    (tmp_path / "c" / "fog" / "2").mkdir(parents=True)
    result = metaeval("fetch", str(shifted), "--offline")
    assert result.code == 4
    assert [line.split()[:6] for line in result.out.splitlines()[3:]] == [
        ["shift", "fog", "severity", "2", "have", str(tmp_path / "c/fog/2")],
        ["shift", "fog", "severity", "3", "missing", str(tmp_path / "c/fog/3")],
    ]
    assert "https://zenodo.org/records/2235448" in result.out


def test_the_training_split_is_needed_by_measures_of_it(
    metaeval: Callable[..., Ran], server: Server, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that come trained, on a set whose splits are different files."""
    small = SmallSet("mnist", COUNTS, monkeypatch)
    parts = {}
    for name, split in STANDARDS["mnist"].splits.items():
        changed = []
        for part in split.parts:
            packed = small.packed[part.archive.path]
            server.files[f"/{part.archive.path}"] = packed
            archive = replace(part.archive, address=server.url(part.archive.path), md5=md5(packed))
            changed.append(replace(part, archive=archive))
        parts[name] = replace(split, parts=tuple(changed))
    monkeypatch.setitem(STANDARDS, "mnist", replace(STANDARDS["mnist"], splits=parts))
    torch.manual_seed(0)
    weights = save(mlp((1, 28, 28), 10).state_dict())
    server.files["/w.safetensors"] = weights
    text = STUDY.format(
        weights=server.url("w.safetensors"), sha256=hashlib.sha256(weights).hexdigest()
    ).replace("cifar10", "mnist")
    elsewhere.study.write_text(text)
    rows = json.loads(metaeval("fetch", str(elsewhere.study), "--offline", "--json").out)
    assert len(rows) == 3
    elsewhere.study.write_text(text + '[measures]\nnames = ["predictive_entropy"]\n')
    rows = json.loads(metaeval("fetch", str(elsewhere.study), "--offline", "--json").out)
    assert len(rows) == 3
    elsewhere.study.write_text(text + '[measures]\nnames = ["fisher_rao"]\n')
    rows = json.loads(metaeval("fetch", str(elsewhere.study), "--offline", "--json").out)
    assert sorted(Path(row["place"]).name for row in rows if "mnist" in row["what"]) == [
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]
    # The evaluated split alone: the plan names the rest, and a run brings it.
    elsewhere.study.write_text(text)
    assert metaeval("fetch", str(elsewhere.study)).code == 0
    elsewhere.study.write_text(text + '[measures]\nnames = ["fisher_rao"]\n')
    for command in ("check", "plan"):
        result = metaeval(command, str(elsewhere.study))
        assert result.code == 4
        assert "train-images-idx3-ubyte.gz is missing" in result.out + result.err
    result = metaeval("run", str(elsewhere.study), "-q")
    assert result.code == 0, result.err
    assert metaeval("check", str(elsewhere.study)).code == 0
