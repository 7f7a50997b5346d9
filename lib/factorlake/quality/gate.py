"""The gate: whether a batch may go in, by limits in conf and by the log's own history. Plain numbers in and
out."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from factorlake.config.settings import GateSettings

# 1 / Φ⁻¹(3/4): makes the median absolute deviation of a normal sample estimate its standard deviation.
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Verdict:
    """Whether the batch passes, and in one sentence why not."""

    passed: bool
    reason: str | None = None


def judge_batch(n_rows: int, n_quarantined: int, n_accepted: int, history: list[float], gate: GateSettings) -> Verdict:
    """Judge one batch.

    Parameters
    ----------
    n_rows : input rows of the batch, with duplicates.
    n_quarantined, n_accepted : rows refused and acceptable (superseded ones too), of all but duplicates. A
        batch of duplicates only has the share 0 and passes.
    history : quarantined share of each earlier batch that went in, in any order. Fewer than `history_runs`:
        no say.
    gate : the limits.

    A share of more than `max_quarantined_share` is refused, and one that lies above the median of the history
    by more than `history_floor` and by more than `history_z` robust standard deviations (1.4826 times the
    median absolute deviation). A share below the median is never refused: fewer bad rows are no fault.
    """
    if n_rows < gate.min_rows:
        return Verdict(False, f"it has {n_rows} rows, fewer than `validate.gate.min_rows` ({gate.min_rows})")
    judged = n_quarantined + n_accepted
    share = n_quarantined / judged if judged else 0.0
    if share > gate.max_quarantined_share:
        return Verdict(
            False,
            f"{n_quarantined} of {judged} rows ({share:.1%}) are refused, more than "
            f"`validate.gate.max_quarantined_share` ({gate.max_quarantined_share:.1%})",
        )
    if gate.history and len(history) >= gate.history_runs:
        centre = median(history)
        spread = MAD_TO_SIGMA * median([abs(past - centre) for past in history])
        distance = share - centre
        if distance > gate.history_floor and distance > gate.history_z * spread:
            deviations = f"{distance / spread:.1f} robust deviations" if spread else "while the past did not vary"
            return Verdict(
                False,
                f"{n_quarantined} of {judged} rows ({share:.1%}) are refused, against a median of "
                f"{centre:.1%} in "
                f"{len(history)} earlier batches ({deviations}; limits `validate.gate.history_z` "
                f"{gate.history_z:g} "
                f"and `history_floor` {gate.history_floor:.1%})",
            )
    return Verdict(True)
