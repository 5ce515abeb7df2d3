"""onnxsim in a child process with a time limit; its word is not taken for its result.

It is native code with a history of crashes and hangs, and its own check is off by default. The
result is used only if our parity check accepts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from capdeploy.export.graph import describe
from capdeploy.values.artifact import Simplification

# onnxsim asks for torch and sympy, does without, and starts much sooner.
_CHILD = """
import sys
sys.modules["torch"] = sys.modules["sympy"] = None
import onnx, onnxsim
graph, _ = onnxsim.simplify(onnx.load(sys.argv[1]))
onnx.save(graph, sys.argv[2])
"""


def simplify(source: Path, target: Path, *, seconds: float) -> Simplification:
    """Simplify a graph.

    Parameters
    ----------
    source : Path
        The graph to simplify; it is left as it was.
    target : Path
        Where to write the simplified graph; not there afterwards if `applied` is false.
    seconds : float
        Time limit of the child process.

    Returns
    -------
    Simplification
        Nodes before and after, or why it was not applied.
    """
    _, before = describe(source)
    reason = _run(source, target, seconds)
    if reason is not None:
        target.unlink(missing_ok=True)
        return Simplification(applied=False, nodes_before=before, nodes_after=before, reason=reason)
    _, after = describe(target)
    return Simplification(applied=True, nodes_before=before, nodes_after=after)


def _run(source: Path, target: Path, seconds: float) -> str | None:
    command = [sys.executable, "-P", "-c", _CHILD, str(source), str(target)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        return f"onnxsim took more than {seconds:g} s"
    if done.returncode < 0:
        return f"onnxsim died of signal {-done.returncode}"
    if done.returncode != 0 or not target.is_file():
        lines = done.stderr.strip().splitlines()
        return f"onnxsim failed: {lines[-1] if lines else f'exit {done.returncode}'}"
    return None
