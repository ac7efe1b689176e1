"""The attacks that come with metaeval, and what one run of each costs; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metaeval.attacks.foolbox_table import ATTACKS as FOOLBOX
from metaeval.attacks.shapes import tiled
from metaeval.attacks.spec import AttackSpec, Passes, Setting
from metaeval.attacks.torchattacks_table import ROWS

_APGD = (
    "Croce and Hein 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse "
    "parameter-free attacks"
)
_APGD_L1 = "Croce and Hein 2021, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers"
_FAB = "Croce and Hein 2020, Minimally distorted adversarial examples with a fast adaptive boundary attack"
_RESTARTS = Setting(1, "random restarts", 1, 1)
_TARGETS = Setting(9, "most likely wrong classes to aim at, capped at classes - 1", 1, 9)
_ALL = ("linf", "l2", "l1")


def _gradient_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    passes = settings.get("iterations", 1) * settings.get("restarts", 1)
    return float(passes), float(passes)


def _apgd_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    # The start has a gradient too.
    passes = (settings["iterations"] + 1) * settings["restarts"] * settings["eot"]
    return float(passes), float(passes)


def _apgd_t_passes(settings: Mapping[str, Any], classes: int) -> Passes:
    runs = min(settings["targets"], classes - 1) * settings["restarts"]
    passes = float(runs * (settings["iterations"] + 1) * settings["eot"])
    return passes + 1.0, passes  # one to rank the classes


def _apgd_l1_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    passes = (settings["iterations"] + 3) * settings["restarts"]  # a start at each of three radii
    return float(passes), float(passes)


def _apgd_t_l1_passes(settings: Mapping[str, Any], classes: int) -> Passes:
    runs = min(settings["targets"], classes - 1) * settings["restarts"]
    passes = float(runs * (settings["iterations"] + 3))
    return passes + 1.0, passes


def _fab_passes(settings: Mapping[str, Any], classes: int) -> Passes:
    # Each iteration: one pass with the gradient of every logit, one to see whether it is adversarial.
    runs = settings["restarts"]
    forwards = runs * (1.0 + 2.0 * settings["iterations"]) + runs - 1  # one before each further start
    return forwards, float(runs * classes * settings["iterations"])


def _fab_t_passes(settings: Mapping[str, Any], classes: int) -> Passes:
    targets = min(settings["targets"], classes - 1)
    # For each target the label, the ranking, and two passes of which one has a gradient an iteration.
    return 1.0 + targets * (2.0 + 2.0 * settings["iterations"]), float(targets * settings["iterations"])


def _square_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    return float((settings["queries"] + 1) * settings["restarts"]), 0.0


def _square_l1_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    # The label, and for each run the start, the queries and the label again.
    return 1.0 + (settings["queries"] + 2.0) * settings["restarts"], 0.0


def _deepfool_passes(settings: Mapping[str, Any], classes: int) -> Passes:
    # It stops at the boundary, as a rule after a few steps.
    steps = min(settings["iterations"], DEEPFOOL_STEPS)
    return steps + 1.0, steps * float(classes)


def _cw_passes(settings: Mapping[str, Any], _classes: int) -> Passes:
    return float(settings["iterations"]), float(settings["iterations"])


DEEPFOOL_STEPS = 20.0  # typical number of steps to the boundary, counted on the quickstart
_BOTH = ("linf", "l2")
_STEPS = Setting(100, "gradient steps", 1, 100)
_PGD_STEP = Setting(0.25, "step size, as a fraction of epsilon", 0.0)


def _apgd(name: str, run: str, *, targeted: bool = False, minimum_classes: int = 2) -> AttackSpec:
    """Return the entry of an APGD: our own for linf and l2, pyautoattack's for l1."""
    settings = {"iterations": _STEPS, "restarts": _RESTARTS, **({"targets": _TARGETS} if targeted else {})}
    eot = Setting(1, "gradients averaged in each step, for models that answer at random", 1)
    return AttackSpec(
        id=name,
        norms=_ALL,
        kind="fixed-epsilon",
        run=f"metaeval.attacks.apgd:run_{run}",
        implementation="metaeval",
        citation=_APGD,
        passes=_apgd_t_passes if targeted else _apgd_passes,
        settings={**settings, "eot": eot},
        revision=2,
        minimum_classes=minimum_classes,
        early_exit=True,
        warm=True,
        by_norm={
            "l1": {
                "run": f"metaeval.attacks.autoattack:apgd_{run}_l1",
                "implementation": "pyautoattack",
                "revision": 1,
                "citation": _APGD_L1,
                "passes": _apgd_t_l1_passes if targeted else _apgd_l1_passes,
                # One for each of the three radii.
                "settings": {**settings, "iterations": Setting(100, "gradient steps", 3, 100)},
                "early_exit": False,
                "warm": False,
            }
        },
    )


ATTACKS = (
    _apgd("apgd-ce", "ce"),
    _apgd("apgd-dlr", "dlr", minimum_classes=3),
    _apgd("apgd-t", "targeted", targeted=True, minimum_classes=4),
    AttackSpec(
        id="fab",
        norms=_ALL,
        kind="minimum-norm",
        run="metaeval.attacks.autoattack:fab",
        implementation="pyautoattack",
        citation=_FAB,
        passes=_fab_passes,
        settings={"iterations": Setting(100, "projection steps", 1, 100), "restarts": _RESTARTS},
    ),
    AttackSpec(
        id="fab-t",
        norms=_ALL,
        kind="minimum-norm",
        run="metaeval.attacks.autoattack:fab_targeted",
        implementation="pyautoattack",
        citation=_FAB,
        passes=_fab_t_passes,
        settings={"iterations": Setting(100, "projection steps", 1, 100), "targets": _TARGETS},
    ),
    AttackSpec(
        id="square",
        norms=_ALL,
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
        by_norm={
            "l1": {
                "run": "metaeval.attacks.autoattack:square_l1",
                "implementation": "pyautoattack",
                "revision": 1,
                "citation": _APGD_L1,
                "passes": _square_l1_passes,
                "unfit": tiled,
            }
        },
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
    *(row.spec() for row in ROWS),
    *FOOLBOX,
)
