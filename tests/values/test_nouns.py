"""Every noun refuses nonsense, never changes, and survives a trip through JSON."""

import json

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capdeploy.errors import ConfigError
from capdeploy.values.accuracy import Accuracy, ClassAccuracy, wilson
from capdeploy.values.budget import Budget
from capdeploy.values.checkpoint import Architecture, Preprocessing
from capdeploy.values.classes import ClassSubset
from capdeploy.values.cost import Cost
from capdeploy.values.group import Block
from capdeploy.values.manifest import Manifest
from capdeploy.values.plan import GroupCut, LayerCut, PruningPlan
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.recipe import Recipe
from capdeploy.values.report import Measured, Metrics, RunReport
from capdeploy.values.scores import FilterScores, LayerScores


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ClassSubset(kept=(), names=(), total=3), "0 class chosen"),
        (lambda: ClassSubset(kept=(1,), names=("a",), total=3), "at least 2"),
        (lambda: ClassSubset(kept=(1, 1), names=("a", "b"), total=3), "more than once"),
        (lambda: ClassSubset(kept=(1, 3), names=("a", "b"), total=3), "outside 0..2"),
        (lambda: ClassSubset(kept=(0, -1), names=("a", "b"), total=3), "outside 0..2"),
        (lambda: ClassSubset(kept=(0, 1), names=("a",), total=3), "1 names for 2"),
        (lambda: ClassSubset(kept=(0, 1), names=("a", "a"), total=3), "same name"),
        (lambda: LayerScores(layer="c", values=(1.0, float("nan"))), "layer c.*filter 1 is nan"),
        (lambda: LayerScores(layer="c", values=(float("inf"),)), "not finite"),
        (lambda: LayerScores(layer="c", values=()), "at least 1"),
        (
            lambda: FilterScores(
                strategy="x", images=1, seed=0, layers=(LayerScores(layer="c", values=(1.0,)),) * 2
            ),
            "scored twice",
        ),
        (lambda: Budget(ratio=1), "would leave nothing"),
        (lambda: Budget(ratio=-0.1), "outside"),
        (lambda: Budget(ratio=1.5), "outside"),
        (lambda: Budget(ratio=0.5, align=0), "greater than or equal to 1"),
        (lambda: LayerCut(layer="c", kept_out=()), "lose every output"),
        (lambda: LayerCut(layer="c", kept_in=(1, 1)), "repeat"),
        (lambda: GroupCut(group="c", members=("c:out",), width=4, kept=(2, 1)), "ascend"),
        (lambda: GroupCut(group="c", members=("c:out",), width=4, kept=(0, 4)), "outside 0..3"),
        (lambda: Block(name="b", becomes="relu", layers=()), "at least 1"),
        (lambda: Block(name="b", becomes="conv", layers=("b.c",)), "identity"),
        (lambda: ClassAccuracy(name="a", correct=3, images=2), "3 correct of 2"),
        (lambda: Preprocessing(height=8, width=8, mean=(0, 0, 0), std=(1, 0, 1)), "std must be"),
        (lambda: Recipe(checkpoint="c", arch="a", data="d", ratio=(0.5, 0.5)), "twice"),
        (lambda: Recipe(checkpoint="c", arch="a", data="d", typo=1), "Extra inputs"),
        (
            lambda: Measured(
                effective={}, load_ms=1, first_ms=1, warmup_ms=(), latency_ms=(1.0, 0.0),
                peak_rss_mib=1, size_bytes=1,
            ),
            "not above zero",
        ),
    ],
)  # fmt: skip
def test_nonsense_is_refused(build, words):
    with pytest.raises(pydantic.ValidationError, match=words):
        build()


def test_a_noun_never_changes():
    subset = ClassSubset(kept=(2, 0), names=("c", "a"), total=3)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        subset.total = 4
    assert subset.kept == (2, 0)  # the user's order, not the ids' order


@given(
    kept=st.lists(st.integers(0, 49), min_size=2, max_size=20, unique=True),
    ratio=st.floats(0, 0.99),
    align=st.integers(1, 32),
)
def test_json_round_trip_is_identity(kept, ratio, align):
    subset = ClassSubset(kept=tuple(kept), names=tuple(map(str, kept)), total=50)
    budget = Budget(ratio=ratio, align=align, protect=("layer1.*",))
    assert ClassSubset.from_json(subset.to_json()) == subset
    assert Budget.from_json(budget.to_json()) == budget


def test_the_documents_of_a_run_round_trip(run):
    kinds = {"manifest.json": Manifest, "plan.json": PruningPlan, "metrics.json": Metrics}
    for name, kind in kinds.items():
        text = (run.bundle / name).read_text()
        assert kind.from_json(text).to_json() == text
    text = (run.folder / "report.json").read_text()
    assert RunReport.from_json(text) == run.report


def test_json_lists_of_numbers_stay_on_one_line():
    cut = LayerCut(layer="c", kept_out=tuple(range(100)))
    assert len(cut.to_json().splitlines()) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "source.json: Invalid JSON"),
        ("[]", "source.json: .*object"),
        ('{"ratio": 2}', "source.json: .*outside"),
        ('{"ratio": 0.5, "ratoi": 1}', "source.json: ratoi"),
        ('{"align": "x", "floor": 7}', "1 more"),
    ],
)
def test_bad_json_is_one_line_that_names_the_file(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Budget.from_json(text, source="source.json")
    assert "\n" not in str(caught.value)


def test_manifest_files_cannot_leave_the_folder(run):
    plain = (run.bundle / "manifest.json").read_text()
    for evil in ("../evil", "/etc/passwd", "a/b", ".hidden"):
        with pytest.raises(ConfigError, match="may not leave"):
            Manifest.from_json(plain.replace('"labels.txt"', f'"{evil}"'))
    with pytest.raises(ConfigError, match="beside the bundle"):
        Manifest.from_json(plain.replace('"baseline": "baseline"', '"baseline": "../x"'))


def test_wilson_agrees_with_scipy():
    from scipy import stats

    for correct, images in [(0, 5), (5, 5), (45, 50), (1386, 1419), (1, 2)]:
        expected = stats.binomtest(correct, images).proportion_ci(method="wilson")
        assert wilson(correct, images) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_accuracy_adds_up_and_names_the_worst_class():
    accuracy = Accuracy(
        stage="x",
        classes=(
            ClassAccuracy(name="a", correct=9, images=10),
            ClassAccuracy(name="b", correct=1, images=5),
        ),
    )
    assert (accuracy.correct, accuracy.images, accuracy.worst.name) == (10, 15, "b")
    low, high = accuracy.interval
    assert low < accuracy.top1 < high


def test_preprocessing_is_scale_normalise_transpose():
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    rule = Preprocessing(height=4, width=5, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = np.empty((2, 3, 4, 5), dtype=np.float32)
    for channel in range(3):
        expected[:, channel] = (images[..., channel] / 255 - rule.mean[channel]) / rule.std[channel]
    assert rule.apply(images) == pytest.approx(expected, abs=1e-6)
    swapped = rule.model_copy(update={"channel_order": "BGR"})
    plain = swapped.apply(images) * np.array(rule.std).reshape(3, 1, 1)
    assert (plain + np.array(rule.mean).reshape(3, 1, 1))[:, 0] == pytest.approx(
        images[..., 2] / 255, abs=1e-6
    )


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("resnet18", "torchvision", "resnet18"),
        ("torchvision:vgg16", "torchvision", "vgg16"),
        ("a.b:make", "factory", "a.b:make"),
    ],
)
def test_architecture_words(text, source, name):
    parsed = Architecture.parse(text)
    assert (parsed.source, parsed.name) == (source, name)


def test_profile_uses_the_word_schema():
    text = '{"schema": 1, "id": "x", "device": {"arch": "any"}}'
    profile = HardwareProfile.from_json(text)
    assert profile.schema_version == 1
    assert '"schema": 1' in profile.to_json()
    with pytest.raises(ConfigError, match="less than or equal to 1"):
        HardwareProfile.from_json(text.replace("1", "2", 1))


@pytest.mark.parametrize(("first", "second", "told"), [(6, 3, None), (8, 3, 0.5), (6, 6, 0.25)])
def test_the_nominal_ratio_is_that_of_a_single_cut(first, second, told):
    """What an image alone has to drop is known of one cut, and of two on top of each other not."""

    def plan(width, kept, nominal):
        cut = GroupCut(
            group="conv", members=("conv",), width=width, unit=1, kept=tuple(range(kept)),
            nominal_ratio=nominal if kept < width else None,
        )  # fmt: skip
        cost = Cost(macs=100, parameters=10, filters=8)
        return PruningPlan(
            strategy="ocap", budget=Budget(ratio=0.5), groups=(cut,), layers=(),
            realised_ratio=1 - kept / width, full=cost, before=cost, after=cost,
        )  # fmt: skip

    both = plan(8, first, 0.25).then(plan(first, second, 0.5))
    assert both.groups[0].kept == tuple(range(second))
    assert both.groups[0].nominal_ratio == told


def test_accuracy_says_its_interval_and_reads_back_what_was_counted():
    one, other = (ClassAccuracy(name=name, correct=45, images=50) for name in "ab")
    accuracy = Accuracy(stage="head cut", classes=(one, other))
    told = json.loads(accuracy.to_json())
    assert (told["top1"], told["correct"], told["images"]) == (0.9, 90, 100)
    assert told["interval"] == pytest.approx(wilson(90, 100))
    assert told["classes"][0]["interval"] == pytest.approx(wilson(45, 50))
    assert Accuracy.from_json(accuracy.to_json()) == accuracy
    told["top1"] = 1.0  # what follows from the counts is not taken from elsewhere
    assert Accuracy.from_json(json.dumps(told)).top1 == 0.9
    with pytest.raises(ConfigError, match="top2"):
        Accuracy.from_json(json.dumps(told | {"top2": 1.0}))
