"""Tests of the whole model where it runs for real: each on the GPU, marked ``gpu``, and as a dry run on the CPU.

The dry run has the same body, with a stand-in for CUDA graphs and for a GPU's memory. It shows that the test runs, and
says little about the GPU.
"""

import pytest
import torch

from capture import capture_on
from slant.runtime.resolved import FP8
from slant_kernels.fp8 import multiplies_fp8
from slant_kernels.launch import target

NEEDED = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(
    scope="session",
    params=[pytest.param("cpu", id="dry-run"), pytest.param("cuda", id="gpu", marks=[pytest.mark.gpu, NEEDED])],
)
def device(request):
    if request.param == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(autouse=True)
def fp8(request, device):
    """Skips it where the GPU has no products of e4m3."""
    if FP8 in request.node.name and not multiplies_fp8(target(device)):
        pytest.skip("this GPU has no e4m3")


@pytest.fixture
def capture(device):
    return capture_on(device)
