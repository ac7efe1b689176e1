"""Checkpoints: the right weights in the right place, and a clear word for every wrong file."""

from __future__ import annotations

import collections
import hashlib
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from metaeval.errors import StudyError, UsageError
from metaeval.sources.data import open_data
from metaeval.sources.models import load_model
from metaeval.sources.models.architectures import cnn, mlp
from metaeval.sources.models.weights import fit

TABLE = 'source = "checkpoint"\nweights = "{}"\narchitecture = "mlp"\n'
X = torch.rand(5, 1, 8, 8)


def model(classes: int = 10, width: int = 128) -> torch.nn.Module:
    torch.manual_seed(1)
    return mlp((1, 8, 8), classes, width=width).eval()


@pytest.fixture
def module_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that makes an importable module of some code and gives its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    number = iter(range(100))

    def write(code: str) -> str:
        name = f"architectures_of_{tmp_path.name}_{next(number)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return name

    return write


@pytest.mark.parametrize("kind", ["safetensors", "torch", "legacy", "nested", "parallel", "both", "ordered"])
def test_every_form_of_a_state_dict_gives_the_same_model(
    write_study: Any, entries: Any, tmp_path: Path, kind: str
) -> None:
    network = model()
    state = {key: tensor.detach() for key, tensor in network.state_dict().items()}
    prefixed = {f"module.{key}": tensor for key, tensor in state.items()}
    path = tmp_path / "my_weights.bin"
    contents: dict[str, Any] = {
        "torch": state,
        "legacy": state,
        "nested": {"epoch": 3, "state_dict": state},
        "parallel": prefixed,
        "both": {"model": prefixed, "optimizer": {"lr": 0.1}},
        "ordered": collections.OrderedDict(state),
    }
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(contents[kind], path, _use_new_zipfile_serialization=kind != "legacy")
    (entry,) = entries(write_study('source = "digits"', TABLE.format("my_weights.bin")))
    loaded = load_model(entry)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(X), network(X), rtol=0, atol=0)
    assert (entry.name, entry.family, entry.source) == ("my_weights", "mlp", "checkpoint")
    assert loaded.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.parameters == 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert loaded.training is None


def test_normalization_is_inside_the_model(write_study: Any, entries: Any, tmp_path: Path) -> None:
    save_file(model().state_dict(), tmp_path / "w.safetensors")
    normalize = "normalize = { mean = [0.25], std = [0.5] }\n"
    plain, shifted = (
        entries(write_study('source = "digits"', TABLE.format("w.safetensors") + more))[0]
        for more in ("", normalize)
    )
    with torch.no_grad():
        expected = model()((X - 0.25) / 0.5)
        torch.testing.assert_close(load_model(shifted).module(X), expected, rtol=0, atol=0)
    assert load_model(plain).identity != load_model(shifted).identity
    assert plain.architecture_identity == shifted.architecture_identity


def test_identities_are_of_content_not_of_names(write_study: Any, entries: Any, tmp_path: Path) -> None:
    save_file(model().state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    save_file({key: tensor + 1 for key, tensor in model().state_dict().items()}, tmp_path / "c.safetensors")
    long_name = TABLE.format("b.safetensors").replace("mlp", "metaeval.sources.models.architectures:mlp")
    default = TABLE.format("a.safetensors") + 'name = "d"\narchitecture_settings = { width = 128 }'
    tables = [TABLE.format("a.safetensors"), long_name, TABLE.format("c.safetensors"), default]
    a, b, c, d = (load_model(entry).identity for entry in entries(write_study('source = "digits"', *tables)))
    assert a == b == d
    assert a != c


def test_a_users_architecture_gets_what_it_asks_for(
    write_study: Any, entries: Any, tmp_path: Path, module_of: Callable[[str], str]
) -> None:
    code = """
        import torch

        def network(classes, hidden=3):
            layers = torch.nn.Linear(64, hidden), torch.nn.Linear(hidden, classes)
            return torch.nn.Sequential(torch.nn.Flatten(), *layers)
    """
    name = module_of(code)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7), torch.nn.Linear(7, 10))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    table = TABLE.format("w.safetensors").replace('"mlp"', f'"{name}:network"')
    study = write_study('source = "digits"', f"{table}architecture_settings = {{ hidden = 7 }}")
    (entry,) = entries(study)
    with torch.no_grad():
        torch.testing.assert_close(load_model(entry).module(X), network(X))
    assert entry.settings == {"hidden": 7}
    # A changed network is another model.
    other = module_of(code + "\n        # changed\n")
    (changed,) = entries(
        write_study(
            'source = "digits"', f"{table.replace(name, other)}architecture_settings = {{ hidden = 7 }}"
        )
    )
    assert changed.architecture_identity != entry.architecture_identity


def nan(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state["3.weight"][0, 0] = float("nan")
    return state


class Code:
    """An object that only code can rebuild."""


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "w is empty"),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "w is a web page"),
    "text": (lambda path: path.write_text("hello"), "no safetensors file or PyTorch state dict"),
    "truncated safetensors": (lambda path: cut(path, save_file), "no safetensors file or PyTorch state dict"),
    "truncated torch": (lambda path: cut(path, torch.save), "w is damaged"),
    "truncated legacy": (lambda path: cut(path, save_legacy), "w is damaged"),
    "code": (lambda path: torch.save(Code(), path), "w is a pickle that needs code"),
    "whole model": (lambda path: torch.save(model(), path), "w is a pickle that needs code"),
    "NaN": (lambda path: save_file(nan(model().state_dict()), path), "not finite in 3.weight"),
    "list": (lambda path: torch.save([torch.zeros(1)], path), "holds no state dict but type list"),
    "numbers": (lambda path: torch.save({"a": 1}, path), "a are no tensors"),
    "width": (
        lambda path: save_file(model(width=64).state_dict(), path),
        "1.weight is (64, 64), not (128, 64)",
    ),
    "classes": (
        lambda path: save_file(model(classes=9).state_dict(), path),
        "5.bias is (9,), not (10,) (built for the data: inputs (1, 8, 8)",
    ),
    "layers": (
        lambda path: save_file({"0.bias": torch.zeros(2)}, path),
        "1.weight is missing; 1.bias is missing",
    ),
}


def cut(path: Path, save: Callable[..., object]) -> None:
    save(model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3000])


def save_legacy(state: object, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path, name: str
) -> None:
    write, message = BAD[name]
    write(tmp_path / "w")
    study = write_study('source = "digits"', TABLE.format("w"))
    (problem,) = problems(study, lambda: entries(study))
    assert problem.startswith("models[0].weights: ")
    assert message in problem


def test_no_code_runs_from_a_pickle(write_study: Any, entries: Any, problems: Any, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Malicious()}, tmp_path / "w")
    study = write_study('source = "digits"', TABLE.format("w"))
    (problem,) = problems(study, lambda: entries(study))
    assert "needs code" in problem
    assert not (tmp_path / "ran").exists()


def test_many_mismatches_are_cut_short(write_study: Any, entries: Any, problems: Any, tmp_path: Path) -> None:
    save_file(cnn((1, 8, 8), 10, depth=4).state_dict(), tmp_path / "w")
    study = write_study('source = "digits"', TABLE.format("w"))
    (problem,) = problems(study, lambda: entries(study))
    assert "more (built for the data" in problem
    assert len(problem) < 600


def test_the_sha256_is_checked(write_study: Any, entries: Any, problems: Any, tmp_path: Path) -> None:
    save_file(model().state_dict(), tmp_path / "w")
    digest = hashlib.sha256((tmp_path / "w").read_bytes()).hexdigest()
    assert entries(write_study('source = "digits"', TABLE.format("w") + f'sha256 = "{digest.upper()}"'))
    study = write_study('source = "digits"', TABLE.format("w") + f'sha256 = "{"0" * 64}"')
    assert problems(study, lambda: entries(study)) == [f"models[0].sha256: w has the sha256 {digest}"]


def test_a_file_that_changes_meanwhile_is_refused(write_study: Any, entries: Any, tmp_path: Path) -> None:
    save_file(model().state_dict(), tmp_path / "w")
    (entry,) = entries(write_study('source = "digits"', TABLE.format("w")))
    save_file({key: tensor + 1 for key, tensor in model().state_dict().items()}, tmp_path / "w")
    with pytest.raises(StudyError, match=r"study.toml:\d+:\d+: models\[0\].weights: w changed"):
        load_model(entry)
    (tmp_path / "w").unlink()
    with pytest.raises(StudyError, match="there is no file") as raised:
        load_model(entry)
    assert raised.value.exit_code == 4


def test_missing_files_alone_are_missing_inputs(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path
) -> None:
    study = write_study('source = "digits"', TABLE.format("absent"), TABLE.format("gone"))
    found = problems(study, lambda: entries(study), exit_code=4)
    assert found == [
        f"models[{i}].weights: there is no file {tmp_path / name}"
        for i, name in enumerate(("absent", "gone"))
    ]
    study = write_study('source = "digits"', TABLE.format("absent"), MISTAKEN)
    assert len(problems(study, lambda: entries(study))) == 2


MISTAKEN = 'source = "train"\narchitecture = "cmn"'


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def network(): return 3", "gives type int, not a torch.nn.Module"),
        (
            "def network(): return torch.nn.Flatten()",
            "gives 64 logits for one input; the data have 10 classes",
        ),
        (
            "def network(): return torch.nn.Linear(9, 10)",
            "cannot be built for inputs (1, 8, 8): RuntimeError: ",
        ),
        (
            "def network(): raise ValueError('no\\nway')",
            "cannot be built for inputs (1, 8, 8): ValueError: no",
        ),
        ("network = 3", "is of type int; a callable"),
        ("", "has no 'network'"),
        ("def network(:", "failed: SyntaxError: "),
        ("raise OSError('full')", "failed: OSError: full"),
        ("import nothing_like_this", "No module named 'nothing_like_this'"),
        ("def network(width): return torch.nn.Flatten()", "needs architecture_settings: width"),
    ],
)
def test_wrong_architectures_are_refused(
    write_study: Any,
    entries: Any,
    problems: Any,
    tmp_path: Path,
    module_of: Callable[[str], str],
    code: str,
    message: str,
) -> None:
    (tmp_path / "w").write_bytes(b"")
    name = module_of(f"import torch\n{code}")
    study = write_study('source = "digits"', TABLE.format("w").replace('"mlp"', f'"{name}:network"'))
    (problem,) = problems(study, lambda: entries(study))
    assert problem.startswith("models[0].architecture: ")
    assert message in problem


def test_a_problem_with_normalization_is_placed(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path
) -> None:
    save_file(model().state_dict(), tmp_path / "w")
    normalize = "normalize = { mean = [0.1, 0.2, 0.3], std = [1, 1, 1] }"
    study = write_study('source = "digits"', TABLE.format("w") + normalize)
    found = problems(study, lambda: entries(study))
    assert found[0] == "models[0].normalize.mean: 3 values for inputs with 1 channels"


def test_the_data_decide_the_class_count(
    write_study: Any, problems: Any, entries: Any, tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", x_test=np.zeros((6, 8, 8)), y_test=[0, 1, 2] * 2)
    save_file(model().state_dict(), tmp_path / "w")
    study = write_study('source = "npz"\npath = "d.npz"', TABLE.format("w"))
    assert len(open_data(study, "test").class_names) == 3
    (problem,) = problems(study, lambda: entries(study))
    assert "5.weight is (10, 128), not (3, 128)" in problem
    assert "(built for the data: inputs (1, 8, 8), 3 classes)" in problem


def test_whole_numbers_are_no_weights() -> None:
    """Quantized weights mean something only with their scales."""
    module = torch.nn.Linear(2, 2)
    state = {key: tensor.to(torch.int8) for key, tensor in module.state_dict().items()}
    with pytest.raises(UsageError, match="weight is int8, which is no weight"):
        fit(state, module, "w.pt")


@pytest.mark.parametrize("address", ["hf:a/b/../../x.pt", "hf:../../x.pt", "hf:a/b/x.pt@.."])
def test_addresses_stay_in_their_folder(write_study: Any, address: str) -> None:
    with pytest.raises(StudyError, match="expected 'hf:owner/repository/file@revision'"):
        write_study('source = "digits"', TABLE.format(address))
