"""Study files for tests of data and models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metaeval.errors import StudyError
from metaeval.sources.data import open_data
from metaeval.sources.models import ModelEntry, expand_models
from metaeval.study import Study, load_study

WriteStudy = Callable[..., Study]

MLP = 'source = "train"\narchitecture = "mlp"'


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def write_study(tmp_path: Path) -> WriteStudy:
    """Return a function that writes a study with given ``[data]`` and ``[[models]]`` and loads it."""

    def write(data: str = 'source = "digits"', *models: str, seed: int = 0) -> Study:
        tables = "\n".join(f"[[models]]\n{model}\n" for model in models or (MLP,))
        text = (
            f'schema_version = 1\n\n[study]\nname = "test"\nseed = {seed}\n\n[data]\n{data}\n\n{tables}\n'
            '[[threat_models]]\nnorm = "linf"\nepsilons = [0.1]\nattacks = ["fgsm"]\n'
        )
        path = tmp_path / "study.toml"
        path.write_text(text)
        return load_study(path)

    return write


@pytest.fixture
def entries() -> Callable[[Study], list[ModelEntry]]:
    """Return a function that gives the models of a study."""

    def expand(study: Study) -> list[ModelEntry]:
        data = open_data(study, study.data.split)
        return expand_models(study, classes=len(data.class_names), shape=data.shape)

    return expand


@pytest.fixture
def problems() -> Callable[..., list[str]]:
    """Return a function that gives the problems that a call finds, as ``key: message``.

    Each must stand at the line where the last named part of its key is written, if it is.
    """

    def found(study: Study, call: Callable[[], object], *, exit_code: int = 2) -> list[str]:
        with pytest.raises(StudyError) as raised:
            call()
        assert raised.value.exit_code == exit_code
        lines = study.path.read_text().splitlines()
        for problem in raised.value.problems:
            assert problem.file == str(study.path)
            assert lines[problem.line - 1].strip(), "a problem points at an empty line"
            word = problem.key.rsplit(".", 1)[-1].split("[")[0]
            if any(line.startswith(word) for line in lines):
                assert word in lines[problem.line - 1]
        return [f"{problem.key}: {problem.message}" for problem in raised.value.problems]

    return found
