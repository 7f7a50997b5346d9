"""`decompose --method svd`: the leading singular values and vectors of a picture, a clip or a table."""

from __future__ import annotations

from factorlake.config.settings import DecomposeSettings
from factorlake.models.truncated_svd import SvdParameters, truncated_svd
from factorlake.pipelines.context import Context
from factorlake.pipelines.decompose_input import Source
from factorlake.pipelines.decomposed import Decomposed, Step
from factorlake.pipelines.matrices import open_matrix
from factorlake.reporting.decomposition_plots import convergence_figure, singular_values_figure
from factorlake.reporting.text import count, figure, share

ENERGY = 0.95
"""Where neither a rank nor an energy is asked for."""


def svd_parameters(settings: DecomposeSettings, seed: int) -> SvdParameters:
    """Return the numbers of a truncated SVD for these settings."""
    energy = settings.energy if settings.rank is None else None
    return SvdParameters(
        rank=settings.rank,
        energy=ENERGY if settings.rank is None and energy is None else energy,
        oversampling=settings.oversampling,
        power_iterations=settings.power_iterations,
        seed=seed,
    )


def run(context: Context, source: Source, workspace: str) -> Decomposed:
    """Decompose the matrix: row factors are U·Σ, column factors V."""
    parameters = svd_parameters(context.settings.decompose, context.settings.seed)
    with open_matrix(context, source, workspace) as matrix:
        found = truncated_svd(
            matrix.plan,
            matrix.held,
            matrix.shape[1],
            parameters,
            on_pass=lambda one: context.progress(
                f"pass {one.number} ({one.step}): {one.energy:.6f} of the sum of squares ({one.seconds:.2f} s)"
            ),
        )
        assert found.error is not None
        kept = found.rank * (matrix.shape[0] + matrix.shape[1] + 1)
        figures = {
            "relative_error": found.error.relative,
            "energy": found.energy,
            "spectral_bound": found.error.spectral_bound,
            "kept_numbers": float(kept),
        }
        # What is left of the sum of squares is what the passes lower.
        trace = tuple(
            Step(
                epoch=one.number,
                state="final" if one.step == "error" else "after",
                loss=(1.0 - one.energy) * found.squared_norm,
                seconds=one.seconds,
                metric_name="energy",
                metric=one.energy,
            )
            for one in found.trace
        )
        drawn = matrix.draw_approximation(found.left, found.singular_values, found.right, found.error.relative)
        return Decomposed(
            rows=matrix.row_frame(found.left, found.singular_values),
            columns=matrix.column_frame(found.right),
            shape=matrix.shape,
            n_cells=matrix.n_cells,
            rank=found.rank,
            figures=figures,
            facts=(
                ("rows × columns", f"{count(matrix.shape[0])} × {count(matrix.shape[1])}"),
                ("rank", count(found.rank)),
                ("relative error ‖A − UΣVᵀ‖ / ‖A‖", figure(found.error.relative, 6)),
                ("sum of squares kept", share(found.energy, 1.0)),
                ("spectral norm of the error, at most", figure(found.error.spectral_bound)),
                ("chance that this bound fails", f"{found.error.failure_probability:.0e}"),
                ("largest and least singular value", " and ".join(figure(found.singular_values[at]) for at in (0, -1))),
                ("numbers kept", f"{count(kept)} of {count(matrix.shape[0] * matrix.shape[1])}"),
                ("held by", matrix.plan_name),
            ),
            trace=trace,
            plan=matrix.plan_name,
            pictures=drawn.pictures,
            plates=drawn.plates,
            drawings=(
                singular_values_figure(found.singular_values, found.squared_norm),
                convergence_figure(trace),
            ),
            held=(found.left,),
        )
