"""What the system tells is read, and what it does not tell fails nothing."""

import os
import subprocess
import sys
import time

import pytest

from capdeploy.bench import cgroup, environment, files, noise
from capdeploy.bench.clock import FakeClock
from capdeploy.values.noise import Noise


def system(root, **contents):
    """Write files of a made-up system; `__` in a name stands for a slash."""
    for name, text in contents.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_an_empty_system_is_described_all_the_same(tmp_path):
    here = environment.read(tmp_path)
    assert here.cpu_model
    assert here.isa == ()
    assert here.cpu_quota is None
    assert (here.governor, here.turbo, here.hypervisor, here.gpus) == (None, None, None, ())
    assert here.fingerprint
    seen = noise.read(FakeClock([5]), tmp_path)
    assert (seen.waited_us, seen.stolen, seen.ticks) == (None, None, None)


def test_a_whole_system_is_read(tmp_path):
    root = system(
        tmp_path,
        proc__cpuinfo="processor : 0\nmodel name : Xeon 9\nflags : fpu avx2 hypervisor\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="performance\n",
        sys__devices__system__cpu__cpufreq__boost="1\n",
        proc__driver__nvidia__gpus__one__information="Model: \t\t Tesla T4\nIRQ: 10\n",
    )
    here = environment.read(root)
    assert (here.cpu_model, here.isa, here.governor) == ("Xeon 9", ("avx2",), "performance")
    assert (here.turbo, here.hypervisor, here.gpus) == (True, True, ("Tesla T4",))


@pytest.mark.parametrize(("text", "turbo"), [("0\n", True), ("1\n", False), ("?", None)])
def test_intel_s_turbo_file_says_what_is_off(tmp_path, text, turbo):
    root = system(tmp_path, sys__devices__system__cpu__intel_pstate__no_turbo=text)
    assert environment.read(root).turbo is turbo


def test_a_board_without_a_processor_s_name(tmp_path):
    root = system(
        tmp_path,
        **{
            "proc__cpuinfo": "processor : 0\nFeatures : fp asimd asimddp\n",
            "proc__device-tree__model": "Raspberry Pi 5 Model B\0",
        },
    )
    here = environment.read(root)
    assert here.cpu_model == "Raspberry Pi 5 Model B"
    assert here.isa == ("asimd", "asimddp")
    assert here.hypervisor is None  # an Arm kernel sets no flag for it


@pytest.mark.parametrize(
    ("contents", "cores"),
    [
        ({"sys__fs__cgroup__cpu.max": "150000 100000\n"}, 1.5),
        ({"sys__fs__cgroup__cpu.max": "max 100000\n"}, None),
        ({"sys__fs__cgroup__cpu.max": "0 100000\n"}, None),
        ({"sys__fs__cgroup__cpu.max": "nonsense"}, None),
        # A service in a group of its own: the least of its own quota and its parents'.
        (
            {
                "proc__self__cgroup": "0::/a/b\n",
                "sys__fs__cgroup__a__b__cpu.max": "max 100000\n",
                "sys__fs__cgroup__a__cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        # Version 1; a container sees its own group as the mount, under a path that is not there.
        (
            {
                "proc__self__cgroup": "4:cpu,cpuacct:/docker/0123\n3:memory:/docker/0123\n",
                "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "50000\n",
                "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc__self__cgroup": "1:cpu:/\n",
                "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1\n",
                "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_quotas_of_both_versions(tmp_path, contents, cores):
    root = system(tmp_path, **contents)
    assert cgroup.cpu_quota(root) == cores
    assert environment.read(root).cpu_quota == cores
    expected = environment.cores_allowed() if cores is None else max(1, int(cores))
    assert environment.threads_available(root) == min(environment.cores_allowed(), expected)


@pytest.mark.parametrize(
    ("contents", "mib"),
    [
        ({"sys__fs__cgroup__memory.max": "536870912\n"}, 512),
        ({"sys__fs__cgroup__memory.max": "max\n"}, None),
        (
            {
                "proc__self__cgroup": "3:memory:/\n",
                "sys__fs__cgroup__memory__memory.limit_in_bytes": "268435456\n",
            },
            256,
        ),
        (
            {
                "proc__self__cgroup": "3:memory:/\n",
                "sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
        ),
    ],
)
def test_memory_limits_of_both_versions(tmp_path, contents, mib):
    root = system(tmp_path, **contents)
    assert cgroup.memory_limit_mib(root) == mib
    if mib is not None:
        assert environment.read(root).memory_mib == mib


def test_a_program_that_is_absent_fails_or_hangs_gives_no_answer():
    assert files.answer("no-such-program-of-ours") == ""
    assert files.answer(sys.executable, "-c", "print('x'); raise SystemExit(1)") == ""
    start = time.monotonic()
    assert files.answer(sys.executable, "-c", "import time; time.sleep(9)", seconds=0.2) == ""
    assert time.monotonic() - start < 5
    assert files.answer(sys.executable, "-c", "print('x')") == "x\n"


def test_noise_is_the_difference_of_two_readings(tmp_path):
    before = system(
        tmp_path / "before",
        proc__pressure__cpu="some avg10=1.0 total=1000\nfull avg10=0.0 total=9\n",
        proc__stat="cpu  10 0 10 70 0 0 0 10 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n",
    )
    after = system(
        tmp_path / "after",
        proc__pressure__cpu="some avg10=1.0 total=501000\nfull avg10=0.0 total=9\n",
        proc__stat="cpu  60 0 10 110 0 0 0 20 5 5\n",
    )
    clock = FakeClock([0, 2_000_000_000])
    found = noise.between(noise.read(clock, before), noise.read(clock, after))
    assert found.seconds == 2
    assert found.pressure_some_pct == pytest.approx(25)  # 0.5 s of 2 s
    assert found.steal_pct == pytest.approx(10)  # 10 ticks of 100
    assert found.involuntary_switches >= 0


@pytest.mark.parametrize("stat", ["", "cpu\n", "cpu  1 2 3\n", "cpu  a b c d e f g h\n"])
def test_a_strange_stat_file_tells_no_steal(tmp_path, stat):
    root = system(tmp_path, proc__stat=stat, proc__pressure__cpu="some avg10=0.00\n")
    clock = FakeClock([0, 1_000_000])
    found = noise.between(noise.read(clock, root), noise.read(clock, root))
    assert found.steal_pct is None
    assert found.pressure_some_pct is None


def test_counters_that_run_backwards_are_no_noise(tmp_path):
    ahead = noise.Reading(ns=0, waited_us=50, stolen=9, ticks=10, switches=0)
    behind = noise.Reading(ns=1_000_000, waited_us=10, stolen=3, ticks=20, switches=0)
    found = noise.between(ahead, behind)
    assert (found.pressure_some_pct, found.steal_pct) == (0, 0)


def test_a_watch_tells_also_after_an_error():
    with pytest.raises(KeyboardInterrupt), noise.watched() as watch:
        assert watch.noise is None
        raise KeyboardInterrupt
    assert isinstance(watch.noise, Noise)


@pytest.mark.skipif(
    not os.path.exists("/proc/pressure/cpu"),
    reason="Linux before 4.20, or built without CONFIG_PSI, has no pressure to read",
)
def test_two_busy_processes_on_one_core_are_heard():
    """Real load: two children share a core, so one of them always waits."""
    core = min(os.sched_getaffinity(0))
    code = f"import os, time; os.sched_setaffinity(0, {{{core}}}); end = time.monotonic() + 1\n"
    code += "while time.monotonic() < end: pass"
    with noise.watched() as watch:
        busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
        for child in busy:
            child.wait()
    assert watch.noise.pressure_some_pct > 30
    assert watch.noise.involuntary_switches > 20
    assert not watch.noise.trusted
