"""The report of a run: complete, self-contained, and safe with whatever data is called."""

import re
import shlex
import shutil
from html.parser import HTMLParser

import pytest

from capdeploy.bench import environment
from capdeploy.bench.budgets import NOT_EVALUATED, beyond
from capdeploy.errors import MissingExtraError, UsageError
from capdeploy.report import figures, html, page, precision, sections, sweep, tables, trust
from capdeploy.sweep import results
from capdeploy.values.accuracy import Accuracy, ClassAccuracy
from capdeploy.values.artifact import Quantized
from capdeploy.values.cost import Cost
from capdeploy.values.latency import Search, Trial
from capdeploy.values.report import (
    BenchmarkReport,
    BudgetOutcome,
    Measured,
    Row,
    RunReport,
    Settings,
    Skipped,
    SpeedUp,
)
from capdeploy.values.sweep import Axis, Failure, SweepReport, SweepRow, Timing
from tests.commands import capdeploy

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Checker(HTMLParser):
    """Every tag is closed in order; whatever could ask for something is collected."""

    def __init__(self):
        super().__init__()
        self.open, self.asked, self.headings, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.asked += [
            (name, value) for name, value in attrs
            if name in ("src", "href", "action", "xlink:href") and not (value or "").startswith("#")
        ]  # fmt: skip

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def checked(text):
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert not checker.asked
    assert not {"script", "link", "iframe", "img"} & set(checker.tags)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)
    return checker


@pytest.fixture(scope="module")
def measured(run):
    """The shared run with a search and an interval of its own, as a latency budget leaves them."""
    report, plans = page.read(run.folder)
    trial = Trial(macs=10, parameters=5, estimated=1.0, measured=0.9)
    search = Search(runtime="onnxruntime", device="cpu", threads=1, percentile=50, budget=1.0,
                    base=2.0, trials=(trial,), chosen=0)  # fmt: skip
    plans["ratio-0.5"] = plans["ratio-0.5"].model_copy(update={"search": search})
    return report, plans


def test_the_page_holds_every_section_and_asks_for_nothing(measured):
    report, plans = measured
    made = page.page(report, plans, "OUT", plots=True)
    found = checked(html.render(made))
    assert found.headings[1:] == [
        "Before and after", "Budgets", "Accuracy of ratio-0.5", "Trust", "What ratio-0.5 keeps",
        "Parity with PyTorch", "Where and how", "To repeat it",
    ]  # fmt: skip
    assert found.tags.count("svg") == 3  # accuracy, training, widths
    text = html.render(made)
    assert "capdeploy compress -c OUT/recipe.toml -o OUT" in text
    assert "Search for the budget" in text
    assert "+11%" in text  # of the estimate


@pytest.mark.parametrize(("style", "begins"), [("md", "# "), ("json", "{")])
def test_every_format_goes_into_a_file_if_one_is_named(run, tmp_path, style, begins):
    words = ("report", run.folder, "-f", style, "-o", tmp_path / "page")
    assert capdeploy(*words).returncode == 0
    assert (tmp_path / "page").read_text().startswith(begins)
    again = capdeploy(*words)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert capdeploy(*words, "--force").stdout == f"{tmp_path / 'page'}\n"


def test_the_confusion_adds_up(run):
    result = run.report.models[1]
    assert [sum(row) for row in result.confusion] == [
        entry.images for entry in result.accuracy[-1].classes
    ]
    assert [row[at] for at, row in enumerate(result.confusion)] == [
        entry.correct for entry in result.accuracy[-1].classes
    ]


def test_names_from_data_are_shown_and_not_obeyed(run):
    evil = '<script>alert("7")</script>'
    text = run.report.to_json().replace('"name": "7"', f'"name": "{evil}"'.replace('"7"', "'7'"))
    report = RunReport.from_json(text)
    _, plans = page.read(run.folder)
    rendered = html.render(page.page(report, plans, "<b>OUT</b>", plots=True))
    checked(rendered)
    assert "&lt;script&gt;" in rendered
    assert "<b>OUT" not in rendered


def test_figures_take_the_colours_of_the_page(run):
    metrics = run.report.models[1]
    drawn = figures.per_class(metrics.accuracy[2], metrics.accuracy[-1])
    assert "var(--series-0)" in drawn
    assert "var(--ink)" in drawn
    assert not re.search(r"#0102\d\d", drawn)
    assert drawn == figures.per_class(metrics.accuracy[2], metrics.accuracy[-1])
    lines = [("fast", [1.0, 1.1, 1.2]), ("slow", [4.0, 5.0, 4.5])]
    assert figures.ecdf(lines, "latency").count("stroke-dasharray") >= 1
    spots = [figures.Spot("a", 1.0, 0.9, 0.8, 0.95), figures.Spot("b", 2.0, 0.95, 0.9, 0.99)]
    assert figures.spots(spots, [1.5, 2.5]).count(">budget<") == 1
    assert ">budget<" not in figures.spots(spots, [])


def test_the_command_writes_files_or_the_one_named_and_prints_markdown(run, tmp_path):
    done = capdeploy("report", run.folder, "-o", tmp_path / "report.html")
    assert (done.returncode, done.stderr) == (0, "")
    checked((tmp_path / "report.html").read_text())
    again = capdeploy("report", run.folder, "-o", tmp_path / "report.html")
    assert again.returncode == 2
    assert "add --force" in again.stderr
    shutil.copytree(run.folder, tmp_path / "out")
    (tmp_path / "out" / "report.md").write_text("mine")
    refused = capdeploy("report", tmp_path / "out")
    assert (refused.returncode, "report.md exists" in refused.stderr) == (2, True)
    assert not (tmp_path / "out" / "report.html").exists()
    assert capdeploy("report", tmp_path / "out", "--force").returncode == 0
    checked((tmp_path / "out" / "report.html").read_text())
    printed = capdeploy("report", run.folder, "-f", "md")
    assert printed.stdout == (tmp_path / "out" / "report.md").read_text().replace(
        str(tmp_path / "out"), str(run.folder)
    )
    assert printed.stdout.startswith("# tests.nets:Residual: 3 of 10 classes (7, 1, 4)")
    assert "## Parity with PyTorch" in printed.stdout
    assert "svg" not in printed.stdout


def row(run, subset, p90, correct, size=1000):
    accuracy = Accuracy(
        stage="cut", classes=(ClassAccuracy(name="a", correct=correct, images=100),)
    )
    timing = Timing(runtime="onnxruntime", device="cpu", threads=1, p50_ms=p90 / 2, p90_ms=p90)
    return SweepRow(
        run=run, point={"subset": subset, "seed": run}, bundle="ratio-0.5", baseline=False,
        accuracy=accuracy, cost=Cost(parameters=int(1000 * p90), macs=1, filters=1),
        size_bytes=size, timing=timing,
    )  # fmt: skip


@pytest.fixture
def swept():
    rows = [row("x", "a", 1.0, 90), row("y", "a", 2.0, 95), row("z", "a", 2.5, 92),
            row("x", "b", 3.0, 50)]  # fmt: skip
    axes = (Axis(name="subset", points=("a", "b")), Axis(name="seed", points=("x", "y", "z")))
    failed = Failure(run="w", point={"subset": "b", "seed": "y"}, error="<b>no</b>")
    marked = tuple(results._marked(rows, ("subset",)))
    return SweepReport(
        tool_version="0", axes=axes, question=("subset",), rows=marked, failures=(failed,)
    )


def test_a_sweep_lists_what_is_out_of_reach_and_is_not_broken_by_it(swept):
    line = "latency-1ms cannot be met: starting its layers alone takes 2 ms"
    beyond = Failure(run="x", point={"subset": "a", "seed": "x"}, error=line)
    whole = swept.model_copy(update={"failures": (), "out_of_reach": (beyond,)})
    made = sweep.page(whole, "OUT", plots=False)
    assert made.good
    assert "1 limit(s) out of reach" in made.verdict
    assert ("x", line) in sweep.tables(whole)[-1].rows


def test_a_front_for_each_question(swept):
    assert [each.dominated for each in swept.rows] == [False, False, True, False]


def test_what_was_not_measured_beats_nothing_that_was():
    unmeasured = row("x", "a", 1.0, 90).model_copy(update={"timing": None})
    marked = results._marked([unmeasured, row("y", "a", 2.0, 90)], ())
    assert [each.dominated for each in marked] == [True, False]
    assert not results._marked([unmeasured], ())[0].dominated


def test_times_of_another_question_do_not_count():
    quick = row("x", "b", 1.0, 90).model_copy(update={"cost": row("x", "a", 3.0, 90).cost})
    rows = [row("x", "a", 3.0, 90), row("y", "a", 2.0, 90), quick]
    marked = results._marked(rows, ("subset",))
    assert [each.dominated for each in marked] == [True, False, False]


def test_noise_does_not_choose_between_networks_of_one_shape():
    slow, fast = row("x", "a", 1.0, 90), row("y", "a", 1.0, 90)
    late = slow.timing.model_copy(update={"p90_ms": 1.4})
    marked = results._marked([slow.model_copy(update={"timing": late}), fast], ())
    assert not any(each.dominated for each in marked)


def test_what_loses_too_much_is_on_no_front_and_pushes_none_off_it():
    better = row("x", "a", 1.0, 99).model_copy(update={"missed": "x loses 3 points"})
    one, other = results._marked([better, row("y", "a", 2.0, 90)], ())
    assert (one.best, other.best) == (False, True)
    axes = (Axis(name="subset", points=("a",)),)
    report = SweepReport(tool_version="0", axes=axes, question=(), rows=(one, other))
    shown = sweep.tables(report)[0]
    assert "1 of 2 rows miss a limit" in sweep.page(report, "OUT", plots=False).verdict
    assert [cells[-1] for cells in shown.rows] == ["missed", "*"]
    assert "x loses 3 points" in shown.notes


def test_a_sweep_has_a_page_of_its_own(swept, tmp_path):
    (tmp_path / "sweep.json").write_text(swept.to_json())
    done = capdeploy("report", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "report.html").read_text()
    found = checked(text)
    assert found.headings[0] == "Sweep over subset, seed"
    assert found.tags.count("svg") == 1
    assert "1 failure(s)" in text
    assert "&lt;b&gt;no" in text
    assert "Over the seeds" in capdeploy("report", tmp_path, "-f", "md").stdout


def test_the_front_of_a_run_is_drawn():
    spots = [figures.Spot(str(at), at + 1.0, 0.5 + at / 10, 0.4, 0.99) for at in range(4)]
    assert "Pareto front" in figures.spots(spots, [])


def test_no_two_series_look_alike_without_colour():
    for look in (figures._line, figures._point):
        looks = [{**look(place), "color": None} for place in range(13)]
        assert all(one not in looks[:place] for place, one in enumerate(looks))


def test_where_the_head_is_whole_it_is_what_networks_are_compared_with(run):
    """Answers within the classes alone are right more often: no cut is to blame for that."""
    found = run.report.models[1]
    whole, masked, cut, *rest = found.accuracy
    assert (whole.stage, masked.stage, cut.stage) == ("full head", "full head, masked", "head cut")
    assert found.start == cut
    kept = found.model_copy(update={"accuracy": (masked, whole, *rest)})
    assert kept.start == whole
    assert tables.per_class(kept).columns[1] == "full head [95 %]"
    first = run.report.models[0].model_copy(update={"accuracy": (masked, whole)})
    report = run.report.model_copy(update={"models": (first, kept)})
    assert ("full head", f"{whole.top1:.1%}") in page.page(report, {}, "OUT", plots=False).facts


@pytest.mark.parametrize(("device", "said"), [("cpu", "the CPU"), ("cuda", "cuda")])
def test_the_plot_is_of_the_runtime_that_a_search_was_made_for(run, measured, device, said):
    report, plans = measured
    search = plans["ratio-0.5"].search
    result = Measured(
        effective={}, load_ms=1, first_ms=1, warmup_ms=(), latency_ms=(1.5,), peak_rss_mib=1,
        size_bytes=1,
    )  # fmt: skip
    rows = tuple(
        Row(settings=Settings(bundle=name, runtime=runtime, device=device, threads=1),
            result=result)
        for runtime in ("onnxruntime", "openvino") for name in ("baseline", "ratio-0.5")
    )  # fmt: skip
    benchmark = BenchmarkReport(
        environment=environment.read(), profile="this-host", emulated=False, includes="all",
        rows=rows,
    )  # fmt: skip
    first, slim = report.models
    search = search.model_copy(update={"device": device})
    [shown] = sections.latency(report.model_copy(update={"benchmark": benchmark}), plots=True)
    assert len(shown.figures) == 2
    for runtime in ("onnxruntime", "openvino"):
        asked = slim.model_copy(
            update={"search": search.model_copy(update={"runtime": runtime, "budget": 0.7})}
        )
        made = report.model_copy(update={"models": (first, asked), "benchmark": benchmark})
        [figure] = sections.spots(made, plots=True)
        assert f"latency in {runtime} on {said};" in figure.caption
        assert ">budget<" in figure.svg


def test_half_precision_is_shown_beside_the_gpu_s_own_times(run):
    """Nothing runs it on a CPU, so its line had neither a time nor a word on being slower."""
    slim = run.report.models[1]
    each = Quantized(
        precision="fp16", runtime="onnxruntime", files=("model.fp16.onnx",), size_bytes=5,
        before=slim.accuracy[-1], after=slim.accuracy[-1],
    )  # fmt: skip

    def row(device, precision, ms, faster):
        result = Measured(
            effective={}, load_ms=1, first_ms=1, warmup_ms=(), latency_ms=(ms,), peak_rss_mib=1,
            size_bytes=1,
            speed_up=SpeedUp(ratio=faster, low=faster, high=faster, rounds=1, baseline_ms=(1.0,),
                             bundle_ms=(1.0,)),
        )  # fmt: skip
        at = Settings(bundle=slim.name, runtime="onnxruntime", device=device, threads=1,
                      precision=precision)  # fmt: skip
        return Row(settings=at, result=result)

    rows = (row("cpu", "fp32", 4.0, 2.0), row("cuda", "fp32", 1.0, 1.2),
            row("cuda", "fp16", 1.6, 0.9))  # fmt: skip
    report = run.report.model_copy(
        update={
            "models": (slim.model_copy(update={"quantized": (each,)}),),
            "benchmark": BenchmarkReport(
                environment=environment.read(), profile="this-host", emulated=False,
                includes="all", rows=rows,
            ),
        }
    )  # fmt: skip
    whole, half = precision.precisions(report).rows
    assert whole[6] == "4"
    assert half[6:] == ("1.6 (cuda)", "0.75x", "kept; slower than fp32 here")


def test_what_every_network_says_to_dropped_classes_is_shown(run):
    [section] = trust.shown(run.report)
    table = section.tables[-1]
    assert table.columns == ("class", "baseline", "ratio-0.5")
    for place, metrics in enumerate(run.report.models, start=1):
        counts = [int(row[place]) for row in table.rows]
        assert sum(counts) == metrics.trust.rejection.dropped_images > 0


def test_the_command_to_repeat_it_can_be_pasted(run, swept):
    made = page.page(run.report, {}, "my runs/o'clock", plots=False)
    words = shlex.split(made.command)
    assert words[:4] == ["capdeploy", "compress", "-c", "my runs/o'clock/recipe.toml"]
    words = shlex.split(sweep.page(swept, "my runs", plots=False).command)
    assert words[2] == "my runs/sweep-recipe.toml"


def test_no_run_and_no_library_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"is no finished run: it has no report.json"):
        page.read(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"capdeploy\[report\]"):
        figures.ecdf([("a", [1.0])], "x")


@pytest.mark.parametrize("images", range(1, 40))
def test_perfect_accuracy_can_be_drawn(images):
    """Wilson's upper end once rounded to just below one."""
    all_right = ClassAccuracy(name="a", correct=images, images=images)
    assert all_right.interval[1] >= all_right.top1 == 1.0
    figures.spots([figures.Spot("a", 1.0, 1.0, *all_right.interval)], [])


def test_dollars_in_class_names_are_dollars():
    before = Accuracy(stage="head cut", classes=tuple(
        ClassAccuracy(name=name, correct=5, images=9) for name in ("$5_$10", "a$b$c", "x_1^2")
    ))  # fmt: skip
    drawn = figures.per_class(before, before.model_copy(update={"stage": "after"}))
    assert all(name in drawn for name in ("$5_$10", "a$b$c", "x_1^2"))


def test_the_verdict_is_that_of_the_command(run):
    report, plans = page.read(run.folder)
    row = Row(settings=Settings(bundle="ratio-0.5", runtime="openvino", device="cpu", threads=1),
              result=Skipped(reason="failed: it broke", failed=True))  # fmt: skip
    benchmark = BenchmarkReport(profile="this-host", emulated=False, environment=environment.read(),
                                includes="all", rows=(row,))  # fmt: skip
    broken = report.model_copy(update={"benchmark": benchmark})
    made = page.page(broken, plans, "OUT", plots=False)
    assert not made.good
    assert "it broke" in made.verdict


@pytest.mark.parametrize(
    ("change", "ms", "said"),
    [({}, 1.5, True), ({}, 1.02, False), ({"precision": "int8"}, 1.5, False),
     ({"threads": 2}, 1.5, False), ({"bundle": "baseline"}, 1.5, False)],
)  # fmt: skip
def test_a_network_slower_than_its_search_measured_is_named(measured, change, ms, said):
    report, plans = measured
    slim = report.models[1].model_copy(update={"search": plans["ratio-0.5"].search})
    at = Settings(**{"bundle": "ratio-0.5", "runtime": "onnxruntime", "device": "cpu",
                     "threads": 1} | change)  # fmt: skip
    result = Measured(effective={}, load_ms=1, first_ms=1, warmup_ms=(), latency_ms=(ms,) * 99,
                      peak_rss_mib=1, size_bytes=1)  # fmt: skip
    benchmark = BenchmarkReport(
        profile="this-host", emulated=False, environment=environment.read(), includes="all",
        rows=(Row(settings=at, result=result),),
    )  # fmt: skip
    assert (beyond(slim, benchmark) is not None) is said
    both = report.model_copy(update={"models": (report.models[0], slim), "benchmark": benchmark})
    notes = tables.summary(both).notes
    assert any("beyond its budget of 1 ms" in note for note in notes) is said
    # Where the head-cut network takes twice as long as beside the search, so may this one.
    slow = Row(settings=at.model_copy(update={"bundle": "baseline"}),
               result=result.model_copy(update={"latency_ms": (4.0,) * 99}))  # fmt: skip
    assert beyond(slim, benchmark.model_copy(update={"rows": (slow, *benchmark.rows)})) is None


def test_the_verdict_counts_what_could_not_be_judged(run):
    report, plans = page.read(run.folder)
    at = Settings(bundle="ratio-0.5", runtime="openvino", device="cpu", threads=1)
    outcomes = tuple(
        BudgetOutcome(settings=at, budget="latency_p50_ms", limit=1.0, outcome=outcome,
                      severity="fail")
        for outcome in ("kept", "inconclusive", NOT_EVALUATED, NOT_EVALUATED)
    )  # fmt: skip
    rows = (Row(settings=at, result=Skipped(reason="no such device")),)
    benchmark = BenchmarkReport(profile="this-host", emulated=True, environment=environment.read(),
                                includes="all", rows=rows, budgets=outcomes)  # fmt: skip
    made = page.page(report.model_copy(update={"benchmark": benchmark}), plans, "O", plots=False)
    [asked] = next(section for section in made.sections if section.title == "Budgets").tables
    assert [cells[-1] for cells in asked.rows] == [
        "met", "kept", "inconclusive", NOT_EVALUATED, NOT_EVALUATED
    ]  # fmt: skip
    assert asked.rows[0][1] == report.models[1].requested
    assert asked.rows[1][1] == "latency_p50_ms <= 1"
    assert f"1 of 4 budgets kept, 1 inconclusive, 2 {NOT_EVALUATED}" in made.verdict
