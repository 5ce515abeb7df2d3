"""The command line in a process of its own, without waiting for its imports each time.

A server process imports once what the commands need (the exporter's operators too: `tests.once`),
and forks for every command, which finds what a fresh interpreter would have.
Tests of the start itself (signals, what `--help` imports) begin a fresh interpreter instead.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

ROOT = Path(__file__).parent.parent

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([
    "torch", "torch._dynamo", "torch._functorch.aot_autograd", "torch.export._trace",
    "torch.onnx._internal.exporter._compat", "tests.once", "torch_pruning", "torchvision",
    "networkx", "sympy.combinatorics", "onnxscript.function_libs.torch_lib.registration",
    "sklearn.datasets", "onnxruntime", "openvino", "capdeploy.cli.compress",
    "capdeploy.pipeline", "tests.nets",
])  # fmt: skip


def capdeploy(*arguments, cwd=None, timeout=240, env=None):
    """Run the command as a user would; the result is that of `subprocess.run`, as text."""
    words = [str(word) for word in arguments]
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder) / "out", Path(folder) / "err"
        process = _server.Process(
            target=_run, args=(words, str(cwd or ROOT), {**os.environ, **(env or {})}, streams)
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutExpired(words, timeout)
        return CompletedProcess(words, process.exitcode, *(file.read_text() for file in streams))


def base(trained, *extra):
    """Words that compress the small network trained on the digits."""
    return ("compress", trained, "--arch", "tests.nets:Residual", "--data", "digits",
            "--input-size", 16, "--classes", "7,1,4", "--epochs", 0, *extra)  # fmt: skip


def _run(words, cwd, environment, streams):
    for stream, file in zip((sys.stdout, sys.stderr), streams, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["capdeploy", *words]
    from capdeploy.cli import main

    main()
