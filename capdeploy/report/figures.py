"""The plots of a report, as SVG that takes its colours and its font from the page.

Every series has a marker or a dash of its own, so that nothing rests on colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from capdeploy.errors import MissingExtraError
from capdeploy.values.accuracy import Accuracy
from capdeploy.values.plan import PruningPlan
from capdeploy.values.sensitivity import Curve
from capdeploy.values.sweep import dominated
from capdeploy.values.training import Training

# Stand-ins that are exchanged for the page's own colours, which differ in light and dark.
INK, GRID = "#010203", "#010204"
SERIES = tuple(f"#0102{10 + place:02x}" for place in range(6))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p", "d")
DASHES: tuple[Any, ...] = (
    "-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)), (0, (10, 3)), (0, (5, 1, 1, 1, 1, 1)),
)  # fmt: skip
WIDTH = 7.2


@dataclass(frozen=True)
class Spot:
    """One network among others.

    Parameters
    ----------
    name : str
        What is written beside it.
    x : float
        Latency in ms.
    y : float
        Accuracy, 0..1.
    low : float
        Lower end of the accuracy's interval.
    high : float
        Upper end.
    """

    name: str
    x: float
    y: float
    low: float
    high: float


def _library() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    mpl.use("svg")
    return mpl


@contextmanager
def _axes(height: float) -> Iterator[tuple[Any, list[str]]]:
    """Give axes to draw on, and a list that holds the SVG afterwards."""
    mpl = _library()
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "capdeploy", "text.parse_math": False,
        "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID,
        "xtick.color": INK, "ytick.color": INK, "axes.grid": True, "grid.color": GRID,
        "grid.alpha": 0.35, "axes.spines.top": False, "axes.spines.right": False,
        "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
    }  # fmt: skip
    found: list[str] = []
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure.subplots(), found
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    found.append(_dressed(text.getvalue()))


def _dressed(svg: str) -> str:
    """Make an SVG part of the page: no prologue, no fixed size, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = svg.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    for place, stand_in in enumerate(SERIES):
        svg = svg.replace(stand_in, f"var(--series-{place})")
    return svg


def _line(place: int) -> dict[str, Any]:
    """Give a line a look of its own: a dash, and beyond the sixth a marker here and there too."""
    round_, at = divmod(place, len(DASHES))
    look: dict[str, Any] = {"color": SERIES[at], "linestyle": DASHES[at]}
    return look | ({"marker": MARKERS[round_ - 1], "markevery": 0.2} if round_ else {})


def _point(place: int) -> dict[str, Any]:
    """Give a point a look of its own: thirteen markers, and six colours besides."""
    return {"color": SERIES[place % len(SERIES)], "marker": MARKERS[place % len(MARKERS)]}


def ecdf(lines: Sequence[tuple[str, Sequence[float]]], label: str) -> str:
    """Draw the share of inferences that took no longer, by latency in ms."""
    with _axes(3.2) as (axes, found):
        for place, (name, values) in enumerate(lines):
            ordered = np.sort(np.asarray(values))
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            axes.step(ordered, share, where="post", label=name, lw=1.8, **_line(place))
        axes.set(xscale="log", xlabel=f"{label}, ms (log)", ylabel="share of inferences")
        axes.set_ylim(0, 1.02)
        _plain_numbers(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return found[0]


def per_class(before: Accuracy, after: Accuracy) -> str:
    """Draw each class's accuracy before and after with its interval, worst first."""
    ordered = sorted(after.classes, key=lambda entry: -entry.top1)
    known = {entry.name: entry for entry in before.classes}
    with _axes(1.0 + 0.34 * len(ordered)) as (axes, found):
        for place, (stage, shift) in enumerate(((before.stage, 0.14), (after.stage, -0.14))):
            entries = [entry if place else known[entry.name] for entry in ordered]
            tops = np.array([100 * entry.top1 for entry in entries])
            ends = np.array([[100 * end for end in entry.interval] for entry in entries]).T
            axes.errorbar(
                tops, np.arange(len(ordered)) + shift, xerr=np.abs(ends - tops), lw=0,
                elinewidth=1.4, capsize=2.5, marker=MARKERS[place], label=stage,
                color=SERIES[place],
            )  # fmt: skip
        axes.set_yticks(range(len(ordered)), [entry.name for entry in ordered])
        axes.set_xlabel("top-1, % (Wilson 95 %)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return found[0]


def spots(points: Sequence[Spot], budgets_ms: Sequence[float]) -> str:
    """Draw accuracy against latency, with each budget as a line."""
    with _axes(3.4) as (axes, found):
        for place, spot in enumerate(points):
            above, below = 100 * (spot.high - spot.y), 100 * (spot.y - spot.low)
            axes.errorbar(
                spot.x, 100 * spot.y, yerr=[[below], [above]], ms=7, **_point(place),
                capsize=2.5, lw=0, elinewidth=1.2, label=spot.name,
            )  # fmt: skip
        beaten = dominated([(spot.y, -spot.x) for spot in points])
        front = sorted((spot.x, 100 * spot.y) for spot, worse in zip(points, beaten, strict=True)
                       if not worse)  # fmt: skip
        if len(points) > 2:
            axes.plot(*zip(*front, strict=True), color=GRID, lw=1.2, zorder=1, label="Pareto front")
        for place, budget in enumerate(budgets_ms):
            axes.axvline(budget, color=INK, linestyle=(0, (4, 3)), lw=1,
                         label="" if place else "budget")  # fmt: skip
        axes.set(xscale="log", xlabel="p50 latency, ms (log)", ylabel="top-1, % (95 %)")
        _plain_numbers(axes)
        axes.margins(x=0.15)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return found[0]


@dataclass(frozen=True)
class Front:
    """Networks that answer one question, those on the Pareto front apart.

    Parameters
    ----------
    name : str
        What they have in common.
    best : Sequence[tuple[float, float]]
        Latency in ms and accuracy 0..1 of those on the front.
    others : Sequence[tuple[float, float]]
        The same of those that another one beats.
    """

    name: str
    best: Sequence[tuple[float, float]]
    others: Sequence[tuple[float, float]]


def fronts(lines: Sequence[Front]) -> str:
    """Draw worst-class accuracy against p90 latency, the front joined by a line."""
    with _axes(3.6) as (axes, found):
        for place, line in enumerate(lines):
            if line.others:
                axes.plot(
                    [x for x, _ in line.others], [100 * y for _, y in line.others], lw=0, ms=5,
                    **_point(place), fillstyle="none", alpha=0.7,
                )  # fmt: skip
            ordered = sorted(line.best)
            axes.plot(
                [x for x, _ in ordered], [100 * y for _, y in ordered], lw=1.4, ms=7,
                **_line(place) | _point(place), label=line.name,
            )  # fmt: skip
        axes.set(xscale="log", xlabel="p90 latency, ms (log)", ylabel="worst class, %")
        _plain_numbers(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return found[0]


def sensitivity(curves: Sequence[Curve]) -> str:
    """Draw harm against the share of channels that is dropped; the worst six have names."""
    ordered = sorted(curves, key=lambda curve: -curve.at(0.5))
    with _axes(3.6) as (axes, found):
        for place, curve in enumerate(ordered):
            # The very last channels were not measured.
            shares = np.arange(curve.width + 1)[: max(2, round(0.9 * curve.width) + 1)]
            named = place < len(SERIES)
            axes.plot(
                100 * shares / curve.width, [curve.harms[count] for count in shares],
                color=SERIES[place] if named else GRID, lw=1.8 if named else 0.8,
                linestyle=DASHES[place] if named else "-", zorder=2 if named else 1,
                label=curve.group if named else None,
            )  # fmt: skip
        axes.set(xlabel="channels dropped, %", ylabel="divergence, nats")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return found[0]


def _plain_numbers(axes: Any) -> None:
    """Write 0.1 and 0.2 along a logarithmic axis, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def widths(plan: PruningPlan) -> str:
    """Draw what remains of each group's channels."""
    with _axes(0.9 + 0.2 * len(plan.groups)) as (axes, found):
        places = np.arange(len(plan.groups))
        axes.barh(places, [cut.unit * cut.width for cut in plan.groups], color="none",
                  edgecolor=GRID, lw=0.8, label="before")  # fmt: skip
        axes.barh(places, [cut.unit * len(cut.kept) for cut in plan.groups], color=SERIES[0],
                  label="kept")  # fmt: skip
        axes.set_yticks(places, [cut.group for cut in plan.groups])
        axes.tick_params(axis="y", labelsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("channels")
        axes.grid(visible=False, axis="y")
        axes.legend(loc="lower right")
    return found[0]


def training(history: Training) -> str:
    """Draw loss and validation accuracy by epoch."""
    epochs = [entry.number for entry in history.epochs]
    with _axes(2.8) as (axes, found):
        axes.plot(epochs, [entry.loss for entry in history.epochs], marker="o", color=SERIES[0],
                  label="training loss (left)")  # fmt: skip
        axes.set(xlabel="epoch", ylabel="loss")
        axes.set_xticks(epochs)
        right = axes.twinx()
        tops = [history.start_top1, *(entry.validation_top1 for entry in history.epochs)]
        right.plot([0, *epochs], [100 * top for top in tops], marker="s", color=SERIES[1],
                   linestyle=DASHES[1], label="validation top-1, % (right)")  # fmt: skip
        right.grid(visible=False)
        handles = [*axes.get_lines(), *right.get_lines()]
        axes.legend(handles, [line.get_label() for line in handles], loc="lower center",
                    bbox_to_anchor=(0.5, 1.0), ncols=2)  # fmt: skip
    return found[0]
