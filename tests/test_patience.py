"""Threads that wait: less spinning where we compute, the default where we measure."""

import os
import subprocess
import sys

from capdeploy import patience
from capdeploy.bench import child


def test_an_environment_that_tunes_it_stays_as_it_is(monkeypatch):
    for name in patience.TUNED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    patience.shorten()
    assert patience.VARIABLE not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv(patience.VARIABLE, "7")
    patience.shorten()
    assert patience.untouched(os.environ)[patience.VARIABLE] == "7"


def test_what_is_measured_has_the_default(monkeypatch, tmp_path):
    for name in patience.TUNED:
        monkeypatch.delenv(name, raising=False)
    patience.shorten()
    assert os.environ[patience.VARIABLE] == patience.SPINS
    (tmp_path / "telling.py").write_text(
        "import json, os, sys\n"
        "open(sys.argv[2], 'w').write(json.dumps({'spins': os.environ.get('GOMP_SPINCOUNT')}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    assert child.run("telling", {}, threads=1, timeout=60) == {"spins": None}
    monkeypatch.delenv(patience.VARIABLE)


def test_every_command_spins_less():
    code = (
        "import os\nfrom capdeploy.cli import main\n"
        "try: main(['--version'])\n"
        "finally: print(os.environ['GOMP_SPINCOUNT'])\n"
    )
    plain = {name: value for name, value in os.environ.items() if name not in patience.TUNED}
    done = subprocess.run(
        [sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == patience.SPINS
