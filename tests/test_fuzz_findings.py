"""Every file of benchmarks/corpus is opened, or refused in one line, and nothing else happens.

Files named found-* once did something else; `benchmarks.fuzz` says what counts.
"""

import contextlib
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from capdeploy.errors import CheckpointError
from capdeploy.weights import read_state

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "benchmarks" / "corpus"
FILES = sorted(str(path.relative_to(CORPUS)) for path in CORPUS.glob("*/*"))
OPENED = {
    "manifest/found-list-in-name.json",
    "manifest/manifest.json",
    "profile/raspberry-pi-4.toml",
    "profile/this-host.toml",
    "sniff/deflated.pth",
    "sniff/parameter.legacy.pth",
    "sniff/state.safetensors",
    "sniff/state.zip.pth",
    "sniff/training.legacy.pth",
}
PLANTED = """
import os, socket, sys, tempfile
from pathlib import Path
from benchmarks import fuzz_targets

def opener(file):
    fault = file.read_text()
    if fault == "raises": raise KeyError(fault)
    if fault == "grows": bytearray(600 << 20)
    if fault == "writes": Path("/tmp/never").write_text("x")
    if fault == "starts": os.system("true")
    if fault == "connects": socket.socket()
    if fault == "swallows":
        try: os.mkdir("/tmp/never")
        except OSError: pass
    if fault == "leaves": Path("here").open("w")

fuzz_targets.OPENERS["profile"] = ("profile.toml", opener, "this-host.toml")
room = fuzz_targets.Room("profile", Path(sys.argv[1]))
for fault in sys.argv[2:]:
    found = room.outcome(fault.encode())
    print(fault, found if isinstance(found, str) else f"FOUND {found.key}", sep="\t")
"""


def run(*words):
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    rows = [line.split("\t", 1) for line in done.stdout.splitlines()]
    assert all(len(row) == 2 for row in rows), done.stdout
    return dict(rows), done


@pytest.fixture(scope="module")
def replay():
    """One process for all, because its audit hook stays as long as it lives."""
    return run("-m", "benchmarks.fuzz", "--replay")


@pytest.mark.parametrize("name", FILES)
def test_the_corpus_is_opened_or_refused(replay, name):
    outcomes, done = replay
    assert name in outcomes, done.stderr
    expected = "opened" if name in OPENED else "refused: "
    assert outcomes[name].startswith(expected), outcomes[name]


def test_the_replay_reports_by_its_exit_code(replay):
    assert replay[1].returncode == 0, replay[1].stderr


def test_planted_faults_are_found(tmp_path):
    expected = {
        "nothing": "opened", "raises": "FOUND KeyError", "grows": "FOUND grew by more than 512 MiB",
        "writes": "FOUND did open", "starts": "FOUND did os.system", "leaves": "FOUND did open",
        "connects": "FOUND did socket.__new__", "swallows": "FOUND did os.mkdir",
    }  # fmt: skip
    outcomes, done = run("-c", PLANTED, str(tmp_path / "room"), *expected)
    assert outcomes.keys() == expected.keys(), done.stderr
    for fault, words in expected.items():
        assert outcomes[fault].startswith(words), outcomes[fault]
    assert not Path("/tmp/never").exists()


def test_a_compressed_archive_is_unpacked_and_not_mapped(tmp_path):
    state = {name: torch.randn(1000) for name in "abc"}
    torch.save(state, tmp_path / "stored.pth")
    with (
        zipfile.ZipFile(tmp_path / "stored.pth") as stored,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    for name, value in read_state(tmp_path / "packed.pth").items():
        assert torch.equal(value, state[name])


def test_the_limit_of_memory_is_lifted_again(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_AS)
    for path in (CORPUS / "sniff").glob("*.p*"):
        with contextlib.suppress(CheckpointError):
            read_state(path)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
