"""What does not vary from run to run: compared exactly, between two artefacts."""

from __future__ import annotations

from capdeploy import graphfile
from capdeploy.bench.sides import Artefact
from capdeploy.bundle import GRAPH, IMAGES, Bundle
from capdeploy.values.gate import Fact
from capdeploy.values.profile import Gate

# Names, versions and dates inside the file differ by some bytes between equal networks.
SIZE_SLACK_BYTES = 4096


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
            _same("labels", ", ".join(base.manifest.classes.names),
                  ", ".join(head.manifest.classes.names)),
            _same("preprocessing", _words(base), _words(head)),
            _accuracy(base, head, allowed.max_drop),
            _parity(base, head),
        ]  # fmt: skip
    return tuple(facts)


def _grown(name: str, base: int, head: int, allowed: float) -> Fact:
    worse = head > base * (1 + allowed)
    outcome = "regressed" if worse else "better" if head < base else "same"
    if not worse and head > base:
        outcome = "changed"
    limit = f", at most {allowed:+.1%} is allowed" if allowed else ""
    finding = f"{name}: {base:,} -> {head:,} ({head / base - 1:+.2%}{limit})" if worse else ""
    return Fact.model_validate(
        {"name": name, "base": f"{base:,}", "head": f"{head:,}", "outcome": outcome,
         "finding": finding}
    )  # fmt: skip


def _opset(base: int, head: int) -> Fact:
    worse = head > base
    return Fact(
        name="opset", base=str(base), head=str(head),
        outcome="regressed" if worse else "changed" if head < base else "same",
        finding=f"opset: {base} -> {head}; an older runtime on the device may refuse it"
        if worse else "",
    )  # fmt: skip


def _same(name: str, base: str, head: str) -> Fact:
    same = base == head
    return Fact(
        name=name, base=base, head=head,
        outcome="same" if same else "regressed",
        finding="" if same else f"{name} changed: {base} -> {head}",
    )  # fmt: skip


def _accuracy(base: Bundle, head: Bundle, allowed: float) -> Fact:
    before, after = base.manifest.accuracy, head.manifest.accuracy
    if before is None or after is None:
        return Fact(name="accuracy", base=_score(base), head=_score(head), outcome="changed")
    drop = before.top1 - after.top1
    # The exact share that one image is worth must not decide through its rounding.
    worse = drop > allowed + 1e-9
    same_images = before.images == after.images and all(
        base.manifest.files[name].sha256 == head.manifest.files[name].sha256 for name in (IMAGES,)
    )
    note = "" if same_images else " (other images: not exact)"
    finding = f"accuracy: {_score(base)} -> {_score(head)}, {drop * 100:.2f} points lower, at most "
    finding += f"{allowed * 100:g} allowed{note}"
    outcome = "regressed" if worse else "same" if drop == 0 else "better" if drop < 0 else "changed"
    return Fact.model_validate(
        {"name": "accuracy", "base": _score(base), "head": _score(head) + note,
         "outcome": outcome, "finding": finding if worse else ""}
    )  # fmt: skip


def _score(bundle: Bundle) -> str:
    found = bundle.manifest.accuracy
    return f"{found.top1:.2%} of {found.images}" if found is not None else "not measured"


def _parity(base: Bundle, head: Bundle) -> Fact:
    texts = []
    for each in (base, head):
        last = each.manifest.artifact.parity[-1]
        texts.append(f"{last.top1_agreement:.1%}, {last.max_abs_error:.1e}")
    broken = [proof for proof in head.manifest.artifact.parity if not proof.holds]
    return Fact(
        name="parity", base=texts[0], head=texts[1],
        outcome="regressed" if broken else "same",
        finding=f"parity of the {broken[0].stage} graph does not hold: {texts[1]}"
        if broken else "",
    )  # fmt: skip


def _words(bundle: Bundle) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in bundle.manifest.preprocessing.model_dump().items()
    )
