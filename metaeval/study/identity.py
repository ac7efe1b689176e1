"""Identities: what a study is, and what decides the results of one attack on one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metaeval.hashing import hash_json
from metaeval.study.schema import Study


def study_hash(study: Study) -> str:
    """Return the sha256 (hex) of a study's content, defaults included.

    Paths count as they are written, so that the same study has the same hash on every machine.
    """
    content = study.to_dict()
    document = study.origin.document
    if "path" in content["data"] and "data" in document:
        content["data"]["path"] = document["data"]["path"]
    for table, written in zip(content["models"], document.get("models", ()), strict=False):
        for key in ("weights", "published", "model_dir"):
            if key in written:
                table[key] = written[key]
    for table, written in zip(content["shifts"], document.get("shifts", ()), strict=False):
        for inner, given in ((table, written), (table.get("data", {}), written.get("data", {}))):
            if "path" in given:
                inner["path"] = given["path"]
    return hash_json(content)


def column_identity(
    *,
    model_identity: str,
    norm: str,
    attack: str,
    attack_version: str,
    settings: Mapping[str, Any],
    search: str,
    seed: int,
    precision: Mapping[str, Any],
) -> str:
    """Return the sha256 (hex) of all that decides the results of one attack on one model.

    Epsilons and samples are not part of it: a column grows by both and stays the same column.
    """
    return hash_json(
        {
            "model": model_identity,
            "norm": norm,
            "attack": attack,
            "attack_version": attack_version,
            "settings": dict(settings),
            "search": search,
            "seed": seed,
            "precision": dict(precision),
        }
    )
