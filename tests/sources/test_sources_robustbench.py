"""The RobustBench zoo: what is in it, how its weights come and are loaded, what is only published."""

from __future__ import annotations

import csv
import http.server
import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaeval.errors import StudyError
from metaeval.sources.models import load_model, robustbench
from metaeval.sources.models.building import build_module
from metaeval.sources.models.fetching import fetch_models
from metaeval.sources.models.robustbench import left_out
from metaeval.sources.models.zoo import DATASETS, import_robustbench, published, zoo

if importlib.util.find_spec("robustbench") is None:
    pytest.skip("needs robustbench", allow_module_level=True)
SHARED = Path(os.environ["METAEVAL_SHARED_DATA"])
RESULTS = SHARED / "robustbench_model_info.zip"
needs_results = pytest.mark.skipif(not RESULTS.is_file(), reason="needs the shared data")
THREATS = ("Linf", "L2", "corruptions")


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAEVAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("METAEVAL_OFFLINE", "1")
    monkeypatch.delenv("TORCH_HOME", raising=False)


@pytest.fixture
def models(write_study: Any, entries: Any, tmp_path: Path) -> Callable[..., list[Any]]:
    """Return a function that gives the models of a table on data like CIFAR-10."""
    x = np.random.default_rng(0).random((20, 32, 32, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x_test=x, y_test=np.arange(20) % 10)

    def expand(*lines: str, data: str = 'source = "npz"\npath = "d.npz"') -> list[Any]:
        return entries(write_study(data, "\n".join(('source = "robustbench"', *lines))))  # type: ignore[no-any-return]

    return expand


def names(found: list[Any]) -> list[str]:
    return [entry.name for entry in found]


def test_the_zoo_is_read_as_its_own_code_reads_it() -> None:
    tables = import_robustbench("robustbench.model_zoo").model_dicts
    for dataset, threats in tables.items():
        for threat, table in threats.items():
            parsed = zoo(dataset.value, threat.value)
            assert list(parsed) == list(table)
            for name, entry in table.items():
                given = entry["gdrive_id"]
                files = tuple(given) if isinstance(given, list) else (given,) if given else ()
                assert (parsed[name].files, parsed[name].ensemble) == (files, isinstance(given, list))
    assert "autoattack" not in sys.modules


def test_the_zoo_is_listed_without_importing_it(write_study: Any, models: Any, tmp_path: Path) -> None:
    models('names = ["Carmon2019Unlabeled"]')  # writes the study
    code = f"""
import sys
sys.modules["torch"] = None
from metaeval.study import load_study
from metaeval.sources.models import expand_models
study = load_study({str(tmp_path / "study.toml")!r})
print([entry.name for entry in expand_models(study, classes=10, shape=(3, 32, 32))])
print([name for name in ("robustbench", "timm", "pandas") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "['Carmon2019Unlabeled']\n[]\n"


@needs_results
def test_published_results_are_what_the_files_say() -> None:
    with zipfile.ZipFile(RESULTS) as archive:
        texts = {n: json.loads(archive.read(n)) for n in archive.namelist() if n.endswith(".json")}
    found = {(d, t): published(RESULTS, d, t) for d in DATASETS for t in THREATS if zoo(d, t)}
    assert sum(map(len, found.values())) == len(texts) == 236
    cifar = found["cifar10", "Linf"]
    assert len(cifar) == 99
    assert np.mean([result.clean for result in cifar.values()]) == pytest.approx(0.875669, abs=1e-6)
    carmon = cifar["Carmon2019Unlabeled"]
    assert (carmon.clean, carmon.robust, carmon.year) == (0.8969, 0.5953, 2019)
    assert carmon.architecture == "WideResNet-28-10"


@needs_results
def test_filters(models: Any, tmp_path: Path) -> None:
    info = f'published = "{RESULTS}"'
    assert len(models()) == len([m for m in zoo("cifar10", "Linf").values() if m.files])
    assert names(models('names = ["Carmon2019*", "Wang2023Better_WRN-??-*"]')) == [
        "Carmon2019Unlabeled",
        "Wang2023Better_WRN-28-10",
        "Wang2023Better_WRN-70-16",
    ]
    recent = names(models('year = ">= 2023"'))
    assert "Peng2023Robust" in recent
    assert all("2023" in name or "2024" in name or "2025" in name for name in recent)
    assert {name[-4:] for name in names(models('names = ["Standard"]'))} == {"dard"}
    assert names(models('names = ["*"]', "year = 2019", 'threat_model = "L2"')) != []
    # The best five, by a sort of the published files of our own.
    with zipfile.ZipFile(RESULTS) as archive:
        accuracy = {}
        for name in archive.namelist():
            if "/cifar10/Linf/" in name and name.endswith(".json"):
                content = json.loads(archive.read(name))
                accuracy[Path(name).stem] = float(content.get("external") or content["autoattack_acc"])
    loadable = [n for n, m in zoo("cifar10", "Linf").items() if m.files and n in accuracy]
    best = sorted(loadable, key=lambda name: -accuracy[name])[:5]
    top = models("top = 5", info)
    assert sorted(accuracy[name] for name in names(top)) == sorted(accuracy[name] for name in best)
    entry = next(e for e in models('names = ["Carmon2019Unlabeled"]', info))
    assert (entry.group, entry.family, entry.published_accuracy) == ("WideResNet-28-10",) * 2 + (0.8969,)
    # A folder holds the same as the zip file.
    with zipfile.ZipFile(RESULTS) as archive:
        archive.extractall(tmp_path / "info")
    assert names(models("top = 5", f'published = "{tmp_path / "info"}"')) == names(top)


@needs_results
def test_what_is_wrong_with_a_table(models: Any, tmp_path: Path) -> None:
    info = f'published = "{RESULTS}"'
    (tmp_path / "bad.zip").write_text("no")
    for lines, message in [
        (('names = ["Carmon2019Unlabelled"]',), "did you mean 'Carmon2019Unlabeled'?"),
        (('names = ["Madry2018Towards"]', info), "published numbers only, no weights in the zoo: Madry2018"),
        (('names = ["Augustin2020Adversarial"]',), "there is in cifar10/L2"),
        (('names = ["Debenedetti2022Light_XCiT-S12"]',), "has its weights from timm or torchvision"),
        (('names = ["*"]', 'year = ">= 2100"'), "no model of these names is of a year >= 2100"),
        (("top = 5",), "needs published results: set published"),
        (('dataset = "cifar100"',), "models of cifar100 take inputs (3, 32, 32) and give 100 logits"),
        (('dataset = "cifar100"', 'threat_model = "L2"'), "the zoo has no models of cifar100 for L2"),
        (('published = "bad.zip"',), "bad.zip cannot be read"),
    ]:
        with pytest.raises(StudyError) as raised:
            models(*lines)
        assert message in str(raised.value)
        assert raised.value.exit_code == 2
        assert "study.toml:" in str(raised.value)
    with pytest.raises(StudyError, match=r"there is no .*nowhere") as raised:
        models('published = "nowhere.zip"')
    assert raised.value.exit_code == 4
    with pytest.raises(StudyError, match="expected a year"):
        models('year = "recent"')
    with pytest.raises(StudyError, match="did you mean 'Linf'"):
        models('threat_model = "linf"')


def test_models_of_one_name_for_two_threat_models_can_be_told_apart(models: Any) -> None:
    name = 'names = ["Standard"]'
    (linf,) = models(name)
    (l2,) = models(name, 'threat_model = "L2"', 'name = "l2"')
    assert (linf.name, l2.name) == ("Standard", "l2-Standard")
    assert linf.identity != l2.identity
    assert linf.weights.name == l2.weights.name  # the files have the zoo's names


@needs_results
def test_names_without_weights_are_told_where_others_match(write_study: Any, models: Any) -> None:
    lines = ['names = ["W*", "*Light*"]', f'published = "{RESULTS}"', 'year = "< 2023"']
    assert models(*lines) != []
    table = "\n".join(['source = "robustbench"', *lines])
    study = write_study('source = "digits"', table)
    listed = set(published(RESULTS, "cifar10", "Linf")) - set(zoo("cifar10", "Linf"))
    only, foreign = left_out(study)
    assert only.startswith("models[0] leaves out (published numbers only, no weights in the zoo): ")
    named = only.split("): ")[1].split(", ")
    assert set(named) == {name for name in listed if name.startswith("W") or "Light" in name}
    assert "Wu2020Do" in named
    assert "weights from timm or torchvision" in foreign
    assert "Debenedetti2022Light_XCiT-S12" in foreign
    assert left_out(write_study('source = "digits"', table.replace("< 2023", ">= 2100"))) == []


def carmon(prefix: str = "module.") -> dict[str, Any]:
    """Return a checkpoint of random weights laid out as the zoo's of a WideResNet-28-10."""
    torch.manual_seed(5)
    module = build_module("robustbench:cifar10/Linf/Carmon2019Unlabeled", {}, (3, 32, 32), 10)
    with torch.no_grad():
        for buffer in module.buffers():  # statistics that a loader could lose unnoticed
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer) * 0.1)
    return {"state_dict": {f"{prefix}{key}": tensor for key, tensor in module.state_dict().items()}}


def test_weights_in_the_zoos_layout_are_loaded_by_the_zoos_code(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = carmon()
    for place, lines in {
        tmp_path / "mine": (f'model_dir = "{tmp_path / "mine"}"',),
        tmp_path / "cache" / "robustbench": (),
    }.items():
        folder = place / "cifar10" / "Linf"
        folder.mkdir(parents=True)
        torch.save(checkpoint, folder / "Carmon2019Unlabeled.pt")
        (entry,) = models('names = ["Carmon2019Unlabeled"]', *lines)
        assert not entry.is_missing
        assert entry.weights == folder / "Carmon2019Unlabeled.pt"
        (folder / "Carmon2019Unlabeled.pt").touch()
    loaded = load_model(entry)
    twin = build_module("robustbench:cifar10/Linf/Carmon2019Unlabeled", {}, (3, 32, 32), 10).eval()
    twin.load_state_dict({k.removeprefix("module."): v for k, v in checkpoint["state_dict"].items()})
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x), twin(x), rtol=0, atol=0)
    assert loaded.parameters == sum(p.numel() for p in twin.parameters())
    assert capsys.readouterr().out == ""
    # TORCH_HOME comes first for what is in neither.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    (other,) = models('names = ["Wang2023Better_WRN-28-10"]')
    assert other.weights == tmp_path / "home/robustbench/cifar10/Linf/Wang2023Better_WRN-28-10.pt"
    assert models('names = ["Carmon2019Unlabeled"]')[0].weights == entry.weights
    # Others' weights of the same name do not fit, and say where.
    state = {key: value for key, value in checkpoint["state_dict"].items() if "fc" not in key}
    torch.save({"state_dict": state}, entry.weights)
    (entry,) = models('names = ["Carmon2019Unlabeled"]')
    with pytest.raises(StudyError, match=r"do not fit: .*fc\.weight"):
        load_model(entry)
    entry.weights.write_bytes(b"<html>quota</html>")
    with pytest.raises(StudyError, match="it is a web page"):
        models('names = ["Carmon2019Unlabeled"]')


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # as the study per class prints them
        ("Wang2023Better_WRN-70-16", 266.79),
        ("Peng2023Robust", 267.72),
        ("Bai2023Improving_edm", 566.92),
        ("Cui2023Decoupled_WRN-28-10", 36.48),
    ],
)
def test_large_models_have_the_layers_of_their_weights(
    models: Any, monkeypatch: pytest.MonkeyPatch, name: str, millions: float
) -> None:
    """On the meta device: keys and shapes as they are, nothing computed."""
    (entry,) = models(f'names = ["{name}"]')
    monkeypatch.setattr(torch.Tensor, "item", lambda _: 0.0)  # the mixing network prints its settings
    with torch.device("meta"):
        module = entry.build().eval()
        if not name.startswith("Bai2023"):  # it looks at numbers on its way
            assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    counted = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    assert counted == pytest.approx(millions, rel=3e-3)
    manifest = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    state = {key: torch.empty(shape, device="meta") for key, shape in manifest.items()}
    module.load_state_dict(state, assign=True)
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict({**state, next(iter(manifest)): torch.empty(1, 2, 3, device="meta")})
    assert len(entry.files) == (3 if name.startswith("Bai2023") else 1)
    tensors = [value for layer in module.modules() for value in vars(layer).values()]
    assert not any(isinstance(value, torch.Tensor) for value in tensors)  # they would stay on their device


class Drive(http.server.BaseHTTPRequestHandler):
    """Answers as Google Drive does: a file for one id, a page of its quota for all others."""

    file = b""

    def do_GET(self) -> None:
        identifier = zoo("cifar10", "Linf")["Carmon2019Unlabeled"].files[0]
        content = self.file if f"id={identifier}&" in self.path else b"<html>Quota exceeded</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    buffer = io.BytesIO()
    torch.save({"few": torch.zeros(3)}, buffer)
    monkeypatch.setattr(Drive, "file", buffer.getvalue())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drive) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/download?id={{}}&confirm=t"
        monkeypatch.setattr(robustbench, "DRIVE", address)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("drive")
def test_weights_are_fetched_from_drive_or_asked_for(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = models('names = ["Carmon2019Unlabeled", "Bai2023Improving_edm"]')
    assert all(entry.is_missing for entry in found)
    with pytest.raises(StudyError, match="METAEVAL_OFFLINE is set"):
        fetch_models(found)
    monkeypatch.delenv("METAEVAL_OFFLINE")
    with pytest.raises(StudyError) as raised:
        fetch_models(found)
    said = str(raised.value)
    assert raised.value.exit_code == 4
    folder = tmp_path / "cache" / "robustbench" / "cifar10" / "Linf"
    identifier = zoo("cifar10", "Linf")["Bai2023Improving_edm"].files[0]
    assert all(
        word in said
        for word in (
            "it is a web page",
            f"id={identifier}",
            f"put it at {folder / 'Bai2023Improving_edm.pt_m0.pt'}",
        )
    )
    assert "Carmon2019" not in said
    assert [file.name for file in folder.iterdir()] == ["Carmon2019Unlabeled.pt"]
    assert (folder / "Carmon2019Unlabeled.pt").read_bytes() == Drive.file
    (again,) = models('names = ["Carmon2019Unlabeled"]')
    assert not again.is_missing
    with pytest.raises(StudyError, match="cannot be read or do not fit"):
        load_model(again)


@needs_results
def test_the_models_of_the_study_per_class_are_in_the_zoo() -> None:
    with (SHARED / "robustbench_2023_stages.csv").open() as file:
        listed = {row["model"]: row["architecture"] for row in csv.DictReader(file)}
    assert len(listed) == 5
    results = published(RESULTS, "cifar10", "Linf")
    for name, architecture in listed.items():
        assert zoo("cifar10", "Linf")[name].files
        assert results[name].architecture.startswith(architecture)
