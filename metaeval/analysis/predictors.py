"""Which measures of models go with their robustness: a cube's correlations, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from metaeval.analysis import correlation, notions, resampling, shift_notions
from metaeval.analysis.generalization import conditional_information, granulated, sign_error
from metaeval.analysis.reading import confidence, imported, models, norm_dataset, norms, seed
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
# Columns of the models' table that name or measure a model; all others are hyper-parameters.
NOT_HYPERPARAMETERS = frozenset(
    ("model", "family", "architecture", "source", "weights_sha256", "identity", "parameters")
)
CERTAIN = 1e-12


def weakest(cube: xr.DataTree, read: notions.Columns | None = None) -> xr.Dataset:
    """Return for each measure its weakest partial rank correlation over all robustness notions.

    Parameters
    ----------
    read : Columns, optional
        Of this cube, if they are read already.

    Returns
    -------
    xarray.Dataset (measure)
        As `correlation.weakest` given clean accuracy, `notion` by name ("" where a pair is not estimable).
        Notions that no model or every model shares the value of are left out; the attribute `left_out` names
        them. `sentences` answers whether one measure holds for all notions.
    """
    read = notions.read_columns(cube) if read is None else read
    x, y, group = read.measures, read.robustness, read.family
    # What is taken as given explains nothing; what is measured on shifts is robustness itself.
    x = x.sel(measure=[name for name in notions.candidates(cube, read) if name != "clean accuracy"])
    varied = [
        str(name) for name, column in zip(y["notion"].values, y.values.T, strict=True) if _varies(column)
    ]
    left_out = [str(name) for name in y["notion"].values if str(name) not in varied]
    y = y.sel(notion=varied)
    if not x.sizes["measure"] or not varied:
        raise UsageError("not estimable: there is no measure, or no notion in which models differ")
    found = correlation.weakest(x.values, y.values, group, read.clean, confidence(cube))
    names = np.array([*varied, ""], dtype=object)[found["notion"].values.astype(int)]
    found = found.assign(notion=("measure", names)).assign_coords(measure=x["measure"].values)
    return found.assign_attrs(
        control="clean accuracy",
        notions=varied,
        left_out=left_out,
        models=x.sizes["model"],
        families=len(set(group)),
        sentences=_weakest_sentences(found, varied),
    )


def _varies(column: FloatArray) -> bool:
    known = column[~np.isnan(column)]
    return len(known) > 1 and float(np.ptp(known)) > CERTAIN


def _weakest_sentences(found: xr.Dataset, varied: Sequence[str]) -> list[str]:
    level = f"{100 * found.attrs['confidence']:.3g} %"
    number = f"all {len(varied)} notions" if len(varied) > 1 else f"the notion {varied[0]}"

    def numbers(name: str) -> str:
        at = found.sel(measure=name)
        ends = f"{float(at['lower']):.2f} to {float(at['upper']):.2f}"
        where = f"{at['notion'].item()}; simultaneous {level} family jackknife {ends}"
        return f"weakest partial rank correlation {float(at['weakest']):.2f} ({where})"

    estimable = found["measure"].values[~np.isnan(found["lower"].values)]
    if not len(estimable):
        return [
            "Whether one measure holds for all notions is not estimable: an interval over families needs "
            f"{correlation.FAMILIES_NEEDED} of them, measures known for them all, and so many models that no "
            "rank correlation is perfect when a family is left out."
        ]
    holding = [str(name) for name in found["measure"].values[found["holds"].values]]
    if holding:
        return [
            f"{name} goes with {number} of robustness given clean accuracy: {numbers(name)}."
            for name in holding
        ]
    best = str(estimable[np.nanargmax(found["weakest"].sel(measure=estimable).values)])
    return [
        f"No measure is certain to go with {number} of robustness given clean accuracy; {best} comes "
        f"nearest: {numbers(best)}."
    ]


def hyperparameters(cube: xr.DataTree) -> dict[str, npt.NDArray[np.str_]]:
    """Return the hyper-parameters that differ between models, by name over all models, as text.

    "" where a model has none of this name. Results of training (`training_...`) and published numbers are
    none, nor is anything that an imported table says of its models.
    """
    if "models" not in cube.children or imported(cube) is not None:
        return {}
    table = norm_dataset(cube, "models")
    order = {str(name): position for position, name in enumerate(table["model"].values)}
    rows = [order[name] for name in models(cube) if name in order]
    found = {}
    for name, variable in table.reset_coords().data_vars.items():
        text = str(name)
        if text in NOT_HYPERPARAMETERS or text.startswith(("training_", "published")):
            continue
        values = np.array([str(value) if value == value else "" for value in variable.values[rows]])
        if variable.dims == ("model",) and len(set(values)) > 1:
            found[text] = values
    return found


def generalization(cube: xr.DataTree, notion: str, measures: Sequence[str] | None = None) -> xr.Dataset:
    """Return how measures do against hyper-parameters: granulated tau, conditional information, sign error.

    Parameters
    ----------
    notion : str
        Of `notions.robustness`; the sign error needs an accuracy, whose number of samples weighs it.
    measures : sequence of str, optional
        Default: all of `notions.measures`.

    Returns
    -------
    xarray.Dataset (measure)
        `psi` (also over hyperparameter: `psi_of`, `slices`), `conditional_information` with `given`,
        `robust_sign_error`, `ninetieth_sign_error`, `mean_sign_error`, `environments`; `models` that count.
        Measures are turned so that higher goes with more robustness (`orientation`) for the sign error.

    Raises
    ------
    UsageError
        If no hyper-parameter differs, or the notion is not there.

    References
    ----------
    Jiang et al. 2020; Dziugaite et al. 2020.
    """
    settings = hyperparameters(cube)
    if not settings:
        raise UsageError("not estimable: the models differ in no hyper-parameter")
    x, y = notions.measures(cube), notions.robustness(cube)
    if notion not in y["notion"].values:
        raise UsageError(f"no notion {notion!r}; there are {', '.join(map(str, y['notion'].values))}")
    target = y.sel(notion=notion).values
    names = [str(name) for name in x["measure"].values] if measures is None else list(measures)
    samples = _samples(cube, notion)
    columns: dict[str, list[float]] = {}
    psi_of = np.full((len(names), len(settings)), np.nan)
    slices = np.zeros((len(names), len(settings)))
    given: list[str] = []
    for row, name in enumerate(names):
        values = x.sel(measure=name).values
        known = np.isfinite(values) & np.isfinite(target)
        own = {key: column[known] for key, column in settings.items()}
        result = {"models": float(known.sum())}
        chosen = ""
        if known.sum() >= 2 and _varies(values[known]):
            tau = granulated(values[known], target[known], own)
            information = conditional_information(values[known], target[known], own, seed=seed(cube))
            psi_of[row] = [tau.psi[key] for key in settings]
            slices[row] = [tau.slices[key] for key in settings]
            result |= {"psi": tau.mean, "conditional_information": information.value}
            chosen = " and ".join(information.given)
            if samples > 0 and notion.endswith(" accuracy"):
                one = np.ones((1, int(known.sum())))
                r = resampling.spearman(values[known, None], target[known, None], one)[0, 0, 0]
                turned = -1.0 if r < 0 else 1.0
                error = sign_error(turned * values[known], target[known], own, samples)
                result |= {
                    "orientation": turned,
                    "robust_sign_error": error.robust,
                    "ninetieth_sign_error": error.ninetieth,
                    "mean_sign_error": error.mean,
                    "environments": float(len(error.environments)),
                }
        given.append(chosen)
        for key in _COLUMNS:
            columns.setdefault(key, []).append(result.get(key, np.nan))
    return xr.Dataset(
        {
            **{key: ("measure", np.array(values)) for key, values in columns.items()},
            "given": ("measure", np.array(given, dtype=object)),
            "psi_of": (("measure", "hyperparameter"), psi_of),
            "slices": (("measure", "hyperparameter"), slices),
        },
        {"measure": names, "hyperparameter": list(settings)},
        {
            "notion": notion,
            "method": "granulated Kendall tau; conditional mutual information less its mean over "
            "permutations; sign error with Hoeffding weights",
            "covers": "nothing: numbers of these models; test samples fixed",
            "samples": samples,
        },
    )


_COLUMNS = (
    *("models", "psi", "conditional_information", "orientation"),
    *("robust_sign_error", "ninetieth_sign_error", "mean_sign_error", "environments"),
)


def reliability(cube: xr.DataTree) -> dict[str, float]:
    """Return the reliability of each notion that is an accuracy and of each measure with standard errors.

    Returns
    -------
    dict of str to float
        Below `correlation.RELIABLE` a ranking of the models by it is mostly noise; NaN for fewer than two
        models. Notions are by their name, measures by that in `notions.measures`. Severities of a shift count
        once, since they are the same images; published accuracies without numbers of samples are left out.
    """
    y = notions.robustness(cube)
    found = {}
    for name in map(str, y["notion"].values):
        samples = _samples(cube, name)
        if samples > 0 and name.endswith(" accuracy"):
            values = y.sel(notion=name).values
            values = values[~np.isnan(values)]
            found[name] = correlation.reliability(values, np.sqrt(values * (1 - values) / samples))
    for name, (values, error) in notions.with_errors(cube).items():
        known = np.isfinite(values) & np.isfinite(error)
        if known.any():
            found[name] = correlation.reliability(values[known], error[known])
    return found


def _samples(cube: xr.DataTree, notion: str) -> int:
    """Return the test samples behind a notion; not positive where unknown."""
    for shift in sorted(shift_notions.names(cube), key=len, reverse=True):
        if notion.startswith(f"{shift} "):
            return int(cube.children["shifts"]["total"].sel(shift=shift).sum("class").max())
    norm = notion.split(" ")[0]
    return int(cube.children[norm]["total"].sum()) if norm in norms(cube) else 0
