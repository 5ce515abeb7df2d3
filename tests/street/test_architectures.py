"""Networks of many families down the whole street; all of them on request: -m nightly."""

import pytest
import timm

from benchmarks import architectures
from capdeploy.recognise import recognise
from capdeploy.zoo import SOURCES

FEW = (  # one of each kind; those that are large, or like one of these, are nightly's
    "resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "regnet_y_400mf",
    "tests.nets:vgg", "timm:resnet10t", "cifar_resnet:resnet20", "tests.nets:Wild",
)  # fmt: skip
# Their heads are not recognised, or there is nothing to prune but attention.
REFUSED = {"tests.nets:vit": "self-attention", "timm:vit_tiny_patch16_224": "self-attention"}


def right(row):
    return (row["agreement"], row["rebuilt"]) == (1.0, 0.0) and row["left"] <= row["asked"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FEW)
def test_a_network_of_each_kind_goes_down_the_street(name):
    row = architectures.compress(name)
    assert right(row), row
    assert row["asked"] <= 0.7


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", architectures.names())
def test_every_network_is_compressed_or_refused_with_a_reason(name):
    row = architectures.apart(name)
    assert row["refused"].strip() if "refused" in row else right(row), row


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_vision_transformers_are_refused_by_name(name, reason):
    row = architectures.compress(name)
    assert name in row["refused"]
    assert reason in row["refused"]


@pytest.mark.nightly
def test_a_network_of_timm_is_found_by_its_weights():
    state = timm.create_model("dla34", num_classes=7).state_dict()
    assert str(recognise(state)) == "timm:dla34"


def test_timm_groups_its_networks_and_names_the_nearest():
    source = SOURCES.load("timm")
    families = source.families()
    assert "resnet18" in families["resnet"]
    assert {name for names in families.values() for name in names} <= {*source.names()}
