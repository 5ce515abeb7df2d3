"""What does not vary from run to run: compared exactly, between two artefacts."""

from __future__ import annotations

from typing import Literal

from capdeploy import graphfile
from capdeploy.bench.sides import Artefact
from capdeploy.bundle import GRAPH, Bundle
from capdeploy.check_images import IMAGES
from capdeploy.values.accuracy import Accuracy
from capdeploy.values.gate import Fact
from capdeploy.values.profile import Gate, HardwareProfile

# Names, versions and dates inside the file differ by some bytes between equal networks.
SIZE_SLACK_BYTES = 4096
Outcome = Literal["same", "better", "changed", "regressed"]


def of(base: Artefact, head: Artefact, profile: HardwareProfile) -> tuple[Fact, ...]:
    """Compare two artefacts, and the graphs in fewer bits where a profile's device ships those.

    Parameters
    ----------
    base : Artefact
        What is compared with.
    head : Artefact
        What is compared.
    profile : HardwareProfile
        Says the precision, the runtimes, and what growth and drop are accepted.

    Returns
    -------
    tuple[Fact, ...]
        Those of `compare`, then those of `shipped`.
    """
    return (*compare(base, head, profile.gate), *shipped(base, head, profile))


def compare(base: Artefact, head: Artefact, allowed: Gate) -> tuple[Fact, ...]:
    """Compare the facts of two artefacts.

    Parameters
    ----------
    base : Artefact
        What is compared with.
    head : Artefact
        What is compared.
    allowed : Gate
        Growth and drop that are accepted.

    Returns
    -------
    tuple[Fact, ...]
        Counts of the graph always; cost, accuracy, parity, labels and preprocessing where both
        are bundles.
    """
    graphs = [graphfile.read(each.path(GRAPH)) for each in (base, head)]
    facts = []
    if isinstance(base, Bundle) and isinstance(head, Bundle):
        before, after = base.manifest.cost, head.manifest.cost
        facts += [
            _grown("parameters", before.parameters, after.parameters, allowed.max_growth),
            _grown("MACs", before.macs, after.macs, allowed.max_growth),
        ]
    else:
        facts.append(_grown("parameters", graphs[0].parameters, graphs[1].parameters,
                            allowed.max_growth))  # fmt: skip
    sizes = [graph.size_bytes for graph in graphs]
    slack = max(allowed.max_growth, SIZE_SLACK_BYTES / sizes[0])
    facts += [
        _grown("bytes", sizes[0], sizes[1], slack),
        _grown("nodes", graphs[0].nodes, graphs[1].nodes, allowed.max_growth),
        _opset(graphs[0].opset, graphs[1].opset),
    ]
    if isinstance(base, Bundle) and isinstance(head, Bundle):
        facts += [
            _same("labels", _outputs(base), _outputs(head)),
            _same("preprocessing", _words(base), _words(head)),
            _accuracy("accuracy", base, head,
                      (base.manifest.accuracy, head.manifest.accuracy), allowed.max_drop),
            _parity(base, head),
        ]  # fmt: skip
    return tuple(facts)


def shipped(base: Artefact, head: Artefact, profile: HardwareProfile) -> tuple[Fact, ...]:
    """Compare bytes and accuracy in the bits that a device ships, runtime by runtime.

    Where one of the two lacks such a graph, the row of its latency says so.
    """
    bits, facts = profile.runtime.precision, list[Fact]()
    if bits == "fp32" or not (isinstance(base, Bundle) and isinstance(head, Bundle)):
        return ()
    for runtime in profile.runtime.runtimes:
        before, after = (
            next((each for each in side.manifest.quantized if each.rejected is None
                  and (each.precision, each.runtime) == (bits, runtime)), None)
            for side in (base, head)
        )  # fmt: skip
        if before is None or after is None:
            continue
        name = f"in {bits} for {runtime}"
        slack = max(profile.gate.max_growth, SIZE_SLACK_BYTES / max(1, before.size_bytes))
        facts += [
            _grown(f"bytes {name}", before.size_bytes, after.size_bytes, slack),
            _accuracy(f"accuracy {name}", base, head, (before.after, after.after),
                      profile.gate.max_drop),
        ]  # fmt: skip
    return tuple(facts)


def _outputs(bundle: Bundle) -> str:
    """Say in words what each output means."""
    manifest, classes = bundle.manifest, bundle.manifest.classes
    if not manifest.head_cut:
        known = (f"{at} {name}" for at, name in zip(classes.kept, classes.names, strict=True))
        return f"{', '.join(known)} of {classes.total}"
    rejects = () if manifest.reject_output is None else ("none of them",)
    return ", ".join((*classes.names, *rejects))


def _grown(name: str, base: int, head: int, allowed: float) -> Fact:
    texts = (f"{base:,}", f"{head:,}")
    if head > base * (1 + allowed):
        change = f" ({head / base - 1:+.2%})" if base else ""
        limit = f", at most {allowed:+.1%} is allowed" if allowed else ""
        return _fact(name, *texts, "regressed", f"{name}: {texts[0]} -> {texts[1]}{change}{limit}")
    return _fact(name, *texts, "same" if head == base else "better" if head < base else "changed")


def _opset(base: int, head: int) -> Fact:
    if head > base:
        finding = f"opset: {base} -> {head}; an older runtime on the device may refuse it"
        return _fact("opset", str(base), str(head), "regressed", finding)
    return _fact("opset", str(base), str(head), "changed" if head < base else "same")


def _same(name: str, base: str, head: str) -> Fact:
    if base == head:
        return _fact(name, base, head, "same")
    return _fact(name, base, head, "regressed", f"{name} changed: {base} -> {head}")


def _accuracy(
    name: str,
    base: Bundle,
    head: Bundle,
    found: tuple[Accuracy | None, Accuracy | None],
    allowed: float,
) -> Fact:
    before, after = found
    texts = (_score(before), _score(after))
    if before is None or after is None:
        lost = before is not None
        return _fact(name, *texts, "regressed" if lost else "changed",
                     f"{name}: the head's was not measured" if lost else "")  # fmt: skip
    if before.images != after.images or _images(base) != _images(head):
        return _fact(name, *texts, "changed",
                     f"{name}: {texts[0]} and {texts[1]} are of different images")  # fmt: skip
    drop = before.top1 - after.top1
    # The exact share that one image is worth must not decide through its rounding.
    if drop > allowed + 1e-9:
        finding = f"{name}: {texts[0]} -> {texts[1]}, {drop * 100:.2f} points lower, at most "
        return _fact(name, *texts, "regressed", f"{finding}{allowed * 100:g} allowed")
    return _fact(name, *texts, "same" if not drop else "better" if drop < 0 else "changed")


def _images(bundle: Bundle) -> str:
    return bundle.manifest.files[IMAGES].sha256


def _fact(name: str, base: str, head: str, outcome: Outcome, finding: str = "") -> Fact:
    return Fact(name=name, base=base, head=head, outcome=outcome, finding=finding)


def _score(found: Accuracy | None) -> str:
    return f"{found.top1:.2%} of {found.images}" if found is not None else "not measured"


def _parity(base: Bundle, head: Bundle) -> Fact:
    before, after = _proof(base), _proof(head)
    broken = [proof for proof in head.manifest.artifact.parity if not proof.holds]
    if broken:
        finding = f"parity of the {broken[0].stage} graph does not hold: {after}"
        return _fact("parity", before, after, "regressed", finding)
    return _fact("parity", before, after, "same")


def _proof(bundle: Bundle) -> str:
    last = bundle.manifest.artifact.parity[-1]
    return f"{last.top1_agreement:.1%}, {last.max_abs_error:.1e}"


def _words(bundle: Bundle) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in bundle.manifest.preprocessing.model_dump().items()
    )
