"""What plans say: groups, widths and shares of the cost; and several plans side by side."""

from __future__ import annotations

from collections.abc import Sequence

from capdeploy.report.tables import Table, count
from capdeploy.values.plan import GroupCut, PruningPlan


def plan(drawn: PruningPlan) -> Table:
    """Show the groups of a plan and what remains of each."""
    before, after = drawn.before, drawn.after
    nominal = any(cut.nominal_ratio is not None for cut in drawn.groups)
    rows = tuple(_group(cut, drawn.shares[cut.group], nominal=nominal) for cut in drawn.groups)
    notes = (
        f"asked for: {drawn.budget}; realised: {drawn.realised_ratio:.1%} of the groups' channels",
        f"MACs: {count(before.macs)} -> {count(after.macs)} "
        f"({before.macs / after.macs:.2f}x fewer), full head {count(drawn.full.macs)}",
        f"parameters: {count(before.parameters)} -> {count(after.parameters)} "
        f"({before.parameters / after.parameters:.2f}x fewer), full head "
        f"{count(drawn.full.parameters)}",
        *((f"removed whole: {_removed(drawn)}",) if drawn.removed else ()),
        *((drawn.search.sentence,) if drawn.search is not None else ()),
    )
    return Table(
        f"Plan: {drawn.strategy}, {drawn.budget}, align {drawn.budget.align}",
        (
            "group", "members", "width", "kept", "MACs before", "after",
            *(("nominal ratio",) if nominal else ()), "left whole because",
        ),
        rows,
        notes,
    )  # fmt: skip


def _removed(drawn: PruningPlan) -> str:
    return ", ".join(map(str, drawn.removed))


def _group(cut: GroupCut, shares: tuple[float, float], *, nominal: bool) -> tuple[str, ...]:
    one_image = "" if cut.nominal_ratio is None else f"{cut.nominal_ratio:.1%}"
    return (
        cut.group,
        str(len(cut.members)),
        str(cut.unit * cut.width),
        str(cut.unit * len(cut.kept)),
        *(f"{share:.1%}" for share in shares),
        *((one_image,) if nominal else ()),
        cut.whole_because or "",
    )


def members(drawn: PruningPlan) -> Table:
    """List every layer of every group of a plan."""
    rows = tuple((cut.group, ", ".join(cut.members)) for cut in drawn.groups)
    return Table("Members of the groups", ("group", "layers"), rows)


def compare(plans: Sequence[tuple[str, PruningPlan]]) -> Table:
    """Put plans for the same network side by side: widths, and how many channels they share."""
    names = dict.fromkeys(cut.group for _, drawn in plans for cut in drawn.groups)
    rows = []
    for name in names:
        cuts = [
            next((cut for cut in drawn.groups if cut.group == name), None) for _, drawn in plans
        ]
        there = [cut for cut in cuts if cut is not None]
        shared = set.intersection(*(set(cut.kept) for cut in there))
        least = min(len(cut.kept) for cut in there)
        rows.append(
            (
                name,
                str(there[0].unit * there[0].width),
                *("-" if cut is None else str(cut.unit * len(cut.kept)) for cut in cuts),
                f"{there[0].unit * len(shared)} of {there[0].unit * least}",
            )
        )
    notes = tuple(
        f"{name}: {drawn.strategy}, {drawn.budget}; MACs {count(drawn.after.macs)} "
        f"({drawn.before.macs / drawn.after.macs:.2f}x fewer), parameters "
        f"{count(drawn.after.parameters)} ({drawn.before.parameters / drawn.after.parameters:.2f}x "
        "fewer)" + (f"; removed whole: {_removed(drawn)}" if drawn.removed else "")
        for name, drawn in plans
    )
    columns = ("group", "width", *(name for name, _ in plans), "kept by all")
    return Table("Plans side by side", columns, tuple(rows), notes)
