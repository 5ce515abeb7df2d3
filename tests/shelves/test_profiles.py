"""Shipped profiles: their facts, whom they match, and how one is edited."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import tomllib
from pathlib import Path

import pytest

from capdeploy import profiles, textfile
from capdeploy.bench import drafts, environment
from capdeploy.errors import ConfigError, OutputExistsError, UsageError
from capdeploy.values.environment import Environment

HERE = Environment(cpu_model="", arch="aarch64", isa=(), cores_allowed=64, memory_mib=1, kernel="",
                   python="", packages={})  # fmt: skip
# How each device names itself, from the sources that its file gives; None: it has no name.
NAMES = {
    "amd-ryzen-v1605b": ("AMD Ryzen Embedded V1605B with Radeon Vega Gfx", "x86_64"),
    "apple-mac-mini-m1": ("Apple Mac mini (M1, 2020)", "aarch64"),
    "arm-neoverse-n1": None,
    "imx8mp-evk": ("NXP i.MX8MPlus EVK board", "aarch64"),
    "intel-atom-x6425e": ("Intel Atom(R) x6425E Processor @ 2.00GHz", "x86_64"),
    "intel-n100": ("Intel(R) N100", "x86_64"),
    "jetson-nano": ("NVIDIA Jetson Nano Developer Kit", "aarch64"),
    "jetson-orin-nano": ("NVIDIA Jetson Orin Nano Developer Kit", "aarch64"),
    "jetson-orin-nx": ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "aarch64"),
    "raspberry-pi-4": ("Raspberry Pi 4 Model B Rev 1.4", "aarch64"),
    "raspberry-pi-5": ("Raspberry Pi 5 Model B Rev 1.0", "aarch64"),
    "raspberry-pi-zero-2w": ("Raspberry Pi Zero 2 W Rev 1.0", "aarch64"),
    "rock-5b": ("Radxa ROCK 5 Model B", "aarch64"),
    "x86-avx512-server": ("INTEL(R) XEON(R) GOLD 6542Y", "x86_64"),
    "x86-laptop": ("Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", "x86_64"),
}


def test_every_profile_but_this_host_is_in_the_table():
    assert set(NAMES) | {"this-host"} == set(profiles.names())
    assert len(profiles.names()) >= 14


@pytest.mark.parametrize("name", NAMES)
def test_a_device_matches_its_own_profile_and_no_other(name):
    model, arch = NAMES[name] or ("", "aarch64")
    machine = HERE.model_copy(update={"cpu_model": model, "arch": arch})
    expected = {"this-host"} | ({name} if NAMES[name] else set())
    assert set(drafts.matching(machine)) == expected
    other = machine.model_copy(update={"arch": "riscv64"})
    assert drafts.matching(other) == ("this-host",)


@pytest.mark.parametrize(
    "model",
    [
        "Intel(R) Xeon(R) Processor",  # a hypervisor hides which
        "AMD EPYC 7B13 64-Core Processor",
        "AMD EPYC",
        "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz",
        "Radxa ROCK 5B+",
        "Raspberry Pi Zero W Rev 1.1",
        "aarch64",
        "",
    ],
)
def test_other_machines_match_nothing(model):
    for arch in ("x86_64", "aarch64"):
        machine = HERE.model_copy(update={"cpu_model": model, "arch": arch})
        assert drafts.matching(machine) == ("this-host",)


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_checks_and_its_numbers_carry_a_word_on_their_source(name):
    assert drafts.check(name) == ()
    profile = profiles.load(name)
    assert profile.match.any_host == (name == "this-host")
    text = (profiles.FOLDER / f"{name}.toml").read_text()
    if name == "this-host":
        return
    for key in ("cores", "memory_mib", "isa"):
        (line,) = re.findall(rf"(?m)^{key} = .*$", text)
        assert "#" in line, f"{name}: {key} has no source"
    assert profile.runtime.threads <= profile.device.cores


def test_align_is_set_in_place_and_nothing_else_changes():
    text = (profiles.FOLDER / "rock-5b.toml").read_text()
    made = drafts.with_align(text, 4, "measured")
    assert tomllib.loads(made)["device"]["align"] == 4
    kept = [line for line in text.splitlines() if not line.startswith("align")]
    assert [line for line in made.splitlines() if not line.startswith("align")] == kept
    assert drafts.with_align(made, 8, "again").count("align = ") == 1
    child = 'schema = 1\nid = "x"\ninherits = "rock-5b"\n'
    assert drafts.with_align(child, 16, "m") == f"{child}\n[device]\nalign = 16  # m\n"


@pytest.mark.parametrize(
    "text",
    [
        'device = { arch = "any" }',
        'device.arch = "any"',
        '[device]\narch = "any"\n"align" = 8',
    ],
)
def test_a_table_that_no_line_can_be_set_in_is_refused(text):
    with pytest.raises(ConfigError, match=r"set device\.align = 16 by hand"):
        drafts.with_align(text, 16, "m")


def test_align_of_other_tables_is_left_alone():
    text = '[device]\nisa = [\n  "avx",\n]\n[device.x]\nalign = 8\n[match]\nalign = 9'
    made = tomllib.loads(drafts.with_align(text, 16, "m"))
    assert made == {"device": {"align": 16, "isa": ["avx"], "x": {"align": 8}},
                    "match": {"align": 9}}  # fmt: skip


def test_the_draft_of_a_machine_with_an_odd_name_is_valid(tmp_path):
    odd = 'Board "X" \\ (rev+2) ☃ [*]'
    machine = HERE.model_copy(update={"cpu_model": odd, "isa": ("asimd",)})
    file = tmp_path / "odd.toml"
    file.write_text(drafts.of_machine(machine), encoding="utf-8")
    assert drafts.check(str(file)) == ()
    assert environment.is_device(profiles.load(str(file)), machine)
    assert not environment.is_device(
        profiles.load(str(file)), machine.model_copy(update={"cpu_model": odd + "2"})
    )


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "mine.toml"
    textfile.write(file, "one")
    file.chmod(0o600)
    with pytest.raises(OutputExistsError, match="add --force"):
        textfile.write(file, "two")
    textfile.write(file, "two", force=True)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("two", 0o600)
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    textfile.write(link, "three", force=True)
    assert link.is_symlink()
    assert file.read_text() == "three"

    # A real refusal of the system: this process may write no file beyond 1,000 bytes.
    code = (
        "import resource, sys, pathlib\n"
        "from capdeploy import textfile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "textfile.write(pathlib.Path(sys.argv[1]), 'four' * 1000, force=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "UsageError" in done.stderr.splitlines()[-1], done.stderr
    assert file.read_text() == "three"
    assert {path.name for path in tmp_path.iterdir()} == {"mine.toml", "link.toml"}


def test_what_is_no_plain_file_is_written_to_and_not_replaced(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    textfile.require_writable(pipe)
    textfile.write(pipe, "one", force=True)
    reader.join(30)
    assert read == ["one"]
    assert pipe.is_fifo()


def test_what_goes_to_stdout_comes_behind_what_is_there(tmp_path):
    code = (
        "import pathlib\n"
        "from capdeploy import textfile\n"
        "print('first', flush=True)\n"
        "textfile.require_writable(pathlib.Path('/dev/stdout'))\n"
        "textfile.write(pathlib.Path('/dev/stdout'), 'second', force=True)\n"
    )
    command, file = [sys.executable, "-c", code], tmp_path / "both"
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    with file.open("w") as stream:
        subprocess.run(command, stdout=stream, check=True)
    assert piped.stdout == file.read_text() == "first\nsecond"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no folder of files in /dev")
def test_files_in_memory_are_files():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        file = Path(folder, "gate.xml")
        for text in ("one", "two"):
            textfile.write(file, text, force=True)
        assert file.read_text() == "two"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_in_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    file = tmp_path / "gate.xml"
    file.touch()
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UsageError, match=f"permission denied for {tmp_path}"):
            textfile.require_writable(file)
    finally:
        tmp_path.chmod(0o700)


def test_a_profile_inherits_from_a_file_beside_it(tmp_path, monkeypatch):
    """Wherever the command is given: the file says it, not the user."""
    (tmp_path / "boards").mkdir()
    base, mine = tmp_path / "boards" / "base.toml", tmp_path / "boards" / "mine.toml"
    base.write_text('schema = 1\nid = "base"\n[device]\narch = "any"\n[runtime]\nthreads = 3\n')
    mine.write_text('schema = 1\nid = "mine"\ninherits = "base.toml"\n')
    monkeypatch.chdir(tmp_path)
    assert profiles.load("boards/mine.toml").runtime.threads == 3
    mine.write_text(f'schema = 1\nid = "mine"\ninherits = "{base}"\n')
    assert profiles.load("boards/mine.toml").runtime.threads == 3
