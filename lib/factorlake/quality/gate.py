"""The gate: whether a batch may go in, by limits in conf and by the log's own history. Plain numbers in and
out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factorlake.config.settings import GateSettings
from factorlake.quality.anomalies import Finding, judge
from factorlake.quality.states import BatchState


@dataclass(frozen=True)
class Verdict:
    """Whether the batch passes, in a sentence or two why not, and what the history says of it."""

    passed: bool
    reason: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What is out of line and refuses nothing, a sentence each."""
        return [found.sentence() for found in self.findings if not found.passed and found.action == "warn"]


def judge_batch(state: BatchState, history: Sequence[BatchState], gate: GateSettings) -> Verdict:
    """Judge one batch.

    Parameters
    ----------
    state : what is known of the batch.
    history : the batches that went in before, oldest first.
    gate : the limits.

    Fewer rows than `min_rows` are refused, a share of quarantined rows (of all but duplicates) of more than
    `max_quarantined_share`, and what is out of line with the history by a check that refuses. A batch of duplicates
    only has the share 0.
    """
    findings = tuple(judge(state, history, gate))
    if state.rows < gate.min_rows:
        reason = f"it has {state.rows} rows, fewer than `validate.gate.min_rows` ({gate.min_rows})"
        return Verdict(False, reason, findings)
    quarantined, judged, share = state.counts.get("quarantined", 0), state.judged, state.quarantined_share
    if share > gate.max_quarantined_share:
        reason = (
            f"{quarantined} of {judged} rows ({share:.1%}) are refused, more than "
            f"`validate.gate.max_quarantined_share` ({gate.max_quarantined_share:.1%})"
        )
        return Verdict(False, reason, findings)
    refusing = [found for found in findings if not found.passed and found.action == "refuse"]
    if refusing:
        told = "; ".join(found.sentence() for found in refusing)
        return Verdict(False, f"it is out of line with the log's own history. {told}", findings)
    return Verdict(True, None, findings)
