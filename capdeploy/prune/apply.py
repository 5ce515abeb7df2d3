"""The knife: plan -> smaller copy."""

from __future__ import annotations

from dataclasses import replace

from capdeploy import rebuild
from capdeploy.errors import StepFailedError
from capdeploy.model import Model
from capdeploy.values.plan import PruningPlan


def cut(model: Model, plan: PruningPlan) -> Model:
    """Cut a network as a plan says.

    Parameters
    ----------
    model : Model
        The original network, its head not yet cut; it is left as it was.
    plan : PruningPlan
        What remains of every layer.

    Returns
    -------
    Model
        A smaller copy that costs exactly what the plan promised.

    Raises
    ------
    ArchitectureError
        If the plan belongs to another network.
    StepFailedError
        If the copy does not run or does not cost what was promised.
    """
    module = model.copy_module()
    rebuild.apply(module, plan)
    head = next((cut for cut in plan.layers if cut.layer == model.head), None)
    head_cut = model.head_cut or (head is not None and head.kept_out is not None)
    smaller = replace(model.with_module(module), head_cut=head_cut)
    if smaller.geometry.cost() != plan.after:
        raise StepFailedError(
            f"the cut network costs {smaller.geometry.cost()}, the plan promised {plan.after}"
        )
    return smaller
