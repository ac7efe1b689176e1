"""Which samples of a split a study evaluates: prefixes of one seeded order, so that they can be added to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from metaeval.errors import StudyError
from metaeval.hashing import hash_samples
from metaeval.sources.data.dataset import Dataset, Indices, Inputs, Samples
from metaeval.sources.data.opening import open_data
from metaeval.study import Study

# A class of which at least so many samples were to be expected has none in one random order of 160,000.
EXPECTED = 12


def selection_order(labels: npt.NDArray[np.int64], select: str, seed: int) -> npt.NDArray[np.int64]:
    """Return the order of samples of which every selection is a prefix.

    Parameters
    ----------
    labels : int64 array (n,)
        Class indices.
    select : str
        ``first`` (as they come), ``random``, or ``stratified`` (every prefix has equally many samples of
        each class, up to one, as far as the classes last).
    seed : int
        Of the random orders, at least 0.

    Returns
    -------
    int64 array (n,)
        A permutation of all indices; more samples never change which ones came first.
    """
    if select == "first":
        return np.arange(len(labels))
    # Raw bits of PCG64 are the same in every version of NumPy; those of Generator.permutation need not be.
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    if select == "random":
        return shuffled
    if select != "stratified":
        raise ValueError(f"unknown selection {select!r}")
    # The k-th sample of each class stands in round k; within a round the classes come in random order.
    rounds = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rounds[members] = np.arange(len(members))
    return shuffled[np.argsort(rounds[shuffled], kind="stable")]


def take(study: Study, dataset: Dataset, *, limit: int | None = None) -> Samples:
    """Read the samples that a study selects.

    Parameters
    ----------
    limit : int, optional
        Take only the first of the selected samples, at least 1.

    Raises
    ------
    StudyError
        If there are fewer samples than asked for, or the first ones of a set sorted by class are asked for.
    """
    data = study.data
    number = len(dataset) if data.samples == "all" else data.samples
    if number > len(dataset):
        message = f"{number} samples asked for; {data.name} has {len(dataset)} in the split {dataset.split!r}"
        raise StudyError([study.problem(("data", "samples"), message, "all")])
    number = number if limit is None else min(number, limit)
    if data.select == "first":
        trap = sorted_prefix(dataset.labels, number, dataset.class_names)
        if trap:
            raise StudyError([study.problem(("data", "select"), trap, "stratified")])
    return _read(dataset, selection_order(dataset.labels, data.select, study.study.seed)[:number])


def _read(dataset: Dataset, order: npt.NDArray[np.int64]) -> Samples:
    x = dataset.read(order)
    return Samples(
        x=x,
        y=dataset.labels[order],
        ids=tuple(dataset.sample_ids[i] for i in order),
        hashes=tuple(hash_samples(x)),
        class_names=dataset.class_names,
    )


def open_training_data(study: Study) -> Dataset:
    """Open what a study's models are trained on: the training split, or equally many samples of each class.

    Raises
    ------
    StudyError
        As `open_data`, and if there are fewer samples than asked for.
    """
    dataset, number = open_data(study, study.data.train_split), study.data.train_samples
    if not isinstance(number, int):
        return dataset
    if number > len(dataset):
        message = f"{number} samples asked for; {study.data.name} has {len(dataset)} in {dataset.split!r}"
        raise StudyError([study.problem(("data", "train_samples"), message, "all")])
    order = selection_order(dataset.labels, "stratified", study.study.seed)[:number]

    def read(indices: Indices) -> Inputs:
        return dataset.read(order[indices])

    return replace(
        dataset,
        labels=dataset.labels[order],
        sample_ids=tuple(dataset.sample_ids[i] for i in order),
        read=read,
    )


def take_training(dataset: Dataset, number: int | str, seed: int) -> Samples:
    """Read the training samples that measures look at: the first of one random order.

    Parameters
    ----------
    number : int or str
        How many; ``all`` of them if it is that word, or if there are fewer.
    """
    wanted = len(dataset) if number == "all" else min(int(number), len(dataset))
    order = selection_order(dataset.labels, "random", seed)[:wanted]
    return _read(dataset, order)


def sorted_prefix(labels: npt.NDArray[np.int64], number: int, class_names: tuple[str, ...]) -> str | None:
    """Return what is wrong with taking the first samples of a set that is sorted by class, or None.

    Parameters
    ----------
    labels : int64 array (n,)
        Class indices in the order of the set.
    number : int
        How many of them are taken.
    """
    if number >= len(labels):
        return None
    present, counts = np.unique(labels, return_counts=True)
    blocks = 1 + np.count_nonzero(np.diff(labels))
    taken = np.unique(labels[:number])
    expected = dict(zip(present.tolist(), (counts * number / len(labels)).tolist(), strict=True))
    absent = [label for label in expected if label not in taken]
    advice = "select = 'stratified' takes equally many of each class, 'random' as many as there are"
    if len(present) > 1 and blocks == len(present):
        names = ", ".join(class_names[label] for label in taken[:3]) + (", ..." if len(taken) > 3 else "")
        said = f"only {names}" if len(taken) <= 3 else f"{len(taken)} of {len(present)} classes"
        return (
            f"the samples are sorted by class, and the first {number} of {len(labels)} are {said}; {advice}"
        )
    missed = max(absent, key=lambda label: expected[label], default=None)
    if missed is not None and expected[missed] >= EXPECTED:
        return (
            f"the samples seem to be sorted: the first {number} hold none of the class "
            f"{class_names[missed]!r}, where about {expected[missed]:.0f} were to be expected; {advice}"
        )
    return None
