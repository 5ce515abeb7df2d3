"""What a gate's report says: one verdict, then facts and rows."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from capdeploy.report.tables import Table, milliseconds
from capdeploy.values.gate import Calibration, Effect, Fact, GateReport, GateRow
from capdeploy.values.report import Settings
from capdeploy.values.verdict import Incomparable, Inconclusive, Regressed

LONGEST = 40
HEADLINES = {
    "kept": "No regression",
    "regressed": "Regression",
    "inconclusive": "No answer",
    "incomparable": "Not comparable",
}


def tables(report: GateReport) -> list[Table]:
    """Show the verdict, the facts and the rows."""
    return [_verdict(report), *([_facts(report)] if report.facts else []),
            *([_rows(report)] if report.rows or report.skipped else [])]  # fmt: skip


def reasons(report: GateReport) -> tuple[str, ...]:
    """Give the lines behind the verdict."""
    verdict = report.verdict
    if isinstance(verdict, Regressed):
        return verdict.findings
    if isinstance(verdict, Inconclusive):
        return verdict.reasons
    return verdict.differing if isinstance(verdict, Incomparable) else ()


def _verdict(report: GateReport) -> Table:
    title = f"{HEADLINES[report.verdict.kind]}: {report.head.name} against {report.base.name}"
    return Table(title, ("", "SHA-256"), (
        ("base", report.base.sha256[:12]), ("head", report.head.sha256[:12]),
    ), reasons(report))  # fmt: skip


def _facts(report: GateReport) -> Table:
    rows = tuple(
        (fact.name, _short(fact, fact.base), _short(fact, fact.head), _mark(fact.outcome))
        for fact in report.facts
    )
    return Table("Facts (compared exactly)", ("fact", "base", "head", ""), rows)


def _short(fact: Fact, value: str) -> str:
    if len(value) <= LONGEST:
        return value
    return value if fact.outcome == "regressed" else value[: LONGEST - 3] + "..."


def _mark(outcome: str) -> str:
    return outcome.upper() if outcome == "regressed" else outcome


def _rows(report: GateReport) -> Table:
    columns = ("runtime", "device", "base ms", "head ms", "wall", "CPU time", "smallest seen",
               "blocks", "")  # fmt: skip
    rows = [_row(row) for row in report.rows]
    notes = [f"{_place(row.settings)}: {row.reason}" for row in report.rows]
    for skipped in report.skipped:
        place = (skipped.settings.engine, skipped.settings.device)
        rows.append((*place, *[""] * 6, "skipped"))
        notes.append(f"{_place(skipped.settings)}: skipped: {skipped.result.reason}")
    if report.rows:
        first = report.rows[0]
        notes += [
            f"profile {report.profile}: {first.settings.threads} thread(s), batch "
            f"{first.settings.batch}, {report.environment.cpu_model}",
            f"head over base, interleaved in fresh processes (ABBA), hierarchical bootstrap "
            f"{first.effect.level:.0%}; smallest seen: the slowdown that this machine could have "
            "called one; base ms and head ms are this session's and prove nothing alone",
        ]
    if report.noise is not None:
        notes.append(report.noise.sentence)
    return Table("Latency", columns, tuple(rows), tuple(notes))


def _row(row: GateRow) -> tuple[str, ...]:
    clock = row.judged_by
    median = [
        sorted(value for block in row.blocks for value in getattr(block, f"{side}_{clock}_ms"))
        for side in ("base", "head")
    ]
    return (
        row.settings.engine,
        row.settings.device,
        *(milliseconds(values[len(values) // 2]) for values in median),
        _effect(row.wall, judged=clock == "wall"),
        _effect(row.cpu, judged=clock == "cpu"),
        f"{row.visible:+.1%}",
        str(len(row.blocks)),
        _mark(row.verdict),
    )


def _effect(effect: Effect, *, judged: bool) -> str:
    text = f"{effect.ratio - 1:+.1%} [{effect.low - 1:+.1%}, {effect.high - 1:+.1%}]"
    return text if judged else f"({text})"


def _place(settings: Settings) -> str:
    return f"{settings.engine} on {settings.device}"


def calibration(found: Calibration) -> Table:
    """Show how well a machine can judge."""
    rows = []
    for row in found.rows:
        deviations = sorted(abs(ratio - 1) for ratio in row.ratios)
        rows.append(
            (
                row.settings.engine,
                row.settings.device,
                str(len(row.ratios)),
                str(row.alarms),
                f"{deviations[len(deviations) // 2]:.1%}",
                f"{deviations[-1]:.1%}",
                f"{row.noise:.1%}",
                f"{row.visible:+.1%}",
            )
        )
    columns = ("runtime", "device", "comparisons", "false alarms", "median off", "most off",
               "noise", "smallest seen")  # fmt: skip
    notes = [f"{_place(each.settings)}: skipped: {each.result.reason}" for each in found.skipped]
    return Table(f"{found.base.name} against itself", columns, tuple(rows), tuple(notes))


def junit(report: GateReport) -> str:
    """Write the report as JUnit XML: a case for each fact and row.

    Parameters
    ----------
    report : GateReport
        What the gate found.

    Returns
    -------
    str
        A document; a regression is a failure, an open question is skipped with its reason.
    """
    suite = ET.Element("testsuite", name="capdeploy gate")
    for fact in report.facts:
        case = ET.SubElement(suite, "testcase", classname="capdeploy.facts", name=fact.name)
        if fact.outcome == "regressed":
            ET.SubElement(case, "failure", message=fact.finding)
        elif fact.finding:
            ET.SubElement(case, "skipped", message=f"inconclusive: {fact.finding}")
    for row in report.rows:
        case = ET.SubElement(
            suite, "testcase", classname="capdeploy.latency", name=_place(row.settings)
        )
        if row.verdict == "regressed":
            ET.SubElement(case, "failure", message=row.reason)
        elif row.verdict in ("inconclusive", "too noisy"):
            ET.SubElement(case, "skipped", message=f"{row.verdict}: {row.reason}")
    for each in report.skipped:
        case = ET.SubElement(
            suite, "testcase", classname="capdeploy.latency", name=_place(each.settings)
        )
        kind = "failure" if each.side == "head" else "error" if each.side else "skipped"
        ET.SubElement(case, kind, message=each.result.reason)
    if isinstance(report.verdict, (Incomparable, Inconclusive)):
        case = ET.SubElement(suite, "testcase", classname="capdeploy", name=report.verdict.kind)
        ET.SubElement(case, "skipped", message="; ".join(reasons(report)))
    for kind, tag in (("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
        suite.set(kind, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite)))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
