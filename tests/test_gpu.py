"""On a GPU single precision is whole single precision while there is work, and only then."""

import pytest
import torch

from capdeploy import gpu, pipeline
from capdeploy.progress import Quiet
from tests.conftest import recipe


class Watching(Quiet):
    """Remembers how convolutions would be computed at each step."""

    def __init__(self):
        self.seen = []

    def step(self, text):
        flags = torch.backends.cudnn
        self.seen.append((flags.allow_tf32, flags.deterministic))


@pytest.fixture(autouse=True)
def _host():
    """A host that has chosen speed."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=False, allow_tf32=True):
        yield


def test_work_is_exact_and_the_host_is_left_as_it_was(trained):
    say = Watching()
    pipeline.plan(recipe(trained), say)
    assert set(say.seen) == {(False, True)}
    assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.deterministic


def test_an_error_leaves_the_host_as_it_was():
    with pytest.raises(ValueError, match="no"), gpu.exact():
        raise ValueError("no")
    assert torch.backends.cudnn.allow_tf32
