"""What a bundle says of itself, as a table."""

from __future__ import annotations

from capdeploy.report.tables import MIB, Table, count, percent
from capdeploy.values.manifest import Manifest


def table(shown: Manifest) -> Table:
    """Show what a bundle says of itself."""
    artifact = shown.artifact
    simplified = artifact.simplification
    removed = simplified.nodes_before - simplified.nodes_after
    rows = (
        ("role", shown.role),
        ("made by", f"capdeploy {shown.tool_version}"),
        ("checkpoint", f"{shown.checkpoint.file} (sha256 {shown.checkpoint.sha256[:12]}...)"),
        ("architecture", str(shown.checkpoint.architecture)),
        ("classes", ", ".join(shown.classes.names)),
        ("output ids", ", ".join(map(str, shown.classes.kept))),
        ("head", "cut to the classes" if shown.head_cut else f"{shown.classes.total} outputs"),
        ("input", f"{shown.preprocessing.height}x{shown.preprocessing.width} "
                  f"{shown.preprocessing.channel_order}"),
        ("MACs", count(shown.cost.macs)),
        ("parameters", count(shown.cost.parameters)),
        ("accuracy", percent(shown.accuracy) if shown.accuracy else "-"),
        ("graph", f"opset {artifact.opset}, {artifact.nodes} nodes, "
                  f"{artifact.size_bytes / MIB:.2f} MiB"),
        ("onnxsim", f"{removed} nodes removed" if simplified.applied
                    else f"not applied: {simplified.reason}"),
        *((f"parity, {proof.stage}", f"max abs error {proof.max_abs_error:.1e}, top-1 agreement "
           f"{proof.top1_agreement:.1%} on {proof.images} images") for proof in artifact.parity),
        ("files", ", ".join(shown.files)),
    )  # fmt: skip
    return Table(f"Bundle {shown.name}", ("", ""), rows)
