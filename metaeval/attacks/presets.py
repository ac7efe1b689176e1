"""Named lists of attacks that people run together, in order, with their settings; needs no torch.

They are AutoAttack's versions (Croce and Hein 2020) as pyautoattack 0.2.0 sets them.
Targets are capped at the number of wrong classes by the attacks.
"""

from __future__ import annotations

from collections.abc import Mapping

from metaeval.attacks.spec import Number

Stage = tuple[str, Mapping[str, Number]]  # an attack's id, and the settings that the preset fixes

_SQUARE: Stage = ("square", {"queries": 5000, "restarts": 1})
_APGD_T: Stage = ("apgd-t", {"iterations": 100, "restarts": 1, "targets": 9})
_FAB_T: Stage = ("fab-t", {"iterations": 100, "targets": 9})

PRESETS: Mapping[str, tuple[Stage, ...]] = {
    "autoattack-standard": (
        ("apgd-ce", {"iterations": 100, "restarts": 1}),
        _APGD_T,
        _FAB_T,
        _SQUARE,
    ),
    "autoattack-plus": (
        ("apgd-ce", {"iterations": 100, "restarts": 5}),
        ("apgd-dlr", {"iterations": 100, "restarts": 5}),
        ("fab", {"iterations": 100, "restarts": 5}),
        _SQUARE,
        _APGD_T,
        _FAB_T,
    ),
    "autoattack-rand": (
        ("apgd-ce", {"iterations": 100, "restarts": 1, "eot": 20}),
        ("apgd-dlr", {"iterations": 100, "restarts": 1, "eot": 20}),
    ),
}
"""Presets by name: the stages in the order in which a cascade runs them."""

_L1: Mapping[str, Mapping[str, Number]] = {"apgd-ce": {"restarts": 5}, "apgd-t": {"targets": 5}}
"""What ``standard`` sets otherwise for l1; the others have no settings of their own for it."""

OWN = "cascade"
"""Name of the row of a cascade whose stages the study lists itself."""


def stages_of(preset: str, norm: str) -> tuple[Stage, ...]:
    """Return a preset's stages for a norm.

    Raises
    ------
    ValueError
        If AutoAttack does not define the preset for the norm.
    """
    if norm != "l1":
        return PRESETS[preset]
    if preset != "autoattack-standard":
        raise ValueError(f"{preset} is not defined for l1, only autoattack-standard is")
    return tuple((name, {**settings, **_L1.get(name, {})}) for name, settings in PRESETS[preset])
