"""Where shifted test sets come from: the tables of ``[[shifts]]``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from metaeval.study import fields
from metaeval.study.inputs import Table
from metaeval.study.numbers import describe

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
FURTHER = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Corruptions that the published sets hold beyond the common ones."""
SEVERITIES = (1, 2, 3, 4, 5)
NORMS = ("linf", "l2", "l1")


def _severity(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in SEVERITIES:
        raise fields.FieldError(f"severities are whole numbers from 1 to 5, got {describe(value)}")
    return value


def _common(value: Any) -> str:
    return fields.one_of("corruption", value, CORRUPTIONS)


def _published(value: Any) -> str:
    return fields.one_of("corruption", value, (*CORRUPTIONS, *FURTHER))


Severity = Annotated[int, PlainValidator(_severity, json_schema_input_type=Literal[1, 2, 3, 4, 5])]
Common = Annotated[str, BeforeValidator(_common, json_schema_input_type=Literal[CORRUPTIONS])]
Published = Annotated[
    str,
    BeforeValidator(_published, json_schema_input_type=Literal[(*CORRUPTIONS, *FURTHER)]),
]


class Cifar101Shift(Table):
    """CIFAR-10.1: new images chosen like those of CIFAR-10 (Recht et al. 2018)."""

    source: Literal["cifar10.1"]
    name: fields.StudyName = Field(default="cifar10.1", description="the shift's name")
    version: Literal["v4", "v6"] = Field(default="v6", description="v4: 2,021 images; v6: 2,000")
    path: fields.FilePath | None = Field(
        default=None, description="the folder of its .npy files; default: data/cifar10.1 in the cache"
    )
    samples: fields.Samples = Field(default="all", description="how many samples, or 'all'")

    @property
    def shifts(self) -> tuple[str, ...]:
        """The names of the shifts of this table."""
        return (self.name,)


class Corrupted(Table):
    """What every table of several corruptions takes."""

    severities: tuple[Severity, ...] = Field(default=SEVERITIES, min_length=1, description="from 1 to 5")
    prefix: fields.StudyName | None = Field(
        default=None, description="what stands before the corruptions' names, to tell them from others"
    )

    @property
    def shifts(self) -> tuple[str, ...]:
        """The names of the shifts of this table."""
        return tuple(f"{self.prefix or ''}{name}" for name in self.names)  # type: ignore[attr-defined]


class PublishedCorruptions(Corrupted):
    """What every set of published corrupted images takes."""

    names: tuple[Published, ...] = Field(
        default=CORRUPTIONS, min_length=1, description="which corruptions; default: the 15 common ones"
    )
    path: fields.FilePath | None = Field(
        default=None, description="its folder; default: CIFAR-10-C and the like under data in the cache"
    )
    samples: fields.Samples = Field(default="all", description="how many samples, or 'all'")


class Cifar10CShift(PublishedCorruptions):
    """CIFAR-10-C as published: labels.npy and one .npy file for each corruption."""

    source: Literal["cifar10-c"]


class Cifar100CShift(PublishedCorruptions):
    """CIFAR-100-C as published: labels.npy and one .npy file for each corruption."""

    source: Literal["cifar100-c"]


class ImageNetCShift(PublishedCorruptions):
    """ImageNet-C as published: corruption/severity/class/image."""

    source: Literal["imagenet-c"]


class CorruptionsShift(Corrupted):
    """Common corruptions generated from the study's own images."""

    source: Literal["corruptions"]
    names: tuple[Common, ...] = Field(
        default=CORRUPTIONS, min_length=1, description="which corruptions; default: all 15"
    )


class CallableShift(Table):
    """The study's samples, transformed one by one by a function."""

    source: Literal["callable"]
    transform: fields.Text = Field(
        description="'module:callable' from one input (float32 array in [0, 1]) to another of its shape, or "
        "to that and a label"
    )
    name: fields.StudyName = Field(
        default_factory=fields.taken_from("transform", lambda text: text.rpartition(":")[2]),
        description="the shift's name; default: the callable's",
    )

    @property
    def shifts(self) -> tuple[str, ...]:
        """The names of the shifts of this table."""
        return (self.name,)


class AttackedShift(Table):
    """The study's samples after one run of an attack on each model, whether or not it succeeded."""

    source: Literal["attacked"]
    attack: fields.Text = Field(description="fgsm, bim, pgd, deepfool, cw, or the id of any attack")
    norm: Literal["linf", "l2", "l1"] = Field(description="the norm of perturbations")
    epsilon: fields.EpsilonField | None = Field(
        default=None, description="the radius; attacks that look for the smallest adversarial take none"
    )
    settings: fields.FreeTable = Field(default={}, description="the attack's settings")
    name: fields.StudyName = Field(
        default_factory=fields.taken_from("attack", lambda text: text.partition("@")[0]),
        description="the shift's name; default: the attack's",
    )

    @property
    def shifts(self) -> tuple[str, ...]:
        """The names of the shifts of this table."""
        return (self.name,)
