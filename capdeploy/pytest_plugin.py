"""A pytest plugin, so that a repository gates its own bundles beside its tests.

``pytest --capdeploy-base runs/main --capdeploy-head runs/pr`` adds a test for every fact and for
every runtime; a test file may use the fixtures `bundle` and `capdeploy_benchmark`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from capdeploy.bundle import Bundle
    from capdeploy.values.gate import Fact
    from capdeploy.values.profile import HardwareProfile

ROUNDS = 20


class RegressionError(Exception):
    """Head is worse than base; shown as one line, without a traceback."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("capdeploy")
    group.addoption("--capdeploy-base", type=Path, help="bundle or ONNX file to compare with")
    group.addoption("--capdeploy-head", type=Path, help="bundle or ONNX file that is compared")
    group.addoption("--capdeploy-profile", default="this-host", help="hardware profile")
    group.addoption("--capdeploy-runtimes", help="comma-separated; default: the profile's")
    group.addoption(
        "--capdeploy-trust-factory", action="store_true",
        help="let a bundle name code that builds its network",
    )  # fmt: skip


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the gate's tests, if both sides are named."""
    base, head = config.getoption("--capdeploy-base"), config.getoption("--capdeploy-head")
    if base is None:
        return
    if head is None:
        raise pytest.UsageError("--capdeploy-base needs --capdeploy-head")
    from capdeploy.errors import CapdeployError

    try:
        gate = GateCollector.from_parent(session, name="capdeploy", base=base, head=head)
        items += list(gate.collect())
    except CapdeployError as error:
        raise pytest.UsageError(str(error)) from error


class GateCollector(pytest.Collector):
    """Makes a test of every fact and every way of running."""

    def __init__(self, *, base: Path, head: Path, **rest: Any) -> None:
        super().__init__(**rest)
        self.base, self.head = base, head

    def profile(self, runtime: str | None = None) -> HardwareProfile:
        """Load the profile of the options, for one runtime alone if it is named."""
        from capdeploy import profiles, recipes

        option = self.config.getoption
        words = option("--capdeploy-runtimes")
        runtimes = [runtime] if runtime else words.split(",") if words else None
        return recipes.with_runtime(
            profiles.load(option("--capdeploy-profile")), {"runtimes": runtimes}
        )

    def collect(self) -> Iterator[pytest.Item]:
        """Compare the facts now, and promise a test for each runtime."""
        from capdeploy import bundle
        from capdeploy.bench import facts, sides
        from capdeploy.runtimes import RUNTIMES

        pair = (sides.read(self.base), sides.read(self.head))
        for each in pair:
            if isinstance(each, bundle.Bundle):
                bundle.verify(each)
        if differing := sides.incomparable(*pair):
            yield ApartItem.from_parent(self, name="comparable", differing=differing)
            return
        profile = self.profile()
        for fact in facts.of(*pair, profile):
            yield FactItem.from_parent(self, name=f"fact[{fact.name}]", fact=fact)
        for runtime in profile.runtime.runtimes:
            if not set(RUNTIMES.load(runtime).supports) & set(profile.runtime.devices):
                continue  # as the command does
            yield LatencyItem.from_parent(self, name=f"latency[{runtime}]", runtime=runtime)


class _Item(pytest.Item):
    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Say the finding alone."""
        from capdeploy.errors import CapdeployError

        if isinstance(excinfo.value, (RegressionError, CapdeployError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Say where this test comes from: the bundle that is judged."""
        return self.config.getoption("--capdeploy-head"), None, f"capdeploy {self.name}"


class FactItem(_Item):
    """One fact."""

    def __init__(self, *, fact: Fact, **rest: Any) -> None:
        super().__init__(**rest)
        self.fact = fact

    def runtest(self) -> None:
        """Fail if the fact got worse; an open question is skipped with its reason."""
        if self.fact.outcome == "regressed":
            raise RegressionError(self.fact.finding)
        if self.fact.finding:
            pytest.skip(f"inconclusive: {self.fact.finding}")


class ApartItem(_Item):
    """Two artefacts that cannot be compared."""

    def __init__(self, *, differing: tuple[str, ...], **rest: Any) -> None:
        super().__init__(**rest)
        self.differing = differing

    def runtest(self) -> None:
        """Say why; it is not head's fault."""
        pytest.skip(f"not comparable: {'; '.join(self.differing)}")


class LatencyItem(_Item):
    """One runtime."""

    def __init__(self, *, runtime: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.runtime = runtime

    def runtest(self) -> None:
        """Gate one runtime: fail on a regression, skip without an answer."""
        from capdeploy.bench import gate
        from capdeploy.bench.contest import Sampling
        from capdeploy.progress import Quiet

        parent = self.parent
        assert isinstance(parent, GateCollector)
        report = gate.run(
            parent.base, parent.head, parent.profile(self.runtime),
            sampling=Sampling(together=len(parent.profile().runtime.runtimes)), floors={},
            say=Quiet(), trust_factory=self.config.getoption("--capdeploy-trust-factory"),
        )  # fmt: skip
        for row in report.rows:
            self.add_report_section("call", row.settings.device, f"{row.verdict}: {row.reason}")
        worse = [row.reason for row in report.rows if row.verdict == "regressed"]
        if worse:
            raise RegressionError(f"{self.runtime}: {'; '.join(worse)}")
        broken = [each.result.reason for each in report.skipped if each.result.failed]
        if broken:
            raise RegressionError(f"{self.runtime}: {broken[0]}")
        unsure = [f"{row.verdict}: {row.reason}" for row in report.rows
                  if row.verdict in ("inconclusive", "too noisy")]  # fmt: skip
        if unsure:
            pytest.skip("; ".join(unsure))
        if not report.rows:
            pytest.skip("; ".join(each.result.reason for each in report.skipped))


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """Open and verify the bundle of ``--capdeploy-head``; without the option, skip the test."""
    path = request.config.getoption("--capdeploy-head")
    if path is None:
        pytest.skip("--capdeploy-head is not given")
    from capdeploy import bundle as bundles
    from capdeploy.bench import sides
    from capdeploy.bundle import Bundle
    from capdeploy.errors import CapdeployError

    try:
        found = sides.read(path)
        if isinstance(found, Bundle):
            bundles.verify(found)
            return found
    except CapdeployError as error:
        pytest.fail(str(error), pytrace=False)
    pytest.skip(f"{path} is an ONNX file, not a bundle")


@pytest.fixture
def capdeploy_benchmark(request: pytest.FixtureRequest, bundle: Bundle) -> Callable[..., Any]:
    """Measure one inference of the bundle with pytest-benchmark: ``capdeploy_benchmark(runtime)``.

    The result is the last batch's logits; the machine's fingerprint is stored with the times.
    """
    benchmark = request.getfixturevalue("benchmark")

    def measure(runtime: str = "onnxruntime", *, threads: int = 1, batch: int = 1) -> Any:
        from capdeploy.bench import environment, sides
        from capdeploy.bench.clock import WallClock
        from capdeploy.bench.measure import warm
        from capdeploy.runtimes import RUNTIMES

        shelf = RUNTIMES.load(runtime)
        code = shelf.foreign_code(bundle)
        if code is not None and not request.config.getoption("--capdeploy-trust-factory"):
            pytest.skip(f"{code} builds its network; add --capdeploy-trust-factory if you trust it")
        with closing(shelf.open(bundle, "cpu", threads)) as session:
            inputs = sides.batches(bundle, batch)
            warm(session, inputs, WallClock())
            benchmark.extra_info |= {
                "fingerprint": environment.read().fingerprint,
                "bundle": sides.side(bundle).sha256,
                **session.effective,
            }
            return benchmark.pedantic(session.run, args=(inputs[0],), rounds=ROUNDS, iterations=1)

    return measure


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    """Store what a comparison has to agree in."""
    if config.getoption("--capdeploy-head") is None:
        return  # other repositories' benchmarks are none of ours
    from capdeploy.bench import environment

    machine_info["capdeploy"] = environment.read().hard_keys()


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, benchmarksession: Any, machine_info: Any, compared_benchmark: Any
) -> None:
    """Refuse to compare numbers of unlike machines; pytest-benchmark itself would only warn."""
    mine = machine_info.get("capdeploy")
    theirs = compared_benchmark.get("machine_info", {}).get("capdeploy")
    if mine is None or theirs is None:
        return  # one of them is not of a bundle
    differing = [key for key in sorted(mine.keys() | theirs.keys())
                 if mine.get(key) != theirs.get(key)]  # fmt: skip
    if differing:
        first = differing[0]
        raise pytest.UsageError(
            f"the stored benchmark is from another machine: {first} is {theirs.get(first)!r} "
            f"there and {mine.get(first)!r} here ({len(differing)} key(s) differ); measure both "
            "sides in one session (capdeploy gate)"
        )
