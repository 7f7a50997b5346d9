"""The settings of every job: frozen, checked when made, with the meaning under each field.

docs/configuration.md is generated from these classes.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from factorlake.errors import ConfigError
from factorlake.paths import resolved
from factorlake.types import Objective, PlanName, Solver

SHARED_TABLES = (
    "raw_events",
    "ingest_ledger",
    "quarantine",
    "interactions",
    "users",
    "items",
    "user_attributes",
    "item_attributes",
    "runs",
    "validation_results",
    "erasures",
)
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
NotNegativeFinite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ColumnNames = Annotated[list[str], Field(min_length=1)]


HistoryAction = Literal["off", "warn", "refuse"]
HistoryCheck = Literal[
    "volume",
    "duplicates",
    "quarantined_share",
    "null_share",
    "new_users",
    "new_items",
    "user_peak",
    "item_peak",
    "values",
    "advance",
    "late",
]


class Section(BaseModel):
    """A frozen group of settings that refuses names it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class IngestSettings(Section):
    """How files become raw_events."""

    format: Literal["auto", "csv", "json", "parquet", "delta"] = "auto"
    """Format of the input. auto goes by the file's ending: .csv .tsv .json .jsonl .ndjson, each also with .gz, and
    .parquet."""
    pattern: str = "*"
    """Glob that a file's path inside the input folder must match."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """CSV: the character between fields."""
    quote: str = Field(default='"', min_length=1, max_length=1)
    """CSV: the character around a field that holds a delimiter, a quote or a line end."""
    header: bool = True
    """CSV: the first record of each file names the columns. Without it `column_names` must."""
    column_names: list[str] = []
    """CSV without a header: the columns in order."""
    encoding: str = "utf-8"
    """Encoding of text files. Bytes that do not fit it are kept as U+FFFD and the record is marked."""
    max_file_bytes: int = Field(default=1 << 30, gt=0, lt=1 << 31)
    """A file larger than this (as stored) is refused: split it. Spark hands over less than 2 GiB at once."""
    on_unreadable: Literal["refuse", "skip"] = "refuse"
    """A file that cannot be read to its end: refuse ends the job with exit 3 and takes no file of the batch; skip
    leaves it out, tells so in the ledger and tries it again next time."""
    pseudonym_key: str | None = Field(default=None, min_length=16)
    """With a key every user id is replaced by a pseudonym (HMAC-SHA256 under the key) before anything is written, and
    texts that cannot be split into fields are left out. It is that of the lake for good. Give it by
    FACTORLAKE__INGEST__PSEUDONYM_KEY, or as ${NAME} in a conf file; it is never shown."""


class EventColumns(Section):
    """Which raw column holds which part of an event. Of several columns, the first one that a record has a value
    for."""

    user_id: str | ColumnNames = "user_id"
    """Column of the user's id."""
    item_id: str | ColumnNames = "item_id"
    """Column of the item's id."""
    event_type: str | ColumnNames | None = None
    """Column of the event's type; none: every event has `default_type`."""
    value: str | ColumnNames | None = None
    """Column of the value (a rating, a count, a quantity); none: 1."""
    event_time: str | ColumnNames | None = "event_time"
    """Column of the time; none: events carry no time (then no split by time and no holdout)."""


class RowRule(Section):
    """One rule that each row must keep; a row that breaks it goes to quarantine with the rule's name as reason."""

    name: str
    """The reason written into quarantine."""
    type: Literal["required", "range", "one_of", "not_one_of", "matches", "not_matches", "max_length", "sql"]
    """Kind of rule. All but required and sql let an absent value pass."""
    column: str | None = None
    """A raw column, or one of user_id, item_id, event_type, value, event_time after mapping. Not for sql."""
    min: float | str | None = None
    """range: least value allowed (a number; for event_time a timestamp)."""
    max: float | str | None = None
    """range: greatest value allowed."""
    above: float | None = None
    """range: value must be greater than this."""
    values: list[str] = []
    """one_of, not_one_of: the values."""
    pattern: str | None = None
    """matches, not_matches: a regular expression, searched anywhere in the text."""
    length: int | None = None
    """max_length: most characters allowed."""
    condition: str | None = None
    """sql: a boolean expression over an allow-list of functions; the row is refused where it is not true."""

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not NAME.match(name):
            raise ValueError("must be letters, digits and _, starting with a letter")
        return name

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> RowRule:
        needs = {
            "one_of": self.values,
            "not_one_of": self.values,
            "matches": self.pattern,
            "not_matches": self.pattern,
            "max_length": self.length,
            "sql": self.condition,
        }
        if self.type in needs and not needs[self.type]:
            field = {"max_length": "length", "sql": "condition"}.get(
                self.type, "values" if "one_of" in self.type else "pattern"
            )
            raise ValueError(f"rule {self.name!r} of type {self.type} needs `{field}`")
        if self.type == "range" and self.min is None and self.max is None and self.above is None:
            raise ValueError(f"rule {self.name!r} of type range needs `min`, `max` or `above`")
        if self.type != "sql" and self.column is None:
            raise ValueError(f"rule {self.name!r} needs `column`")
        return self


class EventSettings(Section):
    """How a raw record reads as an event."""

    columns: EventColumns = EventColumns()
    default_type: str = "event"
    """Event type where there is no column for it."""
    types: list[str] = []
    """Event types that are known; others are refused as unknown_event_type. Empty: any type."""
    trim_ids: bool = True
    """Leave out white space around ids."""
    integral_float_ids: bool = False
    """Ids passed through a float column: 17850.0 is 17850, and nan is a missing id."""
    time_formats: list[str] = ["iso"]
    """Formats tried in order: iso, epoch_s, epoch_ms, or a Spark pattern such as yyyy-MM-dd HH:mm:ss."""
    zone: str | None = None
    """Zone of times that carry none. A format without a zone needs it."""
    earliest: str | None = "1990-01-01T00:00:00Z"
    """An event before this is refused as impossible_time."""
    latest: str | None = None
    """An event after this is refused as impossible_time."""
    event_key: list[str] = []
    """Mapped columns whose equal values mean one event: only the survivor (latest time, then greatest event id) is
    accepted, the others count as superseded. Empty: only exact copies are removed."""
    value_range: tuple[float | None, float | None] = (None, None)
    """Least and greatest value allowed."""


class GateSettings(Section):
    """When a batch is refused as a whole."""

    max_quarantined_share: Share = 0.5
    """A batch with a larger share of refused rows (of all but duplicates) is refused."""
    min_rows: int = Field(default=1, ge=0)
    """A batch with fewer input rows is refused."""
    history: bool = True
    """Also compare a batch with the log's own history (robust z over past batches): warn of figures that are out of
    line, refuse a quarantined share that is."""
    history_runs: int = Field(default=7, ge=3)
    """Fewest past batches before the history has a say."""
    history_window: int = Field(default=70, ge=3)
    """Past batches that are compared with, the latest."""
    history_z: Positive = 6.0
    """Robust z (distance from the median over 1.4826 times the median absolute deviation) from which a figure is out of
    line."""
    history_floor: Share = 0.05
    """Least distance from the median quarantined share that counts as out of line, however steady the past."""
    history_checks: dict[HistoryCheck, HistoryAction] = {}
    """Checks that are to do something else than by default: off, warn or refuse. By default quarantined_share refuses
    and all others warn."""
    history_floors: dict[HistoryCheck, NotNegative] = {}
    """Checks with another least distance from the median than their default."""
    history_zs: dict[HistoryCheck, Positive] = {}
    """Checks with another robust z than `history_z`."""

    @model_validator(mode="after")
    def _window_holds_enough(self) -> GateSettings:
        if self.history_window < self.history_runs:
            raise ValueError("`history_window` is less than `history_runs`: the history would never have a say")
        return self


class ValidateSettings(Section):
    """Rules, gate and Great Expectations."""

    rules: list[RowRule] = []
    """Row rules beside the built-in ones (ids present, value a finite number, time readable, record whole)."""
    on_rule_change: Literal["keep", "rebuild"] | None = None
    """What becomes of events that went in under other rules (`events` and `validate.rules`) than those set now. keep:
    they stay, and new batches are judged by the new rules; rebuild: interactions and quarantine are derived again from
    raw_events; none: the job refuses until a person has chosen."""
    gate: GateSettings = GateSettings()
    expectations: str | None = None
    """Name of a suite in conf/expectations (or a path to one), run on the accepted rows; none: Great Expectations is
    not loaded."""
    data_docs: bool = False
    """Also write Great Expectations' data docs beside the report."""


class AttributeSource(Section):
    """Where names and attributes of one side come from. Of several rows of one id the last one stays: of the last file
    by path, the last row."""

    source: Literal["files", "events"] = "files"
    """files: a folder or file of its own; events: the columns of the log's accepted rows, the most frequent value of
    each."""
    input: str | None = None
    """files: where they are; `{input}` in it stands for the setting `input`, the log's own folder."""
    optional: bool = False
    """files: a log may come without them: where nothing lies at `input`, the side's attributes stay as they are."""
    columns: dict[str, str] = {}
    """id, name, category, segment, available_from, available_to → raw column. Columns not named here become
    features."""
    features: list[str] = []
    """Raw columns kept in the features map."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """files: the character between the fields of CSV; a tab in .tsv."""
    quote: str | None = Field(default=None, min_length=1, max_length=1)
    """files: the character around a field of CSV that holds a delimiter; none: that of the log (`ingest.quote`)."""
    encoding: str | None = None
    """files: encoding of text; none: that of the log (`ingest.encoding`)."""

    @model_validator(mode="after")
    def _complete(self) -> AttributeSource:
        if self.source == "files" and not self.input:
            raise ValueError("attributes from files need `input`")
        known = {"id", "name", "category", "segment", "available_from", "available_to"}
        unknown = set(self.columns) - known
        if unknown:
            raise ValueError(f"unknown attribute {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}")
        return self


class AttributesSettings(Section):
    """Attributes of users and items; a side that is not named has none."""

    users: AttributeSource | None = None
    items: AttributeSource | None = None


class SelectSettings(Section):
    """The part of the shared log that this recommender looks at."""

    event_types: list[str] = []
    """Only these event types; empty: all."""
    window_days: Positive | None = None
    """Only events at most this many days older than the newest event."""
    min_value: float | None = None
    """Only events with at least this value (for ratings read as implicit feedback)."""
    as_of: AwareDatetime | None = None
    """Only what was known at this moment: events accepted until then, attributes as they stood then. With a zone:
    2026-11-01T00:00:00Z. Events that later ones superseded, or other rules took out, are gone from the past too."""


class EarlyStopping(Section):
    """When training ends before its last epoch."""

    metric: Literal["objective", "ndcg@10", "rmse"] = "objective"
    """objective: the training objective; ndcg@10 and rmse: on the holdout (needs one)."""
    tolerance: NotNegative = 1e-4
    """Least relative gain of one epoch that counts as progress."""
    patience: int = Field(default=1, ge=1)
    """Epochs without progress before training stops."""


class FeatureSettings(Section):
    """Attributes as a prior of factors: what lies near what before there are events. docs/math.md has the equations.
    Attributes with `source: events` are made of all events: where some are held out, in training or to judge, features
    of them are refused."""

    users: list[str] = []
    """Attributes of users: category, segment, or keys of the features map of user_attributes."""
    items: list[str] = []
    """Attributes of items, likewise."""
    separator: str = "|"
    """What parts the values of one id in a text (genres `Comedy|Drama`); empty: a text is one value."""
    max_values: int = Field(default=256, ge=1, le=4096)
    """Most values of one attribute that count; the rarest are left out. Rows of features are dense: ids × columns × 4
    bytes, with the driver under the plans local and broadcast."""
    bins: int = Field(default=8, ge=2, le=64)
    """Ranges of an attribute that is a number: all its texts are numbers, more than twice as many different ones as
    there are ranges, and `categories` does not name it. Of any other each text is a value of its own."""
    categories: list[str] = []
    """Attributes that are never cut into ranges, though their texts be numbers: post codes, numbers of a department."""
    strength: NotNegativeFinite = 1.0
    """How strongly an average row is drawn to where its features put it, over its ridge. The more events a row has, the
    less its features say."""
    regularization: PositiveFinite = 1.0
    """Ridge of the regression of factors on features: as many rows at zero stand beside the real ones."""
    silent_users: bool = True
    """Whether users with attributes and without events get factors and lists."""
    silent_items: bool = True
    """Whether items with attributes and without events get factors, and may be listed."""

    @model_validator(mode="after")
    def _names_something(self) -> FeatureSettings:
        if not self.users and not self.items:
            raise ValueError("features name no attribute: name some of users or items, or leave train.features out")
        unknown = [name for name in self.categories if name not in (*self.users, *self.items)]
        if unknown:
            raise ValueError(f"categories has {unknown[0]!r}, which neither users nor items of the features name")
        return self


class TrainSettings(Section):
    """The model and how it is trained. docs/math.md has the objective these names stand for."""

    objective: Objective = "implicit"
    """implicit: weighted all-pairs loss; explicit: observed ratings only; frobenius: every pair counts the same, with 0
    where it is not observed (needs `nonnegative`: NMF)."""
    rank: int = Field(default=32, ge=1, le=4096)
    """Length k of the factor vectors."""
    regularization: NotNegative = 0.01
    """λ of the ridge; 0 with the objective frobenius only."""
    item_regularization: NotNegative | None = None
    """λ of the items' ridge; none: the same."""
    frequency_exponent: NotNegative = 1.0
    """ν: the ridge of a row is scaled by (n + κ·n_other)^ν."""
    frequency_offset: NotNegative | None = None
    """κ; none: the unobserved weight (modern iALS), and 0 where `alpha` is given or the objective is explicit."""
    unobserved_weight: NotNegative = 0.1
    """α0: weight of every pair in the implicit objective. Hu-Koren-Volinsky and Spark: 1."""
    alpha: Positive | None = None
    """α of Hu-Koren-Volinsky: confidence 1 + α|r|. None: modern iALS, weight r on observed pairs with target 1."""
    biases: bool = True
    """Explicit: global mean, user and item biases, solved jointly with the factors."""
    bias_regularization: Positive = 5.0
    """λ_b: ridge of a bias, not scaled by the row's count."""
    epochs: int = Field(default=16, ge=1)
    """Most epochs (each one user and one item half step)."""
    init_scale: Positive = 0.3
    """Standard deviation of the initial factors times √rank."""
    solver: Solver = "auto"
    """Row solver. cg: conjugate-gradient steps from the row as it was; subspace: its coordinates by sixteen, each once
    (iALS++); exact. auto: cg, with one more step while the objective falls fast."""
    cg_steps: int = Field(default=2, ge=1, le=64)
    """Conjugate-gradient steps per row and half step."""
    relaxation: float = Field(default=1.5, ge=1, lt=2)
    """Over-relaxation under cg from the third epoch on: how far a row goes, in steps from its last value to the solved
    one. 1: just there."""
    nonnegative: bool = False
    """Keep every factor at 0 or above (by coordinate descent; `solver` stays at auto). Biases stay free."""
    features: FeatureSettings | None = None
    """Attributes that say where users and items lie; none: events alone do."""
    plan: PlanName = "auto"
    """local: the driver trains with threads; broadcast: Spark tasks solve blocks against a shipped side; shuffle: rows
    of both sides lie in files of the root, and each task reads those its blocks need. auto picks by size."""
    threads: int = Field(default=0, ge=0)
    """Threads of the local plan; 0: as many as Spark has slots on this machine."""
    checkpoint_seconds: NotNegative | None = 60.0
    """Least time between two checkpoints, from which training that was cut off goes on; 0: one after every epoch, none:
    no checkpoints. On an object store there are none."""
    event_weights: dict[str, float] = {}
    """Weight of one event by its type (times its value where `use_value`); types not named weigh 1."""
    use_value: bool = False
    """Multiply an event's weight by its value. Explicit always reads the value as the rating. A log that has a weight
    of its own for each event hands it over as the value."""
    half_life_days: float | dict[str, float] | None = None
    """An event that is older by so many days than the newest one that may be known weighs half; by event type: types
    not named keep their weight. None: age does not count. Not for ratings (explicit, frobenius)."""
    combine: Literal["sum", "max", "last", "mean", "count"] = "sum"
    """How the events of one pair become one rating r."""
    value_scaling: Literal["linear", "log"] = "linear"
    """log: r becomes log(1 + |r|/ε) with r's sign."""
    value_scale: PositiveFinite = 1.0
    """ε of the logarithm: the r up to which it is nearly linear."""
    holdout_days: NotNegative | None = None
    """Y is trained on events older than this before the newest event, so that it can be judged on the rest; none: on
    all."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    """None: always run all epochs."""

    @model_validator(mode="after")
    def _frobenius_is_nonnegative(self) -> TrainSettings:
        if self.objective == "frobenius" and not self.nonnegative:
            raise ValueError(
                "objective frobenius is trained with nonnegative: true; for factors of either sign take the matrix "
                "apart by `decompose --method svd`"
            )
        if self.objective != "frobenius" and self.regularization == 0:
            raise ValueError(f"objective {self.objective} needs a regularization greater than 0")
        if self.objective != "frobenius" and self.item_regularization == 0:
            raise ValueError(f"objective {self.objective} needs an item_regularization greater than 0")
        return self

    @field_validator("half_life_days")
    @classmethod
    def _half_lives_are_lengths(cls, given: float | dict[str, float] | None) -> float | dict[str, float] | None:
        for days in given.values() if isinstance(given, dict) else () if given is None else (given,):
            if not 0 < days < math.inf:
                raise ValueError(f"must be a number of days greater than 0, got {days}; leave it out for no decay")
        return given

    @model_validator(mode="after")
    def _what_decays_is_a_weight(self) -> TrainSettings:
        if not self.half_life_days:
            return self
        if self.objective != "implicit":
            raise ValueError(
                f"half_life_days halves the weight of an event, and objective {self.objective} reads events as "
                "ratings, which age does not change: leave half_life_days out, or set objective implicit"
            )
        if self.combine == "count":
            raise ValueError(
                "combine count counts events whatever they weigh, so half_life_days would change nothing: set combine "
                "sum, which adds up what is left of their weights"
            )
        if self.alpha is not None and self.early_stopping is not None and self.early_stopping.metric == "objective":
            raise ValueError(
                "with alpha and half_life_days the objective holds a constant, 1 + 1/(α r) of each pair, beside which "
                "its fall is too small to stop by: set early_stopping null or its metric ndcg@10, or leave alpha out"
            )
        return self

    @model_validator(mode="after")
    def _scale_is_of_a_logarithm(self) -> TrainSettings:
        if self.value_scaling == "linear" and self.value_scale != 1:
            raise ValueError(
                "value_scale is the ε of the logarithm, which value_scaling linear does not take: set value_scaling "
                "log, or leave value_scale out"
            )
        return self

    @model_validator(mode="after")
    def _features_have_signs(self) -> TrainSettings:
        if self.features is not None and self.nonnegative:
            raise ValueError("features need factors of either sign: leave out nonnegative or features")
        return self

    @model_validator(mode="after")
    def _nonnegative_has_its_own_solver(self) -> TrainSettings:
        if self.nonnegative and self.solver != "auto":
            raise ValueError(f"solver {self.solver} makes factors of either sign; with nonnegative leave it at auto")
        return self


class SgdSettings(Section):
    """How `sgd` trains: the explicit objective by stochastic gradients. docs/math.md has the steps."""

    optimizer: Literal["sgd", "adam"] = "adam"
    """sgd: one step for each rating; adam: one for each mini-batch, its length by the row's own past gradients."""
    rank: int = Field(default=8, ge=1, le=4096)
    """Length k of the factor vectors."""
    learning_rate: Positive = 0.001
    """α: length of a step."""
    regularization: NotNegative = 0.1
    """λ: what a step takes off a factor, α·λ of it, for each rating."""
    biases: bool = True
    """Global mean, user and item biases."""
    bias_regularization: NotNegative = 0.1
    """The same of biases."""
    epochs: int = Field(default=100, ge=1)
    """Most passes over the ratings."""
    batch_size: int = Field(default=64, ge=1)
    """adam: ratings of a step."""
    init_scale: Positive | None = None
    """Standard deviation of the initial factors; none: 1/k."""
    scaling: Literal["none", "minmax"] = "minmax"
    """minmax: ratings are trained as (r − min)/(max − min), and predictions go back to the scale and stay inside it."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the ratings, chosen by hash, that is not trained on but tells when to stop; 0: every epoch runs."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a lower validation error before training stops; the best epoch is kept."""
    strata: int = Field(default=8, ge=1, le=1024)
    """Groups of users and of items. Cells of groups that share neither run at the same time: at most so many. Another
    number is another order of ratings, so another model."""
    plan: Literal["auto", "local", "spark"] = "auto"
    """local: threads of the driver; spark: tasks, a job a stratum. auto picks by size. The same model in both."""

    @model_validator(mode="after")
    def _rows_have_a_level(self) -> SgdSettings:
        if self.scaling == "minmax" and not self.biases:
            raise ValueError("scaling minmax moves the level of ratings, which only biases can hold: set scaling none")
        return self


class DecomposeSettings(Section):
    """What `decompose` takes apart, and how. docs/decompositions.md tells what each method is for."""

    method: Literal["svd", "rpca", "nmf"] = "svd"
    """svd: truncated singular value decomposition; rpca: robust PCA, low rank plus sparse; nmf: factors that are never
    negative."""
    input: str | None = None
    """A picture, a clip (a folder of pictures, .npz, .avi, .mp4), or a table (Delta or Parquet); none: the log's
    accepted events as a matrix of users and items."""
    kind: Literal["auto", "picture", "clip", "rows", "cells"] = "auto"
    """What the input is. rows: a table with an id and an array a row; cells: row id, column id and value. auto goes by
    the file's ending, and of a table by its columns."""
    id_column: str = "id"
    """rows: the id."""
    values_column: str = "values"
    """rows: the array of numbers, as long in every row."""
    row_column: str = "row"
    """cells: the row's id."""
    column_column: str = "column"
    """cells: the column's id."""
    value_column: str = "value"
    """cells: the number."""
    rank: int | None = Field(default=None, ge=1)
    """svd, nmf: how many factors. none: as many as `energy` asks for (svd), or 10 (nmf)."""
    energy: Annotated[float, Field(gt=0, le=1)] | None = None
    """svd without a rank: share of the sum of squares that the factors must reach; none: 0.95."""
    oversampling: int = Field(default=10, ge=0)
    """svd: directions beside those asked for, which make those exact."""
    power_iterations: int = Field(default=4, ge=1)
    """svd: passes over the matrix before the last, each of which makes the directions more exact."""
    tolerance: Positive | None = None
    """rpca: ‖D − L − S‖ over ‖D‖ at which it ends; none: 1e-7. nmf: least relative fall of the objective in an epoch;
    none: 1e-5."""
    sparsity: Positive | None = None
    """rpca: λ, the weight of the sparse part; none: 1/√max(m, n)."""
    iterations: int = Field(default=200, ge=1)
    """rpca: most iterations; nmf: most epochs."""
    top_words: int = Field(default=10, ge=1, le=1000)
    """nmf: columns told of each topic, those with the largest factors."""
    mask_level: Positive = 0.1
    """rpca of a clip: a pixel belongs to the foreground from this difference on (0: black, 1: white)."""


class EvaluateSettings(Section):
    """How a candidate is judged."""

    split: Literal["time", "last_n", "per_user", "hash", "given"] = "time"
    """time: events after the model's cut-off judge it. The others train a model of their own on the rest: last_n holds
    each user's last items out, per_user a share of each user's pairs (at least one of two or more), hash a share of all
    pairs, given the pairs of `held_out`."""
    last_n: int = Field(default=1, ge=1)
    """last_n: items of each user that are held out; a user's oldest item never is."""
    test_share: Share = 0.2
    """per_user, hash: share of pairs held out."""
    held_out: str | None = None
    """given: the pairs that judge, with user_id, item_id and, where there is one, value (else 1): a Delta table, or
    Parquet or CSV files."""
    candidates: str | None = None
    """Candidates by user (user_id, item_id), a table as `held_out`: each held-out item is then ranked among itself and
    the candidates of its user alone, not among all items."""
    columns: dict[str, str] = {}
    """Names of user_id, item_id, value, rank and score in tables handed in, where they have others."""
    k: int = Field(default=10, ge=1)
    """Length of the lists that are judged."""
    max_users: int = Field(default=100_000, ge=1)
    """Most held-out users judged, chosen by hash."""
    margin: NotNegative = 0.01
    """A candidate is worse when the lower confidence bound of the paired per-user difference is under −margin."""
    neighbours: int = Field(default=100, ge=0)
    """Rankings: neighbours of an item in the baseline by item neighbours; 0 leaves that baseline out."""
    clip: bool = True
    """Explicit: predicted ratings are clipped to the least and greatest known rating."""
    calibration: bool = False
    """Rankings: find the probability that belongs to a score, which `recommend` then writes beside it."""

    @field_validator("columns")
    @classmethod
    def _columns_are_known(cls, columns: dict[str, str]) -> dict[str, str]:
        known = ("user_id", "item_id", "value", "rank", "score")
        for name in columns:
            if name not in known:
                raise ValueError(f"unknown column {name!r}; known are {', '.join(known)}")
        return columns

    @model_validator(mode="after")
    def _given_has_its_table(self) -> EvaluateSettings:
        if self.split == "given" and not self.held_out:
            raise ValueError("split given needs `held_out`: the table of the pairs that judge")
        return self


class TuneSettings(Section):
    """How `tune` searches settings of `train` on a part of the known events. docs/evaluation.md tells how it goes."""

    trials: int = Field(default=40, ge=1)
    """Most trials, each one training."""
    metric: Literal["auto", "ndcg", "recall", "rmse", "mae"] = "auto"
    """What trials are judged by, on held-out pairs. auto: ndcg, and rmse where the objective is explicit."""
    k: int = Field(default=20, ge=1)
    """ndcg, recall: length of the lists."""
    split: Literal["per_user", "hash", "time", "last_n"] = "per_user"
    """What is held out of the events that `train` may know of (those up to train.holdout_days). per_user: a share of
    each user's pairs, at least one of two or more; hash: a share of all pairs; time: the last days; last_n: each user's
    last items."""
    folds: int = Field(default=1, ge=1, le=20)
    """per_user, hash: with more than one, each pair is held out in one fold, and a trial trains once in each."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """per_user, hash with one fold: share of pairs held out."""
    holdout_days: Positive | None = None
    """time: length of what is held out; none: as train.holdout_days."""
    last_n: int = Field(default=1, ge=1)
    """last_n: items of each user that are held out; a user's oldest item never is."""
    max_users: int = Field(default=20_000, ge=1)
    """ndcg, recall: most users judged, chosen by hash."""
    base_rank: int = Field(default=64, ge=1, le=4096)
    """Rank at which the search begins; it is doubled from there as long as that helps."""
    max_rank: int = Field(default=1024, ge=1, le=4096)
    """Highest rank tried."""
    max_epochs: int = Field(default=16, ge=1)
    """Most epochs of a trial, which ends earlier when its metric does not rise any more."""
    max_minutes: Positive | None = None
    """No trial starts later than this after the job did; the next run goes on from there. None: no limit."""
    out: str | None = None
    """Conf file to write; none: `tuned.yaml` in the recommender's folder."""

    @model_validator(mode="after")
    def _folds_take_turns(self) -> TuneSettings:
        if self.folds > 1 and self.split not in ("per_user", "hash"):
            raise ValueError(f"split {self.split} has one fold: set folds 1, or split per_user")
        if self.base_rank > self.max_rank:
            raise ValueError(f"base_rank {self.base_rank} is above max_rank {self.max_rank}")
        return self


class RecommendSettings(Section):
    """The lists."""

    k: int = Field(default=10, ge=1, le=10_000)
    """Items per user."""
    seen: Literal["exclude", "keep"] = "exclude"
    """exclude: an item the user has an event with is never recommended to that user."""
    seen_event_types: list[str] = []
    """Only events of these types make an item seen; empty: all types of the log."""


class PublishSettings(Section):
    """What goes live."""

    slot: str = "live"
    """Slot to publish into."""
    gate: bool = True
    """Refuse a candidate that is worse than the published model (see evaluate.margin)."""
    least_users: float = Field(default=0.5, ge=0)
    """Refuse lists of fewer users than this share of those who have one now; 0: any number."""
    least_catalogue: float = Field(default=0.001, ge=0, le=1)
    """Refuse lists with a smaller share of the model's items (or of as many as the lists have places); 0: any share."""
    least_overlap: float = Field(default=0.01, ge=0, le=1)
    """Refuse lists that share less with those that users have now, in the mean; 0: any lists, as for daily news."""
    keep_sets: int = Field(default=5, ge=1)
    """How many publications a slot can go back to."""

    @field_validator("slot")
    @classmethod
    def _slot_is_a_name(cls, slot: str) -> str:
        if not NAME.match(slot):
            raise ValueError("must be letters, digits and _, starting with a letter")
        return slot


class MaintainSettings(Section):
    """What `maintain` leaves."""

    keep_days: NotNegative = 7.0
    """Files that the latest version of a table does without stay this long, and longer where a model or a publication
    that is kept is older. Less than 7 only by --force: readers may still hold them."""
    keep_models: int = Field(default=5, ge=1)
    """Models trained last whose candidates stay, beside those that are live or that a slot can go back to
    (publish.keep_sets)."""


class SparkSettings(Section):
    """The Spark session, where factorlake starts it (spark-submit's own settings win)."""

    master: str | None = None
    """Master URL; none: spark-submit's, else local[*]."""
    driver_memory: str | None = None
    """Memory of the driver's JVM; none: spark-submit's, else 4g."""
    shuffle_partitions: int | None = Field(default=None, ge=1)
    """Shuffle partitions; none: twice the cores for a local master, else Spark's own."""
    conf: dict[str, str] = {}
    """Further Spark settings."""


class DemoSettings(Section):
    """The embedded log: a music service with planted tastes. Only the demo's own conf files set it."""

    listeners: int = Field(default=1000, ge=10)
    """Users of the service."""
    tracks: int = Field(default=500, ge=10)
    """Items of the service."""
    days: int = Field(default=5, ge=2)
    """Days of the log."""
    seed: int = 20
    """Seed of the log: the same settings give the same bytes."""


class Settings(Section):
    """All settings of one recommender over one lake."""

    root: str = "lake"
    """Folder (or URI) that holds every table."""
    recommender: str = "main"
    """Name of this recommender: its own tables lie in root/recommender."""
    input: str | None = None
    """The log: a file, a folder, or a Delta table."""
    seed: int = Field(default=7, ge=0)
    """Seed of everything random."""
    report_users: int = Field(default=5, ge=0)
    """Users shown by name of their items in the report and at the end of a run."""
    ingest: IngestSettings = IngestSettings()
    events: EventSettings = EventSettings()
    validation: ValidateSettings = Field(default=ValidateSettings(), alias="validate")
    attributes: AttributesSettings = AttributesSettings()
    select: SelectSettings = SelectSettings()
    train: TrainSettings = TrainSettings()
    sgd: SgdSettings = SgdSettings()
    decompose: DecomposeSettings = DecomposeSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    tune: TuneSettings = TuneSettings()
    recommend: RecommendSettings = RecommendSettings()
    publish: PublishSettings = PublishSettings()
    maintain: MaintainSettings = MaintainSettings()
    spark: SparkSettings = SparkSettings()
    demo: DemoSettings | None = None

    @field_validator("recommender")
    @classmethod
    def _recommender_is_free(cls, name: str) -> str:
        if not NAME.match(name):
            raise ValueError("must be letters, digits and _, starting with a letter")
        if name in SHARED_TABLES:
            raise ValueError(f"{name!r} is the name of a shared table; choose another")
        return name

    def require_input(self) -> str:
        """Return the path of the log; one of this machine is made absolute, as Delta and patterns need it."""
        if not self.input:
            raise ConfigError("no input is set: give `input: PATH` in the conf file, or --set input=PATH")
        return resolved(self.input)
