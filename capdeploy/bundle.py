"""The wall: a folder with a manifest, and nothing else passes from workshop to field.

No torch and no onnx here. See ``docs/bundle-format.md``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from capdeploy.check_images import ANSWERS, IMAGES
from capdeploy.errors import ConfigError, DigestError, ParityError, UsageError
from capdeploy.values.artifact import Quantized
from capdeploy.values.manifest import FileEntry, Manifest
from capdeploy.values.noun import Noun

MANIFEST = "manifest.json"
BASELINE = "baseline"
GRAPH = "model.onnx"
WEIGHTS = "weights.safetensors"
PLAN = "plan.json"
LABELS = "labels.txt"
PREPROCESSING = "preprocessing.json"
RECIPE = "recipe.toml"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: where it lies and what its manifest says."""

    folder: Path
    manifest: Manifest
    precision: str = "fp32"
    graphs: tuple[str, ...] = (GRAPH,)

    @property
    def graph_path(self) -> Path:
        """The graph that a runtime opens."""
        return self.path(self.graphs[0])

    def precisions(self, runtime: str) -> tuple[str, ...]:
        """List the precisions in which a runtime can open this bundle, single first."""
        return ("fp32", *(each.precision for each in self._quantized(runtime)))

    def in_precision(self, precision: str, runtime: str) -> Bundle:
        """Choose the graph that a runtime opens; a `UsageError` if there is none."""
        if precision == "fp32":
            return replace(self, precision=precision, graphs=(GRAPH,))
        for each in self._quantized(runtime):
            if each.precision == precision:
                return replace(self, precision=precision, graphs=each.files)
        others = [each.runtime for each in self.manifest.quantized
                  if each.precision == precision and each.rejected is None]  # fmt: skip
        raise UsageError(
            f"{self.folder} has no {precision} graph for {runtime}, only "
            f"{', '.join(self.precisions(runtime))}; "
            + (f"it has one for {', '.join(others)}" if others
               else f"compress it with --precision {precision}")
        )  # fmt: skip

    def _quantized(self, runtime: str) -> tuple[Quantized, ...]:
        return tuple(
            each for each in self.manifest.quantized
            if each.runtime == runtime and each.rejected is None
        )  # fmt: skip

    def path(self, name: str) -> Path:
        """Give the path of a file of the bundle."""
        return self.folder / name

    @property
    def size_bytes(self) -> int:
        """Size of the graph in the chosen precision, which is what a device stores."""
        return sum(self.manifest.files[name].size_bytes for name in self.graphs)

    def baseline(self) -> Bundle | None:
        """Open the bundle that this one is compared with, if it lies beside it."""
        if self.manifest.baseline is None:
            return None
        folder = self.folder.parent / self.manifest.baseline
        return read(folder) if (folder / MANIFEST).is_file() else None


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SEAL = re.compile(rb'"self_sha256": "([0-9a-f]*)"')
FILES = (GRAPH, WEIGHTS, PLAN, LABELS, PREPROCESSING, RECIPE, METRICS, IMAGES, ANSWERS)


def sealed(manifest: Manifest) -> Manifest:
    """Return a manifest that carries the digest of its own content."""
    blank = manifest.model_copy(update={"self_sha256": ""})
    own = hashlib.sha256(blank.to_json().encode()).hexdigest()
    return manifest.model_copy(update={"self_sha256": own})


def entries(folder: Path) -> dict[str, FileEntry]:
    """Describe every file of a bundle's folder but the manifest, in name order."""
    return {
        path.name: FileEntry(sha256=digest(path), size_bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }


def read(folder: Path) -> Bundle:
    """Open a bundle without checking its digests.

    Parameters
    ----------
    folder : Path
        The bundle's folder.

    Returns
    -------
    Bundle
        The folder and its manifest.

    Raises
    ------
    UsageError
        If the folder holds no manifest.
    DigestError
        If the manifest is not valid, and not as it was sealed.
    ConfigError
        If it is as it was sealed, and not valid all the same.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} is not a bundle: {_lacking(folder)}")
    try:
        return Bundle(folder, Manifest.from_json(path.read_bytes(), source=str(path)))
    except ConfigError:
        _require_seal(path)
        raise


def _require_seal(manifest: Path) -> None:
    """Stop if a manifest is not as it was sealed.

    Its text counts as it stands: a later version may know fields that this one has not.
    """
    text = manifest.read_bytes()
    own = SEAL.search(text)
    blank = SEAL.sub(b'"self_sha256": ""', text, count=1)
    if own is None or hashlib.sha256(blank).hexdigest().encode() != own[1]:
        raise DigestError(f"{manifest} was changed after it was sealed; copy the bundle again")


def _lacking(folder: Path) -> str:
    """Say why a path is no bundle, and what to name instead."""
    if folder.exists() and not folder.is_dir():
        return "it is a file; name the folder that holds it"
    if inner := sorted(each.parent.name for each in folder.glob(f"*/{MANIFEST}")):
        return f"it is a run of several; name one of {', '.join(inner)} in it"
    found = f"it has no {MANIFEST}" if folder.is_dir() else "no such file or folder"
    return f"{found}; name a bundle of a 'compress' output"


def find(path: Path) -> tuple[Bundle, ...]:
    """Open the bundle at a path, or all bundles of a run's folder, the baseline first.

    Parameters
    ----------
    path : Path
        A bundle, or the output folder of ``capdeploy compress``.

    Returns
    -------
    tuple[Bundle, ...]
        At least one bundle.

    Raises
    ------
    UsageError
        If there is no bundle there.
    DigestError
        If a manifest is damaged.
    ConfigError
        If a manifest is not valid.
    """
    bundles = [read(folder) for folder in folders(path)]
    return tuple(sorted(bundles, key=lambda bundle: bundle.manifest.role != "baseline"))


def folders(path: Path) -> list[Path]:
    """List the folders that `find` reads: the path itself, or those of a run, in name order."""
    if (path / MANIFEST).is_file() or not path.is_dir():
        return [path]
    # Others may lie there, but a folder with a graph was a bundle, and says so when it is read.
    inner = sorted({file.parent for name in (MANIFEST, GRAPH) for file in path.glob(f"*/{name}")})
    return inner if any((folder / MANIFEST).is_file() for folder in inner) else [path]


def verify(bundle: Bundle) -> None:
    """Compare a bundle's folder with its manifest: every file, and no other.

    Parameters
    ----------
    bundle : Bundle
        The bundle to check.

    Raises
    ------
    DigestError
        If a file is missing, extra, of another size, or of another digest.
    ConfigError
        If a JSON document inside is not valid.
    """
    expected = bundle.manifest.files
    _require_seal(bundle.path(MANIFEST))
    if unlisted := [name for name in FILES if name not in expected]:
        raise DigestError(
            f"{bundle.folder / MANIFEST} does not list {unlisted[0]}; copy the bundle again"
        )
    present = {path.name for path in bundle.folder.iterdir()} - {MANIFEST}
    missing, extra = sorted(expected.keys() - present), sorted(present - expected.keys())
    if missing:
        raise DigestError(f"{bundle.folder}: {missing[0]} is missing; copy the bundle again")
    if extra:
        raise DigestError(f"{bundle.folder}: {extra[0]} is not in the manifest; remove it")
    for name, entry in expected.items():
        path = bundle.path(name)
        if path.is_symlink() or not path.is_file():
            raise DigestError(f"{path} is not a plain file; copy the bundle again")
        size = path.stat().st_size
        if size != entry.size_bytes:
            raise DigestError(
                f"{path}: {size} bytes, the manifest says {entry.size_bytes}; copy the bundle "
                "again (where git LFS keeps it: git lfs pull)"
            )
        if (found := digest(path)) != entry.sha256:
            raise DigestError(
                f"{path}: SHA-256 {found[:12]}..., the manifest says {entry.sha256[:12]}...; "
                "the file was changed or damaged, copy the bundle again"
            )
    _verify_documents(bundle)


def require_parity(bundle: Bundle) -> None:
    """Stop if the graph of a bundle does not answer as the network did.

    Parameters
    ----------
    bundle : Bundle
        The bundle to judge by the proofs in its manifest.

    Raises
    ------
    ParityError
        If a proof does not hold.
    """
    for proof in bundle.manifest.artifact.parity:
        if not proof.holds:
            raise ParityError(
                f"{bundle.folder}: the {proof.stage} graph answers differently from the network: "
                f"max abs error {proof.max_abs_error:.2g} (accepted {proof.atol:.2g}), top-1 "
                f"agreement {proof.top1_agreement:.1%}; do not ship it, or raise --parity-atol"
            )


def _verify_documents(bundle: Bundle) -> None:
    from capdeploy.values.checkpoint import Preprocessing
    from capdeploy.values.plan import PruningPlan
    from capdeploy.values.report import Metrics

    kinds: tuple[type[Noun], ...] = (PruningPlan, Preprocessing, Metrics)
    for name, kind in zip((PLAN, PREPROCESSING, METRICS), kinds, strict=True):
        kind.from_json(bundle.path(name).read_bytes(), source=str(bundle.path(name)))
