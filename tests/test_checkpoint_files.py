"""What lies on a user's disk under the name of a checkpoint: opened, or named with the way out."""

import argparse
import io
import json
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from capdeploy.errors import CheckpointError
from capdeploy.sniff import sniff
from capdeploy.weights import Reading, read_state

STATE = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)


def make(kind, path):  # noqa: C901 a table in the shape of code
    """Write a file of a kind that users bring."""
    if kind == "lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    elif kind == "html":
        path.write_text("\n  <!DOCTYPE html>\n<html>404 Not Found</html>")
    elif kind == "xml error":
        path.write_text('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')
    elif kind == "json error":
        path.write_text(json.dumps({"error": "not found"}))
    elif kind == "text":
        path.write_text("Entry not found\n")
    elif kind == "openvino":
        path.write_text('<?xml version="1.0"?>\n<net name="m" version="11"></net>')
    elif kind == "hdf5":
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    elif kind == "keras":
        zipped(path, config_dot_json="{}", model_dot_weights_dot_h5="x")
    elif kind == "npz":
        np.savez(path, a=np.ones(3))
        os.rename(f"{path}.npz", path)
    elif kind == "npy":
        with path.open("wb") as stream:
            np.save(stream, np.ones(3))
    elif kind == "tflite":
        path.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(64))
    elif kind == "gzip":
        path.write_bytes(b"\x1f\x8b\x08" + bytes(20))
    elif kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
    elif kind == "zip":
        zipped(path, weights_dot_pth="x")
    elif kind == "png":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    elif kind == "torchscript":
        torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))
    elif kind == "exported":
        torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path)
    elif kind == "noise":
        path.write_bytes(bytes(range(128, 256)) * 4)


REFUSED = {
    "lfs": "Git LFS pointer.*git lfs pull",
    "html": "an HTML page; the download failed",
    "xml error": "an XML document; the download failed",
    "json error": "a JSON document; it holds no weights; name the file of weights",
    "text": "a text that begins 'Entry not found'; it holds no weights",
    "openvino": "an OpenVINO model",
    "hdf5": "an HDF5 file",
    "keras": "a Keras archive",
    "npz": "a NumPy archive",
    "npy": "a NumPy array",
    "tflite": "a TensorFlow Lite model",
    "gzip": "a gzip archive; unpack it",
    "tar": "a tar archive; unpack it",
    "zip": "a zip archive of weights.pth; unpack it",
    "png": "an image",
    "noise": "no file of weights; expected a state_dict",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_every_other_file_is_named_with_a_way_out(tmp_path, kind):
    path = tmp_path / "weights.pth"
    make(kind, path)
    with pytest.raises(CheckpointError, match=REFUSED[kind]) as raised:
        read_state(path)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "words"),
    [("torchscript", "TorchScript.*torch.jit.load"), ("exported", "torch.export.*torch.save")],
)
def test_torch_s_own_other_archives_are_told_apart(tmp_path, kind, words):
    make(kind, tmp_path / "m.pt2")
    with pytest.raises(CheckpointError, match=words):
        read_state(tmp_path / "m.pt2")


def test_an_onnx_graph_is_named(run):
    with pytest.raises(CheckpointError, match="an ONNX graph; pruning needs the PyTorch weights"):
        read_state(run.bundle / "model.onnx")


def test_a_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder; name the file"):
        read_state(tmp_path)


def test_the_suffix_says_nothing(tmp_path):
    torch.save(STATE, tmp_path / "a.safetensors")
    save_file(STATE, tmp_path / "b.pth")
    torch.save(STATE, tmp_path / "c.onnx", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth", "c.onnx"):
        assert torch.equal(read_state(tmp_path / name)["a.weight"], STATE["a.weight"])


@pytest.mark.parametrize("zip_file", [True, False])
def test_what_training_scripts_put_beside_the_weights(tmp_path, zip_file):
    content = {
        "model": {f"module.{name}": value for name, value in STATE.items()},
        "args": argparse.Namespace(lr=0.1, data="/somewhere", nested=argparse.Namespace(x=1)),
        "epoch": 3, "best": np.float64(0.5), "acc": np.float32(0.25), "n": np.int64(7),
        "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1}]},
    }  # fmt: skip
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=zip_file)
    assert set(read_state(tmp_path / "c.pth")) == set(STATE)


def test_averaged_weights_are_taken_on_request(tmp_path):
    ema = {name: value + 5 for name, value in STATE.items()}
    torch.save({"model": STATE, "model_ema": ema, "deep": {"er": ema}}, tmp_path / "c.pth")
    for key in ("model_ema", "deep.er"):
        found = read_state(tmp_path / "c.pth", Reading(state_key=key))
        assert torch.equal(found["a.bias"], torch.full((2,), 5.0))
    assert torch.equal(read_state(tmp_path / "c.pth")["a.bias"], STATE["a.bias"])
    with pytest.raises(CheckpointError, match="has no 'model_eam': did you mean model_ema"):
        read_state(tmp_path / "c.pth", Reading(state_key="model_eam"))


def test_a_prefix_is_stripped_on_request_and_other_names_left_out(tmp_path):
    state = {f"backbone.{name}": value for name, value in STATE.items()}
    torch.save(state | {"loss.scale": torch.ones(1)}, tmp_path / "c.pth")
    assert set(read_state(tmp_path / "c.pth", Reading(strip_prefix="backbone."))) == set(STATE)
    with pytest.raises(CheckpointError, match=r"no name begins with 'neck\.'"):
        read_state(tmp_path / "c.pth", Reading(strip_prefix="neck."))


@pytest.mark.parametrize("prefix", ["module.", "module.backbone.", "backbone."])
def test_a_prefix_is_found_behind_those_that_go_by_themselves(tmp_path, prefix):
    inner = "" if prefix == "module." else "backbone."
    state = {f"module.{inner}{name}": value for name, value in STATE.items()}
    torch.save(state, tmp_path / "c.pth")
    assert set(read_state(tmp_path / "c.pth", Reading(strip_prefix=prefix))) == set(STATE)


def test_a_header_whose_length_reads_like_a_zip_s_begin(tmp_path):
    """Two bytes are no signature: a safetensors header of 19,280 bytes begins with PK."""
    words = {"__metadata__": {"a": "x" * 19_280}}
    save_file(STATE, tmp_path / "w.safetensors", words["__metadata__"])
    length = int.from_bytes((tmp_path / "w.safetensors").read_bytes()[:8], "little")
    words["__metadata__"]["a"] = "x" * (19_280 - (length - 19_280))
    save_file(STATE, tmp_path / "w.safetensors", words["__metadata__"])
    assert (tmp_path / "w.safetensors").read_bytes()[:2] == b"PK"
    assert set(read_state(tmp_path / "w.safetensors")) == set(STATE)


def test_whole_networks_of_torchvision_are_opened(tmp_path):
    network = torchvision.models.resnet18(num_classes=4)
    torch.save(network, tmp_path / "whole.pth")
    found = read_state(tmp_path / "whole.pth")
    assert torch.equal(found["fc.weight"], network.fc.weight)
    torch.save({"net": {"model": network}}, tmp_path / "deep.pth")
    deep = read_state(tmp_path / "deep.pth", Reading(state_key="net.model"))
    assert set(deep) == set(found)


@pytest.mark.parametrize("zip_file", [True, False])
def test_a_malicious_file_never_runs(tmp_path, monkeypatch, zip_file):
    monkeypatch.chdir(tmp_path)
    content = {"model": STATE, "args": argparse.Namespace(x=1), "extra": Evil()}
    torch.save(content, "evil.pth", _use_new_zipfile_serialization=zip_file)
    with pytest.raises(CheckpointError, match=r"would run code: .*system.*--trust-checkpoint"):
        read_state(tmp_path / "evil.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="would run code"):
        read_state(tmp_path / "bare.pth")
    assert not (tmp_path / "pwned").exists()


def test_a_mixed_list_of_known_and_foreign_classes_is_refused_whole(tmp_path):
    torch.save({"net": nn.Linear(2, 2), "x": Evil()}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="system"):
        read_state(tmp_path / "c.pth", Reading(state_key="net"))


def test_trust_is_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": STATE, "extra": Evil()}, "c.pth")
    assert set(read_state(tmp_path / "c.pth", Reading(trust=True))) == set(STATE)
    assert (tmp_path / "pwned").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_no_content_makes_the_sniffer_stumble(tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    found = sniff(tmp_path / "f")
    assert found.opens == (found.kind in {"torch", "pickle", "safetensors"})


def test_a_whole_network_in_the_old_format_is_named_for_what_it_is(tmp_path):
    made = torchvision.models.squeezenet1_1(num_classes=4)
    torch.save(made, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"in torch's format of before 1\.6.*state_dict"):
        read_state(tmp_path / "old.pt")
    trusted = read_state(tmp_path / "old.pt", Reading(trust=True))
    assert set(trusted) == set(made.state_dict())


def test_an_average_of_weights_and_a_network_in_a_dictionary_are_opened(tmp_path):
    """As torchvision's training script keeps its average, and as many a script saves a network."""
    net = nn.Sequential(nn.Linear(3, 2))
    average = torch.optim.swa_utils.AveragedModel(net)
    torch.save({"model_ema": average.state_dict(), "epoch": 3}, tmp_path / "ema.pth")
    found = read_state(tmp_path / "ema.pth", Reading(state_key="model_ema"))
    assert set(found) == {"0.weight", "0.bias"}
    torch.save({"model": net, "epoch": 3}, tmp_path / "net.pth")
    assert set(read_state(tmp_path / "net.pth")) == {"0.weight", "0.bias"}
