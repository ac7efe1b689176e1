"""The tables of ``[data]`` for standard sets, arrays and tables in files, hubs and callables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from metaeval.study import fields
from metaeval.study.inputs import DataTable
from metaeval.study.numbers import describe, parse_number

NAME = "the data's name in the report"
ROOT = "the folder of the files, laid out as torchvision does; default: data in metaeval's cache"
Classes = Annotated[
    tuple[fields.Text, ...] | None,
    Field(default=None, description="only these classes, labelled in this order; default: all"),
]
Layout = Literal["auto", "channels_first", "channels_last"]
ClassNames = Annotated[tuple[fields.Text, ...] | None, Field(default=None, description="one name per class")]


class StandardData(DataTable):
    """What the tables of all standard sets take."""

    source: str
    name: fields.Text = Field(default_factory=fields.taken_from("source"), description=NAME)
    root: fields.FilePath | None = Field(default=None, description=ROOT)
    classes: Classes = None


class Cifar10Data(StandardData):
    """CIFAR-10: 60,000 colour images of 32 x 32 pixels in 10 classes (Krizhevsky 2009)."""

    source: Literal["cifar10"]


class Cifar100Data(StandardData):
    """CIFAR-100: 60,000 colour images of 32 x 32 pixels in 100 fine classes (Krizhevsky 2009)."""

    source: Literal["cifar100"]


class MnistData(StandardData):
    """MNIST: 70,000 grey digits of 28 x 28 pixels (LeCun et al. 1998)."""

    source: Literal["mnist"]


class FashionMnistData(StandardData):
    """Fashion-MNIST: 70,000 grey articles of clothing, 28 x 28 pixels (Xiao et al. 2017)."""

    source: Literal["fashion_mnist"]


class SvhnData(StandardData):
    """SVHN: 99,289 cropped colour house numbers of 32 x 32 pixels (Netzer et al. 2011)."""

    source: Literal["svhn"]


class GtsrbData(StandardData):
    """GTSRB: traffic signs of 43 classes, scaled to one size (Stallkamp et al. 2012)."""

    source: Literal["gtsrb"]
    size: fields.Count = Field(default=32, description="height and width that images are scaled to")


class ImagenetData(StandardData):
    """ImageNet (ILSVRC 2012): a folder per split with a folder per class (Russakovsky et al. 2015)."""

    source: Literal["imagenet"]
    split: fields.Text = Field(default="val", description="the split that is attacked")
    size: fields.Count = Field(
        default=224, description="the centre cut out after scaling the shorter side to size * 256 / 224"
    )


class TinyImagenetData(StandardData):
    """Tiny ImageNet: 110,000 labelled colour images of 64 x 64 pixels in 200 classes (Le and Yang 2015)."""

    source: Literal["tiny_imagenet"]
    split: fields.Text = Field(default="val", description="the split that is attacked")


class HarData(StandardData):
    """UCI HAR: 561 features of a phone's movements in 6 activities (Anguita et al. 2013)."""

    source: Literal["har"]


class NpyData(DataTable):
    """Two NumPy ``.npy`` files per split, inputs and labels; ``{split}`` in their names is the split's."""

    source: Literal["npy"]
    x: fields.FilePath = Field(description="the file of inputs, as in 'x_{split}.npy'")
    y: fields.FilePath = Field(description="the file of labels, as in 'y_{split}.npy'")
    name: fields.Text = Field(
        default_factory=fields.taken_from("x", lambda path: _without_split(path)), description=NAME
    )
    layout: Layout = Field("auto", description="the axes of inputs")
    class_names: ClassNames = None


class CallableData(DataTable):
    """Arrays from a callable of the user: ``function(split)`` returns inputs and labels."""

    source: Literal["callable"]
    function: fields.Text = Field(description="'module:callable'; modules are found beside the study file")
    name: fields.Text = Field(default_factory=fields.taken_from("function"), description=NAME)
    layout: Layout = Field("auto", description="the axes of inputs")
    class_names: ClassNames = None


def _bounds(value: Any) -> Any:
    if value == "train":
        return value
    if isinstance(value, (list, tuple)) and len(value) == 2:
        low, high = (parse_number(item) for item in value)
        if low < high:
            return (low, high)
    got = list(value) if isinstance(value, (list, tuple)) else describe(value)
    raise fields.FieldError(f"expected 'train' or [lowest, highest], got {got}")


class TabularData(DataTable):
    """What tables of rows in files take: one column of labels, the others numbers."""

    source: str
    path: fields.FilePath = Field(description="the file; '{split}' in its name is the split's")
    name: fields.Text = Field(
        default_factory=fields.taken_from("path", lambda path: _without_split(path)), description=NAME
    )
    label: fields.Text = Field(default="label", description="the column of labels")
    features: tuple[fields.Text, ...] | None = Field(
        default=None, min_length=1, description="the columns of inputs; default: all others"
    )
    bounds: Annotated[
        tuple[float, float] | Literal["train"],
        BeforeValidator(
            _bounds, json_schema_input_type=tuple[fields.NumberText, fields.NumberText] | Literal["train"]
        ),
    ] = Field(
        default="train",
        description="what becomes 0 and 1: two numbers for all columns, or each column's lowest and highest "
        "value in the training split",
    )
    outside: Literal["refuse", "clip"] = Field(
        default="refuse", description="what is done about values beyond the bounds"
    )


class CsvData(TabularData):
    """Rows of numbers with a label in a CSV file."""

    source: Literal["csv"]


class ParquetData(TabularData):
    """Rows of numbers with a label in a Parquet file."""

    source: Literal["parquet"]


class HuggingFaceData(DataTable):
    """Images of a data set on the Hugging Face Hub, or in a local folder laid out like one."""

    source: Literal["huggingface"]
    dataset: fields.Text = Field(description="'owner/name', or the path of a local folder")
    configuration: fields.Text | None = Field(default=None, description="which of the data set's variants")
    revision: fields.Text | None = Field(default=None, description="a commit, tag or branch")
    image: fields.Text = Field(default="image", description="the column of images")
    label: fields.Text = Field(default="label", description="the column of labels")
    name: fields.Text = Field(default_factory=fields.taken_from("dataset"), description=NAME)


def _without_split(path: Path) -> str:
    """Return a file's name without its ending and the place of the split."""
    return path.stem.replace("{split}", "").strip("._- ") or "data"


TABLES: dict[str, type[DataTable]] = {
    "cifar10": Cifar10Data,
    "cifar100": Cifar100Data,
    "mnist": MnistData,
    "fashion_mnist": FashionMnistData,
    "svhn": SvhnData,
    "gtsrb": GtsrbData,
    "imagenet": ImagenetData,
    "tiny_imagenet": TinyImagenetData,
    "har": HarData,
    "npy": NpyData,
    "csv": CsvData,
    "parquet": ParquetData,
    "huggingface": HuggingFaceData,
    "callable": CallableData,
}
