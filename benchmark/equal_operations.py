"""Budgets that keep the operations of a generation equal while its schedule changes, as the paper's ablations do.

With more dense steps or dense layers, fewer pairs can be left for the sparse ones: the paper's ablations B, C and D
vary the schedule and hold the operations (arXiv 2506.19852). The budget that does so follows from the count in closed
form, since operations are linear in the density.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.layout import VideoLayout
from benchmark.models.spec import ModelSpec
from benchmark.operations import attention_operations, generation_operations, pflop


def operations_at(
    spec: ModelSpec, layout: VideoLayout, *, budget: float, steps: int, dense_steps: int = 0, dense_layers: int = 0
) -> float:
    """Operations of one clip's generation whose sparse steps and layers have a density of ``budget``.

    Args:
        spec, layout: the model, and the token grid of the clip.
        budget: executed query-key pairs over those of dense attention, in (0, 1].
        steps: denoising steps.
        dense_steps, dense_layers: first steps and first layers that attend densely.

    Raises:
        ValueError: a number is out of its range.
    """
    if not 0 < budget <= 1:
        raise ValueError(f"budget={budget}: a density above 0 and at most 1 is needed")
    return generation_operations(
        spec,
        layout,
        steps=steps,
        dense_steps=dense_steps,
        dense_layers=dense_layers,
        sparse_layer_operations=attention_operations(spec, layout, budget),
    ).total


def budget_for(
    spec: ModelSpec,
    layout: VideoLayout,
    *,
    operations: float,
    steps: int,
    dense_steps: int = 0,
    dense_layers: int = 0,
    reach: tuple[float, float] = (0.0, 1.0),
) -> float:
    """The budget at which a generation takes so many operations.

    Args:
        spec, layout: the model, and the token grid of the clip.
        operations: those of the transformer's blocks in all steps and passes, one clip.
        steps: denoising steps.
        dense_steps, dense_layers: first steps and first layers that attend densely.
        reach: the lowest and the highest density that the method can have there, as ``budget.reach`` finds them.

    Returns:
        A density in ``reach``, and above 0.

    Raises:
        ValueError: no step and layer is sparse, or the operations ask for a density out of reach; the range of
            operations within reach is given.
    """
    dense = generation_operations(spec, layout, steps=steps).total
    least = generation_operations(
        spec, layout, steps=steps, dense_steps=dense_steps, dense_layers=dense_layers, sparse_layer_operations=0.0
    ).total
    where = f"{spec.name} on {layout}, {dense_steps} of {steps} steps and {dense_layers} layers dense"
    if dense == least:
        raise ValueError(f"{where}: nothing is sparse, so that no budget changes its operations")
    found = (operations - least) / (dense - least)
    low, high = reach
    # What a method reaches itself comes back from the sum with another rounding.
    if found <= 0 or not low - 1e-9 <= found <= high + 1e-9:
        ends = [pflop(least + density * (dense - least)) for density in reach]
        raise ValueError(
            f"{where}: {pflop(operations):.6g} PFLOP would need a density of {found:.4f}; densities from {low:.4f} to "
            f"{high:.4f} are within reach, {ends[0]:.6g} to {ends[1]:.6g} PFLOP"
        )
    return min(max(found, low), high)


def equal_budgets(
    spec: ModelSpec,
    layout: VideoLayout,
    *,
    steps: int,
    reference: tuple[int, int],
    budget: float,
    schedules: Iterable[tuple[int, int]],
    reach: tuple[float, float] = (0.0, 1.0),
) -> dict[tuple[int, int], float]:
    """The budgets of several schedules that all take the operations of a reference.

    Args:
        spec, layout: the model, and the token grid of the clip.
        steps: denoising steps.
        reference: dense steps and dense layers of the reference.
        budget: its budget.
        schedules: dense steps and dense layers of each row.
        reach: as in ``budget_for``.

    Returns:
        For each schedule its budget.

    Raises:
        ValueError: as ``budget_for``.
    """
    dense_steps, dense_layers = reference
    operations = operations_at(
        spec, layout, budget=budget, steps=steps, dense_steps=dense_steps, dense_layers=dense_layers
    )
    return {
        (first_steps, first_layers): budget_for(
            spec,
            layout,
            operations=operations,
            steps=steps,
            dense_steps=first_steps,
            dense_layers=first_layers,
            reach=reach,
        )
        for first_steps, first_layers in schedules
    }
