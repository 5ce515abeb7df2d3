"""Coverage-guided fuzzing of what reads files from outside: checkpoints, manifests, profiles.

pip install atheris
python -m benchmarks.fuzz --target sniff|manifest|profile --seconds 200 [--corpus DIR]
python -m benchmarks.fuzz --replay

The first starts from benchmarks/corpus/TARGET and lets libFuzzer change it. Every input is a file
of at most 64 KiB that is opened, or refused by a CapdeployError of one line; anything else is a
finding, and the exit code is 1:

- another exception, a crash of the interpreter, a broken promise of what is returned,
- one input that takes longer than 10 s,
- one input by which the process grows by more than 512 MiB, however shortly, or a process of more
  than 4096 MiB (torch alone is about 600),
- a file written, removed or renamed, a process started, a socket opened, a real unpickler run.

A finding does not end the run: it is kept with its traceback, each place once. --replay runs the
corpus alone, without atheris, and says of each file what became of it. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz_targets import CORPUS, OPENERS, Finding, Room

MOST_BYTES, MOST_SECONDS, MOST_RSS_MIB = 1 << 16, 10, 4096
# Inputs are written some hundred times a second; a disk would take most of the time.
MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
# Guided by what the reader itself is written in; torch's restricted unpickler is one Python file.
INSTRUMENTED = ["capdeploy", "json", "pickle", "pickletools", "tomllib", "zipfile",
                "torch._weights_only_unpickler"]  # fmt: skip
# Words that a change of random bytes would hardly find.
WORDS = {
    "sniff": (
        *(f"c{place}\n{name}\n".encode() for place, name in (
            ("builtins", "bytearray"), ("collections", "Counter"), ("collections", "OrderedDict"),
            ("torch", "FloatStorage"), ("torch", "Size"), ("torch._utils", "_rebuild_tensor_v2"),
            ("torch._utils", "_rebuild_parameter"), ("numpy", "dtype"), ("_codecs", "encode"),
        )),
        b"PK\x01\x02", b"PK\x05\x06", b"data.pkl", b"model", b"state_dict", b"[" * 64,
    ),
    "manifest": (b"[" * 64, b'{"a":' * 16, b"9" * 64, b"-1", b"1e999", b"NaN", b"\\ud800", b"null"),
    "profile": (b"[" * 64, b"9" * 64, b"0x" + b"f" * 64, b"-1", b"inf", b"nan", b"inherits = "),
}  # fmt: skip


def dictionary(target: str) -> str:
    """Write `WORDS`, and the keys that a document may have, in libFuzzer's form."""
    from capdeploy.values.manifest import Manifest
    from capdeploy.values.plan import PruningPlan
    from capdeploy.values.profile import HardwareProfile
    from capdeploy.values.recipe import Recipe

    kinds = {"manifest": (Manifest, PruningPlan), "profile": (HardwareProfile, Recipe)}
    words = set(WORDS[target])
    for kind in kinds.get(target, ()):
        schema = kind.model_json_schema()
        for table in (schema, *schema.get("$defs", {}).values()):
            words |= {key.encode() for key in table.get("properties", ())}
    lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in sorted(words))
    return "".join(f'"{line}"\n' for line in lines)


def child(target: str, folder: Path, place: Path, flags: list[str]) -> None:
    """Fuzz until libFuzzer ends the process; findings go into the folder."""
    import atheris

    sys.dont_write_bytecode = True
    with atheris.instrument_imports(include=INSTRUMENTED):
        import pickletools  # noqa: F401
        import zipfile  # noqa: F401

        import capdeploy.bundle
        import capdeploy.graphfile
        import capdeploy.recipes
        import capdeploy.values.report

        if target == "sniff":
            import capdeploy.weights  # noqa: F401
    room = Room(target, place)

    def one(data: bytes) -> None:
        found = room.outcome(data)
        if isinstance(found, Finding):
            keep(found, data, folder / "findings")

    atheris.Setup([sys.argv[0], *flags], one)
    atheris.Fuzz()


def keep(found: Finding, data: bytes, folder: Path) -> None:
    """Write a finding down, the shortest input of each."""
    path = folder / hashlib.sha256(found.key.encode()).hexdigest()[:12]
    if not path.exists() or len(data) < path.stat().st_size:
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"{found.key}\n{found.details}\n")


@dataclass
class Tally:
    """What libFuzzer said of its runs, added up."""

    executions: int = 0
    coverage: tuple[int, int, int] = (0, 0, 0)
    peak_mib: int = 0

    def add(self, said: str) -> bool:
        """Read one child's log; False if nothing ran."""
        executed = re.findall(r"number_of_executed_units:\s*(\d+)", said)
        self.executions += sum(map(int, executed))
        peaks = re.findall(r"peak_rss_mb:\s*(\d+)", said)
        self.peak_mib = max([self.peak_mib, *map(int, peaks)])
        rows = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)
        self.coverage = max([self.coverage, *((int(a), int(b), int(c)) for a, b, c in rows)])
        return bool(executed)


def campaign(target: str, seconds: int, corpus: Path | None, seed: int) -> int:
    """Run children until the time is over, for libFuzzer ends with the first crash; sum up."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{target}-"))
    (folder / "findings").mkdir()
    (folder / "words.dict").write_text(dictionary(target))
    grown = (corpus or folder / "corpus").resolve()
    grown.mkdir(parents=True, exist_ok=True)
    end, tally = time.monotonic() + seconds, Tally()
    while (left := round(end - time.monotonic())) > 0:
        flags = [
            f"-max_total_time={left}", f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_RSS_MIB}",
            f"-max_len={MOST_BYTES}", f"-artifact_prefix={folder / 'findings'}/", f"-seed={seed}",
            f"-dict={folder / 'words.dict'}", "-print_final_stats=1", "-use_value_profile=1",
            str(grown), str(CORPUS / target),
        ]  # fmt: skip
        module = [sys.executable, "-m", "benchmarks.fuzz", "--target", target]
        with tempfile.TemporaryDirectory(dir=MEMORY) as room, (folder / "log").open("ab+") as log:
            start = log.tell()
            words = [*module, "--child", str(folder), room, *flags]
            subprocess.run(words, stdout=log, stderr=log, timeout=left + 120, check=False)
            log.seek(start)
            if not tally.add(log.read().decode(errors="replace")):
                print(f"{target}: the child did not start; see {folder / 'log'}")
                return 1
        seed += 1
    return summary(target, seconds, folder / "findings", tally)


def summary(target: str, seconds: int, folder: Path, tally: Tally) -> int:
    findings = sorted(path for path in folder.iterdir() if path.suffix != ".txt")
    edges, features, inputs = tally.coverage
    print(
        f"{target}: {seconds} s, {tally.executions} executions, coverage {edges} edges and "
        f"{features} features in {inputs} inputs, peak {tally.peak_mib} MiB, "
        f"{len(findings)} findings"
    )
    for path in findings:
        notes = path.with_suffix(".txt")
        told = notes.read_text().splitlines()[0] if notes.is_file() else "the process died"
        print(f"  {path}: {told}")
    return 1 if findings else 0


def replay() -> int:
    """Open every file of the corpus once, each target in a fresh room; print what became of it."""
    wrong = 0
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        for target in OPENERS:
            room = Room(target, Path(folder, target))
            for path in sorted((CORPUS / target).iterdir()):
                found = room.outcome(path.read_bytes())
                wrong += isinstance(found, Finding)
                said = f"FOUND: {found.key}" if isinstance(found, Finding) else found
                print(f"{target}/{path.name}\t{said}")
        os.chdir("/")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=OPENERS)
    parser.add_argument("--seconds", type=int, default=200)
    parser.add_argument("--corpus", type=Path, help="keeps what is found between runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", action="store_true", help="the stored corpus alone")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    if options.replay:
        return replay()
    if options.target is None:
        parser.error(f"--target is missing: {', '.join(OPENERS)}")
    if options.child:
        child(options.target, *options.child, flags)
    return campaign(options.target, options.seconds, options.corpus, options.seed)


if __name__ == "__main__":
    sys.exit(main())
