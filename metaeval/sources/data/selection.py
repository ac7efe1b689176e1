"""Which samples of a split a study evaluates: prefixes of one seeded order, so that they can be added to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from metaeval.errors import StudyError, unknown
from metaeval.hashing import hash_samples
from metaeval.sources.data.dataset import Dataset, Samples
from metaeval.study import Study

# A class of which at least so many samples were to be expected has none in one random order of 160,000.
EXPECTED = 12
LISTED = 20  # names of classes that a message lists


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


def copies(samples: Samples) -> str | None:
    """Return in words how many samples repeat another one's input, or None."""
    first: dict[str, int] = {}
    again = [(i, first[key]) for i, key in enumerate(samples.hashes) if first.setdefault(key, i) != i]
    if not again:
        return None
    other = sum(samples.y[i] != samples.y[j] for i, j in again)
    said = f"{samples.ids[again[0][0]]} is {samples.ids[again[0][1]]}"
    labels = f", {other} of them with another label" if other else ""
    return f"{len(again)} of {len(samples.ids)} samples repeat the input of another ({said}){labels}"


def restrict(study: Study, dataset: Dataset, classes: tuple[str, ...] | None) -> Dataset:
    """Return the samples of some classes only, labelled in the order of these; ids stay what they were.

    Parameters
    ----------
    classes : tuple of str, optional
        Names of classes; None keeps the data set as it is.

    Raises
    ------
    StudyError
        If the data have no class of one of the names.
    """
    if classes is None:
        return dataset
    problems = [
        study.problem(("data", "classes", i), *_unknown_class(name, dataset))
        for i, name in enumerate(classes)
        if name not in dataset.class_names
    ]
    if problems:
        raise StudyError(problems)
    renamed = np.full(len(dataset.class_names), -1)
    renamed[[dataset.class_names.index(name) for name in classes]] = np.arange(len(classes))
    labels = renamed[dataset.labels]
    kept = np.flatnonzero(labels >= 0)
    return replace(
        dataset,
        labels=labels[kept],
        sample_ids=tuple(dataset.sample_ids[i] for i in kept),
        class_names=classes,
        read=lambda indices: dataset.read(kept[indices]),
    )


def _unknown_class(name: str, dataset: Dataset) -> tuple[str, str | None]:
    message, near = unknown("class", name, dataset.class_names)
    if len(dataset.class_names) > LISTED:
        first, last = dataset.class_names[0], dataset.class_names[-1]
        message = f"unknown class {name!r}; there are {len(dataset.class_names)}, from {first} to {last}"
    return message, near


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
