"""What a run writes for readers: the study and its models in the cube, the aggregates, the lock file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from metaeval.attacks import catalogue
from metaeval.cube import separation
from metaeval.cube.aggregate import rebuild
from metaeval.cube.layout import SHIFT
from metaeval.cube.locks import Lock
from metaeval.cube.measures import MeasureSelection
from metaeval.cube.selection import NormSelection, Selection, ShiftSelection
from metaeval.cube.store import CubeStore
from metaeval.hashing import hash_json
from metaeval.runner.prepare import Prepared
from metaeval.runner.records import versions, write_lock
from metaeval.sources.models import LoadedModel, ModelEntry
from metaeval.study.identity import study_hash

NEVER = "not known"  # the identity of no record: what has it counts as not computed
LOCK_WAIT = 60.0  # seconds to wait for another process that changes the cube's layout


def describe_study(
    store: CubeStore,
    prepared: Prepared,
    *,
    device: torch.device,
    precision: Mapping[str, Any],
    measures: MeasureSelection | None = None,
) -> None:
    """Write what the cube says of a study before anything is computed, so that it can always be reported.

    Needs the layout lock exclusively.
    """
    study = prepared.study
    store.set_attributes(
        {
            "name": study.study.name,
            "title": study.study.title,
            "seed": study.study.seed,
            "data": study.data.name,
            "study": study.to_dict(),
            "study_hash": study_hash(study),
            "samples_hash": hash_json(list(prepared.samples.hashes)),
            "versions": versions(),
            "device": describe_device(device),
            "precision": precision,
            "reference_epsilons": [epsilon.label for epsilon in study.analysis.reference_epsilons],
            "confidence": study.analysis.confidence,
        }
    )
    if "selection" not in store.attributes():
        store.set_attributes({"selection": _selection(prepared, None, None, measures).to_json()})


def publish(
    store: CubeStore,
    prepared: Prepared,
    loaded: Mapping[str, LoadedModel],
    identities: Mapping[tuple[str, str, str], str],
    measures: MeasureSelection | None = None,
) -> None:
    """Write what is known of the models, rebuild the aggregates, and leave the lock file of the study.

    Parameters
    ----------
    loaded : mapping
        Models by name, as far as they could be had.
    identities : mapping
        (model, norm, attack) to the identity of the column that the study wants. What is not in it counts as
        not computed, so that no number of other weights or settings is shown for this study.
    measures : MeasureSelection, optional
        What `/measures` covers, with the same care.
    """
    study = prepared.study
    with Lock(store.directory, "layout", wait=LOCK_WAIT):
        columns = describe_models(prepared.entries, loaded)
        store.write_models([entry.name for entry in prepared.entries], columns)
        rebuild(store, _selection(prepared, loaded, identities, measures))
    hashes = {"study": study_hash(study), "samples": hash_json(list(prepared.samples.hashes))}
    write_lock(store.directory, study, hashes)


def publish_distances(store: CubeStore, prepared: Prepared) -> None:
    """Write how far apart the samples of different classes lie in the norms of the study's attacks."""
    norms = list(dict.fromkeys(attack.norm for attack in prepared.plan.attacks))
    samples = prepared.samples
    with Lock(store.directory, "layout", wait=LOCK_WAIT):
        separation.write(store, samples.x, samples.y, norms, hash_json(list(samples.hashes)))


def describe_device(device: torch.device) -> str:
    """Return what computed the numbers, in words."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def describe_models(entries: Sequence[ModelEntry], loaded: Mapping[str, LoadedModel]) -> dict[str, list[Any]]:
    """Return the columns of `/models`: what every model has, then hyper-parameters, None where unset."""
    models = [loaded.get(entry.name) for entry in entries]
    columns: dict[str, list[Any]] = {
        "family": [entry.family for entry in entries],
        "architecture": [entry.group or entry.architecture for entry in entries],
        "source": [entry.source for entry in entries],
        "weights_sha256": [model.weights_sha256 if model else None for model in models],
        "identity": [model.identity if model else None for model in models],
        "parameters": [model.parameters if model else None for model in models],
        "published_accuracy": [entry.published_accuracy for entry in entries],
    }
    trained = [model.training if model and model.training else {} for model in models]
    for key in sorted({key for training in trained for key in training}):
        columns[f"training_{key}"] = [training.get(key) for training in trained]
    for key in dict.fromkeys(key for entry in entries for key in entry.settings):
        columns[key if key not in columns else f"setting_{key}"] = [
            entry.settings.get(key) for entry in entries
        ]
    return columns


def _selection(
    prepared: Prepared,
    loaded: Mapping[str, LoadedModel] | None,
    identities: Mapping[tuple[str, str, str], str] | None,
    measures: MeasureSelection | None,
) -> Selection:
    """Return what the aggregates cover: this study, whatever else the cube holds."""
    plan = prepared.plan
    norms: dict[str, NormSelection] = {}
    for norm in dict.fromkeys(attack.norm for attack in plan.attacks):
        attacks = [attack for attack in plan.attacks if attack.norm == norm]
        wanted = None
        if identities is not None:
            wanted = {
                model: {a.attack: identities.get((model, norm, a.attack), NEVER) for a in attacks}
                for model in plan.models
            }
        epsilons = tuple(epsilon.value for epsilon in attacks[0].epsilons)
        names = tuple(attack.attack for attack in attacks)
        # A cascade may hold black boxes and others: what it breaks speaks against neither.
        black_box = tuple(a.attack for a in attacks if not a.stages and catalogue.get(a.attack).black_box)
        cascade = next((attack for attack in attacks if attack.stages), None)
        norms[norm] = NormSelection(
            names,
            epsilons,
            wanted,
            black_box,
            cascade.attack if cascade else "",
            tuple(stage.attack for stage in cascade.stages) if cascade else (),
        )
    clean = None
    if loaded is not None:
        clean = {model: loaded[model].identity if model in loaded else NEVER for model in plan.models}
    shifts = {}
    for planned in prepared.shifts:
        name = planned.shift.name
        answered = None
        if identities is not None:
            answered = {model: identities.get((model, SHIFT, name), NEVER) for model in plan.models}
        shifts[name] = ShiftSelection(planned.shift.severities, len(planned.shift), answered)
    return Selection(plan.models, plan.samples, norms, clean, measures, shifts)
