"""Tests of the whole model where it runs for real: each on the GPU, marked ``gpu``, and as a dry run on the CPU.

The dry run has the same body, with a stand-in for CUDA graphs and for a GPU's memory. It shows that the test runs, and
says little about the GPU.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from slant.runtime.execution import capture_on

NEEDED = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(
    scope="session",
    params=[pytest.param("cpu", id="dry-run"), pytest.param("cuda", id="gpu", marks=[pytest.mark.gpu, NEEDED])],
)
def device(request):
    if request.param == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """For tensors as small as these a second thread only waits, and on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def capture(device):
    return capture_on(device)
