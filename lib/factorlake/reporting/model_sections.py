"""What the model is worth: recommendations, quality, training and the shape of its data, as sections."""

from __future__ import annotations

from collections.abc import Iterable

from factorlake.reporting import plots
from factorlake.reporting.content import MetricRow, RunReport, UserSample
from factorlake.reporting.markup import Html, captioned, join, name, section, table, tag
from factorlake.reporting.text import ABSENT, count, figure, plural, printable, seconds, share

# These and the limits of the tables keep the page under 2 MB when every name is long and full of escapes.
MAX_USERS = 20
MAX_NAMES = 20


def recommendations(report: RunReport) -> Html:
    """A few users, what they had and what they are recommended, by name."""
    if not report.samples and report.planted is None:
        return Html("")
    planted = None
    if report.planted:
        definition = tag("span", printable(report.planted.definition, 300))
        planted = tag("div", tag("b", share(report.planted.value, 1)), definition, class_="planted")
    people = [_person(number, sample) for number, sample in enumerate(report.samples[:MAX_USERS], start=1)]
    lead = None
    if people:
        lead = "A few users without their names. The number beside an item is its score, best first."
    return section("Recommendations", lead, planted, tag("div", *people, class_="people") if people else None)


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
            None
            if suggestion.source == "model"
            else tag("span", f" ({printable(suggestion.source, 20)})", class_="tag"),
        )
        for suggestion in sample.suggestions[:MAX_NAMES]
    ]
    left = len(sample.suggestions) - len(items)
    listed = tag("ol", *items) if items else tag("p", "No recommendation.", class_="tag")
    return tag(
        "div",
        tag("h3", f"User {number}"),
        tag("p", tag("b", "Had: "), *(had or ["nothing yet"]), class_="had"),
        listed,
        tag("p", f"and {count(left)} more", class_="tag") if left else None,
        class_="person",
    )


def quality(report: RunReport) -> Html:
    """Metrics of the model beside the baselines, a figure and a table for each split."""
    parts = [
        _split(split, [row for row in report.evaluation if row.split == split])
        for split in _seen(report.evaluation, "split")
    ]
    lead = "Judged on events the model has not seen, beside the published model and what needs no model."
    return section("How good it is", lead, *parts) if parts else Html("")


def _split(split: str, rows: list[MetricRow]) -> Html:
    names = sorted(_seen(rows, "name"), key=lambda row_name: (_place(row_name), row_name))
    found = {(row.metric, row.name): row for row in rows}
    judged = {row.n for row in rows}
    whole = table(
        f"Split {printable(split, 30)}: mean and 95 % confidence interval"
        + (f", n = {count(max(judged))}" if len(judged) == 1 else ""),
        ("metric", *(plots.label_of(each) for each in names)),
        [
            (
                printable(metric, 30),
                *(_measured(found.get((metric, each)), len(judged) > 1) for each in names),
            )
            for metric in _seen(rows, "metric")
        ],
        numeric=range(1, len(names) + 1),
        limit=60,
    )
    caption = f"Model and baselines on the split {printable(split, 30)}; lines are 95 % intervals."
    return tag("div", captioned(plots.metrics_figure(rows), caption), whole, class_="two")


def _seen(rows: Iterable[MetricRow], column: str) -> list[str]:
    return list(dict.fromkeys(getattr(row, column) for row in rows))


def _place(row_name: str) -> int:
    return plots.NAMES.index(row_name) if row_name in plots.NAMES else len(plots.NAMES)


def _measured(row: MetricRow | None, show_n: bool) -> object:
    if row is None:
        return ABSENT
    notes = []
    if row.lower is not None and row.upper is not None:
        notes.append(f"{figure(row.lower)} to {figure(row.upper)}")
    if show_n:
        notes.append(f"n = {count(row.n)}")
    value = tag("b", figure(row.value)) if row.name == "model" else figure(row.value)
    return join([value, *(tag("span", note, class_="under") for note in notes)])


def training(report: RunReport) -> Html:
    """The training trace: its figure, how it ended, and every half step on request."""
    if not report.trace:
        return Html("")
    metric = next((row.metric_name for row in report.trace if row.metric_name), None)
    heads = ["epoch", "side", "state", "objective", "observed part", "ridge", "seconds"]
    if metric:
        heads.append(printable(metric, 20))
    lines = []
    for row in report.trace:
        line = [count(row.epoch), printable(row.side, 10), printable(row.state, 10), figure(row.loss)]
        line += [figure(row.observed_loss), figure(row.regularization_loss), f"{row.seconds:.3f}"]
        lines.append((*line, figure(row.metric)) if metric else tuple(line))
    whole = table(
        "Training trace; state: the objective before or after the half step, or of the finished model",
        heads,
        lines,
        numeric=(0, 3, 4, 5, 6, 7),
        limit=200,
        rest=", in the table training_trace",
    )
    picture = captioned(
        plots.training_figure(report.trace),
        "The objective as training goes on, and what each half step cost.",
    )
    return section(
        "Training",
        "What the model minimises, half step by half step; the last row describes the state that is kept.",
        tag("div", picture, _training_facts(report), class_="two"),
        tag("details", tag("summary", f"All {plural(len(lines), 'row')} of the trace"), whole),
    )


def _training_facts(report: RunReport) -> Html:
    first, last = report.trace[0], report.trace[-1]
    epochs = max(row.epoch for row in report.trace)
    spent = sum(row.seconds for row in report.trace)
    best = [row for row in report.trace if row.metric is not None]
    facts: list[tuple[object, object]] = [
        ("epochs", count(epochs)),
        ("seconds per epoch, mean", f"{spent / max(epochs, 1):.3f}"),
        ("objective at first", figure(first.loss)),
        ("objective at last", figure(last.loss)),
        ("of it over observed pairs", figure(last.observed_loss)),
        ("of it over all pairs", figure(last.loss - last.observed_loss - last.regularization_loss)),
        ("of it ridge", figure(last.regularization_loss)),
    ]
    if best:
        facts.append((f"held-out {printable(best[-1].metric_name, 20)} at last", figure(best[-1].metric)))
    facts += [(what, printable(value, 20)) for what, value in (("plan", first.plan), ("solver", first.solver)) if value]
    return table(f"Training in figures, {seconds(spent)} in all", ("what", "figure"), facts, numeric=(1,))


def shape(report: RunReport) -> Html:
    """How uneven the data is, and how the scores are spread."""
    skews = table(
        "Observations by side",
        ("side", "rows", "median", "longest", "held by the top 1 %"),
        [
            (
                f"{skew.side}s",
                count(skew.rows),
                figure(skew.median, 1),
                count(skew.longest),
                share(skew.top_share, 1),
            )
            for skew in report.skews
        ],
        numeric=(1, 2, 3, 4),
    )
    uneven = captioned(
        plots.skew_figure(report.skews), "Observations of each user and item by rank, logarithmic scales."
    )
    spread = captioned(plots.scores_figure(report.scores), "Scores of the recommended items.")
    if not (skews or uneven or spread):
        return Html("")
    lead = "Few users and items hold many of the observations; the steeper the line, the more so."
    return section("Shape of the data", lead, tag("div", uneven, spread, class_="two"), skews)
