"""The study file: which tables it has, which keys they take, and the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    StrictBool,
    Tag,
    field_validator,
    model_validator,
)

from metaeval import registry
from metaeval.errors import Problem, nearest
from metaeval.study import data_tables, fields
from metaeval.study.inputs import (
    CallableModel,
    CheckpointModel,
    DigitsData,
    ImagesData,
    JaxModel,
    NpzData,
    PluginData,
    PluginModel,
    RobustBenchModels,
    Settings,
    SklearnModel,
    Table,
    TensorflowModel,
    TrainModel,
)
from metaeval.study.measures import MeasuresTable
from metaeval.study.origin import Origin
from metaeval.study.positions import Loc
from metaeval.study.shift_inputs import (
    AttackedShift,
    CallableShift,
    Cifar10CShift,
    Cifar100CShift,
    Cifar101Shift,
    CorruptionsShift,
    ImageNetCShift,
)


class StudyTable(Table):
    """``[study]``: what the study is called, and the seed of everything random in it."""

    name: fields.StudyName = Field(description="the study's name, also of its folder under reports/")
    title: fields.Text = Field(
        default_factory=fields.taken_from("name"), description="the report's title; default: the name"
    )
    seed: fields.Seed = Field(default=0, description="the seed of selection, training and attacks")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32", description="what attacks compute in; adversarials are verified in float32"
    )


class AttackTable(Table):
    """``[[threat_models.attack]]``: settings of one attack beyond its defaults; the attack checks them."""

    model_config = ConfigDict(extra="allow")

    name: fields.Text = Field(description="one of the threat model's attacks")

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return fields.fractions(value)

    @property
    def settings(self) -> dict[str, Any]:
        """All keys but the name."""
        return dict(self.model_extra or {})


class ThreatModel(Table):
    """``[[threat_models]]``: a norm, its epsilons and the attacks to run."""

    norm: Literal["linf", "l2", "l1"] = Field(description="the norm of perturbations")
    epsilons: fields.Epsilons = Field(min_length=1, description="a list of radii or 'start:stop:count'")
    attacks: fields.Attacks = Field(description="names of attacks, or the name of a preset")
    mode: Literal["individual", "cascade"] = Field(
        default_factory=lambda table: "cascade" if isinstance(table.get("attacks"), str) else "individual",
        description="'individual': each attack alone; 'cascade': one after the other, each only where all "
        "earlier ones left a sample unbroken; default: cascade for a preset, else individual",
    )
    search: Literal["exact", "frontier"] = Field(default="frontier", description="how epsilons are searched")
    evidence: StrictBool = Field(
        default=False, description="whether the smallest adversarial of every sample is kept in the cube"
    )
    attack: tuple[AttackTable, ...] = ()


class CrossingsTable(Table):
    """``[analysis] crossings``: how certain a crossing of two robustness curves must be."""

    margin: fields.Number = Field(
        default=0.02, gt=0, lt=1, description="the lead for which the largest number of crossings is bounded"
    )
    confidence: fields.Number = Field(
        default=0.95, gt=0, lt=1, description="that none of a norm's crossings is a false one"
    )


class AnalysisTable(Table):
    """``[analysis]``: what the analysis looks at."""

    reference_epsilons: fields.Epsilons = Field(
        default=(), description="the epsilons that tables are made for"
    )
    family: str | tuple[str, ...] = Field(
        default="architecture", description="what groups models: a column of /models, or several together"
    )
    confidence: fields.Number = Field(default=0.95, gt=0, lt=1, description="the confidence of intervals")
    seed: fields.Seed | None = Field(default=None, description="the seed of resampling; default: the study's")
    models: tuple[fields.Text, ...] = Field(
        default=(), description="only these models; * and ? stand for anything; default: all"
    )
    classes: tuple[fields.Text, ...] = Field(default=(), description="only samples of these classes")
    attacks: tuple[fields.Text, ...] = Field(
        default=(), description="only these attacks; the worst case is theirs"
    )
    crossings: CrossingsTable = Field(
        default=CrossingsTable(), description="how certain a crossing of two robustness curves must be"
    )

    @field_validator("family", mode="before")
    @classmethod
    def _known_family(cls, value: Any) -> Any:
        columns = ("family", "architecture", "source", *Settings.model_fields)
        if isinstance(value, (list, tuple)) and value:
            return tuple(fields.one_of("family", name, columns) for name in value)
        return fields.one_of("family", value, columns)


class ReportTable(Table):
    """``[report]``: what the page shows."""

    figures: fields.Figures = Field(default="all", description="'all' or a list of figures' names")


DATA_SOURCES: dict[str, type[Table]] = {
    "digits": DigitsData,
    "npz": NpzData,
    "images": ImagesData,
    **data_tables.TABLES,
}
MODEL_SOURCES: dict[str, type[Table]] = {
    "callable": CallableModel,
    "checkpoint": CheckpointModel,
    "jax": JaxModel,
    "robustbench": RobustBenchModels,
    "sklearn": SklearnModel,
    "tensorflow": TensorflowModel,
    "train": TrainModel,
}

SHIFT_SOURCES: dict[str, type[Table]] = {
    "cifar10.1": Cifar101Shift,
    "cifar10-c": Cifar10CShift,
    "cifar100-c": Cifar100CShift,
    "imagenet-c": ImageNetCShift,
    "corruptions": CorruptionsShift,
    "callable": CallableShift,
    "attacked": AttackedShift,
}  # and "data", below

# Tags stand in the paths of pydantic's errors; no key is called like that.
TAGS: dict[str, type[Table]] = {
    **{f"<{name}>": table for name, table in {**DATA_SOURCES, **MODEL_SOURCES, **SHIFT_SOURCES}.items()},
    "<data plug-in>": PluginData,
    "<model plug-in>": PluginModel,
}


def sources(kind: Literal["data", "models", "shifts"]) -> list[str]:
    """Return the names that ``source`` may have in a kind of table, plug-ins included."""
    if kind == "shifts":
        return list(SHIFT_SOURCES)
    if kind == "data":
        return registry.names("data_sources", dict.fromkeys(DATA_SOURCES, ""))
    return registry.names("model_sources", dict.fromkeys(MODEL_SOURCES, ""))


def tag(value: Any, kind: Literal["data", "models", "shifts"]) -> str | None:
    """Return the tag of a table's source.

    A misspelt source is read as the nearest one, so that the table's other mistakes are found at once.
    """
    source = value.get("source") if isinstance(value, Mapping) else getattr(value, "source", None)
    if not isinstance(source, str):
        return None
    builtin = {"data": DATA_SOURCES, "models": MODEL_SOURCES, "shifts": SHIFT_SOURCES}[kind]
    if source not in builtin and source in sources(kind):
        return "<data plug-in>" if kind == "data" else "<model plug-in>"
    near = nearest(source, builtin) if source not in builtin else source
    return f"<{near}>" if near else None


Data = Annotated[
    Annotated[DigitsData, Tag("<digits>")]
    | Annotated[NpzData, Tag("<npz>")]
    | Annotated[ImagesData, Tag("<images>")]
    | Annotated[data_tables.Cifar10Data, Tag("<cifar10>")]
    | Annotated[data_tables.Cifar100Data, Tag("<cifar100>")]
    | Annotated[data_tables.MnistData, Tag("<mnist>")]
    | Annotated[data_tables.FashionMnistData, Tag("<fashion_mnist>")]
    | Annotated[data_tables.SvhnData, Tag("<svhn>")]
    | Annotated[data_tables.GtsrbData, Tag("<gtsrb>")]
    | Annotated[data_tables.ImagenetData, Tag("<imagenet>")]
    | Annotated[data_tables.TinyImagenetData, Tag("<tiny_imagenet>")]
    | Annotated[data_tables.HarData, Tag("<har>")]
    | Annotated[data_tables.NpyData, Tag("<npy>")]
    | Annotated[data_tables.CsvData, Tag("<csv>")]
    | Annotated[data_tables.ParquetData, Tag("<parquet>")]
    | Annotated[data_tables.HuggingFaceData, Tag("<huggingface>")]
    | Annotated[data_tables.CallableData, Tag("<callable>")]
    | Annotated[PluginData, Tag("<data plug-in>")],
    Discriminator(lambda value: tag(value, "data")),
]
Model = Annotated[
    Annotated[CallableModel, Tag("<callable>")]
    | Annotated[CheckpointModel, Tag("<checkpoint>")]
    | Annotated[JaxModel, Tag("<jax>")]
    | Annotated[RobustBenchModels, Tag("<robustbench>")]
    | Annotated[SklearnModel, Tag("<sklearn>")]
    | Annotated[TensorflowModel, Tag("<tensorflow>")]
    | Annotated[TrainModel, Tag("<train>")]
    | Annotated[PluginModel, Tag("<model plug-in>")],
    Discriminator(lambda value: tag(value, "models")),
]


class DataShift(Table):
    """A test set of its own, with the study's classes."""

    source: Literal["data"]
    name: fields.StudyName = Field(description="the shift's name")
    data: Data = Field(description="where it comes from: a table like [data]")

    @property
    def shifts(self) -> tuple[str, ...]:
        """The names of the shifts of this table."""
        return (self.name,)


SHIFT_SOURCES["data"] = TAGS["<data>"] = DataShift
Shift = Annotated[
    Annotated[Cifar101Shift, Tag("<cifar10.1>")]
    | Annotated[Cifar10CShift, Tag("<cifar10-c>")]
    | Annotated[Cifar100CShift, Tag("<cifar100-c>")]
    | Annotated[ImageNetCShift, Tag("<imagenet-c>")]
    | Annotated[CorruptionsShift, Tag("<corruptions>")]
    | Annotated[CallableShift, Tag("<callable>")]
    | Annotated[AttackedShift, Tag("<attacked>")]
    | Annotated[DataShift, Tag("<data>")],
    Discriminator(lambda value: tag(value, "shifts")),
]


class Study(Table):
    """A study: data, models, threat models, and what to make of the results."""

    schema_version: Literal[1] = Field(description="1")
    study: StudyTable
    data: Data
    models: tuple[Model, ...] = Field(min_length=1)
    threat_models: tuple[ThreatModel, ...] = Field(min_length=1)
    measures: MeasuresTable | None = None
    shifts: tuple[Shift, ...] = ()
    analysis: AnalysisTable = AnalysisTable()
    report: ReportTable = ReportTable()

    _origin: Origin = PrivateAttr(default_factory=lambda: Origin(Path("study"), {}, {}))

    @property
    def origin(self) -> Origin:
        """The file it was read from, as written."""
        return self._origin

    @property
    def path(self) -> Path:
        """The study file, as it was named."""
        return self._origin.path

    @property
    def base(self) -> Path:
        """The absolute folder of the study file, where relative paths start."""
        return self._origin.path.absolute().parent

    @property
    def output(self) -> Path:
        """Where results go by default: ``reports/<name>`` in the working directory."""
        return Path("reports") / self.study.name

    def problem(self, loc: Loc, message: str, suggestion: str | None = None) -> Problem:
        """Return a problem of this study's file at a path such as ``("models", 0, "weights")``."""
        return self._origin.problem(loc, message, suggestion)

    def to_dict(self) -> dict[str, Any]:
        """Return the study with all defaults, absolute paths and written epsilons, as JSON can say it."""
        return self.model_dump(mode="json", exclude_none=True)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of study files, with the sources installed here."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Study.model_json_schema()}
    definitions = schema["$defs"]
    for kind, plugin, builtin in (
        ("data", "PluginData", DATA_SOURCES),
        ("models", "PluginModel", MODEL_SOURCES),
    ):
        unions = [part for part in _parts(schema) if "oneOf" in part]
        names = [name for name in sources(kind) if name not in builtin]  # type: ignore[arg-type]
        if names:
            definitions[plugin]["properties"]["source"] = {"enum": names}
        else:
            for union in unions:
                union["oneOf"] = [p for p in union["oneOf"] if not p.get("$ref", "").endswith(f"/{plugin}")]
            del definitions[plugin]
    return schema


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and every schema in it."""
    if isinstance(schema, dict):
        yield schema
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _parts(part)
