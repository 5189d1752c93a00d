"""Each test of an op runs twice: on the torch path, and on the Triton path with outputs poisoned.

What is compiled from C++ has widths of its own, and its own tests in ``test_native``.
"""

import pytest

from gpu import findings
from slant_kernels import native


@pytest.fixture(autouse=True, params=["torch", "triton"])
def path(request, monkeypatch, two_threads):
    monkeypatch.setattr(native, "levels", lambda: ())
    if request.param == "triton":
        request.getfixturevalue("triton_path")
        request.getfixturevalue("poison")
    return request.param


@pytest.fixture
def poison():
    with findings.poison():
        yield
