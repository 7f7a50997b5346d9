"""What happened to the records: row accounting, quarantine, gate, history and expectations, as page sections."""

from __future__ import annotations

from factorlake.reporting import plots
from factorlake.reporting.content import RunReport
from factorlake.reporting.markup import Html, captioned, join, section, table, tag
from factorlake.reporting.text import ABSENT, count, figure, plural, printable, share

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
    pieces = (tag("i", class_=f"c-{part}", style=f"flex:{number} 0 0") for part, number in parts if number)
    bar = tag("div", *pieces, class_="bar", aria_hidden="true")
    accounting = table(
        "Where every record went",
        ("records", "count", "share"),
        [
            (
                join([tag("span", "", class_=f"key c-{part}", aria_hidden="true"), LABELS[part]]),
                count(number),
                share(number, account.input),
            )
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
    picture = captioned(plots.reasons_figure(account.reasons), "Why records were quarantined.")
    return section(
        "What happened to each record",
        "Nothing is lost: every record read is in one of these places, a quarantined one with its raw text.",
        equation,
        bar,
        tag("div", accounting, picture, class_="two"),
        tag("details", tag("summary", plural(len(account.reasons), "reason") + " for quarantine"), reasons)
        if reasons
        else None,
        _batches(report),
    )


def _batches(report: RunReport) -> Html:
    latest_first = report.batches[::-1]
    lines = [
        (
            tag("code", printable(batch.batch, 40)),
            *(
                count(number)
                for number in (
                    batch.input,
                    batch.accepted,
                    batch.quarantined,
                    batch.duplicates,
                    batch.superseded,
                )
            ),
            join([OUTCOMES[batch.passed], f" {printable(batch.gate_reason, 200)}" if batch.gate_reason else ""]),
        )
        # Refused batches first: they are what a reader has to act on. Then the latest.
        for batch in sorted(latest_first, key=lambda batch: batch.passed)
    ]
    heads = ("batch", "in", "accepted", "quarantined", "duplicates", "superseded", "gate")
    return table("Batches and what the gate said", heads, lines, numeric=range(1, 6), limit=40)


def history(report: RunReport) -> Html:
    """What is out of line with the log's own history, latest batch first."""
    if not report.history:
        return Html("")
    odd = [check for check in report.history[::-1] if not check.passed]
    lead = f"{plural(len(report.history), 'figure')} of the latest batches, beside those of the batches before. "
    lead += f"{count(len(odd))} out of line." if odd else "None is out of line."
    lines = [
        (
            tag("code", printable(check.batch, 40)),
            tag("code", printable(check.name, 60)),
            tag("span", "refused" if check.action == "refuse" else "warning", class_="no"),
            printable(check.sentence, 300),
        )
        for check in odd
    ]
    table_of = table("What is out of line", ("batch", "check", "what came of it", "figure"), lines, limit=40)
    return section("Beside the log's own history", lead, table_of if lines else None)


def expectations(report: RunReport) -> Html:
    """Great Expectations results."""
    if not report.expectations:
        return Html("")
    lines = [
        (
            tag("code", printable(check.rule)),
            OUTCOMES[check.success],
            ABSENT if check.value is None else figure(check.value, 0),
        )
        for check in sorted(report.expectations, key=lambda check: (check.success is True, check.success is None))
    ]
    passed = sum(check.success is True for check in report.expectations)
    absent = sum(check.success is None for check in report.expectations)
    missed = f" {count(absent)} did not run." if absent else ""
    return section(
        "Expectations on the accepted records",
        f"{count(passed)} of {count(len(lines))} passed.{missed} They inform; the gate decides.",
        table(
            "Great Expectations results",
            ("expectation", "result", "rows that broke it"),
            lines,
            numeric=(2,),
            limit=80,
        ),
    )
