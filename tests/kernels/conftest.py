"""Each test of an op runs twice: on the torch path, and on the Triton path with outputs poisoned.

What is compiled from C++ has widths of its own, and its own tests in ``test_native``.
"""

import pytest

from gpu import findings
from slant_kernels import native

LEVELS = native.levels() if native.level() else ()


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


@pytest.fixture(params=LEVELS or ["none"])
def level(request, monkeypatch, poison):
    """The ops take the library of this instruction set, and fail the test if they do not."""
    if not LEVELS:
        pytest.skip("nothing is compiled (python -m slant_kernels.build_native does it), or SLANT_NATIVE is 0")
    monkeypatch.setattr(native, "levels", lambda: (request.param,))
    calls = []
    call = native.Op.__call__
    monkeypatch.setattr(native.Op, "__call__", lambda *arguments: calls.append(arguments) or call(*arguments))
    yield request.param
    assert calls
