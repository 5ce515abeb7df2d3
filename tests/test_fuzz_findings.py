"""Every file of benchmarks/corpus is opened, or refused in one line, and nothing else happens.

Files named found-* once did something else; `benchmarks.fuzz` says what counts.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "benchmarks" / "corpus"
FILES = sorted(str(path.relative_to(CORPUS)) for path in CORPUS.glob("*/*"))
OPENED = {
    "manifest/manifest.json",
    "profile/raspberry-pi-4.toml",
    "profile/this-host.toml",
    "sniff/network.legacy.pth",
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
