"""What a run says at its end: the terminal summary, and its figures as JSON."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from factorlake.reporting.content import BASELINES, RunReport, beside_baseline
from factorlake.reporting.text import ABSENT, count, figure, plural, printable, seconds, share

SHOWN_USERS = 5
SHOWN_ITEMS = 5
SHOWN_REASONS = 8
SHOWN_WARNINGS = 8
SHOWN_TRACE = 6
SHOWN_METRICS = 10
SHOWN_NAMES = 6
SHOWN_TOPICS = 20


def render_summary(report: RunReport, width: int = 100, color: bool = False, html_path: str | None = None) -> str:
    """Return the end of a run as terminal text.

    Row accounting as an equation with the reasons, the training trace, metrics beside the baseline, a few
    recommendations by name, the planted share, and where the HTML report lies. Parts the run did not reach
    are left out. Foreign text is made printable and never read as markup.

    Parameters
    ----------
    width : columns, at least 40.
    color : write ANSI colours.
    """
    target = io.StringIO()
    console = Console(
        file=target,
        width=max(40, width),
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    parts = [
        _decomposition(report),
        _search(report),
        _accounting(report),
        _training(report),
        _metrics(report),
        _recommendations(report),
        _ending(report),
    ]
    for part in parts:
        if part is not None:
            console.print(Padding(part, (1, 0, 0, 0)))
    lines = (line.rstrip() for line in target.getvalue().splitlines())
    text = "\n".join(lines).strip("\n") + "\n"
    # A path is made to be copied: it stands on a line of its own and is never wrapped.
    return f"{text}report: {html_path}\n" if html_path else text


def _decomposition(report: RunReport) -> RenderableType | None:
    found = report.decomposition
    if found is None:
        return None
    facts = _table(f"{found.method} of {printable(found.source, 60)}", "", "")
    for what, value in found.facts:
        facts.add_row(_text(what), printable(value, 60))
    topics = [
        Text(f"topic {number} ({share(topic.share, 1)}): {', '.join(printable(word, 30) for word in topic.words)}")
        for number, topic in enumerate(found.topics[:SHOWN_TOPICS], start=1)
    ]
    return Group(facts, *topics)


def _search(report: RunReport) -> RenderableType | None:
    found = report.search
    if found is None:
        return None
    metric = printable(found.metric, 20)
    facts = _table(f"Search, {plural(len(found.trials), 'trial')} on {printable(found.protocol, 60)}", "", "")
    for what, value in found.facts:
        facts.add_row(_text(what), printable(value, 60))
    for name, reached in found.compared:
        facts.add_row(_text(f"{metric} of {name}"), figure(reached))
    curve = _table("Rank curve", "rank", metric)
    for rank, reached in found.rank_curve:
        curve.add_row(count(rank), figure(reached))
    return Group(facts, curve)


def _accounting(report: RunReport) -> RenderableType | None:
    if not report.batches:
        return None
    account = report.accounting
    sums = [
        (account.accepted, "accepted"),
        (account.quarantined, "quarantined"),
        (account.duplicates, "duplicates"),
    ]
    sums += [(account.superseded, "superseded")] if account.superseded else []
    sums += [(account.held_back, "held back in refused batches")] if account.held_back else []
    right = " + ".join(f"{count(number)} {what}" for number, what in sums)
    equation = Text(f"{count(account.input)} records in = {right}", style="bold")
    refused = [batch for batch in report.batches if not batch.passed]
    reasons = _table(f"Quarantine, {plural(len(account.reasons), 'reason')}", "reason", "records", "share")
    for reason, number in list(account.reasons.items())[:SHOWN_REASONS]:
        reasons.add_row(_text(reason), count(number), share(number, account.quarantined))
    told = [
        Text(f"batch {printable(batch.batch)} refused: {printable(batch.gate_reason, 300)}", style="red")
        for batch in refused
    ]
    told += [
        Text(f"batch {printable(check.batch)} is out of line: {printable(check.sentence, 300)}", style="yellow")
        for check in [check for check in report.history if not check.passed][-SHOWN_WARNINGS:]
    ]
    return Group(equation, *told, *([reasons] if account.reasons else []))


def _training(report: RunReport) -> RenderableType | None:
    if not report.trace:
        return None
    metric = next((row.metric_name for row in report.trace if row.metric_name), None)
    total = seconds(sum(row.seconds for row in report.trace))
    epochs = plural(max(row.epoch for row in report.trace), "epoch")
    heads = ["epoch", "side", "objective", "seconds", *([printable(metric, 20)] if metric else [])]
    trace = _table(f"Training, {epochs} in {total}", *heads, left=("side",))
    rows = list(report.trace)
    # The start shows the fall, the end that it has settled; what lies between is in the report.
    shown = rows if len(rows) <= 2 * SHOWN_TRACE else [*rows[:SHOWN_TRACE], None, *rows[-SHOWN_TRACE:]]
    for row in shown:
        if row is None:
            trace.add_row(*["…"] * len(heads))
            continue
        cells = [count(row.epoch), printable(row.side, 10), figure(row.loss), f"{row.seconds:.3f}"]
        trace.add_row(*cells, *([figure(row.metric)] if metric else []))
    return trace


def _metrics(report: RunReport) -> RenderableType | None:
    if not report.evaluation:
        return None
    judged = {row.name for row in report.evaluation}
    known = ("model", "live", *BASELINES)
    others = sorted(judged - set(known), key=lambda name: (name != "pyspark_ml", name))
    # Whom the terminal has no room for is in the report.
    names = ["model", *(name for name in (*known[1:], *others) if name in judged)][:SHOWN_NAMES]
    values = {(row.split, row.metric, row.name): row for row in report.evaluation}
    keys = list(dict.fromkeys((row.split, row.metric) for row in report.evaluation))
    heads = (printable(name, 16) for name in names)
    metrics = _table("Quality on held-out events", "metric", "95 % interval", *heads)
    for split, metric in keys[:SHOWN_METRICS]:
        own = values.get((split, metric, "model"))
        interval = ABSENT
        if own is not None and own.lower is not None and own.upper is not None:
            interval = f"{figure(own.lower)} – {figure(own.upper)}"
        found = (values.get((split, metric, name)) for name in names)
        metrics.add_row(_text(metric), interval, *(figure(row.value) if row else ABSENT for row in found))
    if report.headline and report.headline[1]:
        row = report.headline[0]
        return Group(metrics, Text(f"{printable(row.metric, 20)}: {beside_baseline(report)}", style="bold"))
    return metrics


def _recommendations(report: RunReport) -> RenderableType | None:
    if not report.samples:
        return None
    samples = Table(title="Recommendations", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, expand=True)
    samples.add_column("")
    samples.add_column("had", style="dim", ratio=2)
    samples.add_column("recommended", ratio=3)
    for number, sample in enumerate(report.samples[:SHOWN_USERS], start=1):
        had = ", ".join(printable(item, 60) for item in sample.history[:3]) or ABSENT
        left = max(sample.history_total, len(sample.history)) - len(sample.history[:3])
        best = ", ".join(printable(suggestion.item, 60) for suggestion in sample.suggestions[:SHOWN_ITEMS]) or ABSENT
        samples.add_row(f"user {number}", Text(had + (f" and {count(left)} more" if left > 0 else "")), Text(best))
    return samples


def _ending(report: RunReport) -> RenderableType | None:
    lines = []
    if report.planted:
        lines.append(Text.assemble((f"{share(report.planted.value, 1)} of the planted taste found", "bold")))
        lines.append(Text(printable(report.planted.definition, 300), style="dim"))
    if report.publication:
        done = "published into" if report.publication.published else "not published into"
        style = "green" if report.publication.published else "red"
        what = f"{done} slot {printable(report.publication.slot)}: {printable(report.publication.reason, 300)}"
        lines.append(Text(what, style=style))
    return Group(*lines) if lines else None


def _table(title: str, *heads: str, left: tuple[str, ...] = ()) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for at, head in enumerate(heads):
        made.add_column(head, justify="left" if at == 0 or head in left else "right", no_wrap=at > 0)
    return made


def _text(text: str) -> Text:
    return Text(printable(text, 60))


def to_json(report: RunReport) -> str:
    """Return the run's figures as JSON text: accounting, trace, spectrum, evaluation, slices, calibration, planted
    share, skew, versions.

    Names of items and settings are left out. What is not finite becomes null: JSON has no word for it.
    """
    figures: dict[str, Any] = {
        "run_id": report.run_id,
        "recommender": report.recommender,
        "started": report.started.isoformat(),
        "state": report.state,
        "reason": report.reason,
        "model_version": report.model_version,
        "users": report.users,
        "items": report.items,
        "pairs": report.pairs,
        "seconds": {stage.name: stage.seconds for stage in report.stages},
        "accounting": asdict(report.accounting),
        "batches": [asdict(batch) for batch in report.batches],
        "history": [asdict(check) for check in report.history],
        "expectations": [asdict(check) for check in report.expectations],
        "trace": [asdict(row) for row in report.trace],
        "spectrum": asdict(report.spectrum) if report.spectrum else None,
        "evaluation": [asdict(row) for row in report.evaluation],
        "slices": [asdict(row) for row in report.slices],
        "calibration": asdict(report.calibration) if report.calibration else None,
        "planted": asdict(report.planted) if report.planted else None,
        "skews": [{key: value for key, value in asdict(skew).items() if key != "curve"} for skew in report.skews],
        "versions": dict(report.versions),
        "publication": asdict(report.publication) if report.publication else None,
    }
    return json.dumps(_finite(figures), indent=2, sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    """Plain JSON values: NumPy scalars unwrapped, figures that are not finite as None."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
