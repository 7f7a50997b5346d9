"""The parts of the report page, each from the report to one section of markup (empty where there is nothing to say)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from factorlake.reporting import plots
from factorlake.reporting.content import MetricRow, RunReport, UserSample
from factorlake.reporting.markup import Html, join, name, table, tag
from factorlake.reporting.text import ABSENT, count, figure, plural, printable, seconds, share

MAX_USERS = 40
MAX_NAMES = 40
PARTS = ("accepted", "quarantined", "duplicates", "superseded", "held_back")
LABELS = {
    "accepted": "accepted",
    "quarantined": "quarantined",
    "duplicates": "exact duplicates",
    "superseded": "superseded",
    "held_back": "held back in refused batches",
}
OUTCOMES = {
    True: tag("span", "passed", class_="ok"),
    False: tag("span", "failed", class_="no"),
    None: Html("did not run"),
}


def recommendations(report: RunReport) -> Html:
    """A few users, what they had and what they are recommended, by name."""
    if not report.samples and report.planted is None:
        return Html("")
    planted = None
    if report.planted:
        planted = tag(
            "div", tag("b", share(report.planted.value, 1)), tag("span", printable(report.planted.definition, 300)),
            class_="planted",
        )  # fmt: skip
    people = [_person(number, sample) for number, sample in enumerate(report.samples[:MAX_USERS], start=1)]
    lead = None
    if people:
        lead = "A few users without their names. The number beside an item is its score; a higher score stands first."
    return _section("Recommendations", lead, planted, tag("div", *people, class_="people") if people else None)


def _person(number: int, sample: UserSample) -> Html:
    total = max(sample.history_total, len(sample.history))
    had: list[object] = []
    for item in sample.history[:MAX_NAMES]:
        had += [", " if had else "", name(printable(item))]
    if total > min(len(sample.history), MAX_NAMES):
        had.append(f" and {count(total - min(len(sample.history), MAX_NAMES))} more")
    items = [
        tag(
            "li",
            tag("span", figure(suggestion.score, 3), class_="score"),
            name(printable(suggestion.item)),
            None if suggestion.source == "model" else tag("span", f" ({printable(suggestion.source, 20)})", class_="tag"),
        )
        for suggestion in sample.suggestions[:MAX_NAMES]
    ]
    listed = tag("ol", *items) if items else tag("p", "No recommendation.", class_="tag")
    return tag(
        "div",
        tag("h3", f"User {number}"),
        tag("p", tag("b", "Had: "), *(had or ["nothing yet"]), class_="had"),
        listed,
        class_="person",
    )


def rows(report: RunReport) -> Html:
    """Row accounting: the equation, its bar, the reasons for quarantine and the batches."""
    if not report.batches:
        return Html("")
    account = report.accounting
    parts = [(part, getattr(account, part)) for part in PARTS]
    # A kind of record that this log does not have is left out of the equation, but never of the sum.
    shown = [(part, number) for part, number in parts if number or part in PARTS[:3]]
    terms: list[object] = []
    for part, number in shown:
        terms += [" + " if terms else " = ", tag("span", tag("b", count(number)), f" {LABELS[part]}")]
    equation = tag("p", tag("span", tag("b", count(account.input)), " in"), *terms, class_="equation")
    bar = tag(
        "div",
        *(
            tag("i", class_=f"c-{part}", style=f"flex:{number} 0 0")
            for part, number in parts
            if number
        ),
        class_="bar",
        aria_hidden="true",
    )  # fmt: skip
    accounting = table(
        "Where every record went",
        ("records", "count", "share"),
        [
            (join([tag("span", "", class_=f"key c-{part}", aria_hidden="true"), LABELS[part]]), count(number), share(number, account.input))
            for part, number in shown
        ]
        + [("in", count(account.input), share(account.input, account.input))],
        numeric=(1, 2),
    )
    reasons = table(
        "Quarantined records by reason (one with two reasons counts under both)",
        ("reason", "records", "share of quarantine"),
        [
            (tag("code", printable(reason)), count(number), share(number, account.quarantined))
            for reason, number in account.reasons.items()
        ],
        numeric=(1, 2),
        limit=25,
    )
    picture = _figure(plots.reasons_figure(account.reasons), "Why records were quarantined.")
    return _section(
        "What happened to each record",
        "Nothing is lost: every record read is in one of these places, and quarantined ones can be replayed.",
        equation,
        bar,
        tag("div", tag("div", accounting, reasons), picture, class_="two"),
        _batches(report),
    )


def _batches(report: RunReport) -> Html:
    lines = [
        (
            tag("code", printable(batch.batch, 40)),
            *(count(number) for number in (batch.input, batch.accepted, batch.quarantined, batch.duplicates, batch.superseded)),
            join([OUTCOMES[batch.passed], f" {printable(batch.gate_reason, 200)}" if batch.gate_reason else ""]),
        )
        # Refused batches first: they are what a reader has to act on.
        for batch in sorted(report.batches, key=lambda batch: batch.passed)
    ]
    heads = ("batch", "in", "accepted", "quarantined", "duplicates", "superseded", "gate")
    return table("Batches and what the gate said", heads, lines, numeric=range(1, 6), limit=40)


def expectations(report: RunReport) -> Html:
    """Great Expectations results."""
    if not report.expectations:
        return Html("")
    lines = [
        (tag("code", printable(check.rule)), OUTCOMES[check.success], ABSENT if check.value is None else figure(check.value, 0))
        for check in sorted(report.expectations, key=lambda check: (check.success is True, check.success is None))
    ]
    passed = sum(check.success is True for check in report.expectations)
    return _section(
        "Expectations on the accepted records",
        f"{count(passed)} of {count(len(lines))} passed. They inform; the gate decides.",
        table("Great Expectations results", ("expectation", "result", "rows that broke it"), lines, numeric=(2,), limit=80),
    )


def quality(report: RunReport) -> Html:
    """Metrics of the model beside the baselines, a table and a figure for each split."""
    parts: list[object] = []
    for split in dict.fromkeys(row.split for row in report.evaluation):
        mine = [row for row in report.evaluation if row.split == split]
        ordered = sorted(mine, key=lambda row: (_metric_order(mine, row), _name_order(row)))
        whole = table(
            f"Split {printable(split, 30)}: mean with 95 % confidence interval",
            ("metric", "of", "value", "interval", "n"),
            [
                (printable(row.metric, 30), _named(row), figure(row.value), _interval(row), count(row.n))
                for row in ordered
            ],
            numeric=(2, 3, 4),
            limit=80,
        )
        caption = f"Model and baselines on the split {printable(split, 30)}; lines are 95 % intervals."
        parts.append(tag("div", _figure(plots.metrics_figure(ordered), caption), whole, class_="two"))
    return _section("How good it is", "Judged on events the model has not seen, beside what needs no model.", *parts) if parts else Html("")


def _metric_order(rows: list[MetricRow], row: MetricRow) -> int:
    return list(dict.fromkeys(other.metric for other in rows)).index(row.metric)


def _name_order(row: MetricRow) -> int:
    return plots.NAMES.index(row.name) if row.name in plots.NAMES else len(plots.NAMES)


def _named(row: MetricRow) -> Html:
    label = "published model" if row.name == "live" else printable(row.name, 30)
    return tag("b", label) if row.name == "model" else join([label])


def _interval(row: MetricRow) -> str:
    if row.lower is None or row.upper is None:
        return ABSENT
    return f"{figure(row.lower)} to {figure(row.upper)}"


def training(report: RunReport) -> Html:
    """The training trace: objective, its parts and seconds of every half step."""
    if not report.trace:
        return Html("")
    metric = next((row.metric_name for row in report.trace if row.metric_name), None)
    heads = ["epoch", "side", "objective", "observed part", "ridge", "of the state", "seconds"]
    if metric:
        heads.append(printable(metric, 20))
    lines = []
    for row in report.trace:
        line = [count(row.epoch), printable(row.side, 10), figure(row.loss), figure(row.observed_loss)]
        line += [figure(row.regularization_loss), printable(row.state, 10), f"{row.seconds:.3f}"]
        lines.append((*line, figure(row.metric)) if metric else tuple(line))
    first = report.trace[0]
    total = seconds(sum(row.seconds for row in report.trace))
    how = f" by the plan {printable(first.plan, 20)} with the solver {printable(first.solver, 20)}" if first.plan else ""
    return _section(
        "Training",
        f"{plural(max(row.epoch for row in report.trace), 'epoch')} in {total}{how}. The last row describes what is published.",
        tag(
            "div",
            _figure(plots.training_figure(report.trace), "The objective as training goes on, and what each half step cost."),
            table("Training trace", heads, lines, numeric=(0, 2, 3, 4, 6, 7), limit=120, rest=", in the table training_trace"),
            class_="two",
        ),
    )


def shape(report: RunReport) -> Html:
    """How uneven the data is, and how the scores are spread."""
    skews = table(
        "Observations by side",
        ("side", "rows", "median", "longest", "held by the top 1 %"),
        [
            (f"{skew.side}s", count(skew.rows), figure(skew.median, 1), count(skew.longest), share(skew.top_share, 1))
            for skew in report.skews
        ],
        numeric=(1, 2, 3, 4),
    )
    uneven = _figure(plots.skew_figure(report.skews), "Observations of each user and item by rank, logarithmic scales.")
    spread = _figure(plots.scores_figure(report.scores), "Scores of the recommended items.")
    if not (skews or uneven or spread):
        return Html("")
    lead = "Few users and items hold many of the observations; the steeper the line, the more so."
    return _section("Shape of the data", lead, tag("div", uneven, tag("div", spread, skews), class_="two"))


def work(report: RunReport) -> Html:
    """Time by stage, what was published, table versions and settings."""
    longest = max((stage.seconds for stage in report.stages), default=0.0) or 1.0
    stages = table(
        f"Time by stage, {seconds(report.seconds)} in all",
        ("stage", "time", "", "outcome"),
        [
            (
                printable(stage.name, 40),
                seconds(stage.seconds),
                tag("span", tag("i", "", style=f"width:{100 * stage.seconds / longest:.1f}%"), class_="meter", aria_hidden="true"),
                printable(stage.outcome, 60),
            )
            for stage in report.stages
        ],
        numeric=(1,),
    )
    versions = table(
        "Delta versions read and written",
        ("table", "version"),
        [(tag("code", printable(key)), str(number)) for key, number in sorted(report.versions.items())],
        numeric=(1,),
        limit=60,
    )
    settings = table(
        "Settings as resolved; secrets and ids of users are masked",
        ("setting", "value"),
        [(tag("code", printable(key)), tag("code", printable(value, 300))) for key, value in _flat(report.settings)],
        limit=400,
    )
    return _section(
        "How it ran",
        None,
        tag("div", stages, tag("div", _published(report), versions), class_="two"),
        tag("details", tag("summary", "Settings"), settings) if settings else None,
    )


def _published(report: RunReport) -> Html:
    publication = report.publication
    if publication is None or publication.changed is None:
        return Html("")
    return table(
        f"Lists in slot {printable(publication.slot, 40)}",
        ("lists", "users"),
        [("changed", count(publication.changed)), ("kept as they were", count(publication.unchanged))],
        numeric=(1,),
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for at, item in enumerate(value):
                yield from _flat(item, f"{prefix}{key}[{at}].")
        elif value not in (None, [], {}):
            yield f"{prefix}{key}", value


def _figure(picture: Html, caption: str) -> Html:
    return tag("figure", picture, tag("figcaption", caption)) if picture else Html("")


def _section(title: str, lead: str | None, *parts: object) -> Html:
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else None, *parts)


ALL: tuple[Callable[[RunReport], Html], ...] = (recommendations, quality, rows, expectations, training, shape, work)
