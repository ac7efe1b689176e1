"""Which measures go with robustness: planted relations are found, absent ones are not claimed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from handmade_cube import handmade_cube, text
from scipy import stats

from metaeval.analysis import claims, correlation, notions, predictors
from metaeval.errors import UsageError

FAMILIES, MEMBERS = 12, 3
NAMES = [f"m{i}" for i in range(FAMILIES * MEMBERS)]
STRENGTH = np.random.default_rng(0).permutation(np.linspace(0.2, 2.5, len(NAMES)))
RANDOM = np.random.default_rng(1).normal(size=len(NAMES))


def cube_with(measures: dict[str, tuple[str, int, np.ndarray]], families: int = FAMILIES) -> xr.DataTree:
    """Return a cube whose robustness grows with STRENGTH; measures are (family, expected sign, values)."""
    cube = handmade_cube(
        models=NAMES, samples=300, attacks=("apgd-ce",), scale=STRENGTH.tolist(), reference=["2/255"], seed=4
    )
    table = cube["models"].to_dataset()
    table["architecture"] = ("model", text(f"a{i % families}" for i in range(len(NAMES))))
    table["learning_rate"] = ("model", np.tile([0.1, 0.01], len(NAMES) // 2))
    table["depth"] = ("model", np.repeat([1, 2, 3, 4], len(NAMES) // 4))
    table["training_seconds"] = ("model", np.arange(len(NAMES)) * 1.5)
    table["published_accuracy"] = ("model", np.full(len(NAMES), np.nan))
    cube["models"] = xr.DataTree(table)
    if measures:
        values = np.stack([v for _, _, v in measures.values()], axis=1)[..., None]
        dims, nothing = ("model", "measure", "scope"), np.full(values.shape, "", dtype=object)
        ok = {"flag_values": [0, 1], "flag_meanings": "pending ok"}
        described = ("definition", "settings", "caveats", "citation")
        cube["measures"] = xr.DataTree(
            xr.Dataset(
                {
                    "value": (dims, values),
                    "standard_error": (dims, np.full(values.shape, 0.1)),
                    "lower": (dims, np.full(values.shape, np.nan)),
                    "upper": (dims, np.full(values.shape, np.nan)),
                    "status": (dims, np.ones(values.shape, dtype=np.uint8), ok),
                    "reason": (dims, nothing),
                    "note": (dims, nothing),
                    **{key: ("measure", text(measures)) for key in described},
                },
                {
                    "model": text(NAMES),
                    "measure": text(measures),
                    "scope": text(["clean"]),
                    "family": ("measure", text(family for family, _, _ in measures.values())),
                    "expected_sign": ("measure", [sign for _, sign, _ in measures.values()]),
                },
            )
        )
    study = '{"study": {"seed": 3}, "analysis": {"family": "architecture", "reference_epsilons": ["2/255"]}}'
    cube.attrs["study"] = study
    return cube


def test_the_weakest_link_is_found() -> None:
    cube = cube_with({"flatness": ("sharpness", 1, STRENGTH), "noise": ("norm", -1, RANDOM)})
    found = predictors.weakest(cube)
    assert bool(found["holds"].sel(measure="flatness"))
    assert not bool(found["holds"].sel(measure="noise"))
    assert "clean accuracy" not in found["measure"].values
    x = notions.measures(cube).sel(measure=["flatness"]).values
    y = notions.robustness(cube).sel(notion=found.attrs["notions"])
    group, clean = [f"a{i % FAMILIES}" for i in range(len(NAMES))], notions.clean_accuracy(cube).values
    pairs = len(found["measure"]) * y.sizes["notion"]
    by_hand = correlation.correlations(x, y.values, group, clean, 1 - 0.05 / pairs)
    assert float(found["weakest"].sel(measure="flatness")) == pytest.approx(float(by_hand["partial"].min()))
    assert float(found["lower"].sel(measure="flatness")) == pytest.approx(
        float(by_hand["partial_lower"].min())
    )
    assert found.attrs["families"] == FAMILIES
    assert any(line.startswith("flatness goes with all") for line in found.attrs["sentences"])
    few = predictors.weakest(cube_with({"flatness": ("sharpness", 1, STRENGTH)}, families=4))
    assert "not estimable" in few.attrs["sentences"][0]
    with pytest.raises(UsageError, match="not estimable"):
        predictors.weakest(handmade_cube(models=["m"]))


def test_hyperparameters_are_what_was_chosen() -> None:
    cube = cube_with({})
    assert set(predictors.hyperparameters(cube)) == {"learning_rate", "depth"}
    assert predictors.hyperparameters(handmade_cube()) == {}
    with pytest.raises(UsageError, match="no hyper-parameter"):
        predictors.generalization(handmade_cube(), "linf 2/255 accuracy")


def test_generalization_of_a_cube() -> None:
    cube = cube_with({"flatness": ("sharpness", -1, -STRENGTH), "noise": ("norm", -1, RANDOM)})
    found = predictors.generalization(cube, "linf 2/255 accuracy", ["flatness", "noise"])
    robust = notions.robustness(cube).sel(notion="linf 2/255 accuracy").values
    flatness = found.sel(measure="flatness")
    assert float(flatness["orientation"]) == -1
    assert (
        float(flatness["conditional_information"])
        > 0.1
        > float(found["conditional_information"].sel(measure="noise"))
    )
    assert float(flatness["mean_sign_error"]) < float(found["mean_sign_error"].sel(measure="noise"))
    assert float(flatness["psi"]) < -0.5
    depth = cube["models"]["depth"].values
    taus = []
    for value in np.unique(depth):  # learning rates are compared among models of one depth
        rows = np.flatnonzero(depth == value)
        signs = [
            np.sign(STRENGTH[j] - STRENGTH[i]) * np.sign(robust[i] - robust[j])
            for i, j in itertools.combinations(rows, 2)
            if i % 2 != j % 2
        ]
        taus.append(np.mean(signs))
    assert float(flatness["psi_of"].sel(hyperparameter="learning_rate")) == pytest.approx(np.mean(taus))
    assert found.attrs["samples"] == 300
    fewer = cube["linf"].to_dataset()
    for name in ("total", "correct", "evaluated"):
        fewer[name] = fewer[name] // 10
    part = cube.copy()
    part["linf"] = xr.DataTree(fewer)
    # The samples that were attacked weigh, not the clean ones.
    assert predictors.generalization(part, "linf 2/255 accuracy", ["noise"]).attrs["samples"] == 30
    gap = predictors.generalization(cube, "linf 2/255 gap", ["noise"])
    assert np.isnan(gap["robust_sign_error"]).all()
    with pytest.raises(UsageError, match="no notion 'x'"):
        predictors.generalization(cube, "x")


def test_reliability_by_hand() -> None:
    cube = cube_with({"noise": ("norm", -1, RANDOM)})
    found = predictors.reliability(cube)
    p = notions.robustness(cube).sel(notion="linf 2/255 accuracy").values
    assert found["linf 2/255 accuracy"] == pytest.approx(1 - np.mean(p * (1 - p) / 300) / p.var(ddof=1))
    assert found["noise"] == pytest.approx(1 - 0.01 / RANDOM.var(ddof=1))
    assert "parameters" not in found


def verdicts(cube: xr.DataTree) -> dict[str, str]:
    return {finding.claim.name: finding.verdict for finding in claims.check(cube)}


def test_planted_claims_are_supported_and_others_are_not() -> None:
    noisy = STRENGTH + 0.02 * RANDOM
    cube = cube_with(
        {
            "flatness": ("sharpness", -1, -noisy),
            "f1": ("performance", 1, RANDOM),
            "log_product_over_margin": ("norm", -1, RANDOM**3),
        }
    )
    found = verdicts(cube)
    assert found["sharpness-under-attack"] == "supported"
    assert found["accuracy-gap"] == "contradicted"  # flatness predicts it
    assert found["relative-robustness"] == "undecided"
    assert found["uncertainty-robustness"] == "not estimable"  # there is no shift
    reversed_sign = cube_with({"flatness": ("sharpness", 1, -noisy)})
    assert verdicts(reversed_sign)["sharpness-under-attack"] == "contradicted"
    noise = cube_with({"noise": ("norm", -1, RANDOM)})
    assert verdicts(noise)["accuracy-gap"] == "undecided"
    assert verdicts(cube_with({}))["accuracy-gap"] == "not estimable"


def test_the_gap_is_not_predicted_by_being_clean_minus_robust() -> None:
    """Clean accuracy apart from robust accuracy makes a gap that any measure of performance goes with."""
    accuracy = np.random.default_rng(5).permutation(np.linspace(0.5, 0.99, len(NAMES)))
    cube = cube_with({"f1": ("performance", 1, accuracy + 0.03 * RANDOM)})
    counts = cube["clean"].to_dataset()
    counts["correct"] = (
        ("model", "class"),
        np.rint(accuracy[:, None] * counts["total"].values).astype(int),
    )
    cube["clean"] = xr.DataTree(counts)
    finding = claims.check(cube)[0]
    assert finding.pairs["upper"].item() < -0.3
    assert finding.verdict == "undecided"
    assert "given clean accuracy;" in finding.sentence
    assert "given clean accuracy but for measures of performance" in claims.check(cube)[1].sentence


def test_the_numbers_behind_a_claim() -> None:
    cube = cube_with({"flatness": ("sharpness", -1, -STRENGTH)})
    finding = claims.check(cube)[-1]
    relative = notions.robustness(cube).sel(notion="linf 2/255 relative").values
    assert finding.pairs["spearman"].item() == pytest.approx(stats.spearmanr(-STRENGTH, relative)[0])
    assert "1 certainly go together as claimed, 0 the other way" in finding.sentence
    few = claims.check(cube_with({"flatness": ("sharpness", -1, -STRENGTH)}, families=3))[-1]
    assert few.verdict == "not estimable"
    assert "need 5 families" in few.sentence
