"""The whole way, and everything that can be wrong at the door."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from capdeploy import bundle, pipeline, rebuild, tensorfile
from capdeploy.check_images import CheckImages
from capdeploy.errors import BudgetError
from capdeploy.progress import Quiet
from capdeploy.prune import apply
from capdeploy.report import sections
from capdeploy.stages import making, steps
from capdeploy.values.artifact import Quantized
from capdeploy.values.plan import PruningPlan
from capdeploy.values.report import RunReport
from tests import nets
from tests.commands import ROOT, base, capdeploy
from tests.conftest import recipe
from tests.prune.test_groups_and_cut import draw


def test_the_record_of_a_run(run):
    report = run.report
    assert [model.name for model in report.models] == ["baseline", "ratio-0.5"]
    baseline, slim = report.models
    assert [entry.stage for entry in slim.accuracy][:4] == [
        "full head", "full head, masked", "head cut", "cut, no training"
    ]  # fmt: skip
    assert slim.accuracy[-1].stage == "fine-tuned"
    assert baseline.accuracy[-1].stage == "head cut"
    assert slim.accuracy[1].classes == slim.accuracy[2].classes  # masking is what cutting does
    assert slim.after.macs < 0.5 * slim.before.macs
    assert slim.realised_ratio == pytest.approx(0.5)
    assert report.classes.kept == (7, 1, 4)
    assert slim.accuracy[-1].top1 > 0.7
    assert (run.folder / "recipe.toml").is_file()


def test_the_same_recipe_gives_the_same_network(run, trained, tmp_path):
    again = tmp_path / "again"
    pipeline.compress(recipe(trained), again, Quiet())
    for name in (bundle.WEIGHTS, bundle.PLAN):
        assert (again / "ratio-0.5" / name).read_bytes() == (run.bundle / name).read_bytes()


def test_a_ratio_that_widths_cannot_realise_is_said(chain):
    """Of 16, 32 and 24 channels, multiples of 8: nine tenths cannot go."""
    lines = []

    class Heard(Quiet):
        def note(self, message):
            lines.append(message)

    _, plan = draw(chain, 0.9, align=8)
    making.tell(plan, Heard())
    assert f"{plan.realised_ratio:.1%} of the filters go instead of 90.0%" in lines[-1]
    _, plan = draw(chain, 0.5, align=1)
    making.tell(plan, Heard())
    assert len(lines) == 1


def test_several_ratios_and_a_kept_head(trained, tmp_path):
    wanted = recipe(trained, ratio=(0.25, 0.75), keep_head=True, epochs=0)
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    assert [model.name for model in report.models] == ["baseline", "ratio-0.25", "ratio-0.75"]
    macs = [model.after.macs for model in report.models]
    assert macs == sorted(macs, reverse=True)
    opened = bundle.read(tmp_path / "out" / "ratio-0.75")
    assert not opened.manifest.head_cut
    # Every output has its line, or a device would take one class for another.
    assert opened.path(bundle.LABELS).read_text().split() == [str(output) for output in range(10)]
    assert CheckImages.load(opened.folder).logits.shape[1] == 10
    assert opened.manifest.accuracy.top1 > 0.2


def test_the_command_from_checkpoint_to_table(trained, tmp_path):
    done = capdeploy(
        *base(trained), "--ratio", 0.5, "-o", tmp_path / "out", "-f", "json",
        "--bench-seconds", 0.3, "--runtimes", "onnxruntime,openvino", "--devices", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = RunReport.from_json(done.stdout)
    assert report.benchmark.rows
    assert RunReport.from_json((tmp_path / "out" / "report.json").read_text()) == report
    assert "score filters" in done.stderr
    for verb in ("verify", "inspect"):
        shown = capdeploy(verb, tmp_path / "out")
        assert shown.returncode == 0, shown.stderr
        assert "ratio-0.5" in shown.stdout
    resolved = tmp_path / "out" / "recipe.toml"
    repeat = capdeploy("compress", "-c", resolved, "--dry-run", "-f", "md")
    assert repeat.returncode == 0, repeat.stderr
    assert "| stem |" in repeat.stdout


def test_several_limits_for_one_bundle(trained, tmp_path):
    limits = ("--max-macs", "60%", "--max-params", "55%", "--together", "--align", 1)
    done = capdeploy(*base(trained), *limits, "--tolerance", 0.1, "--no-bench",
                     "-o", tmp_path / "out", "-f", "json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    [_, slim] = RunReport.from_json(done.stdout).models
    assert slim.name == "macs-60pct-and-parameters-55pct"
    assert slim.after.macs <= 0.6 * slim.before.macs
    assert slim.after.parameters <= 0.55 * slim.before.parameters
    assert capdeploy("verify", tmp_path / "out").returncode == 0


def test_dry_run_prints_the_plan_and_writes_nothing(trained, tmp_path):
    done = capdeploy(*base(trained), "--ratio", "0.5,0.75", "--dry-run", "-f", "json")
    assert done.returncode == 0, done.stderr
    plans = json.loads(done.stdout)
    assert [plan["budget"]["ratio"] for plan in plans] == [0.5, 0.75]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", [[], ["compress"], ["bench"], ["verify"], ["profiles", "list"]])
def test_help_is_fast_and_needs_no_torch(verb):
    code = (
        "import sys\nfrom capdeploy.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules), 'heavy import'\n"
    )
    times = []
    for _ in range(3):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code, *verb, "--help"], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        times.append(time.monotonic() - start)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
    assert min(times) < 0.3


def refused(done, code, words):
    """One line on stderr besides the progress, the right exit code, nothing on stdout."""
    import re

    lines = [line for line in done.stderr.splitlines() if not line.startswith(("[", " "))]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("capdeploy: ")
    assert re.search(words, lines[0]), lines[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_existing_output_is_refused_before_any_work(trained, tmp_path):
    (tmp_path / "out").mkdir()
    done = capdeploy(*base(trained), "-o", tmp_path / "out")
    refused(done, 2, "exists; choose another --output or add --force")
    assert "score" not in done.stderr


def test_no_output_no_work(trained):
    refused(capdeploy(*base(trained)), 2, "--output is missing")
    refused(capdeploy("compress"), 2, "CHECKPOINT is missing|--output is missing")
    refused(capdeploy("comprss"), 2, "no command 'comprss'; did you mean compress")


def folder_run(trained, images, out, *extra):
    return capdeploy(
        "compress", trained, "--arch", "tests.nets:Residual", "--data", f"folder:{images}",
        "--input-size", 16, "--label-map", images / "map.toml", "--epochs", 0, "--ratio", 0.5,
        "--no-bench", "-o", out, *extra,
    )  # fmt: skip


def test_image_folders_good_and_bad(trained, image_folder, tmp_path):
    (image_folder / "map.toml").write_text("cat = 7\ndog = 2\n")
    out = tmp_path / "out"
    done = folder_run(trained, image_folder, out, "--classes", "dog,7")
    assert done.returncode == 0, done.stderr
    manifest = bundle.read(out / "ratio-0.5").manifest
    assert manifest.classes.kept == (2, 7)
    assert manifest.classes.names == ("dog", "cat")

    bad = image_folder / "train" / "cat" / "000.png"
    bad.write_bytes(bad.read_bytes()[:40])
    shutil.rmtree(out)
    refused(
        folder_run(trained, image_folder, out), 2, r"1 unreadable image, 0 tolerated, .*000\.png"
    )
    done = folder_run(trained, image_folder, out, "--max-bad-images", 1)
    assert done.returncode == 0, done.stderr
    report = RunReport.from_json((out / "report.json").read_text())
    assert [Path(name).name for name in report.bad_images] == ["000.png"]
    shutil.rmtree(out)

    for image in (image_folder / "val" / "dog").iterdir():
        image.unlink()
    refused(folder_run(trained, image_folder, out, "--max-bad-images", 1), 2,
            "class dog has no images in the val split")  # fmt: skip
    (image_folder / "map.toml").write_text("cat = 7\n")
    refused(folder_run(trained, image_folder, out), 2, "data class dog .* has no output")
    assert not out.exists()


def test_labels_say_which_output_a_folder_is(trained, image_folder, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(["a", "b", "dog", "d", "e", "f", "g", "cat", "i", "j"]))
    done = capdeploy(
        "compress", trained, "--arch", "tests.nets:Residual", "--data", f"folder:{image_folder}",
        "--input-size", 16, "--labels", labels, "--classes", "cat,dog", "--dry-run", "-f", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head = next(cut for cut in json.loads(done.stdout)[0]["layers"] if cut["layer"] == "head")
    assert head["kept_out"] == [7, 2]
    without = capdeploy(
        "compress", trained, "--arch", "tests.nets:Residual", "--data", f"folder:{image_folder}",
        "--input-size", 16, "--dry-run",
    )  # fmt: skip
    refused(without, 2, "the data has 2 classes, the head 10 outputs; say which")


def test_limits_and_ratios_from_one_scoring_pass(trained, tmp_path):
    wanted = recipe(
        trained, ratio=(0.25,), max_macs=("50%",), max_size=("60%",), allocation="global",
        strategy="contrast", align=1, epochs=0, tolerance=0.1,
    )  # fmt: skip
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    names = [model.name for model in report.models]
    assert names == ["baseline", "ratio-0.25", "macs-50pct", "size-60pct"]
    half = report.models[2]
    assert 0.9 * 0.5 <= half.after.macs / half.before.macs <= 0.5
    assert half.requested == "macs <= 0.5 of the head-cut network, global"
    rebuilt = capdeploy("verify", tmp_path / "out")
    assert rebuilt.returncode == 0, rebuilt.stderr


def test_training_that_does_worse_than_the_regression_begins_again_from_it(trained, tmp_path):
    heard = []

    class Heard(Quiet):
        def note(self, message):
            heard.append(message)

    def compressed(name, **given):
        asked = {"ratio": (0.75,), "align": 1, "epochs": 1, "reconstruct": None} | given
        wanted = recipe(trained, **asked)
        return pipeline.compress(wanted, tmp_path / name, Heard()).models[1]

    in_vain = compressed("vain", lr=1e-9)
    assert any("trained again from there" in line for line in heard)
    assert [each.stage for each in in_vain.accuracy[-2:]] == ["reconstructed", "fine-tuned"]
    assert len(in_vain.earlier) == 1
    assert in_vain.training.start_top1 > in_vain.earlier[0].epochs[-1].validation_top1
    heard.clear()
    asked = compressed("asked", lr=1e-9, reconstruct=False)
    assert not any("trained again" in line for line in heard)
    assert "reconstructed" not in [each.stage for each in asked.accuracy]
    assert asked.accuracy[-1].top1 < in_vain.accuracy[-1].top1


@pytest.mark.parametrize("budget", [{"ratio": (0.6,)}, {"ratio": (), "max_macs": ("40%",)}])
def test_steps_end_where_one_step_would(trained, tmp_path, budget):
    wanted = recipe(trained, **budget, steps=3, epochs=3, align=1, tolerance=0.1)
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    slim = report.models[1]
    if "max_macs" in budget:
        assert 0.9 * 0.4 <= slim.after.macs / slim.before.macs <= 0.4
    else:
        assert slim.realised_ratio == pytest.approx(0.6, abs=0.04)
    # Every step's training is on record, in order, and drawn.
    trainings = [*slim.earlier, slim.training]
    assert [len(each.epochs) for each in trainings] == [1, 1, 1]
    captions = [figure.caption for figure in sections.accuracy(slim, plots=True).figures]
    assert [caption[-16:] for caption in captions[-3:]] == [
        f"training {n} of 3." for n in (1, 2, 3)
    ]
    # The plan is in original indices: a fresh network, the plan and the weights answer alike.
    done = capdeploy("verify", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    opened = bundle.read(tmp_path / "out" / slim.name)
    network = rebuild.from_plan(
        opened.manifest.checkpoint.architecture, opened.manifest.checkpoint.outputs,
        PruningPlan.from_json((opened.folder / bundle.PLAN).read_bytes()),
        opened.folder / bundle.WEIGHTS,
    )  # fmt: skip
    check = CheckImages.load(opened.folder)
    inputs = torch.from_numpy(opened.manifest.checkpoint.input.apply(check.images))
    with torch.no_grad():
        assert np.allclose(network(inputs).numpy(), check.logits, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ("Narrow", {"ratio": (0.9,), "steps": 3, "align": 1}),  # a layer becomes one channel wide
        ("Grouped", {"ratio": (0.75,), "steps": 2}),  # one group is left of its convolution
        ("PreActivation", {
            "ratio": (), "max_macs": ("40%",), "allocation": "global", "depth": "prune",
            "align": 16, "protect": ("stem",), "tolerance": 1.0, "epochs": 1,
        }),
        ("Twice", {"epochs": 1}),  # two names for the same layers
        ("TiedConvs", {"epochs": 1}),  # two layers with the same weights
        ("frozen", {"epochs": 1}),
    ],
)  # fmt: skip
def test_networks_that_are_recovered_and_rebuilt_with_care(network, changes, tmp_path):
    """All of the street between the plan and the export."""
    torch.manual_seed(0)
    file = tmp_path / "network.pt"
    torch.save(getattr(nets, network)().state_dict(), file)
    wanted = recipe(file, arch=f"tests.nets:{network}", **({"epochs": 0} | changes))
    planned = pipeline.plan(wanted, Quiet())
    drawn = planned.plans[1]
    if wanted.steps > 1:
        made = steps.approach("x", wanted, planned, drawn.budget, Quiet())
    else:
        made = making.Made("x", drawn, apply.cut(planned.full, drawn))
        made = making.recover(made, planned.narrow, planned.samples, wanted, wanted.epochs, Quiet())
    assert made.plan.after.macs < 0.8 * made.plan.before.macs
    assert made.training is None or made.training.epochs[0].loss > 0
    tensorfile.save(made.final.module.state_dict(), tmp_path / bundle.WEIGHTS)
    architecture = planned.full.checkpoint.architecture
    rebuilt = rebuild.from_plan(architecture, 10, made.plan, tmp_path / bundle.WEIGHTS)
    images, _ = next(planned.samples.validation.batches(16))
    with torch.no_grad():
        assert torch.equal(rebuilt(images), made.final.module(images))


def test_plans_are_inspected_and_compared(run, tmp_path):
    plan = run.bundle / bundle.PLAN
    shown = capdeploy("inspect", plan)
    assert shown.returncode == 0
    assert "MACs before" in shown.stdout
    assert "depthwise:out" in shown.stdout
    told = json.loads(capdeploy("inspect", plan, "-f", "json").stdout)
    for group in told["groups"]:
        before, after = told["shares"][group["group"]]
        assert before == pytest.approx(group["macs"] / told["before"]["macs"])
        assert after == pytest.approx(group["macs_left"] / told["after"]["macs"])
    assert 0 < sum(before for before, _ in told["shares"].values()) <= 1
    both = capdeploy("compare", run.bundle, run.baseline, "-f", "json")
    document = json.loads(both.stdout)
    assert document["schema_version"] == 1
    assert [entry["name"] for entry in document["plans"]] == ["ratio-0.5", "baseline"]
    text = capdeploy("compare", plan, run.baseline)
    assert "kept by all" in text.stdout
    other = json.loads(plan.read_text())
    other["groups"][0]["width"] += 1
    (tmp_path / "other.json").write_text(json.dumps(other))
    refused(capdeploy("compare", plan, tmp_path / "other.json"), 2, "plans another network")
    refused(capdeploy("compare", plan, tmp_path / "none.json"), 2, "cannot be read")
    refused(capdeploy("compare", plan, run.folder), 2, "name one of baseline, ratio-0.5 in it")
    refused(capdeploy("inspect", tmp_path / "none.pth"), 2, "no such file or folder")
    refused(capdeploy("inspect", run.folder / "report.json"), 2, "only a plan.json is shown")
    refused(capdeploy("verify", plan), 2, "it is a file; name the folder that holds it")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(trained, tmp_path, number):
    child = subprocess.Popen(
        [sys.executable, "-m", "capdeploy", *map(str, base(trained)), "--ratio", "0.5",
         "-o", str(tmp_path / "out"), "--no-bench"],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # A suite that runs in the background ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in child.stderr:
        if "export baseline" in line:
            break
    time.sleep(0.3)
    child.send_signal(number)
    _, rest = child.communicate(timeout=60)
    assert child.returncode == 130, rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(trained, tmp_path):
    """A real file system of 80 kB, mounted in a namespace of its own."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False).returncode:
        pytest.skip("a full disk needs a small one: this kernel forbids unprivileged mounts")
    arguments = " ".join(map(str, base(trained, "--ratio", "0.5", "--no-bench")))
    script = (
        f"mount -t tmpfs -o size=80k none {tmp_path} && {sys.executable} -m capdeploy {arguments} "
        f"-o {tmp_path}/out; code=$?; ls -A {tmp_path}; exit $code"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, cwd=ROOT,
        check=False,
    )  # fmt: skip
    refused(done, 4, "[Nn]o space left on device")


def test_half_precision_and_wrapped_checkpoints_open_alike(trained, tmp_path):
    from capdeploy import model
    from capdeploy.values.checkpoint import Architecture, Preprocessing

    state = load_file(trained)
    half = {name: value.half() if value.is_floating_point() else value
            for name, value in state.items()}  # fmt: skip
    save_file(half, tmp_path / "half.safetensors")
    prefixed = {f"module.{name}": value for name, value in state.items()}
    compiled = {f"_orig_mod.{name}": value for name, value in state.items()}
    files = {
        "bare.pth": state, "state_dict.pt": {"state_dict": prefixed, "epoch": 3},
        "model.th": {"model": state}, "net.pth": {"net": compiled},
        "model_state_dict.pth": {"model_state_dict": prefixed, "optimizer": {}},
    }  # fmt: skip
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    rule = Preprocessing(height=16, width=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    kind = Architecture.parse("tests.nets:Residual")
    expected = model.open(trained, kind, rule)
    for name in [*files, "legacy.pth"]:
        opened = model.open(tmp_path / name, kind, rule)
        same = opened.module.state_dict()
        assert all(torch.equal(value, same[key]) for key, value in state.items()), name
        assert opened.checkpoint.outputs == 10
        assert opened.checkpoint.stored_dtype == "float32"
    opened = model.open(tmp_path / "half.safetensors", kind, rule)
    assert opened.checkpoint.stored_dtype == "float16"
    assert next(opened.module.parameters()).dtype == torch.float32
    assert opened.trace.head == expected.trace.head == "head"


@pytest.mark.parametrize(("name", "outputs"), [("resnet18", 7), ("squeezenet1_1", 5), ("vgg11", 3)])
def test_the_number_of_classes_is_read_from_the_weights(tmp_path, name, outputs):
    import torchvision

    from capdeploy import model
    from capdeploy.values.checkpoint import Architecture, Preprocessing

    made = torchvision.models.get_model(name, weights=None, num_classes=outputs)
    save_file(made.state_dict(), tmp_path / "x.safetensors")
    rule = Preprocessing(height=64, width=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    opened = model.open(tmp_path / "x.safetensors", Architecture.parse(name), rule)
    assert opened.checkpoint.outputs == outputs


def test_a_factory_without_a_number_of_classes(tmp_path):
    from capdeploy import model
    from capdeploy.values.checkpoint import Architecture, Preprocessing

    save_file(nets.fixed().state_dict(), tmp_path / "x.safetensors")
    rule = Preprocessing(height=16, width=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    opened = model.open(tmp_path / "x.safetensors", Architecture.parse("tests.nets:fixed"), rule)
    assert opened.checkpoint.outputs == 10


def test_images_beyond_the_memory_budget_are_decoded_again(trained):
    from capdeploy import samples
    from capdeploy.samples import Samples
    from capdeploy.values.checkpoint import Preprocessing
    from capdeploy.values.classes import ClassSubset

    rule = Preprocessing(height=16, width=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    subset = ClassSubset(kept=(3, 5), names=("3", "5"), total=10)
    dataset = samples.open_dataset("digits")
    small = Samples(dataset, (3, 5), subset, rule, 0.1, 0, 0)
    large = Samples(dataset, (3, 5), subset, rule, 0.1, 0, 64)
    assert not small.train.cache
    assert len(large.train.cache) == len(large.train) + len(large.validation)
    everything = np.arange(len(small.train))
    assert np.array_equal(small.train.pixels(everything), large.train.pixels(everything))


def test_validation_is_the_tail_of_every_class_and_nothing_is_lost(digits):
    assert len(digits.train) + len(digits.validation) == int(
        np.isin(digits.dataset.labels("train"), (7, 1, 4)).sum()
    )
    for label in range(3):
        front = digits.train.rows[digits.train.labels == label]
        back = digits.validation.rows[digits.validation.labels == label]
        assert front.max() < back.min()
    assert not set(digits.train.rows) & set(digits.validation.rows)


def test_what_is_lost_in_fewer_bits_counts_too(run):
    slim = run.report.models[1]
    right = slim.accuracy[-1]
    first, *others = right.classes
    worse = right.model_copy(
        update={"classes": (first.model_copy(update={"correct": first.correct - 2}), *others)}
    )
    int8 = Quantized(
        precision="int8", runtime="openvino", files=("a.xml",), size_bytes=1, before=right,
        after=worse,
    )  # fmt: skip
    all_lost = slim.lost.points + 200 / right.images
    for most, misses in ((all_lost + 0.01, 0), (all_lost - 0.01, 1), (slim.lost.points - 0.01, 2)):
        bound = {"max_accuracy_drop": max(0.0, most), "quantized": (int8,)}
        strict = slim.model_copy(update=bound)
        found = run.report.model_copy(update={"models": (run.report.models[0], strict)})
        assert len(strict.misses) == misses or most < 0
        if strict.misses:
            with pytest.raises(BudgetError, match=r"in int8 \(openvino\) loses .* points"):
                found.require_budgets()
        else:
            found.require_budgets()
    rejected = int8.model_copy(update={"rejected": "loses too much"})
    assert not slim.model_copy(
        update={"max_accuracy_drop": all_lost - 0.01, "quantized": (rejected,)}
    ).misses


def test_what_is_lost_is_paired_and_may_be_bounded(trained, tmp_path):
    done = capdeploy(*base(trained), "--ratio", "0.75", "--no-reconstruct", "--no-bench",
                     "--max-accuracy-drop", 0.5, "-o", tmp_path / "out", "-f", "json")  # fmt: skip
    assert done.returncode == 1, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert "ratio-0.75 loses" in line
    assert "--max-accuracy-drop allows 0.5" in line
    baseline, slim = json.loads(done.stdout)["models"]
    first, last = baseline["accuracy"][-1], slim["accuracy"][-1]
    correct = [sum(entry["correct"] for entry in each["classes"]) for each in (first, last)]
    images = sum(entry["images"] for entry in first["classes"])
    lost = slim["lost"]
    assert lost["points"] == pytest.approx(100 * (correct[0] - correct[1]) / images)
    assert lost["low"] < lost["points"] < lost["high"]
    assert baseline["lost"]["points"] == 0.0
    assert sum(map(sum, slim["confusion"])) == images
    assert (tmp_path / "out" / "ratio-0.75" / "manifest.json").is_file()  # a verdict, no failure
    page = capdeploy("report", tmp_path / "out", "-f", "md")
    assert "--max-accuracy-drop allows 0.5" in page.stdout
    allowed = capdeploy(*base(trained), "--ratio", "0.75", "--no-bench", "--max-accuracy-drop",
                        "100", "-o", tmp_path / "fine")  # fmt: skip
    assert allowed.returncode == 0, allowed.stderr
