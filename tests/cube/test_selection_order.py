"""The order of norms in a selection survives its text, so that a rebuilt cube equals the published one."""

from __future__ import annotations

from metaeval.cube.selection import NormSelection, Selection


def test_norms_keep_their_order() -> None:
    norms = {norm: NormSelection(("apgd-ce",), (0.1,)) for norm in ("linf", "l2", "l1")}
    selection = Selection(("one",), 10, norms)
    assert list(Selection.from_json(selection.to_json()).norms) == ["linf", "l2", "l1"]
