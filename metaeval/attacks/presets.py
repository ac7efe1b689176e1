"""Named lists of attacks that people run together, in order, with their settings; needs no torch.

They are AutoAttack's versions (Croce and Hein 2020) as pyautoattack 0.2.0 sets them for linf and l2.
Targets are capped at the number of wrong classes by the attacks. One difference: in ``plus`` FAB runs once,
from the input; the library's four further starts are random points in the ball of one epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping

from metaeval.attacks.spec import Number

Stage = tuple[str, Mapping[str, Number]]  # an attack's id, and the settings that the preset fixes

_SQUARE: Stage = ("square", {"queries": 5000, "restarts": 1})
_APGD_T: Stage = ("apgd-t", {"iterations": 100, "restarts": 1, "targets": 9})
_FAB_T: Stage = ("fab-t", {"iterations": 100, "restarts": 1, "targets": 9})

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
        ("fab", {"iterations": 100}),
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

OWN = "cascade"
"""Name of the row of a cascade whose stages the study lists itself."""
