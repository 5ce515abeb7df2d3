r"""Which networks can be compressed? Makes docs/architectures.md.

    python -m benchmarks.architectures --rows benchmarks/architectures.jsonl \
        --write docs/architectures.md

Every torchvision classifier and a list of timm families, with random weights and ten outputs, goes
down the whole street: opened, head cut, planned at 30 % of its MACs (or the least that it allows),
cut, rebuilt from its bundle, exported, simplified, compared with ONNX Runtime on eight images. One
process each, with a time limit; rows that are in the file already are not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMM = (
    "resnet26d", "resnetv2_50", "seresnext26d_32x4d", "ecaresnet26t", "gernet_s", "regnetx_002",
    "regnety_002", "mobilenetv3_small_050", "mobilenetv4_conv_small", "efficientnet_lite0",
    "tf_efficientnetv2_b0", "tinynet_e", "ghostnet_100", "mnasnet_050", "fbnetc_100",
    "hardcorenas_a",
    "densenet121", "dla34", "hrnet_w18_small", "res2net50_26w_4s", "skresnet18", "cspresnet50",
    "darknet53", "vovnet39a", "ese_vovnet19b_dw", "dpn68", "xception41", "repvgg_a0", "rexnet_100",
    "nfnet_l0", "convnext_atto", "inception_next_tiny", "fasternet_t0", "starnet_s1",
    "mobileone_s0",
    "hgnetv2_b0", "lcnet_050", "selecsls42b", "vgg11_bn", "inception_v4", "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
)  # fmt: skip
SIZES = (64, 96, 128, 224, 299)
SHARES = (30, 50, 70, 85, 95)
SECONDS = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines; made or continued")
    parser.add_argument("--write", type=Path, help="Markdown file to make of all rows")
    parser.add_argument("--only", nargs="*", help="names, as --arch takes them; none: only --write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(compress(asked.one)))
        return
    done = {row["arch"]: row for row in read(asked.rows)}
    for name in names() if asked.only is None else asked.only:
        if name not in done or asked.only:
            done[name] = row = apart(name)
            with asked.rows.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), file=sys.stderr)
    if asked.write:
        asked.write.write_text(page(list(done.values())))


def names() -> list[str]:
    from capdeploy.zoo import SOURCES

    return [*SOURCES.load("torchvision").names(), *(f"timm:{name}" for name in TIMM)]


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def apart(name: str) -> dict:
    """Compress one network in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.architectures", "--rows", "-", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"arch": name, "refused": f"not done after {SECONDS} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return {"arch": name, "refused": f"exit {done.returncode}: {last}"}
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": round(time.monotonic() - began)}


def compress(name: str) -> dict:
    """Walk the street with one network, at the smallest input and budget that it allows."""
    from capdeploy.errors import ArchitectureError, CapdeployError

    refusal = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            weights = fresh(name, Path(folder))
            images = squares(Path(folder))
            for size in SIZES:
                try:
                    return at(name, weights, images, size, Path(folder))
                except ArchitectureError as error:
                    if "cannot take an input" not in str(error):
                        raise
                    refusal = str(error)
        except CapdeployError as error:
            refusal = str(error)
    return {"arch": name, "refused": refusal.splitlines()[0]}


def at(name: str, weights: Path, images: Path, size: int, folder: Path) -> dict:
    from capdeploy import bundle, pipeline
    from capdeploy.errors import PlanError
    from capdeploy.progress import Quiet
    from capdeploy.values.plan import PruningPlan
    from capdeploy.values.recipe import Recipe
    from capdeploy.values.report import Metrics

    refusal = ""
    for share in SHARES:
        recipe = Recipe(
            checkpoint=str(weights), arch=name, data=f"folder:{images}", input_size=(size, size),
            classes=("0", "1", "2", "3"), strategy="ln_norm", max_macs=(f"{share}%",),
            tolerance=0.1, epochs=0, reconstruct=False, bn_images=0, bench=False,
            allocation="uniform", align=4,
        )  # fmt: skip
        output = folder / f"out-{size}-{share}"
        try:
            pipeline.compress(recipe, output, Quiet())
        except PlanError as error:
            refusal = refusal or str(error).splitlines()[0]
            continue
        made = next(entry for entry in bundle.find(output) if entry.folder.name != bundle.BASELINE)
        bundle.require_parity(made)
        metrics = Metrics.from_json(made.path(bundle.METRICS).read_bytes())
        plan = PruningPlan.from_json(made.path(bundle.PLAN).read_bytes())
        proofs = metrics.artifact.parity
        return {
            "arch": name,
            "input": size,
            "parameters": metrics.before.parameters,
            "left": metrics.after.macs / metrics.before.macs,
            "asked": share / 100,
            "whole": sorted({left.whole_because for left in plan.left_whole()}),
            "error": max(proof.max_abs_error for proof in proofs),
            "agreement": min(proof.top1_agreement for proof in proofs),
            "rebuilt": rebuilt(made),
            "simplified": metrics.artifact.simplification.applied,
        }
    raise PlanError(refusal)


def rebuilt(made) -> float:
    """Measure how far the network rebuilt from the bundle answers from what was packed.

    By as many threads as packed it: sums in another order round otherwise.
    """
    import numpy as np
    import torch

    from capdeploy.check_images import CheckImages
    from capdeploy.torch_session import TorchSession

    checks = CheckImages.load(made.folder)
    inputs = made.manifest.preprocessing.apply(np.asarray(checks.images))
    found = TorchSession(made, "cpu", torch.get_num_threads()).run(inputs)
    return float(np.abs(found - checks.logits).max())


def fresh(name: str, folder: Path) -> Path:
    """Draw weights for a network and write them as a checkpoint."""
    import torch
    from safetensors.torch import save_file

    from capdeploy import rebuild
    from capdeploy.values.checkpoint import Architecture

    torch.manual_seed(0)
    network = rebuild.build(Architecture.parse(name), 10)
    settle(network)
    state = network.state_dict()
    file = folder / "fresh.safetensors"
    save_file({key: value.clone().contiguous() for key, value in state.items()}, file)
    return file


def settle(network) -> None:
    """Let batch normalisations see noise, or a deep network's answers would all be nearly 0."""
    import torch

    for layer in network.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = None  # the mean over all batches
    network.train()
    for size in SIZES:
        with contextlib.suppress(Exception), torch.no_grad():  # the wrong size, in any way
            for _ in range(3):
                network(torch.randn(8, 3, size, size))
            return


def squares(folder: Path) -> Path:
    """Draw a few noisy images of ten classes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    root = folder / "images"
    for split, count in (("train", 4), ("val", 2)):
        for label in range(10):
            place = root / split / str(label)
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
                pixels[:, label * 6 : label * 6 + 8] = 255
                Image.fromarray(pixels).save(place / f"{number}.png")
    return root


def page(rows: list[dict]) -> str:
    from capdeploy import __version__

    good = [row for row in rows if "refused" not in row]
    # Rows of the first version say True: within 1e-5.
    exact = [row for row in good if row["agreement"] == 1 and row["rebuilt"] in (True, 0.0)]
    lines = [
        "# Architectures",
        "",
        "Made by `python -m benchmarks.architectures --rows benchmarks/architectures.jsonl --write "
        f"docs/architectures.md` with capdeploy {__version__}: random weights, ten outputs of which"
        " four are kept, `ln_norm`, uniform allocation, no training. *MACs left*: of the head-cut "
        "network, at 30 % asked or the least of 50, 70, 85 and 95 % that it allows. *Error*: the "
        "largest difference between a logit of PyTorch and of ONNX Runtime, after export and after "
        "simplification. *Rebuilt*: how the network rebuilt from the bundle answers, against what "
        "was packed; NO if that or a top-1 differs.",
        "",
        f"{len(exact)} of {len(rows)} networks compressed, top-1 the same in ONNX Runtime: "
        f"{sum(not row['arch'].startswith('timm:') for row in exact)} of torchvision, "
        f"{sum(row['arch'].startswith('timm:') for row in exact)} of timm.",
        "",
        "| `--arch` | input | parameters | MACs left | error | rebuilt | left whole |",
        "|:--|--:|--:|--:|--:|:--|:--|",
    ]
    for row in good:
        whole = "; ".join(row["whole"]) or "-"
        alike = "within 1e-5" if row["rebuilt"] is True else f"{row['rebuilt']:.0e}"
        mark = "NO" if row not in exact else "bit for bit" if row["rebuilt"] == 0.0 else alike
        lines.append(
            f"| {row['arch']} | {row['input']} | {row['parameters'] / 1e6:.1f} M | "
            f"{row['left']:.0%} | {row['error']:.0e} | {mark} | {whole} |"
        )
    lines += ["", "## Refused", "", "| `--arch` | reason |", "|:--|:--|"]
    lines += [f"| {row['arch']} | {row['refused']} |" for row in rows if "refused" in row]
    left = [name for name in names() if name not in {row["arch"] for row in rows}]
    if left:
        lines += ["", "## Not tried yet", "", ", ".join(left)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
