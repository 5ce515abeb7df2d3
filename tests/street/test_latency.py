"""A latency budget is met by measuring; where it cannot be met, it is said why."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capdeploy import pipeline
from capdeploy.bench import environment
from capdeploy.bench.processes import AGAIN, Processes
from capdeploy.cli import main
from capdeploy.errors import BudgetError
from capdeploy.observe import shapes
from capdeploy.progress import Quiet
from capdeploy.prune import apply, groups, regrow
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.prune.ledger import Ledger, Meter
from capdeploy.report import budgets, page
from capdeploy.stages import detours, kernels, latency, search
from capdeploy.stages import hunt as hunts
from capdeploy.stages.memory import MemoryHunt
from capdeploy.stages.place import Place
from capdeploy.train import head
from capdeploy.values.budget import Budget, Limit
from capdeploy.values.gate import Block
from capdeploy.values.latency import LatencyTable, LayerShape, WidthTimes
from capdeploy.values.report import RunReport
from tests import nets
from tests.commands import base, capdeploy
from tests.conftest import SUBSET, recipe, shaken, wrap
from tests.prune.test_groups_and_cut import scores_for

PLACE = Place("onnxruntime", "cpu", 1)


def table_of(geometry, each):
    """A table in which a layer takes what `each` says of its outputs and inputs."""
    rows = {}
    for layer in geometry.layers:
        if layer.kind == "norm":
            continue
        outs = tuple(range(1, layer.out_channels + 1))
        ins = tuple(range(1, layer.in_channels + 1)) if layer.kind != "depthwise" else (1,)
        ms = tuple(tuple(each(layer, out, into) for into in ins) for out in outs)
        rows[layer.layer] = WidthTimes(
            shape=LayerShape(kind="conv", height=1, width=1), out_channels=outs, in_channels=ins,
            ms=ms,
        )  # fmt: skip
    return LatencyTable(runtime="onnxruntime", device="cpu", threads=1, start_ms=0.001, layers=rows)


def timed_by_macs(model):
    """All that plans of a network are drawn on; a layer takes as long as it has MACs."""
    narrow = head.cut(model, SUBSET)
    macs = table_of(narrow.geometry, lambda layer, out, into: layer.cost(out, into).macs / 1e6)
    return Ground(
        scores_for(narrow), groups.find(narrow), narrow.geometry, head.cut_of(model, SUBSET),
        model.geometry.cost(), latency=macs,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ground():
    torch.manual_seed(0)
    model = wrap(shaken(nets.Residual()), "tests.nets:Residual")
    return model, timed_by_macs(model)


def of_latency(text, **rest):
    return Budget(limit=Limit.parse("latency", text), **rest)


def test_where_time_is_macs_latency_cuts_what_global_cuts(ground):
    _, drawn_on = ground
    for share in ("80%", "50%", "30%"):
        timed = planning.draw(drawn_on, of_latency(share, allocation="latency", align=2))
        counted = planning.draw(drawn_on, of_latency(share, allocation="global", align=2))
        assert timed.layers == counted.layers


def test_latency_cuts_where_time_goes_and_not_where_macs_go(ground):
    _, drawn_on = ground
    slow = drawn_on.groups[0].makers[0]
    times = table_of(
        drawn_on.geometry,
        lambda layer, out, into: out * (100.0 if layer.layer == slow else 1.0),
    )
    timed = Ground(
        drawn_on.scores, drawn_on.groups, drawn_on.geometry, drawn_on.head, drawn_on.full,
        latency=times,
    )  # fmt: skip
    plan = planning.draw(timed, of_latency("70%", allocation="latency", align=2))
    kept = {cut.group: len(cut.kept) / cut.width for cut in plan.groups}
    assert kept[drawn_on.groups[0].name] == min(kept.values())
    meter = Meter("latency", times)
    layers = drawn_on.geometry.layers
    by_hand = sum(meter.layer(each, each.out_channels, each.in_channels) for each in layers)
    assert meter.whole(drawn_on.geometry) == pytest.approx(by_hand)
    assert by_hand > 100


def in_stairs(narrow, found, grain, align):
    """A table in which kernels compute so many channels at once, timed where the tool times it."""
    asked = {name: shape for name, (shape, _) in shapes.shapes(
        narrow.module, narrow.trace.filters, narrow.example(1)).items()}  # fmt: skip
    stairs = {"dense": grain, "separable": grain}
    layers = {layer.layer: layer for layer in narrow.geometry.layers}
    rows = {
        name: WidthTimes(
            shape=grid.shape, out_channels=grid.outs, in_channels=grid.ins, grain=grid.grain,
            grain_in=grid.grain_in,
            ms=tuple(
                tuple(layers[name].cost(out, into).macs / 1e6 for into in grid.ins)
                for out in grid.outs
            ),
        )
        for name, grid in latency.grids_of(narrow.geometry, found, asked, stairs, align).items()
    }  # fmt: skip
    return LatencyTable(runtime="onnxruntime", device="cpu", threads=1, start_ms=0.001, layers=rows)


@pytest.fixture(scope="module")
def stairs():
    """A network of 32 and 64 channels on kernels that compute 8 at once, cut by twos."""
    torch.manual_seed(0)
    model = wrap(shaken(nets.Blocks(width=32)), "tests.nets:Blocks")
    narrow = head.cut(model, SUBSET)
    found = groups.find(narrow)
    return Ground(
        scores_for(narrow), found, narrow.geometry, head.cut_of(model, SUBSET),
        model.geometry.cost(), latency=in_stairs(narrow, found, 8, 2),
    )  # fmt: skip


@pytest.mark.parametrize("share", ["80%", "60%", "40%", "15%"])
def test_where_time_falls_in_stairs_widths_stop_at_them(stairs, share):
    plan = planning.draw(stairs, of_latency(share, allocation="latency", align=2))
    widths = {len(cut.kept) for cut in plan.groups if len(cut.kept) < cut.width}
    assert widths
    # Between two stairs nothing is saved, so whoever stops there has harmed for nothing.
    assert all(width % 8 == 0 for width in widths)


def test_dead_channels_do_not_hide_the_stair_behind_them(stairs):
    dead = tuple(
        layer.model_copy(update={"values": (0.0,) * 4 + layer.values[4:]})
        for layer in stairs.scores.layers
    )
    scores = stairs.scores.model_copy(update={"layers": dead})
    budget = of_latency("1%", allocation="latency", align=2)
    plan = planning.draw(replace(stairs, scores=scores), budget)
    assert {len(cut.kept) for cut in plan.groups} == {8}


def test_what_saves_no_time_does_not_go_even_where_the_budget_is_out_of_reach(stairs):
    """The head is linear, and a channel less of it would save a sliver."""
    plan = planning.draw(stairs, of_latency("1%", allocation="latency", align=2))
    assert {len(cut.kept) for cut in plan.groups} == {8}


def test_channels_that_save_no_time_go_where_something_else_is_limited_too(stairs):
    budget = of_latency("50%", allocation="latency", align=2)
    least = Limit.parse("parameters", "2%")
    plan = planning.draw(stairs, budget.model_copy(update={"also": (least,)}))
    assert plan.after.parameters <= 0.02 * plan.before.parameters
    assert min(len(cut.kept) for cut in plan.groups) < 8


@pytest.mark.parametrize("share", ["77%", "50%", "30%"])
def test_counts_are_met_by_steps_from_stair_to_stair(stairs, share):
    """The last step may span several aligned widths; it ends at the first that is enough."""
    limit = Limit.parse("macs", share)
    budget = Budget(limit=limit, allocation="latency", align=2, tolerance=0.15)
    plan = planning.draw(stairs, budget)
    assert all(len(cut.kept) % 2 == 0 for cut in plan.groups)
    assert 0.85 <= plan.after.macs / (float(share[:-1]) / 100 * plan.before.macs) <= 1


@pytest.mark.parametrize("ratio", [0.1, 0.33, 0.5, 0.61])
def test_a_ratio_by_stairs_is_no_more_than_asked(stairs, ratio):
    plan = planning.draw(stairs, Budget(ratio=ratio, allocation="latency", align=2))
    channels = sum(cut.width for cut in plan.groups)
    gone = channels - sum(len(cut.kept) for cut in plan.groups)
    assert ratio * channels <= gone < ratio * channels + 2


def test_layers_are_timed_at_their_stairs_down_to_the_narrowest():
    model = wrap(nets.Residual(width=64), "tests.nets:Residual")
    table = in_stairs(model, groups.find(model), 16, 8).layers
    assert (table["conv1"].out_channels, table["conv1"].grain) == ((16, 32, 64), 16)
    assert table["depthwise"].out_channels == (16, 32, 64, 128)
    assert table["stem"].in_channels == (3,)  # the image's channels stay
    # Two groups side by side are read there: neither reaches a stair of the sum alone.
    assert (table["head"].grain, table["head"].grain_in) == (16, 1)
    assert table["head"].in_channels == (8, 32, 64, 128)


def test_shapes_have_the_kernels_of_the_block_that_was_probed():
    point = LayerShape(kind="conv", height=8, width=8)
    assert point.like == point.model_copy(update={"block": (1, 1)}).like == "separable"
    assert point.model_copy(update={"kernel": (3, 1)}).like == "dense"
    assert point.model_copy(update={"block": (4, 4)}).like is None
    assert LayerShape(kind="linear", height=1, width=1).like is None


def test_stairs_are_measured_once_and_damaged_ones_again(tmp_path):
    watch = kernels.Stopwatch(PLACE, 0, tmp_path)
    found = kernels.stairs(watch, 8)
    assert set(found) == {"dense", "separable"}
    assert set(found.values()) <= {1, 16}
    (file,) = tmp_path.iterdir()
    file.write_text('{"dense": 16, "separable": 1}', encoding="utf-8")
    assert kernels.stairs(watch, 8) == {"dense": 16, "separable": 1}
    file.write_text('{"dense": 640, "separable": 1}', encoding="utf-8")
    assert set(kernels.stairs(watch, 8).values()) <= {1, 16}
    # Probes are in single precision, and tell nothing of other kernels.
    assert kernels.stairs(replace(watch, place=replace(PLACE, precision="int8")), 8) == {}
    assert kernels.stairs(watch, 16) == {}


@given(st.integers(0, 2**32 - 1))
def test_a_wider_layer_never_looks_faster(seed):
    random = np.random.default_rng(seed)
    outs, ins = np.arange(1, 6) * 8, np.arange(1, 5) * 8
    work = np.outer(outs, ins).astype(float)
    times = work * np.exp(random.normal(0, 0.5, work.shape))
    found = latency.rising(times, work)
    assert (np.diff(found, axis=0) > 0).all()
    assert (np.diff(found, axis=1) > 0).all()
    # Times that rise already stay as they are, but for the hundredth.
    assert latency.rising(work, work) == pytest.approx(1.01 * work)


WIDTHS = st.lists(st.integers(1, 64), min_size=1, max_size=6, unique=True).map(sorted)


@given(
    outs=WIDTHS, grain=st.sampled_from([1, 4, 8, 16]), at=st.integers(1, 70),
    share=st.floats(-1e-11, 1e-11),
)  # fmt: skip
def test_a_width_takes_as_long_as_the_next_stair(outs, grain, at, share):
    """Sums of shares of groups are not whole to the last digit."""
    row = WidthTimes(
        shape=LayerShape(kind="conv", height=1, width=1), out_channels=tuple(outs),
        in_channels=(8,), ms=tuple((float(out),) for out in outs), grain=grain,
    )  # fmt: skip
    stair = -(-at // grain) * grain
    assert row.at(at + share, 8) == pytest.approx(min(max(stair, outs[0]), outs[-1]))


@given(outs=WIDTHS, ins=WIDTHS, at=st.tuples(*[st.integers(0, 70)] * 2), seed=st.integers(0, 999))
def test_times_between_widths_are_bilinear(outs, ins, at, seed):
    ms = np.random.default_rng(seed).random((len(outs), len(ins)))
    times = WidthTimes(
        shape=LayerShape(kind="conv", height=1, width=1), out_channels=tuple(outs),
        in_channels=tuple(ins), ms=tuple(map(tuple, ms.tolist())),
    )  # fmt: skip
    wanted = np.interp(at[0], outs, [np.interp(at[1], ins, row) for row in ms])
    assert times.at(*at) == pytest.approx(wanted)


@pytest.mark.parametrize("block", [None, (1, 1), (4, 4), (1, 2)])
def test_what_lies_around_a_layer_is_taken_off_at_its_own_width(block):
    """Whatever a call costs at any width is no layer's: a narrow depthwise layer looked slow."""
    shape = LayerShape(kind="conv", height=14, width=14, kernel=(3, 3), block=block)
    grid = latency.Grid(shape, (8, 16, 64), (24,) if block is None else (64,))
    call, stem, each = 0.05, 0.001, 0.002

    def probe(out, into):
        return call + stem * into + (0.0 if out is None else each * out)

    found = latency.differences(
        grid, {(out, into): probe(out, into) for out, into in grid.probes()}
    )
    wanted = [[1.01 * each * out] for out in grid.outs]  # of which a hundredth is `rising`'s
    assert found.ms == pytest.approx(np.array(wanted))


class Simulated(hunts.Hunt):
    """Measures by a formula of the estimate instead of a clock."""

    def _written(self, model, name):
        self.asked, self.last = 1, self.ground.meter("latency").whole(model.geometry)
        return self.folder / f"{name}.onnx"

    def _export(self, plan, name):
        self.asked, self.last = self.asked + 1, self.estimate(plan)
        return self.folder / f"{name}.onnx"

    def _measure(self, file):
        whole = self.ground.meter("latency").whole(self.ground.geometry)
        return [(10.0, self.formula(self.last / whole) * 10.0)] * 3, False


@pytest.fixture(scope="module")
def on_the_way(ground, tmp_path_factory):
    """What share of the time is estimated to be left, for every network on the way down."""
    model, drawn_on = ground
    budget, folder = of_latency("50%", allocation="latency", align=1), tmp_path_factory.mktemp("x")
    hunt = Simulated(model, drawn_on, budget, PLACE, folder, folder, Quiet())
    whole = drawn_on.meter("latency").whole(drawn_on.geometry)
    return {hunt.estimate(hunt.draw(share * whole)) / whole for share in np.linspace(0, 1, 250)}


FORMULAS = {
    "as estimated": lambda share: share,
    "with a floor": lambda share: 0.2 + 0.8 * share,
    "bent": lambda share: share**2,
    "bent the other way": lambda share: share**0.5,
}


@pytest.mark.parametrize("share", [0.75, 0.5, 0.3])
@pytest.mark.parametrize("name", FORMULAS)
def test_the_search_ends_near_the_budget_within_a_dozen_measurements(
    ground, on_the_way, tmp_path, name, share
):
    model, drawn_on = ground
    found = Simulated(
        model, drawn_on, of_latency(f"{share:%}", allocation="latency", align=1), PLACE, tmp_path,
        tmp_path, Quiet(),
    )  # fmt: skip
    found.formula = FORMULAS[name]
    found.begin(model)
    best = search.narrow_down(found)
    plan = found.record(best)
    assert found.asked - 1 == len(plan.search.trials) <= hunts.MOST
    assert plan.search.result.measured <= plan.search.budget == pytest.approx(10 * share)
    # Sixteen channels a layer: steps are coarse. Then no network on the way fits better.
    assert plan.search.result.measured > 0.85 * plan.search.budget
    times = [10 * FORMULAS[name](left) for left in on_the_way]
    nearest = max(ms for ms in times if ms <= plan.search.budget)
    assert plan.search.result.measured >= min(0.97 * plan.search.budget, nearest)


def test_a_machine_that_is_never_calm_does_not_keep_a_search_for_minutes(ground, tmp_path):
    """A dozen candidates with four blocks more each would take longer than the search may."""
    model, drawn_on = ground
    budget = of_latency("50%", allocation="latency", align=1)
    hunt = hunts.Hunt(model, drawn_on, budget, PLACE, tmp_path, tmp_path / "kept", Quiet())
    hunt.base_file, made = tmp_path / "base.onnx", []
    hunt.base_file.write_bytes(b"base")

    def block(ring, head):
        """A machine that is slower each time: no process of a real one can be made to be."""
        made.append(head.stem)
        took = (1.0 + 0.1 * len(made),) * 3
        return Block(
            first="base", base_wall_ms=took, head_wall_ms=took, base_cpu_ms=took, head_cpu_ms=took,
            calls=(3, 3), repeated=0, affinity=(), effective={},
        )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "_block", block)
        for number in range(hunts.MOST):
            file = tmp_path / f"candidate-{number}.onnx"
            file.write_bytes(file.name.encode())
            rounds, cached = hunt._measure(file)
            assert (len(rounds), cached) == (3 * hunts.BLOCKS, False)
    assert made.count("candidate-1") == hunts.BLOCKS + AGAIN
    assert made.count(f"candidate-{hunts.MOST - 1}") == hunts.BLOCKS
    assert len(made) == hunts.BLOCKS * hunts.MOST + hunts.SPARE


def test_what_is_kept_is_of_one_kind_of_machine_and_one_way_to_run(ground, tmp_path, monkeypatch):
    """A test has one machine, so the other's name is made up; the files are named as ever."""
    model, drawn_on = ground
    places = [PLACE, replace(PLACE, runtime="openvino"), replace(PLACE, threads=2),
              replace(PLACE, device="cuda")]  # fmt: skip
    watches = [kernels.Stopwatch(place, 0, tmp_path, "here") for place in places]
    watches += [kernels.Stopwatch(PLACE, 0, tmp_path, "there"),
                kernels.Stopwatch(PLACE, 64, tmp_path, "here")]  # fmt: skip
    assert len({watch.file_of("start") for watch in watches}) == len(watches)

    base, one, other = (tmp_path / name for name in ("base", "one", "other"))
    for file in (base, one, other):
        file.write_bytes(file.name.encode())
    files = []

    def keep(place=PLACE, base_file=base, file=one, percentile=50):
        budget = Budget(limit=Limit(quantity="latency", most=0.5, share=True,
                                    percentile=percentile))  # fmt: skip
        hunt = hunts.Hunt(model, drawn_on, budget, place, tmp_path, tmp_path, Quiet())
        hunt.base_file = base_file
        files.append(hunt._kept(file))

    for place in (*places, replace(PLACE, precision="int8")):
        keep(place)
    keep(base_file=other)
    keep(file=other)
    keep(percentile=90)
    here = environment.read()
    monkeypatch.setattr(environment, "read", lambda: here.model_copy(update={"cpu_model": "x"}))
    keep()
    assert len(set(files)) == len(files) == 9


@pytest.fixture(scope="module")
def wide():
    """Two wide layers, so that single channels make very fine steps."""
    torch.manual_seed(0)
    model = wrap(shaken(nets.Chain(width=128)), "tests.nets:Chain")
    return model, timed_by_macs(model)


@pytest.mark.parametrize(("fixed", "share"), [(0.2, 0.25), (0.5, 0.6), (0.3, 0.4)])
def test_the_search_finds_its_way_where_a_part_of_the_time_stays(wide, tmp_path, fixed, share):
    model, drawn_on = wide
    found = Simulated(
        model, drawn_on, of_latency(f"{share:%}", allocation="latency", align=1), PLACE, tmp_path,
        tmp_path, Quiet(),
    )  # fmt: skip
    found.formula = lambda left: fixed + (1 - fixed) * left
    found.begin(model)
    plan = found.record(search.narrow_down(found))
    assert len(plan.search.trials) <= hunts.MOST
    assert 0.97 * 10 * share <= plan.search.result.measured <= 10 * share


class Heard(Quiet):
    def __init__(self):
        self.lines = []

    def note(self, message):
        self.lines.append(message)


class Clearing(Simulated):
    """The machine is busy, half as fast, until so many candidates were measured."""

    def _measure(self, file):
        slow = 2.0 if self.asked <= self.busy else 1.0
        rounds, cached = super()._measure(file)
        return [(slow * base, slow * head) for base, head in rounds], cached

    def _kept(self, file):
        return self.cache / file.name


@pytest.mark.parametrize("busy", [1, 2, 4])
@pytest.mark.parametrize("asked", ["4ms", "50%", "12ms"])
def test_milliseconds_are_those_of_the_calmest_machine_that_was_seen(wide, tmp_path, busy, asked):
    """10 ms looked like 20 at first: 4 ms would then be met by a network of 2 ms."""
    model, drawn_on = wide
    budget, say = of_latency(asked, allocation="latency", align=1), Heard()
    found = Clearing(model, drawn_on, budget, PLACE, tmp_path, tmp_path, say)
    found.formula, found.busy = lambda left: 0.3 + 0.7 * left, busy
    plan = search.answer(found, model)
    done = plan.search
    assert len(done.trials) <= hunts.MOST
    said = [line for line in say.lines if "the machine was busy" in line]
    if found.asked > busy:
        assert (done.base, len(said)) == (pytest.approx(10), 1)
        assert json.loads((tmp_path / "base.onnx").read_text()) == [[pytest.approx(10)] * 2]
    if asked == "50%":
        assert done.budget == pytest.approx(done.base / 2)
    if asked == "12ms" and found.asked > busy:
        assert plan.after == plan.before
    else:
        assert 0.97 * done.budget <= done.result.measured <= done.budget


@pytest.mark.parametrize(
    ("asked", "share"), [("4ms", 0.4), ("12ms", 1.0), ("50%", 0.5), ("p90=2.5ms", 0.25)]
)
def test_milliseconds_are_planned_as_shares_of_the_measured_network(
    wide, trained, tmp_path, monkeypatch, asked, share
):
    """The layers' times are not on the scale of whole networks, nor of fewer bits.

    The clock is a formula: which share 4 ms are of a real network differs from machine to machine.
    """
    model, drawn_on = wide
    monkeypatch.setattr(search, "Hunt", Simulated)
    monkeypatch.setattr(Simulated, "formula", lambda hunt, left: left, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    budget = of_latency(asked, allocation="latency", align=1)
    wanted = recipe(trained, ratio=(), max_latency=(asked,), steps=2)
    found = search.as_share(wanted, model, drawn_on, budget, Quiet())
    assert (found.limit.share, found.limit.most) == (True, pytest.approx(share))
    assert found.limit.percentile == budget.limit.percentile
    start = planning.draw(drawn_on, budget.model_copy(update={"limit": None, "ratio": 0.0}))
    plan = search.draw(wanted, model, drawn_on, start, budget, say=Quiet())
    assert plan.budget == budget
    meter = drawn_on.meter("latency")
    kept = {cut.layer: cut for cut in plan.layers}
    left = sum(
        meter.layer(
            each,
            len(kept[each.layer].kept_out or range(each.out_channels)),
            len(kept[each.layer].kept_in or range(each.in_channels)),
        )
        for each in drawn_on.geometry.layers if each.layer in kept
    )  # fmt: skip
    assert left <= share * meter.whole(drawn_on.geometry)
    assert left >= 0.9 * share * meter.whole(drawn_on.geometry) or share == 1


@pytest.mark.parametrize("asked", ["100%", "400ms", "p90=400ms"])
def test_the_same_graph_takes_the_same_time_and_is_no_earlier_run(wide, tmp_path, asked):
    model, drawn_on = wide
    budget = of_latency(asked, allocation="latency", align=1)
    start = planning.draw(drawn_on, budget.model_copy(update={"limit": None, "ratio": 0.0}))
    plan = search.meet(
        model, drawn_on, apply.cut(model, start), budget, PLACE, cache=tmp_path, say=Quiet()
    )
    assert plan.search.result.measured == plan.search.base <= plan.search.budget
    assert not plan.search.result.cached
    assert plan.search.percentile == budget.limit.percentile


class Disliking(Simulated):
    """Where one layer is wider than so many channels, its kernel is slow."""

    def _export(self, plan, name):
        path = super()._export(plan, name)
        kept = {cut.layer: cut.kept_out for cut in plan.layers}
        wide = kept.get(self.layer)
        self.last += 0.0 if wide is not None and len(wide) <= self.liked else self.penalty
        return path


@pytest.mark.parametrize("penalty", [0.05, 0.08, 0.5])
def test_a_group_whose_next_width_is_slow_is_held_and_the_others_go_on(wide, tmp_path, penalty):
    model, drawn_on = wide
    budget = of_latency("40%", allocation="latency", align=1)
    whole = drawn_on.meter("latency").whole(model.geometry)
    plain = Simulated(model, drawn_on, budget, PLACE, tmp_path, tmp_path, Quiet())
    found = Disliking(model, drawn_on, budget, PLACE, tmp_path, tmp_path, Quiet())
    plain.formula = found.formula = lambda left: left
    # The width that this layer has on the way, a little before the budget.
    cut = next(cut for cut in plain.draw(0.37 * whole).layers if cut.kept_out is not None)
    found.layer, found.liked, found.penalty = cut.layer, len(cut.kept_out), penalty * whole
    found.begin(model)
    plan = found.record(search.narrow_down(found))
    assert len(plan.search.trials) <= hunts.MOST
    assert found.ground.held
    kept = {cut.layer: len(cut.kept_out) for cut in plan.layers if cut.kept_out is not None}
    assert kept[found.layer] <= found.liked
    assert 0.97 * 4 <= plan.search.result.measured <= 4


@pytest.mark.parametrize("allocation", ["latency", "global", "uniform"])
@pytest.mark.parametrize("share", [0.8, 0.62, 0.45, 0.33, 0.2])
def test_where_the_order_is_too_coarse_channels_of_other_steps_come_back(
    ground, tmp_path, allocation, share
):
    """Of 16 channels 6 at a time: the order's own networks lie far apart."""
    model, drawn_on = ground
    budget = of_latency(f"{share:%}", allocation=allocation, align=6)
    found = Simulated(model, drawn_on, budget, PLACE, tmp_path, tmp_path, Quiet())
    found.formula = lambda left: left
    found.begin(model)
    best = search.narrow_down(found)
    assert len(found.points) <= hunts.MOST
    whole = drawn_on.meter("latency").whole(model.geometry)
    order = {found.estimate(found.draw(left * whole)) for left in np.linspace(0, 1, 100)}
    nearest = max(left for left in order if left <= share * whole) / whole
    assert 10 * nearest <= best.trial.measured * (1 + 1e-9)
    assert best.trial.measured <= 10 * share
    if (allocation, share) == ("uniform", 0.45):
        assert best.trial.measured > 1.2 * 10 * nearest
    if best.trial.measured >= 0.97 * 10 * share:
        return
    for cut in best.plan.groups:  # not one that takes a step back still fits
        wider = {each.group: len(each.kept) for each in best.plan.groups}
        wider[cut.group] = min(cut.width, len(cut.kept) // 6 * 6 + 6)
        left = Ledger(drawn_on.geometry, drawn_on.groups, drawn_on.meter("latency"))
        for name, keep in wider.items():
            left.take(name, keep)
        assert wider[cut.group] == len(cut.kept) or left.left > 0.992 * share * whole


def test_a_width_that_a_kernel_dislikes_does_not_keep_other_channels_away(ground, tmp_path):
    """With even shares the order's next network is far; the first group to come back is slow."""
    model, drawn_on = ground
    budget = of_latency("45%", allocation="uniform", align=6)
    whole = drawn_on.meter("latency").whole(model.geometry)
    plain = Simulated(model, drawn_on, budget, PLACE, tmp_path, tmp_path, Quiet())
    plain.formula = lambda left: left
    plain.begin(model)
    short = plain.draw(0.36 * whole)
    fast = plain.try_out(short)
    back = regrow.wider(plain.ground, budget, short, 0.02 * whole)
    (grown,) = detours._grown(fast, plain.try_out(back))
    found = Disliking(model, drawn_on, budget, PLACE, tmp_path, tmp_path, Quiet())
    found.formula, found.penalty = plain.formula, 0.5 * whole
    found.layer, found.liked = grown, len(next(c for c in short.groups if c.group == grown).kept)
    found.begin(model)
    best = detours.fill(found, found.try_out(short))
    kept = {cut.group: len(cut.kept) for cut in best.plan.groups}
    assert kept[grown] == found.liked
    assert best.estimate > 1.05 * fast.estimate
    assert found.fits(best)


class Weighing(MemoryHunt):
    """Memory by a formula; what the layers count is on another scale than the files' bytes."""

    def _written(self, model, name):
        self.last = model.geometry.cost().parameters
        return self.folder / f"{name}.onnx"

    def _measure(self, file):
        self.fixed = 50.0
        peak = 50.0 + self.last / 1e3
        return [(getattr(self, "base", peak), peak)], False

    def _export(self, plan, name):
        self.last = plan.after.parameters
        return self.folder / f"{name}.onnx"


@pytest.mark.parametrize("align", [6, 12])
def test_a_memory_whose_steps_are_coarse_ends(ground, tmp_path, align):
    model, drawn_on = ground
    budget = Budget(limit=Limit.parse("rss", "55MiB"), allocation="global", align=align)
    found = Weighing(model, drawn_on, budget, PLACE, tmp_path, tmp_path, Quiet())
    found.begin(model)
    plan = found.record(search.narrow_down(found))
    assert len(plan.search.trials) <= hunts.MOST
    assert plan.search.result.measured <= 55


@pytest.mark.parametrize(("parameters", "binds"), [("60%", False), ("10%", True)])
def test_a_latency_is_met_together_with_a_size(wide, tmp_path, parameters, binds):
    model, drawn_on = wide
    budget = Budget(
        limit=Limit.parse("latency", "50%"), also=(Limit.parse("parameters", parameters),),
        allocation="latency", align=1,
    )  # fmt: skip

    hunt = Simulated(model, drawn_on, budget, PLACE, tmp_path, tmp_path, Quiet())
    hunt.formula = lambda left: left
    plan = search.answer(hunt, model)
    left = plan.after.parameters / plan.before.parameters
    measured = plan.search.result.measured
    assert left <= float(parameters[:-1]) / 100
    assert measured <= 5.0
    assert (len(plan.search.trials) == 1) is binds
    assert (measured < 0.97 * 5.0) is binds  # far below, for the parameters bind


def test_the_search_looks_below_the_network_that_the_other_limits_allow(wide, tmp_path):
    """Parameters bind first, that network is too slow, and the next is not the smallest of all."""
    model, drawn_on = wide
    budget = Budget(
        limit=Limit.parse("latency", "20%"), also=(Limit.parse("parameters", "50%"),),
        allocation="latency", align=1,
    )  # fmt: skip
    found = Simulated(model, drawn_on, budget, PLACE, tmp_path, tmp_path, Quiet())
    found.formula = lambda left: 0.5 * left + 0.08
    plan = search.answer(found, model)
    assert plan.search.trials[0].measured > 2  # what the parameters allow is too slow
    assert 0.97 * 2 <= plan.search.result.measured <= 2


def test_a_budget_below_the_floor_says_what_is_possible_and_why(ground, tmp_path):
    model, drawn_on = ground
    found = Simulated(model, drawn_on, of_latency("1%", allocation="latency", align=8), PLACE,
                      tmp_path, tmp_path, Quiet())  # fmt: skip
    found.formula = FORMULAS["with a floor"]
    found.begin(model)
    with pytest.raises(BudgetError, match=r"the fastest network that can be cut takes .* ms in "
                       r"onnxruntime .* starting \d+ layers"):  # fmt: skip
        search.narrow_down(found)


@pytest.mark.alone
def test_the_command_meets_a_speed_up_and_repeats_it_from_the_cache(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Large images, so that what every layer takes to start does not decide.
    asked = (*base(trained), "--input-size", 96, "--speedup", "1.2x", "--align", 8, "--dry-run",
             "--set", "score_images=32", "-f", "json")  # fmt: skip
    done = capdeploy(*asked)
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(done.stdout)
    found = plan["search"]
    assert plan["budget"]["allocation"] == "latency"
    assert found["trials"][found["chosen"]]["measured"] <= found["budget"]
    assert found["budget"] == pytest.approx(found["base"] / 1.2)
    assert "candidate 1 of at most 12" in done.stderr
    again = capdeploy(*asked)
    assert "kept from an earlier run" in again.stderr
    assert "time 5 kinds" not in again.stderr
    (second,) = json.loads(again.stdout)
    assert second["layers"] == plan["layers"]


def test_a_run_records_how_its_latency_was_met(trained, tmp_path):
    wanted = recipe(
        trained, ratio=(), max_latency=("80%",), epochs=0, align=8, input_size=(96, 96),
        score_images=32, bn_images=32, reconstruct=False,
    )  # fmt: skip
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    assert [model.name for model in report.models] == ["baseline", "latency-80pct"]
    assert report.models[1].search.budget < report.models[1].search.base
    assert report.models[0].search is None
    plan = (tmp_path / "out" / "latency-80pct" / "plan.json").read_text()
    assert json.loads(plan)["search"]["runtime"] == "onnxruntime"


def test_a_latency_is_searched_for_in_the_last_step(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = capdeploy(
        *base(trained), "--input-size", 96, "--speedup", "1.2x", "--steps", 2, "--epochs", 0,
        "--align", 8, "--set", "score_images=32", "--no-bench", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, _, last = done.stderr.partition("step 2 of 2")
    assert "candidate" not in before
    assert "candidate 1 of at most 12" in last
    # The layers' times hold for every step.
    assert len(re.findall(r"time \d+ kinds", done.stderr)) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    found = report["models"][1]["search"]
    assert found["trials"][found["chosen"]]["measured"] <= found["budget"]
    assert found["budget"] == pytest.approx(found["base"] / 1.2)
    assert capdeploy("verify", tmp_path / "out").returncode == 0


def test_an_impossible_latency_ends_with_one_and_a_reason(trained, tmp_path):
    done = capdeploy(*base(trained), "--max-latency", "p90=0.1us", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the fastest network that can be cut takes" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("steps", [1, 2])
def test_an_impossible_latency_costs_the_others_nothing(trained, tmp_path, steps):
    out = tmp_path / "out"
    asked = (*base(trained), "--ratio", 0.5, "--max-latency", "p90=0.1us,p90=0.2us",
             "--steps", steps, "--no-bench")  # fmt: skip
    done = capdeploy(*asked, "-o", out, "-f", "json")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].count("cannot be met") == 2
    report = RunReport.from_json(done.stdout.encode())
    assert [metrics.name for metrics in report.models] == ["baseline", "ratio-0.5"]
    assert [line.split()[0] for line in report.out_of_reach] == [
        "latency-p90-0.0001ms",
        "latency-p90-0.0002ms",
    ]
    made = page.page(report, {}, "OUT", plots=False)
    assert not made.good
    listed = [row[2] for row in budgets.table(report).rows if row[-1] == "out of reach"]
    assert listed == list(report.out_of_reach)
    for line in listed:
        assert "the fastest network that can be cut takes" in line
        assert line in made.verdict
    assert capdeploy("verify", out).returncode == 0
    if steps == 1:
        shown = capdeploy(*asked, "--dry-run", "-f", "json")
        assert shown.returncode == 1
        assert [plan["budget"]["ratio"] for plan in json.loads(shown.stdout)] == [0.5]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--max-latency", "soon"), "'soon' is not a latency; expected 3ms, p90=3ms or 50%"),
        (("--max-latency", "0ms"), "'0ms' is not a latency"),
        (("--max-latency", "150%"), "150% of the network is more than there is"),
        (("--speedup", "fast"), "'fast' is not a speedup; expected 4x"),
        (("--speedup", "0.5x"), "200% of the network is more than there is"),
        (("--max-rss", "50MiB", "--steps", "2"), "a memory is met in one step"),
        (("--speedup", "2x", "--together"), "together needs two limits or more"),
        (("--max-macs", "50%,40%", "--together"), "are of different things"),
        (("--max-macs", "50%", "--max-params", "50%", "--ratio", "0.5", "--together"), "no ratio"),
        (("--speedup", "2x", "--runtime", "pytorch"), "give a --runtime that runs ONNX graphs"),
        (("--speedup", "2x", "--runtime", "onxruntime"), "onnxruntime"),
    ],
)
def test_what_no_latency_is(trained, capsys, arguments, line):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in (*base(trained), *arguments, "--dry-run")])
    assert stopped.value.code == 2
    assert line in capsys.readouterr().err


def test_a_damaged_or_forbidden_cache_costs_time_and_nothing_else(trained, tmp_path, monkeypatch):
    asked = (*base(trained), "--input-size", 48, "--speedup", "1.1x", "--align", 8, "--dry-run",
             "--set", "score_images=32", "-f", "json")  # fmt: skip
    home = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = capdeploy(*asked, env=home)
    assert first.returncode == 0, first.stderr
    files = list((tmp_path / "cache" / "capdeploy").glob("*.json"))
    assert len(files) > 3
    for number, file in enumerate(files):
        file.write_text(("", "{", '{"ms": 1}', "[]")[number % 4])
    again = capdeploy(*asked, env=home)
    assert again.returncode == 0, again.stderr
    assert "time " in again.stderr
    (tmp_path / "file").write_text("")
    assert capdeploy(*asked, env={"XDG_CACHE_HOME": str(tmp_path / "file")}).returncode == 0


def test_a_runtime_that_is_not_here_is_told_before_any_work(trained, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in (*base(trained), "--speedup", "2x", "--runtime", "openvino",
                                     "--dry-run")])  # fmt: skip
    assert stopped.value.code == 3
    said = capsys.readouterr().err
    assert "pip install 'capdeploy[openvino]'" in said
    assert "open checkpoint" not in said
