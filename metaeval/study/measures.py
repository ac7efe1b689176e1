"""Which generalization measures a study asks for: the table ``[measures]``."""

from __future__ import annotations

from pydantic import Field

from metaeval.study import fields
from metaeval.study.inputs import Table


class MeasuresTable(Table):
    """``[measures]``: which generalization measures are computed, and how."""

    families: tuple[fields.Text, ...] = Field(default=(), description="all measures of these families")
    names: tuple[fields.Text, ...] = Field(default=(), description="single measures")
    train_samples: fields.Samples = Field(
        default=5000,
        description="how many of the training samples measures look at, drawn at random, or 'all'",
    )
    settings: dict[str, fields.FreeTable] = Field(
        default={}, description="settings beyond the defaults, one table per measure; the measure checks them"
    )
