"""The attacks of Foolbox, an optional package; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metaeval.attacks.spec import AttackSpec, Passes, Setting

_STEPS = Setting(100, "gradient steps", 1, 100)
_SEARCH = {
    "binary_search_steps": Setting(9, "weights of misclassification tried", 1, 9),
    "iterations": Setting(10000, "largest number of gradient steps for each weight", 1, 10000),
    "step_size": Setting(0.01, "step size", 0.0),
    "initial_weight": Setting(0.001, "first weight of misclassification (c)", 0.0),
    "confidence": Setting(0.0, "margin to reach beyond the boundary (kappa)", 0.0),
}
# Share of the steps of a binary search that are run before the loss stands still, as a rule.
CW_SHARE = 0.5
EAD_SHARE = 0.2


def _gradient_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    passes = float(settings["iterations"])
    return passes, passes


def _descent_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    return settings["iterations"] + 1.0, float(settings["iterations"])  # one to see how clear the result is


def _cw_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    passes = CW_SHARE * settings["binary_search_steps"] * settings["iterations"]
    return passes + 1.0, passes


def _ead_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    passes = EAD_SHARE * settings["binary_search_steps"] * settings["iterations"]
    return 2.0 * passes + 1.0, passes


def _pgd(iterations: int, step: float) -> dict[str, Setting]:
    return {
        "iterations": Setting(iterations, "gradient steps", 1, iterations),
        "relative_step_size": Setting(step, "step size, as a fraction of epsilon", 0.0),
    }


ATTACKS = (
    AttackSpec(
        id="ddn@foolbox",
        norms=("l2",),
        kind="minimum-norm",
        run="metaeval.attacks.foolbox:ddn",
        implementation="foolbox",
        citation=(
            "Rony et al. 2019, Decoupling direction and norm for efficient gradient-based l2 adversarial "
            "attacks and defenses"
        ),
        passes=_descent_passes,
        settings={
            "iterations": _STEPS,
            "initial_epsilon": Setting(1.0, "first radius", 0.0),
            "gamma": Setting(0.05, "change of the radius per step, relative", 0.0),
        },
    ),
    AttackSpec(
        id="fmn@foolbox",
        # Not l2: Foolbox 3.3.4 does not project there, and linear models' distances come out tenfold.
        norms=("linf", "l1"),
        kind="minimum-norm",
        run="metaeval.attacks.foolbox:fmn",
        implementation="foolbox",
        citation=(
            "Pintor et al. 2021, Fast minimum-norm adversarial attacks through adaptive norm constraints"
        ),
        passes=_descent_passes,
        settings={
            "iterations": _STEPS,
            "step_size": Setting(1.0, "first step size, l2", 0.0),
            "gamma": Setting(0.05, "first change of the radius per step, relative", 0.0),
        },
    ),
    AttackSpec(
        id="ead@foolbox",
        norms=("l1",),
        kind="minimum-norm",
        run="metaeval.attacks.foolbox:ead",
        implementation="foolbox",
        citation=(
            "Chen et al. 2018, EAD: elastic-net attacks to deep neural networks via adversarial examples"
        ),
        passes=_ead_passes,
        settings={**_SEARCH, "regularization": Setting(0.01, "weight of the l1 norm", 0.0)},
    ),
    AttackSpec(
        id="cw@foolbox",
        norms=("l2",),
        kind="minimum-norm",
        run="metaeval.attacks.foolbox:cw",
        implementation="foolbox",
        citation="Carlini and Wagner 2017, Towards evaluating the robustness of neural networks",
        passes=_cw_passes,
        settings=_SEARCH,
    ),
    AttackSpec(
        id="pgd@foolbox",
        norms=("linf", "l2"),
        kind="fixed-epsilon",
        run="metaeval.attacks.foolbox:pgd",
        implementation="foolbox",
        citation="Madry et al. 2018, Towards deep learning models resistant to adversarial attacks",
        passes=_gradient_passes,
        settings=_pgd(40, 1 / 30),
        by_norm={"l2": {"settings": _pgd(50, 0.025)}},
    ),
)
