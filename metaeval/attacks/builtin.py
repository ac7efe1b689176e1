"""The attacks that come with metaeval, and what one run of each costs; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metaeval.attacks.spec import AttackSpec, Passes, Setting

_APGD = (
    "Croce and Hein 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse "
    "parameter-free attacks"
)
_RESTARTS = Setting(1, "random restarts", 1, 1)


def _gradient_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    passes = settings.get("iterations", 1) * settings.get("restarts", 1)
    return float(passes), float(passes)


def _apgd_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    passes = (settings["iterations"] + 1) * settings["restarts"]  # the start has a gradient too
    return float(passes), float(passes)


def _fab_passes(settings: Mapping[str, Any], classes: int) -> Passes:
    # Each iteration: one pass with the gradient of every logit, one to see whether it is adversarial.
    return 1.0 + 2.0 * settings["iterations"], float(classes * settings["iterations"])


def _square_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    return float((settings["queries"] + 1) * settings["restarts"]), 0.0


def _deepfool_passes(settings: Mapping[str, Any], classes: int) -> Passes:
    # It stops at the boundary, as a rule after a few steps.
    steps = min(settings["iterations"], DEEPFOOL_STEPS)
    return steps + 1.0, steps * float(classes)


def _cw_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    return float(settings["iterations"]), float(settings["iterations"])


DEEPFOOL_STEPS = 20.0  # typical number of steps to the boundary, counted on the quickstart
_BOTH = ("linf", "l2")
_PGD_STEP = Setting(0.25, "step size, as a fraction of epsilon", 0.0)

ATTACKS = (
    AttackSpec(
        id="apgd-ce",
        norms=_BOTH,
        kind="fixed-epsilon",
        run="metaeval.attacks.apgd:run_ce",
        implementation="metaeval",
        citation=_APGD,
        passes=_apgd_passes,
        settings={"iterations": Setting(100, "gradient steps", 1, 100), "restarts": _RESTARTS},
        revision=2,
        early_exit=True,
        warm=True,
    ),
    AttackSpec(
        id="apgd-dlr",
        norms=_BOTH,
        kind="fixed-epsilon",
        run="metaeval.attacks.apgd:run_dlr",
        implementation="metaeval",
        citation=_APGD,
        passes=_apgd_passes,
        settings={"iterations": Setting(100, "gradient steps", 1, 100), "restarts": _RESTARTS},
        revision=2,
        early_exit=True,
        warm=True,
        minimum_classes=3,
    ),
    AttackSpec(
        id="fab",
        norms=_BOTH,
        kind="minimum-norm",
        run="metaeval.attacks.autoattack:fab",
        implementation="pyautoattack",
        citation=(
            "Croce and Hein 2020, Minimally distorted adversarial examples with a fast adaptive boundary "
            "attack"
        ),
        passes=_fab_passes,
        settings={"iterations": Setting(100, "projection steps", 1, 100)},
    ),
    AttackSpec(
        id="square",
        norms=_BOTH,
        kind="fixed-epsilon",
        run="metaeval.attacks.square:run",
        implementation="metaeval",
        citation=(
            "Andriushchenko et al. 2020, Square attack: a query-efficient black-box adversarial attack via "
            "random search"
        ),
        passes=_square_passes,
        settings={"queries": Setting(5000, "forward passes", 1, 5000), "restarts": _RESTARTS},
        black_box=True,
        early_exit=True,
    ),
    AttackSpec(
        id="fgsm@torchattacks",
        norms=("linf",),
        kind="fixed-epsilon",
        run="metaeval.attacks.torchattacks:fgsm",
        implementation="torchattacks",
        citation="Goodfellow et al. 2015, Explaining and harnessing adversarial examples",
        passes=_gradient_passes,
        inferable=False,  # one step of length epsilon overshoots: it may break a small ball and no larger one
    ),
    AttackSpec(
        id="bim@torchattacks",
        norms=("linf",),
        kind="fixed-epsilon",
        run="metaeval.attacks.torchattacks:bim",
        implementation="torchattacks",
        citation="Kurakin et al. 2017, Adversarial examples in the physical world",
        passes=_gradient_passes,
        settings={"iterations": Setting(10, "gradient steps", 1, 10), "relative_step_size": _PGD_STEP},
    ),
    AttackSpec(
        id="pgd@torchattacks",
        norms=_BOTH,
        kind="fixed-epsilon",
        run="metaeval.attacks.torchattacks:pgd",
        implementation="torchattacks",
        citation="Madry et al. 2018, Towards deep learning models resistant to adversarial attacks",
        passes=_gradient_passes,
        settings={
            "iterations": Setting(10, "gradient steps", 1, 10),
            "restarts": _RESTARTS,
            "relative_step_size": _PGD_STEP,
        },
    ),
    AttackSpec(
        id="deepfool@torchattacks",
        norms=("l2",),
        kind="minimum-norm",
        run="metaeval.attacks.torchattacks_minimum:deepfool",
        implementation="torchattacks",
        citation=(
            "Moosavi-Dezfooli et al. 2016, DeepFool: a simple and accurate method to fool deep neural "
            "networks"
        ),
        passes=_deepfool_passes,
        settings={
            "iterations": Setting(50, "largest number of steps", 1, 50),
            "overshoot": Setting(0.02, "step beyond the linearised boundary, relative", 0.0),
        },
    ),
    AttackSpec(
        id="cw@torchattacks",
        norms=("l2",),
        kind="minimum-norm",
        run="metaeval.attacks.torchattacks_minimum:cw",
        implementation="torchattacks",
        citation="Carlini and Wagner 2017, Towards evaluating the robustness of neural networks",
        passes=_cw_passes,
        settings={
            "iterations": Setting(50, "steps of Adam", 1, 50),
            "weight": Setting(1.0, "weight of the misclassification term (c); no binary search", 0.0),
            "confidence": Setting(0.0, "margin to reach beyond the boundary (kappa)", 0.0),
            "learning_rate": Setting(0.01, "learning rate of Adam", 0.0),
        },
    ),
)
