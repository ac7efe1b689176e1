"""Where data and models come from: the tables of ``[data]`` and ``[[models]]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictBool, create_model

from metaeval.study import fields

EXPECT = "whether a clean accuracy near chance or far from the published one stops the run"
ARCHIVES = (".tar.gz", ".tar.xz", ".tar.bz2", ".tgz", ".txz", ".tar", ".zip")


class Table(BaseModel):
    """A table of the study file: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataTable(Table):
    """What every ``[data]`` takes, wherever the data come from."""

    split: fields.Text = Field(default="test", description="the split that is attacked")
    train_split: fields.Text = Field(default="train", description="the split that models are trained on")
    samples: fields.Samples = Field(default="all", description="how many samples, or 'all'")
    select: Literal["first", "random", "stratified"] = Field(default="first", description="which samples")
    train_samples: fields.Samples = Field(
        default="all", description="how many samples models are trained on, as many of each class, or 'all'"
    )


class DigitsData(DataTable):
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

    source: Literal["digits"]
    name: fields.Text = Field(default="digits", description="the data's name in the report")


class NpzData(DataTable):
    """Arrays in one NumPy ``.npz`` file."""

    source: Literal["npz"]
    path: fields.FilePath = Field(description="the .npz file")
    name: fields.Text = Field(
        default_factory=fields.taken_from("path", fields.stem), description="the data's name in the report"
    )
    x: fields.Text = Field(default="x_{split}", description="the array of inputs")
    y: fields.Text = Field(default="y_{split}", description="the array of labels")
    layout: Literal["auto", "channels_first", "channels_last"] = Field(
        "auto", description="the axes of inputs"
    )
    class_names: tuple[fields.Text, ...] | None = Field(default=None, description="one name per class")


def _without_ending(path: Path) -> str:
    """Return the name of a folder or archive; a folder's name may hold dots."""
    ending = next((ending for ending in ARCHIVES if path.name.lower().endswith(ending)), "")
    return path.name[: len(path.name) - len(ending)] or path.name


class ImagesData(DataTable):
    """Images in class folders: a folder, or a zip or tar file."""

    source: Literal["images"]
    path: fields.FilePath = Field(description="the folder, zip or tar file with one folder per class")
    name: fields.Text = Field(
        default_factory=fields.taken_from("path", _without_ending),
        description="the data's name in the report",
    )


class PluginData(DataTable):
    """Data from another package (entry points ``metaeval.data_sources``), which checks its own keys."""

    model_config = ConfigDict(extra="allow")

    source: str
    name: fields.Text = Field(
        default_factory=fields.taken_from("source"), description="the data's name in the report"
    )


class Normalization(Table):
    """Mean and standard deviation per channel, applied inside the model."""

    mean: tuple[fields.Number, ...] = Field(min_length=1, description="one mean per channel")
    std: tuple[fields.Positive, ...] = Field(min_length=1, description="one standard deviation per channel")


class Settings(Table):
    """Hyper-parameters of architecture and training; unset ones have the source's defaults."""

    depth: fields.Count | None = None
    width: fields.Count | None = None
    dropout: fields.Probability | None = None
    batch_norm: StrictBool | None = None
    kernel: fields.Count | None = None
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] | None = None
    learning_rate: fields.Positive | None = None
    schedule: Literal["constant", "cosine", "step", "warmup-cosine"] | None = None
    momentum: fields.Probability | None = None
    weight_decay: fields.NotNegative | None = None
    batch_size: fields.Count | None = None
    augmentation: Literal["none", "flip", "crop", "flip+crop"] | None = None
    epochs: fields.Count | None = None
    target_loss: fields.Positive | None = None
    seed: fields.Seed | None = None
    adversarial_method: Literal["pgd", "trades"] | None = None
    adversarial_norm: Literal["linf", "l2", "l1"] | None = None
    adversarial_epsilon: fields.NotNegative | None = None
    adversarial_steps: fields.Count | None = None
    trades_beta: fields.Positive | None = None


def _choices(annotation: Any) -> Any:
    """Return the type of a grid's key: a list of what the setting itself takes."""
    return Annotated[tuple[get_args(annotation)[0], ...], Field(min_length=1)] | None  # type: ignore[misc]


Grid: type[Table] = create_model(  # type: ignore[call-overload]
    "Grid",
    __base__=Table,
    __doc__="Lists of hyper-parameters: every combination is one model.",
    **{name: (_choices(field.annotation), None) for name, field in Settings.model_fields.items()},
)


class CheckpointModel(Table):
    """A trained model: an architecture and a file of weights."""

    source: Literal["checkpoint"]
    weights: fields.Weights = Field(
        description="a safetensors file or a PyTorch state dict: a path, an address (https://...; with "
        "sha256), or 'hf:owner/repository/file@revision'"
    )
    architecture: fields.Text = Field(
        description="a built-in name, 'timm:name', 'torchvision:name' or 'module:callable'"
    )
    architecture_settings: fields.FreeTable = Field(
        default={}, description="keyword arguments of the callable"
    )
    name: fields.Text = Field(
        default_factory=fields.taken_from("weights", fields.stem),
        description="the model's name; default: the file's",
    )
    family: fields.Text = Field(
        default_factory=fields.taken_from("architecture"), description="the family; default: the architecture"
    )
    loader: fields.Text | None = Field(
        default=None,
        description="'module:callable' that reads weights of a foreign format: called with the path, the "
        "architecture's module and the shape of one input, it returns a state dict",
    )
    normalize: Normalization | None = None
    input_range: tuple[fields.Number, fields.Number] = Field(
        default=(0.0, 1.0), description="what the model takes for inputs of 0 and of 1; normalize follows"
    )
    input_layout: Literal["channels_first", "channels_last"] = Field(
        default="channels_first", description="the axes of images that the model takes"
    )
    sha256: fields.Sha256 | None = Field(default=None, description="what the file of weights must hash to")
    published_accuracy: fields.Accuracy | None = Field(default=None, description="clean accuracy, a fraction")
    expect: StrictBool = Field(default=True, description=EXPECT)


class TrainModel(Settings):
    """Models trained here: every combination of the grid."""

    source: Literal["train"]
    architecture: fields.Text = Field(description="a built-in name or 'module:callable'")
    architecture_settings: fields.FreeTable = Field(
        default={}, description="keyword arguments of the callable"
    )
    name: fields.Text = Field(
        default_factory=fields.taken_from("architecture"), description="how the models' names begin"
    )
    family: fields.Text = Field(
        default_factory=fields.taken_from("architecture"), description="the family; default: the architecture"
    )
    normalize: Normalization | None = None
    grid: Grid = Grid()  # type: ignore[valid-type]
    sample: fields.Count | None = Field(
        default=None, description="only so many models of the grid, drawn with the study's seed"
    )

    @property
    def settings(self) -> dict[str, Any]:
        """The hyper-parameters set for all models of this table."""
        return {name: value for name in Settings.model_fields if (value := getattr(self, name)) is not None}

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """The hyper-parameters of the grid, each with its values."""
        return self.grid.model_dump(exclude_none=True)  # type: ignore[attr-defined, no-any-return]


def _callable_name(model: str | None) -> str:
    return (model or "").rpartition(":")[2]


class ForeignModel(Table):
    """A model that torch does not compute: what its callable gives becomes a torch module."""

    source: str
    model: fields.Text | None = Field(
        default=None,
        description="'module:callable', called once, with settings, for the model; with parameters shape "
        "(of one input), classes and weights (the path of the file) it is given these",
    )
    settings: fields.FreeTable = Field(default={}, description="keyword arguments of the callable")
    weights: fields.FilePath | None = Field(
        default=None, description="a file of weights that are filled in, or that the callable reads"
    )
    name: fields.Text = Field(
        default_factory=lambda table: (
            _callable_name(table.get("model")) or fields.stem(table["weights"])
            if table.get("model") or table.get("weights")
            else ""
        ),
        description="the model's name; default: the callable's, else the file's",
    )
    family: fields.Text = Field(
        default_factory=fields.taken_from("source"), description="the family; default: the source"
    )
    normalize: Normalization | None = None
    input_range: tuple[fields.Number, fields.Number] = Field(
        default=(0.0, 1.0), description="what the model takes for inputs of 0 and of 1; normalize follows"
    )
    input_layout: Literal["channels_first", "channels_last"] = Field(
        default="channels_first", description="the axes of inputs that the model takes"
    )
    published_accuracy: fields.Accuracy | None = Field(default=None, description="clean accuracy, a fraction")
    expect: StrictBool = Field(default=True, description=EXPECT)


class ChannelsLastModel(ForeignModel):
    """A model of a framework whose images have their channels last."""

    input_layout: Literal["channels_first", "channels_last"] = Field(
        default="channels_last", description="the axes of inputs that the model takes"
    )


class JaxModel(ChannelsLastModel):
    """A model of JAX: Flax, Equinox, or any function that can be jitted."""

    source: Literal["jax"]


class TensorflowModel(ChannelsLastModel):
    """A model of TensorFlow: Keras, a saved model, or any function of a batch."""

    source: Literal["tensorflow"]


class SklearnModel(ForeignModel):
    """A fitted estimator of scikit-learn with predict_proba: a black box."""

    source: Literal["sklearn"]


class CallableModel(ForeignModel):
    """Any function from inputs (n, ...) to probabilities (n, classes), NumPy arrays: a black box."""

    source: Literal["callable"]


class RobustBenchModels(Table):
    """Models of the RobustBench zoo, by name or by filter."""

    source: Literal["robustbench"]
    dataset: Literal["cifar10", "cifar100", "imagenet"] = Field(
        default="cifar10", description="the data that the models were trained on"
    )
    threat_model: Literal["Linf", "L2", "corruptions"] = Field(
        default="Linf", description="what the models should be robust to"
    )
    names: tuple[fields.Text, ...] = Field(
        default=("*",), min_length=1, description="names in the zoo; * and ? stand for anything"
    )
    year: fields.Year | None = Field(default=None, description="of publication, as in '>= 2023'")
    top: fields.Count | None = Field(
        default=None, description="only so many, those with the best published robust accuracy"
    )
    published: fields.FilePath | None = Field(
        default=None, description="RobustBench's published results: its model_info, a folder or zip file"
    )
    name: fields.Text | None = Field(
        default=None,
        description="how the models' names begin, to tell apart models of one name for several threat models",
    )
    model_dir: fields.FilePath | None = Field(
        default=None, description="the folder of weights; default: TORCH_HOME's or metaeval's cache"
    )
    family: fields.Text | None = Field(
        default=None, description="the family; default: the published architecture"
    )
    expect: StrictBool = Field(default=True, description=EXPECT)


class PluginModel(Table):
    """Models from another package (entry points ``metaeval.model_sources``), which checks its own keys."""

    model_config = ConfigDict(extra="allow")

    source: str
    name: fields.Text | None = None
    family: fields.Text | None = None
