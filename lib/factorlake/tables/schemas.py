"""The schema of every table, with a comment for each table and column.

One text a table, one line a column: ``name type: comment``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    DataType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

SCHEMA_VERSION = 2
"""Raised with every change of a table that an older release would misread. It stands in the property
`factorlake.schemaVersion` of each table and in the metadata of each column from the release on that made it. A change
that adds no column writes its tables anew, so that their columns carry the version.

1: the first. 2: columns carry the version.
"""
READABLE = (SCHEMA_VERSION - 1, SCHEMA_VERSION)
"""Versions that this release reads."""

# Spark's own DDL parser needs a running session, which reading a schema must not.
_TYPES: dict[str, DataType] = {
    "string": StringType(),
    "int": IntegerType(),
    "bigint": LongType(),
    "float": FloatType(),
    "double": DoubleType(),
    "boolean": BooleanType(),
    "timestamp": TimestampType(),
    "binary": BinaryType(),
    "array<string>": ArrayType(StringType()),
    "array<float>": ArrayType(FloatType()),
    "array<double>": ArrayType(DoubleType()),
    "map<string,string>": MapType(StringType(), StringType()),
    "map<string,bigint>": MapType(StringType(), LongType()),
    "map<string,double>": MapType(StringType(), DoubleType()),
}


@dataclass(frozen=True)
class TableSchema:
    """A table's purpose and columns."""

    name: str
    comment: str
    fields: StructType
    grows: bool = False
    """Whether every run appends a little: its small files are then put together from time to time, so that the table
    reads as fast after a year of nights as after a week."""
    skipped_by: tuple[str, ...] = ()
    """Columns whose least and greatest value Delta notes for every file, so that readers skip files; none given: those
    of Delta's default, the first 32. In long tables the notes of all columns take as long as the rows. Never the column
    that names a user: a table's log outlives the rows.
    """
    names_user: str | None = None
    """Column that names a user, by an id or in a record's text; none: the table holds nothing of a person. `forget`
    looks there."""


def _table(
    name: str,
    comment: str,
    columns: str,
    *,
    grows: bool = False,
    skipped_by: tuple[str, ...] = (),
    names_user: str | None = None,
) -> TableSchema:
    fields = []
    for line in columns.strip().splitlines():
        declaration, _, column_comment = line.strip().partition(": ")
        column, _, kind = declaration.partition(" ")
        metadata = {"comment": column_comment, "schema_version": SCHEMA_VERSION}
        fields.append(StructField(column, _TYPES[kind], True, metadata))
    return TableSchema(name, comment, StructType(fields), grows, skipped_by, names_user)


_TRACE = """
        model_version string: The model, or the decomposition.
        epoch int: Epoch, pass or iteration from 1; 0 is the start.
        side string: Side that was solved: user or item; both where a step moves both.
        state string: Which state the loss describes: before or after the step, or final.
        loss double: The training objective.
        observed_loss double: Its part over observed pairs.
        regularization_loss double: Its ridge.
        metric_name string: Held-out metric, or null.
        metric double: Its value after the epoch, or null.
        seconds double: Length of the step.
        plan string: Plan that ran it.
        solver string: Solver that ran it.
        run_id string: Run that trained it.
        """

_TABLES = [
    _table(
        "raw_events",
        "One input record as it arrived; append-only, each record of each file once.",
        """
        batch string: Batch that brought the record.
        file string: File (or Delta table) it came from.
        position bigint: Number of the record in its file, from 0 (a Delta source: from its own order).
        raw string: The record's text as it stood in the file.
        fields map<string,string>: Its fields as text; null when the record could not be split into fields.
        defect string: Why the record could not be read whole, or null.
        event_id string: 128-bit hash of its fields without nulls (of the raw text when broken); exact copies share it.
        ingested_at timestamp: When it was read.
        run_id string: Run that read it.
        """,
        grows=True,
        skipped_by=("batch",),
        names_user="raw",
    ),
    _table(
        "ingest_ledger",
        "One outcome of one file; the latest row of a file holds.",
        """
        batch string: Batch the file belongs to.
        file string: The file (or Delta table).
        size bigint: Its bytes.
        modified_at timestamp: Its time of change.
        content_hash string: SHA-256 of its bytes (a Delta source: its id@version).
        outcome string: planned, ingested, duplicate, empty or unreadable.
        records bigint: Records read from it.
        detail string: What went wrong, which file it is a copy of, that it changed since it was last read, or null.
        recorded_at timestamp: When this row was written.
        run_id string: Run that wrote it.
        """,
        grows=True,
    ),
    _table(
        "quarantine",
        "One refused record with every reason.",
        """
        event_id string: As in raw_events.
        batch string: Batch of the record.
        file string: File it came from.
        position bigint: Number of the record in its file.
        raw string: The record's text.
        reasons array<string>: Names of the rules it breaks, sorted.
        rules_hash string: Hash of the rules that refused it.
        refused_at timestamp: When.
        run_id string: Run that refused it.
        """,
        grows=True,
        skipped_by=("batch",),
        names_user="raw",
    ),
    _table(
        "interactions",
        "One accepted event.",
        """
        user_id string: The user, as the log names it.
        item_id string: The item, as the log names it.
        event_type string: Kind of event.
        value double: Rating, count or quantity; 1 where the log has none.
        event_time timestamp: When it happened, UTC; null where the log has no time.
        event_id string: As in raw_events.
        batch string: Batch that brought it.
        arrival timestamp: When it was accepted.
        rules_hash string: Hash of the rules that accepted it.
        run_id string: Run that accepted it.
        """,
        grows=True,
        skipped_by=("batch", "event_time"),
        names_user="user_id",
    ),
    _table(
        "users",
        "One user id and its dense index; an index is never given twice.",
        """
        id string: The id, as the log names it.
        index bigint: Dense index from 0.
        run_id string: Run that added it.
        """,
        grows=True,
        skipped_by=("index",),
        names_user="id",
    ),
    _table(
        "items",
        "One item id and its dense index; an index is never given twice.",
        """
        id string: The id, as the log names it.
        index bigint: Dense index from 0.
        run_id string: Run that added it.
        """,
        grows=True,
    ),
    *(
        _table(
            f"{side}_attributes",
            f"What is known of one {side} beside its events.",
            """
            id string: The id, as the log names it.
            name string: Name to show.
            category string: Category, genre or kind.
            segment string: Segment for slices and fall-backs.
            features map<string,string>: Further attributes as text.
            available_from timestamp: Not to be recommended before this; null: no bound.
            available_to timestamp: Not to be recommended after this; null: no bound.
            run_id string: Run that wrote it.
            """,
            skipped_by=("run_id",) if side == "user" else (),
            names_user="id" if side == "user" else None,
        )
        for side in ("user", "item")
    ),
    _table(
        "runs",
        "One state of one job run; the latest row of a run holds.",
        """
        run_id string: The run.
        job string: Verb of the job.
        recommender string: Recommender it worked for.
        state string: running, done, nothing, refused, failed or aborted.
        exit_code int: Exit code of the process; null while it runs.
        reason string: One line that tells why it ended as it did.
        started_at timestamp: Start.
        finished_at timestamp: End; null while it runs.
        seconds double: Length.
        counts map<string,bigint>: Row counts.
        versions map<string,bigint>: Delta versions read and written, by table.
        model_version string: Model it made, judged or published; or null.
        settings string: The resolved settings as JSON.
        """,
        grows=True,
    ),
    _table(
        "validation_results",
        "One figure of one batch; its history feeds the gate.",
        """
        batch string: The batch.
        rule string: Rule or metric.
        kind string: count, share, gate, state, history, expectation, or rebuild (of all batches that are in).
        value double: The figure (rows that broke the rule, a share, 1 or 0 for passed).
        success boolean: Whether it passed; null where there is nothing to pass.
        detail string: Figures behind it, or null. Of a state, which merges with those of other batches, all as JSON.
        recorded_at timestamp: When.
        run_id string: Run that measured it.
        """,
        grows=True,
    ),
    _table(
        "erasures",
        "One state of one request to forget users; names none of them.",
        """
        run_id string: The request: the run of `forget`.
        state string: started, then done, or nothing where no table held anything of the users.
        users bigint: Users it was asked to forget.
        rows map<string,bigint>: Of one that is done, rows that its last try deleted, by table.
        versions map<string,bigint>: Of one that has started, the version of each candidate's lists before it.
        recorded_at timestamp: When this row was written.
        """,
        grows=True,
    ),
    _table(
        "models",
        "One state of one model version; the latest row of a version holds.",
        """
        model_version string: The version: date of the newest event and a hash of input, settings and seed.
        state string: trained, evaluated, scored, published, refused or expired; decomposed where it is no recommender.
        objective string: implicit, explicit or frobenius; of a decomposition its method.
        rank int: Length of the factors.
        settings string: Training settings as JSON.
        seed bigint: Seed.
        n_users bigint: Users in training.
        n_items bigint: Items in training.
        n_observed bigint: Pairs in training.
        mean double: μ of the explicit objective; 0 for implicit.
        gram binary: Gram matrix of the item factors, rank × rank float64, row by row.
        as_of timestamp: Newest event of the pinned input.
        cutoff timestamp: Training used events up to this; later ones judge it. Null: all events were used.
        interactions_version bigint: Delta version of interactions it read.
        fingerprint string: Hash of the events it read, whatever their order.
        epochs int: Epochs of the kept state.
        loss double: Objective of the kept state.
        metrics map<string,double>: Figures of its evaluation.
        recorded_at timestamp: When this row was written.
        run_id string: Run that wrote it.
        features string: Columns of its features by side, as JSON; null where it has none.
        user_feature_factors binary: A of the users, columns × width float32, row by row; null where it has none.
        item_feature_factors binary: The same of the items.
        spectrum string: Singular values of XYᵀ, effective rank and row norms of training as JSON; null where not known.
        """,
        grows=True,
    ),
    _table(
        "publications",
        "One publish or rollback; the Delta version of each table that belongs together.",
        """
        slot string: Slot.
        model_version string: Model published.
        versions map<string,bigint>: Delta version of each published table, and of the model's lists.
        as_of timestamp: Newest event of the model's input.
        lease bigint: Number of the lease under which it was written.
        published_at timestamp: When.
        run_id string: Run that published it; names the publication.
        kind string: publish, forced (with --force), rollback or forget (what stayed when users were forgotten).
        restores string: Of a rollback, the publication whose tables it brought back.
        figures map<string,double>: Of a publish, what its guard rails measured (publish.least_users and the like).
        """,
        grows=True,
    ),
    _table(
        "training_trace",
        "One half step of one training run.",
        _TRACE,
        grows=True,
    ),
    _table(
        "evaluation",
        "One metric of one model on one split, baselines beside it.",
        """
        model_version string: The model under judgement.
        split string: As evaluate.split; with _sampled where candidates were ranked; validation: sgd's own.
        name string: model, a baseline, live (the published model), or another's; difference:NAME is what model gains.
        metric string: Metric with its cut-off, such as ndcg@10.
        value double: Mean over users (RMSE, MAE: over pairs).
        lower double: Lower end of the 95 % confidence interval over users.
        upper double: Upper end.
        n bigint: Users (or pairs) judged.
        recorded_at timestamp: When.
        run_id string: Run that judged it.
        slice string: segment=S, activity=1 (fewest known pairs) to 10, category=C of held-out items, cold; or null.
        """,
        grows=True,
    ),
    _table(
        "trials",
        "One trial of one search for settings.",
        """
        search_id string: The search: a hash of the events it reads, its settings and the seed.
        trial int: Number from 1; 0: not searched, to compare with.
        stage string: design, halving, refine, ranks or finish; given or baseline: compared with; chosen: the result.
        settings string: Train settings of the trial as JSON.
        point array<double>: Its place in the space that is searched, each in [0, 1].
        rank int: Length of the factors.
        regularization double: λ.
        unobserved_weight double: α0; null where the objective has none.
        alpha double: α, or null.
        frequency_exponent double: ν.
        max_epochs int: Most epochs it was given.
        epochs int: Epochs it ran.
        best_epoch int: Epoch with the best metric, from its own start.
        metric string: What it was judged by.
        value double: The metric at the best epoch, mean over folds; null where it failed.
        standard_error double: Of that mean, over folds; null of one fold.
        objective double: Training objective at the best epoch.
        seconds double: Length of the trial.
        started_from int: Trial whose factors it started from; null: from draws.
        state string: done or failed.
        reason string: Why it failed, or null.
        recorded_at timestamp: When this row was written.
        run_id string: Run that wrote it.
        """,
        grows=True,
    ),
    _table(
        "calibrations",
        "What probability belongs to a score, of one model; the latest row of a model holds.",
        """
        model_version string: The model.
        split string: Split whose lists it was found by.
        scores array<double>: Scores of the knots, ascending.
        probabilities array<double>: Probability that an item listed with that score is chosen; straight lines between.
        n bigint: Listed items behind it.
        recorded_at timestamp: When.
        run_id string: Run that found it.
        """,
        grows=True,
    ),
    _table(
        "factors",
        "Factors of a model that is not published yet, both sides.",
        """
        side string: user or item.
        id string: The id, as the log names it.
        factor array<float>: The factor vector.
        bias float: Bias; 0 for implicit.
        norm float: Euclidean norm of the factor.
        n_observed bigint: Pairs behind it.
        """,
        skipped_by=("side",),
        names_user="id",
    ),
    _table(
        "lists",
        "Lists of a model that is not published yet.",
        """
        user_id string: The user.
        rank int: 1 is best.
        item_id string: The item.
        score float: x·y, plus the biases and the mean for explicit.
        source string: model, or popularity where the model knows nothing of the user.
        probability float: Probability that the user chooses the item, where the model has been calibrated.
        """,
        skipped_by=("rank",),
        names_user="user_id",
    ),
    *(
        _table(
            f"{side}_factors",
            f"Factors of the {side}s of a decomposed matrix.",
            f"""
            position bigint: Place of the {side} in the matrix, from 0.
            id string: Its id in the table, or its number in a picture or clip.
            factor array<float>: svd: U·Σ of a row, V of a column; rpca: the same of the low-rank part; nmf: as found.
            norm float: Euclidean norm of the factor.
            """,
            skipped_by=("position",),
            names_user="id" if side == "row" else None,
        )
        for side in ("row", "column")
    ),
    _table(
        "sparse_cells",
        "Cells of the sparse part that rpca found in a table.",
        """
        row_id string: The row.
        column_id string: The column.
        value float: What the cell differs by from the low-rank part.
        """,
        skipped_by=("value",),
        names_user="row_id",
    ),
    _table("trace", "One pass, iteration or half step of one decomposition; columns as in training_trace.", _TRACE),
    *(
        _table(
            f"{side}_factors",
            f"Published factors of one {side}.",
            f"""
            {side}_id string: The {side}, as the log names it.
            factor array<float>: The factor vector.
            bias float: Bias; 0 for implicit.
            norm float: Euclidean norm of the factor.
            n_observed bigint: Pairs behind it.
            model_version string: Model it belongs to.
            as_of timestamp: Newest event of that model's input.
            """,
            skipped_by=("as_of",) if side == "user" else (),
            names_user="user_id" if side == "user" else None,
        )
        for side in ("user", "item")
    ),
    _table(
        "recommendations",
        "Published lists, one row a rank.",
        """
        user_id string: The user.
        rank int: 1 is best.
        item_id string: The item.
        item_name string: Its name, where the attributes have one.
        score float: x·y, plus the biases and the mean for explicit.
        source string: model, or popularity where the model knows nothing of the user.
        model_version string: Model that made the list.
        as_of timestamp: Newest event of that model's input.
        probability float: Probability that the user chooses the item, where the model has been calibrated.
        """,
        skipped_by=("as_of",),
        names_user="user_id",
    ),
]

SCHEMAS: dict[str, TableSchema] = {table.name: table for table in _TABLES}
