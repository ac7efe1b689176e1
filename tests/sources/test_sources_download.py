"""Files from the network: a real server that behaves well, and in every wrong way."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from served import Server, serving

from metaeval.errors import MissingInputError, StudyError
from metaeval.sources.models import load_model
from metaeval.sources.models.architectures import mlp
from metaeval.sources.models.download import download
from metaeval.sources.models.fetching import fetch_models, planned


def weights() -> bytes:
    torch.manual_seed(0)
    return save(mlp((1, 8, 8), 10).state_dict())


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save(mlp((1, 8, 8), 10).state_dict(), buffer)
    return buffer.getvalue()


GOOD, TORCH = weights(), torch_file()
HTML = b"\n<!DOCTYPE html><html><title>Quota exceeded</title></html>"
SHA = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving(monkeypatch, tmp_path / "cache") as running:
        running.files = {"/good.safetensors": GOOD, "/good.pt": TORCH, "/page.pt": HTML, "/empty.pt": b""}
        running.files |= {"/cut.pt": TORCH[:-100], "/text.pt": b"Not found, sorry. " * 3}
        yield running


@pytest.mark.parametrize(
    ("name", "sha256", "message"),
    [
        ("page.pt", None, "a web page, not a file of weights: '<!DOCTYPE html>"),
        ("empty.pt", None, "the file is empty"),
        ("cut.pt", None, "cut off: a PyTorch file without its end"),
        ("text.pt", None, "no file of weights; it begins with b'Not found"),
        ("nothing.pt", None, "the server answered 404"),
        ("good.safetensors", "0" * 64, f"its sha256 is {SHA}, not 000"),
    ],
)
def test_what_is_no_file_of_weights_is_said_and_not_kept(
    server: Server, tmp_path: Path, name: str, sha256: str | None, message: str
) -> None:
    target = tmp_path / "files" / "w.pt"
    with pytest.raises(MissingInputError) as raised:
        download(server.url(name), target, sha256=sha256)
    assert message in str(raised.value)
    assert raised.value.exit_code == 4
    assert list(target.parent.iterdir()) == []


def test_no_server_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"the download failed: .*refused"):
        download("http://127.0.0.1:9/w.pt", tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["good.safetensors", "good.pt"])
def test_a_good_file_arrives_whole(server: Server, tmp_path: Path, name: str) -> None:
    said: list[str] = []
    download(server.url(name), tmp_path / "deep" / name, note=said.append)
    assert (tmp_path / "deep" / name).read_bytes() == server.files[f"/{name}"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [name]
    assert len(said) == 1
    assert name in said[0]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_is_continued_where_its_hash_is_known(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    target = tmp_path / "w.safetensors"
    server.break_off, server.ranges = 1000, ranges
    with pytest.raises(MissingInputError, match=f"cut off after 1000 of {len(GOOD)} bytes"):
        download(server.url("good.safetensors"), target, sha256=SHA)
    assert not target.exists()
    server.break_off = None
    download(server.url("good.safetensors"), target, sha256=SHA)
    assert target.read_bytes() == GOOD
    assert server.sent[-1][1] == len(GOOD) - (1000 if ranges else 0)


def test_a_part_of_another_file_is_not_continued_without_a_hash(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    server.break_off = 1000
    with pytest.raises(MissingInputError, match="cut off"):
        download(server.url("good.safetensors"), target)
    assert list(tmp_path.glob("w.*")) == []


def test_a_wrong_part_ends_in_a_wrong_hash_and_is_removed(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    (tmp_path / f"w.safetensors.{SHA[:16]}.part").write_bytes(b"x" * 1000)
    with pytest.raises(MissingInputError, match=r"sha256|no file of weights"):
        download(server.url("good.safetensors"), target, sha256=SHA)
    download(server.url("good.safetensors"), target, sha256=SHA)
    assert target.read_bytes() == GOOD


@pytest.fixture
def remote(write_study: Any, entries: Any, server: Server) -> Callable[..., list[Any]]:
    """Return a function that gives the models of a study with weights at an address."""

    def expand(address: str, *more: str) -> list[Any]:
        table = f'source = "checkpoint"\narchitecture = "mlp"\nweights = "{address}"\n' + "\n".join(more)
        return entries(write_study('source = "digits"', table))  # type: ignore[no-any-return]

    return expand


def test_weights_at_an_address_are_fetched_once(
    server: Server, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, sha256 = server.url("good.safetensors"), f'sha256 = "{SHA}"'
    (entry,) = remote(address, sha256)
    assert entry.name == "good"
    assert entry.is_missing
    assert server.sent == []
    with pytest.raises(StudyError, match="have not been fetched"):
        load_model(entry)
    (fetched,) = fetch_models([entry])
    twin = mlp((1, 8, 8), 10)
    torch.manual_seed(0)
    twin = mlp((1, 8, 8), 10).eval()
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_model(fetched).module(x), twin(x), rtol=0, atol=0)
    monkeypatch.setenv("METAEVAL_OFFLINE", "1")
    (again,) = fetch_models(remote(address, sha256))
    assert again.identity == fetched.identity
    assert len(server.sent) == 1


def test_what_cannot_be_had_says_where_to_put_it(
    server: Server, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.url("page.pt")
    found = remote(address, f'sha256 = "{SHA}"')
    place = planned(address, SHA).path
    with pytest.raises(StudyError) as raised:
        fetch_models(found)
    said = str(raised.value)
    assert raised.value.exit_code == 4
    assert all(word in said for word in ("study.toml:", "page.pt", address, str(place), "a web page"))
    monkeypatch.setenv("METAEVAL_OFFLINE", "1")
    with pytest.raises(StudyError, match="METAEVAL_OFFLINE is set") as raised:
        fetch_models(found)
    assert raised.value.exit_code == 4
    # Put there by hand it is found, and checked against its hash.
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(GOOD)
    assert not remote(address, f'sha256 = "{SHA}"')[0].is_missing
    place.write_bytes(TORCH)
    with pytest.raises(StudyError, match=r"delete .* to fetch it again"):
        remote(address, f'sha256 = "{SHA}"')


def test_fetched_weights_that_do_not_fit_are_refused(server: Server, remote: Any) -> None:
    found = remote(
        server.url("good.safetensors"), f'sha256 = "{SHA}"', "architecture_settings = { width = 64 }"
    )
    with pytest.raises(
        StudyError, match=r"does not fit .*1\.weight is \(128, 64\), not \(64, 64\)"
    ) as raised:
        fetch_models(found)
    assert raised.value.exit_code == 2


def test_hugging_face(server: Server, write_study: Any, tmp_path: Path) -> None:
    """In a process of its own: the library reads the address of its hub when it is imported."""
    pytest.importorskip("huggingface_hub")
    server.files["/me/nets/resolve/v1/deep/w.safetensors"] = GOOD
    table = 'source = "checkpoint"\narchitecture = "mlp"\nweights = "hf:me/nets/deep/{}.safetensors@v1"'
    study = write_study('source = "digits"', table.format("w"), table.format("other"))
    code = f"""
from metaeval.errors import StudyError
from metaeval.sources.models import expand_models
from metaeval.sources.models.fetching import fetch_models
from metaeval.study import load_study
good, other = expand_models(load_study({str(study.path)!r}), classes=10, shape=(1, 8, 8))
print(good.name, good.is_missing, fetch_models([good])[0].weights_sha256)
try:
    fetch_models([other])
except StudyError as error:
    print(error.exit_code, error)
"""
    environment = {**os.environ, "HF_ENDPOINT": server.url("").rstrip("/"), "HF_HOME": str(tmp_path / "hf")}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == f"w True {SHA}"
    assert second.startswith("4 ")
    assert "other.safetensors from hf:me/nets/deep/other.safetensors@v1: the download failed" in second


def test_hugging_face_without_its_library(
    server: Server, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StudyError, match=r"pip install 'metaeval\[huggingface\]'") as raised:
        fetch_models(remote("hf:me/nets/w.safetensors"))
    assert raised.value.exit_code == 2
