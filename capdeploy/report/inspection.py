"""What a checkpoint is, as a table."""

from __future__ import annotations

from capdeploy.report.tables import Table, count
from capdeploy.values.inspection import Inspection

SHOWN = 6  # tensors by name; JSON has them all


def table(shown: Inspection) -> Table:
    """Show what is known of a checkpoint."""
    checkpoint = shown.checkpoint
    found = " (found by its weights)" if shown.recognised else ""
    size = f"{checkpoint.input.height}x{checkpoint.input.width}"
    rows = (
        ("SHA-256", checkpoint.sha256),
        ("architecture", f"{checkpoint.architecture}{found}"),
        ("outputs", str(checkpoint.outputs)),
        ("stored as", checkpoint.stored_dtype),
        ("parameters", f"{shown.cost.parameters:,}"),
        (f"MACs at {size}", count(shown.cost.macs)),
        ("filters", str(shown.cost.filters)),
        ("groups that can be cut", f"{shown.groups}, {shown.filters} channels"),
        *((f"whole: {entry.group}", entry.reason) for entry in shown.whole),
        *((f"not used: {name}", "") for name in checkpoint.unused[:SHOWN]),
        *((f"not in the file: {name}", "fresh values") for name in checkpoint.absent[:SHOWN]),
    )
    return Table(f"Checkpoint {checkpoint.file}", ("", ""), rows)
