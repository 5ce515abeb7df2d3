"""``capdeploy profiles``: every verb, and what it says and leaves behind when it refuses."""

import json
import re
import subprocess
import sys
import tomllib

import pytest

from capdeploy import cli, profiles
from capdeploy.bench import environment
from capdeploy.values.tuning import Tuning


@pytest.fixture
def capdeploy(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder; gives the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli._run(list(arguments), debug=False)
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


def test_every_profile_is_listed_and_shown(capdeploy):
    code, out, _ = capdeploy("profiles", "list", "-f", "json")
    assert code == 0
    listed = [entry["id"] for entry in json.loads(out)["profiles"]]
    assert listed == list(profiles.names())
    assert len(listed) >= 14
    code, out, _ = capdeploy("profiles", "show", "x86-avx512-server")
    assert (code, json.loads(out)["device"]["align"]) == (0, 16)
    code, out, err = capdeploy("profiles", "show", "rok-5b")
    assert (code, out) == (2, "")
    assert "did you mean rock-5b" in err


@pytest.mark.parametrize("base", [None, "raspberry-pi-5"])
def test_new_writes_a_valid_profile_that_explains_itself(capdeploy, tmp_path, base):
    code, out, _ = capdeploy("profiles", "new", "mine", *(["--inherits", base] if base else []))
    assert code == 0
    assert "mine.toml: written" in out
    text = (tmp_path / "mine.toml").read_text()
    assert text.count("\n#") > 15
    made = profiles.load("mine.toml")
    assert (made.id, made.inherits) == ("mine", base)
    if base:
        assert made.device == profiles.load(base).device
        assert made.runtime == profiles.load(base).runtime
    # What is commented out is valid too, once the marks go.
    bare = re.sub(r"(?m)^# (?=\[|\w+ = )", "", text)
    (tmp_path / "mine.toml").write_text(bare)
    assert profiles.findings("mine.toml") == ()
    assert profiles.load("mine.toml").budgets.min_speed_up.value == 2.0
    assert capdeploy("profiles", "validate", "mine.toml")[0] == 0


def test_a_file_that_a_new_profile_builds_on_is_named_from_its_folder(capdeploy, tmp_path):
    assert capdeploy("profiles", "new", "common")[0] == 0
    (tmp_path / "boards").mkdir()
    made = ("profiles", "new", "mine", "--inherits", "common.toml", "-o", "boards/mine.toml")
    assert capdeploy(*made)[0] == 0
    code, out, err = capdeploy("profiles", "validate", "boards/mine.toml")
    assert code == 0, out + err


def test_new_replaces_nothing_unless_forced(capdeploy, tmp_path):
    file = tmp_path / "folder" / "mine.toml"
    file.parent.mkdir()
    file.write_text("precious")
    code, _, err = capdeploy("profiles", "new", "mine", "-o", str(file))
    assert (code, file.read_text()) == (2, "precious")
    assert "exists" in err
    assert "--force" in err
    assert capdeploy("profiles", "new", "mine", "-o", str(file), "--force")[0] == 0
    assert profiles.load(str(file)).id == "mine"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["My_Board"], "profile id 'My_Board': expected lower-case letters"),
        (["../evil"], "profile id '../evil'"),
        (["mine", "--inherits", "raspberry-pi5"], "did you mean raspberry-pi-5"),
        (["mine", "-o", "no/such/folder/mine.toml"], "cannot be written"),
        ([], "Missing argument"),
    ],
)
def test_new_refuses_in_one_line_and_writes_nothing(capdeploy, tmp_path, arguments, words):
    code, out, err = capdeploy("profiles", "new", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_detect_drafts_a_profile_of_this_machine(capdeploy, tmp_path):
    code, out, _ = capdeploy("profiles", "detect")
    assert code == 0
    assert out.startswith("# This machine matches: ")
    assert "this-host" in out.splitlines()[0]
    (tmp_path / "here.toml").write_text(out)
    assert capdeploy("profiles", "validate", "here.toml")[:2] == (0, "here.toml: valid\n")
    here = environment.read()
    made = profiles.load("here.toml")
    assert environment.is_device(made, here)
    assert made.device.isa == here.isa
    assert (made.device.cores, made.device.arch) == (here.cores_allowed, here.arch)
    assert made.device.memory_mib == here.memory_mib
    code, out, _ = capdeploy("profiles", "detect", "-f", "json")
    document = json.loads(out)
    assert "this-host" in document["matching"]
    assert tomllib.loads(document["draft"])["device"]["arch"] == here.arch
    assert capdeploy("profiles", "detect", "-f", "md")[1].startswith("### This machine")


def test_validate_says_every_fault_in_a_line_of_its_own(capdeploy, tmp_path):
    (tmp_path / "bad.toml").write_text(
        'schema = 1\nid = "bad"\ndevcie = 1\n[device]\narch = "any"\nalgn = 8\n'
        '[budgets.min_speed_up]\nvalue = -1\nseverty = "fail"\n[gate]\nmin_efect = 0.1\n'
    )
    (tmp_path / "names.toml").write_text(
        'schema = 1\nid = "names"\n[device]\narch = "any"\nisa = ["avx3"]\n'
        '[runtime]\nruntimes = ["onnxruntme"]\ndevices = ["cpuu"]\n'
    )
    (tmp_path / "text.toml").write_text("not toml")
    files = ("bad.toml", "names.toml", "text.toml", "this-host", "none.toml")
    code, out, err = capdeploy("profiles", "validate", *files)
    assert code == 2
    assert "4 of 5 profile(s) not valid" in err
    expected = [
        "bad.toml: unknown key 'algn' in [device]; did you mean align?",
        "bad.toml: budgets.min_speed_up.value: Input should be greater than 0, found -1",
        "bad.toml: unknown key 'severty' in [budgets.min_speed_up]; did you mean severity?",
        "bad.toml: unknown key 'min_efect' in [gate]; did you mean min_effect",
        "bad.toml: unknown key 'devcie' in the top level; did you mean device?",
        "names.toml: runtime.runtimes: unknown name 'onnxruntme'; did you mean onnxruntime?",
        "names.toml: runtime.devices: unknown name 'cpuu'; did you mean cpu?",
        "names.toml: device.isa: unknown name 'avx3'; did you mean avx",
        "text.toml: profile text.toml: not valid TOML",
        "this-host: valid",
        "none.toml: unknown profile 'none.toml'",
    ]
    lines = out.splitlines()
    assert len(lines) == len(expected)
    for found, wanted in zip(lines, expected, strict=True):
        assert found.startswith(wanted)


def test_loading_a_bad_profile_counts_its_faults(capdeploy, tmp_path):
    (tmp_path / "bad.toml").write_text('schema = 1\nid = "bad"\n[device]\nalgn = 8\n')
    code, _, err = capdeploy("profiles", "show", "bad.toml")
    assert code == 2
    assert err == "capdeploy: profile bad.toml: device.arch: Field required (and 1 more)\n"


def test_tune_measures_and_writes_align(capdeploy, tmp_path):
    capdeploy("profiles", "new", "mine")
    before = (tmp_path / "mine.toml").read_text()
    code, out, err = capdeploy(
        "profiles", "tune", "--runtimes", "onnxruntime", "--seconds", "0.1", "-f", "json",
        "-o", "mine.toml",
    )  # fmt: skip
    found = Tuning.from_json(out)
    assert set(found.by_runtime) == {"onnxruntime"}
    assert {probe.block for probe in found.probes} == {"dense", "separable"}
    assert found.threads == 1
    assert "timing 42 networks" in err
    after = (tmp_path / "mine.toml").read_text()
    if found.unclear:  # a busy machine may not tell; then nothing is written
        assert (code, after) == (4, before)
        assert "too noisy" in err
    else:
        assert code == 0
        assert profiles.load("mine.toml").device.align == found.align
        assert "measured by capdeploy profiles tune: onnxruntime" in after


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "none.toml"], "none.toml: no such file; begin one with capdeploy profiles new"),
        (["-o", "bad.toml"], "profile bad.toml: device: Field required"),
        (["-o", "inline.toml"], "no plain [device] table to write into"),
        (["--runtimes", "pytorch"], "'pytorch' is not a runtime that tune can measure"),
        (["--runtimes", "openvno"], "did you mean openvino"),
        (["--seconds", "0"], "0.0 is not in the range"),
        (["--threads", "0"], "0 is not in the range"),
    ],
)
def test_tune_refuses_before_it_measures(capdeploy, tmp_path, arguments, words):
    files = {
        "bad.toml": 'schema = 1\nid = "bad"\n',
        "inline.toml": 'schema = 1\nid = "inline"\ndevice = { arch = "any" }\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    code, out, err = capdeploy("profiles", "tune", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "timing" not in err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def installed_without(*packages):
    """List the runtimes that tune takes in a process that cannot import some packages."""
    code = (
        "import sys\n"
        "from capdeploy.progress import Quiet\n"
        "from capdeploy.stages import tuning\n"
        f"for name in {packages!r}: sys.modules[name] = None\n"
        "print(tuning._installed(Quiet()))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


def test_a_missing_runtime_is_left_out_unless_none_remains():
    assert installed_without("openvino").stdout.strip() == "['onnxruntime']"
    nothing = installed_without("openvino", "onnxruntime")
    assert "MissingExtraError" in nothing.stderr
