"""Identities change with what decides results, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metaeval.study.identity import column_identity, study_hash
from metaeval.study.load import load_study

STUDY = """
schema_version = 1
[study]
name = "s"
[data]
source = "npz"
path = "${IDENTITY_DATA}/d.npz"
[[models]]
source = "checkpoint"
weights = "w.pt"
architecture = "m:f"
[[threat_models]]
norm = "linf"
epsilons = "0:8/255:9"
attacks = ["fab"]
"""


def hashed(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return study_hash(load_study(path))


def test_study_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDENTITY_DATA", "/here")
    first = hashed(tmp_path / "a", STUDY)
    assert len(first) == 64
    # Neither place, nor comments, nor a default written out, nor another way to write the same epsilons.
    monkeypatch.setenv("IDENTITY_DATA", "/there")
    assert hashed(tmp_path / "b", STUDY) == first
    listed = ", ".join(["0", *(f'"{k}/255"' for k in range(1, 9))])
    other = STUDY.replace('"0:8/255:9"', f"[{listed}] # listed").replace('name = "s"', 'seed = 0\nname = "s"')
    assert hashed(tmp_path / "c", other) == first
    for old, new in [("8/255", "9/255"), ("fab", "square"), ("w.pt", "v.pt"), ("/d.npz", "/e.npz")]:
        assert hashed(tmp_path / "d", STUDY.replace(old, new)) != first


COLUMN: dict[str, Any] = {
    "model_identity": "ab",
    "norm": "linf",
    "attack": "square",
    "attack_version": "pyautoattack 0.2.0",
    "settings": {"queries": 500, "restarts": 1},
    "search": "frontier",
    "seed": 0,
    "precision": {"dtype": "float32", "tf32": False},
}


def test_column_identity_is_of_all_that_decides_a_result() -> None:
    first = column_identity(**COLUMN)
    assert column_identity(**{**COLUMN, "settings": {"restarts": 1, "queries": 500}}) == first
    changes = {
        "model_identity": "cd",
        "norm": "l2",
        "attack": "fab",
        "attack_version": "pyautoattack 0.3.0",
        "settings": {"queries": 5000, "restarts": 1},
        "search": "exact",
        "seed": 1,
        "precision": {"dtype": "float32", "tf32": True},
    }
    identities = {column_identity(**{**COLUMN, key: value}) for key, value in changes.items()}
    assert len(identities | {first}) == len(COLUMN) + 1


def test_column_identity_of_this_version() -> None:
    # A column that was computed stays known: a change here makes every cube be computed anew.
    assert column_identity(**COLUMN) == "1d59a91e91382f3e6bb0f9f8aab34c492ae2cc31965022c3785a7ed824ce9baa"
