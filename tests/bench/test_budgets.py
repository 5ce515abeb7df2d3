"""Budgets of both kinds: absolute ones of the device, relative ones against the baseline."""

import pytest

from capdeploy.bench import budgets, environment, stats
from capdeploy.errors import BudgetError, ConfigError
from capdeploy.report import tables
from capdeploy.values.accuracy import Accuracy, ClassAccuracy
from capdeploy.values.profile import Budgets, Gate, HardwareProfile
from capdeploy.values.report import BenchmarkReport, Measured, Row, Settings, SpeedUp


def profile(**limits):
    tables_ = {
        name: limit if isinstance(limit, dict) else {"value": limit}
        for name, limit in limits.items()
    }
    plain = {"schema": 1, "id": "x", "device": {"arch": "any"}, "budgets": tables_}
    return HardwareProfile.from_plain(plain, source="test")


def counted(correct, images=100):
    entry = ClassAccuracy(name="a", correct=correct, images=images)
    return Accuracy(stage="x", classes=(entry,))


def row(name="b", *, speed_up=None, correct=None, before=None, images=100, **settings):
    versus = None
    if speed_up is not None:
        ratio, low, high = speed_up
        versus = SpeedUp(ratio=ratio, low=low, high=high, rounds=6, baseline_ms=(2.0,) * 6,
                         bundle_ms=(1.0,) * 6)  # fmt: skip
    accuracy = None if correct is None else counted(correct, images)
    return Row(
        settings=Settings(
            **({"bundle": name, "runtime": "fake", "device": "cpu", "threads": 1} | settings)
        ),
        result=Measured(
            effective={}, load_ms=1, first_ms=1, warmup_ms=(), latency_ms=(2.0,) * 20,
            peak_rss_mib=100, size_bytes=3 << 20, speed_up=versus, accuracy=accuracy,
            baseline_accuracy=None if before is None else counted(before),
        ),
    )  # fmt: skip


def one(rows, limits, *, is_device=False):
    (found,) = budgets.judge(rows, limits, is_device=is_device)
    return found


@pytest.mark.parametrize(
    ("ships", "judged"), [("fp32", ["fp32", "int8", "fp32"]), ("int8", ["int8", "fp32"])]
)
def test_budgets_count_in_what_is_shipped(ships, judged):
    """Bundle c has no other graph than that in single precision."""
    limits = profile(min_speed_up=2.0)
    runtime = limits.runtime.model_copy(update={"precision": ships})
    limits = limits.model_copy(update={"runtime": runtime})
    faster = (2.5, 2.1, 2.9)
    rows = [row(speed_up=faster), row(speed_up=faster, precision="int8"), row("c", speed_up=faster)]
    found = budgets.judge(rows, limits, is_device=False)
    assert [outcome.settings.precision for outcome in found] == judged


UNDECIDED = "inconclusive"


@pytest.mark.parametrize(
    ("limits", "interval", "outcome"),
    [
        ({"min_speed_up": 2.0}, (2.5, 2.1, 2.9), "kept"),
        ({"min_speed_up": 2.0}, (1.5, 1.2, 1.9), "missed"),
        ({"min_speed_up": 2.0}, (2.1, 1.9, 2.3), UNDECIDED),
        ({"min_speed_up": 2.0}, (2.0, 2.0, 2.0), "kept"),
        ({"latency_ratio": 0.5}, (2.5, 2.1, 2.9), "kept"),
        ({"latency_ratio": 0.5}, (1.5, 1.2, 1.9), "missed"),
        ({"latency_ratio": 0.5}, (2.1, 1.9, 2.3), UNDECIDED),
        ({"latency_ratio": 0.5}, (2.0, 2.0, 2.0), "kept"),
    ],
)
@pytest.mark.parametrize("is_device", [True, False])
def test_relative_latency_is_judged_by_its_whole_interval_on_any_host(
    limits, interval, outcome, is_device
):
    found = one([row(speed_up=interval)], profile(**limits), is_device=is_device)
    assert found.outcome == outcome
    expected = interval[0] if "min_speed_up" in limits else 1 / interval[0]
    assert found.value == pytest.approx(expected)
    assert ("inconclusive" in budgets.words(found)) == (outcome == UNDECIDED)


def test_the_speed_up_of_real_rounds_decides():
    clear = stats.speed_up([3.0, 3.1, 2.9] * 4, [1.0, 1.1, 0.9] * 4)
    rows = [row(speed_up=(clear.ratio, clear.low, clear.high))]
    assert one(rows, profile(min_speed_up=1.5)).outcome == "kept"
    assert one(rows, profile(min_speed_up=6)).outcome == "missed"


@pytest.mark.parametrize(
    ("correct", "limit", "outcome"),
    [(95, 1.0, "kept"), (95, 0, "kept"), (94, 1.0, "kept"), (93, 1.0, "missed"), (99, 0, "kept")],
)
def test_the_accuracy_drop_is_exact_and_in_points(correct, limit, outcome):
    found = one([row(correct=correct, before=95)], profile(accuracy_drop_points=limit))
    assert found.outcome == outcome
    assert found.value == pytest.approx(95 - correct)


def test_the_drop_is_against_the_network_s_own_baseline_whatever_else_is_measured():
    rows = [row("baseline", correct=99), row(correct=89, before=90)]
    assert one(rows, profile(accuracy_drop_points=2)).value == pytest.approx(1)


@pytest.mark.parametrize(
    "rows",
    [
        [row(correct=90)],
        [row("baseline", correct=90), row(correct=90)],  # of another run, as it may be
        [row(before=90)],
        [row(correct=90, before=90, images=99)],
    ],
)
def test_without_a_like_baseline_there_is_no_drop_and_no_failure(rows):
    found = one(rows, profile(accuracy_drop_points=0))
    assert (found.outcome, found.value) == (budgets.NOT_EVALUATED, None)
    assert "no baseline to compare with" in budgets.words(found)


def test_kinds_and_severities():
    relative = {name for name in Budgets.model_fields if Budgets.kind(name) == "relative"}
    assert relative == {"latency_ratio", "min_speed_up", "accuracy_drop_points"}
    schema = Budgets.model_json_schema()["properties"]
    assert {name for name, entry in schema.items() if entry.get("kind") == "relative"} == relative
    limits = {"min_speed_up": {"value": 3, "severity": "warn"}}
    rows = [row("baseline"), row(speed_up=(1.5, 1.2, 1.9))]
    warned = report_of(rows, profile(**limits))
    budgets.require(warned)  # a warning ends nothing
    assert any("min_speed_up >= 3" in note for note in tables.benchmark(warned).notes)
    limits["min_speed_up"]["severity"] = "fail"
    with pytest.raises(
        BudgetError, match=r"min_speed_up >= 3 for b in fake on cpu: missed \(1.5\)"
    ):
        budgets.require(report_of(rows, profile(**limits)))
    straddling = [row("baseline"), row(speed_up=(3.0, 2.5, 3.5))]
    budgets.require(report_of(straddling, profile(**limits)))


def report_of(rows, limits):
    return BenchmarkReport(
        profile="x", emulated=True, environment=environment.read(), includes="", rows=tuple(rows),
        budgets=budgets.judge(rows, limits, is_device=False),
    )  # fmt: skip


def test_a_profile_carries_the_gate_s_thresholds():
    assert profile().gate == Gate(min_effect=0.05, max_noise=0.15)
    plain = {"schema": 1, "id": "x", "device": {"arch": "any"}, "gate": {"min_effect": 0.1}}
    assert HardwareProfile.from_plain(plain, source="test").gate.min_effect == 0.1


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"gate": {"min_effect": 0}}, "gate.min_effect: .*greater than 0, found 0"),
        ({"gate": {"max_noise": 1}}, "gate.max_noise: .*less than 1, found 1"),
        ({"budgets": {"latency_ratio": {"value": 0}}}, "latency_ratio.value"),
        ({"budgets": {"accuracy_drop_points": {"value": -1}}}, "accuracy_drop_points.value"),
        ({"match": {"cpu_model": "("}}, "not a regular expression"),
    ],
)
def test_nonsense_in_a_profile_is_refused(part, words):
    plain = {"schema": 1, "id": "x", "device": {"arch": "any"}} | part
    with pytest.raises(ConfigError, match=words):
        HardwareProfile.from_plain(plain, source="test")
