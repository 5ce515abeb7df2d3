"""The doctor: what works is seen to work, what is missing comes with its command."""

import os
import re
import subprocess
import sys

import pytest

from capdeploy import profiles
from capdeploy.bench import child, doctor, isa
from capdeploy.errors import MissingError, StepFailedError
from capdeploy.report.doctor import tables
from capdeploy.runtimes import RUNTIMES
from capdeploy.values.doctor import Examination
from capdeploy.values.environment import Environment
from tests.values.test_environment import machine


@pytest.fixture(scope="module")
def found() -> Examination:
    return doctor.examine(lambda: 0.03)


def test_it_finds_what_is_installed_here(found):
    assert {runtime.name for runtime in found.runtimes} == set(RUNTIMES.names())
    for runtime in found.runtimes:
        assert runtime.state == "works", runtime
        assert "cpu" in runtime.devices
        assert re.match(r"\d+\.\d+", runtime.version)
        assert runtime.problem == ""
    assert found.usable
    doctor.require(found)
    assert [extra.missing for extra in found.extras] == [()] * len(found.extras)
    assert {"compress", "onnxruntime", "openvino"} <= {extra.name for extra in found.extras}
    assert found.fingerprint == found.environment.fingerprint
    assert "this-host" in found.profiles
    assert set(found.profiles) <= set(profiles.names())
    assert found.temporary_free_mib > 0
    assert found.memory_available_mib > 0
    assert found.noise_floor == 0.03
    assert Examination.from_json(found.to_json()) == found


def test_the_tables_say_it(found):
    shown = {table.title: table for table in tables(found)}
    assert shown["Runtimes"].rows[0][1] == "works"
    cells = dict(row for title, table in shown.items() if "machine" in title for row in table.rows)
    assert cells["smallest slowdown a gate can see"] == "3.0%"
    assert cells["fingerprint"] == found.fingerprint


def test_a_floor_that_cannot_be_measured_hides_nothing_else():
    def dies():
        raise child.ChildDiedError("the process ended: exit 7")

    def fails():
        raise StepFailedError("no")

    for measure in (dies, fails, lambda: None):
        assert doctor._floor(measure) is None


def test_a_runtime_that_crashes_or_is_missing_is_a_row(monkeypatch, tmp_path, found):
    """Other packages stand before the real ones on the path."""
    (tmp_path / "onnxruntime.py").write_text("import os; os._exit(7)")
    (tmp_path / "openvino.py").write_text("raise ImportError('libfoo.so: not found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    crashed = doctor._probe("onnxruntime", found.environment)
    assert crashed.state == "broken"
    assert crashed.problem == "it does not load: the process ended: exit 7; install it again"
    unloadable = doctor._probe("openvino", found.environment)
    assert unloadable.state == "broken"
    assert unloadable.problem == "it does not load: libfoo.so: not found; install it again"
    (tmp_path / "openvino.py").write_text("raise ModuleNotFoundError('openvino')")
    missing = doctor._probe("openvino", found.environment)
    assert missing.state == "missing"
    assert missing.problem.endswith("pip install 'capdeploy[openvino]'")
    bare = found.model_copy(update={"runtimes": (crashed, unloadable, missing)})
    table = tables(bare)[0]
    assert [row[1] for row in table.rows] == ["broken", "broken", "missing"]
    assert len(table.notes) == 3
    with pytest.raises(MissingError, match=r"pip install 'capdeploy\[onnxruntime\]'"):
        doctor.require(bare)


def test_a_missing_package_is_named_with_its_extra():
    requirements = [
        "numpy>=1", "no-such-package-of-ours>=2; extra == 'compress'",
        "numpy>=1; extra == 'compress'", 'other-absent; extra == "openvino"',
    ]  # fmt: skip
    assert doctor._missing("compress", requirements) == ("no-such-package-of-ours",)
    assert doctor._missing("openvino", requirements) == ("other-absent",)


@pytest.mark.parametrize(
    ("arch", "flags", "there", "absent"),
    [
        ("x86_64", ("avx2",), {"AVX2"}, {"AVX-512", "VNNI", "AMX"}),
        ("x86_64", ("avx2", "avx_vnni"), {"AVX2", "VNNI"}, {"AVX-512", "AMX"}),
        ("AMD64", ("avx2", "avx512f", "avx512_vnni", "amx_int8"),
         {"AVX2", "AVX-512", "VNNI", "AMX"}, set()),
        ("aarch64", ("asimd",), {"NEON"}, {"NEON dotprod", "I8MM"}),
        ("aarch64", ("asimd", "asimddp", "i8mm"), {"NEON", "NEON dotprod", "I8MM"}, set()),
        ("riscv64", ("v",), set(), set()),
        ("x86_64", (), set(), set()),
    ],
)  # fmt: skip
def test_instruction_sets(arch, flags, there, absent):
    here: Environment = machine(arch=arch, isa=flags)
    parts = isa.instruction_sets(here)
    assert {part.name for part in parts if part.present} == there
    assert {part.name for part in parts if not part.present} == absent
    if "VNNI" in absent:
        assert "INT8" in next(part.meaning for part in parts if part.name == "VNNI")


def test_runtimes_report_nothing_home(tmp_path):
    """OpenVINO's import alone would send an event and write an identity into the home folder."""
    code = (
        "import sys\nfrom capdeploy.runtimes import RUNTIMES\n"
        "for name in ('openvino', 'onnxruntime'): RUNTIMES.load(name).devices()\n"
        "import openvino.tools.ovc.telemetry_utils as used\n"
        "assert used.tm.__name__.endswith('telemetry_stub'), used.tm\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*openvino*")) == []
    assert list(tmp_path.rglob("*cid*")) == []
