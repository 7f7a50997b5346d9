"""What the model is worth: recommendations, quality, training and the shape of its data, as sections."""

from __future__ import annotations

from collections.abc import Iterable

from factorlake.reporting import model_plots, plots
from factorlake.reporting.content import RANKING_HEADLINES, RATING_ERRORS, MetricRow, RunReport, UserSample
from factorlake.reporting.markup import Html, captioned, join, name, section, table, tag
from factorlake.reporting.text import ABSENT, count, figure, plural, printable, seconds, share

# These and the limits of the tables keep the page under 2 MB when every name is long and full of escapes.
MAX_USERS = 20
MAX_NAMES = 20
SLICES = {
    "segment": "By segment of users",
    "activity": "By activity of users, 1 with the fewest known pairs, 10 with the most",
    "category": "By category of held-out items",
    "cold": "Users of whom nothing is known",
}
PROBABILITY_FACTS = {
    "ece_of_scores": "calibration error of scores as they are",
    "ece": "calibration error of probabilities",
    "brier": "Brier score of probabilities",
}


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
    names = plots.in_order(_seen(rows, "name"))
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


def slices(report: RunReport) -> Html:
    """The headline metric of some users or items apart, a table for each way to part them."""
    parts = [
        _slices_of(split, kind, [row for row in report.slices if row.split == split and _kind_of(row) == kind])
        for split in _seen(report.slices, "split")
        for kind in SLICES
    ]
    if not any(parts):
        return Html("")
    lead = "The same judgement for some users or items apart. With many slices a few intervals miss by chance alone."
    return section("Who it is good for", lead, *parts)


def _kind_of(row: MetricRow) -> str:
    return str(row.slice).split("=", 1)[0]


def _label_of(row: MetricRow) -> str:
    return str(row.slice).split("=", 1)[-1]


def _slices_of(split: str, kind: str, rows: list[MetricRow]) -> Html:
    told = {row.metric.split("@")[0]: row.metric for row in rows}
    metric = next((told[wanted] for wanted in (*RANKING_HEADLINES, *RATING_ERRORS) if wanted in told), None)
    rows = [row for row in rows if row.metric == metric]
    names = plots.in_order(_seen(rows, "name"))
    found = {(_label_of(row), row.name): row for row in rows}
    sizes = {label: max(row.n for row in rows if _label_of(row) == label) for label, _ in found}
    by_number = all(label.isdecimal() for label in sizes)
    labels = sorted(sizes, key=lambda label: (int(label) if by_number else -sizes[label], label))
    return table(
        f"{SLICES[kind]}: {printable(metric, 30)}, split {printable(split, 30)}",
        ("", "n", *(plots.label_of(each) for each in names)),
        [
            (
                name(printable(label, 60)),
                count(sizes[label]),
                *(_measured(found.get((label, each)), show_n=False) for each in names),
            )
            for label in labels
        ],
        numeric=range(1, len(names) + 2),
        limit=60,
    )


def calibration(report: RunReport) -> Html:
    """The map from scores to probabilities, and how far off they are with and without it."""
    found = report.calibration
    if found is None:
        return Html("")
    rows = (row for row in report.evaluation if row.name == "model" and row.split == found.split)
    told = {row.metric.split("@")[0]: row for row in rows}
    facts: list[tuple[object, object]] = [
        (what, _measured(told[kind], show_n=False)) for kind, what in PROBABILITY_FACTS.items() if kind in told
    ]
    facts.append(("listed items behind the map", count(found.n)))
    errors = table("Probabilities of a hit, on users the map was not fitted to", ("what", "figure"), facts, (1,))
    picture = captioned(
        model_plots.calibration_figure(found),
        "The probability that a listed item is among the held-out ones, by its score.",
    )
    lead = (
        "The calibration error is how far probabilities are from the share of hits among items of like probability; "
        "scores as they are count as probabilities between 0 and 1."
    )
    return section("What a score is worth", lead, tag("div", picture, errors, class_="two"))


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
        plots.training_figure(report.trace, report.validation),
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
        facts += [
            (f"the same of {plots.label_of(row.name)}", figure(row.value))
            for row in plots.beside_metric(str(best[-1].metric_name), report.validation)
        ]
    facts += [(what, printable(value, 20)) for what, value in (("plan", first.plan), ("solver", first.solver)) if value]
    return table(f"Training in figures, {seconds(spent)} in all", ("what", "figure"), facts, numeric=(1,))


def spectrum(report: RunReport) -> Html:
    """The singular values of XYᵀ, the effective rank, and how long the rows of both sides are."""
    found = report.spectrum
    if found is None:
        return Html("")
    norms = table(
        "Lengths of factor vectors",
        ("side", "rows", "shortest", "10 %", "median", "90 %", "longest"),
        [
            (side, count(rows), *(figure(norm) for norm in lengths))
            for side, rows, lengths in (
                ("users", report.users, found.user_norms),
                ("items", report.items, found.item_norms),
            )
        ],
        numeric=range(1, 7),
    )
    picture = captioned(
        model_plots.spectrum_figure(found), "Singular values of the matrix of all scores, without biases."
    )
    lead = (
        f"All scores together are a matrix of rank {count(len(found.singular_values))}; its effective rank, as many "
        f"equal singular values as have the same entropy, is {figure(found.effective_rank, 2)}. As training left it."
    )
    return section("What the model is made of", lead, tag("div", picture, norms, class_="two"))


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
