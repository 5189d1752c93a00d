"""Tensors read from files, with the library of every set of instructions this processor has, against the reference."""

from dataclasses import replace

import pytest
import torch
from ops import randn

from slant_kernels import native
from slant_kernels.panels import packed
from slant_kernels.read import CHUNK, Stored, StoredRows, can_read, empty_panels, read, read_reference

LEVELS = native.levels() if native.level() else ()
DTYPES = (torch.float32, torch.bfloat16)
SIZES = (1, 15, 33, CHUNK - 1, CHUNK, 2 * CHUNK + 17)

pytestmark = pytest.mark.skipif(
    not LEVELS, reason="nothing is compiled (python -m slant_kernels.build_native does it), or SLANT_NATIVE is 0"
)


@pytest.fixture(params=LEVELS, autouse=True)
def path(request, monkeypatch, poison):
    """The library of each level."""
    monkeypatch.setattr(native, "levels", lambda: (request.param,))


@pytest.fixture
def stored(tmp_path):
    """Writes tensors one after the other into a file, from an odd byte on."""

    def write(tensors, to):
        file, start, found = tmp_path / "tensors", 3, []
        with file.open("wb") as out:
            out.write(b"abc")
            for x in tensors:
                out.write(x.contiguous().view(torch.uint8).numpy().tobytes())
                found.append(Stored(file, start, x.dtype, torch.empty(x.shape, dtype=to)))
                start += x.nbytes
        return found

    return write


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_tensors_at_once(dtype, to, stored):
    ours = stored([randn(size, dtype=dtype, seed=size) for size in SIZES], to)
    theirs = [replace(one, out=torch.empty_like(one.out)) for one in ours]
    assert all(can_read(one.dtype, one.out) for one in ours)
    assert read(ours) == [read_reference(one) for one in theirs] == [True] * len(SIZES)
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.equal(mine.out, reference.out)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan], ids=str)
@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_tensor_with_a_value_that_is_not_finite_is_named(dtype, to, value, stored):
    for place in (0, 14, 31, 32, CHUNK, CHUNK + 40):
        tensors = [randn(CHUNK + 41, dtype=dtype, seed=seed) for seed in range(3)]
        tensors[1][place] = value
        assert read(stored(tensors, to)) == [True, False, True], place


def test_a_number_beyond_bf16_is_not_finite_there(stored):
    large = torch.tensor([3.4e38])
    assert read(stored([large], torch.bfloat16)) == [False]
    assert read(stored([large], torch.float32)) == [True]
    assert read(stored([torch.tensor([3.3e38])], torch.bfloat16)) == [True]


@pytest.mark.parametrize("pattern", [0x7FFFFFFF, -1, 0x7F800001])
def test_a_nan_whose_rounding_overflows_is_not_finite(pattern, stored):
    for place in (0, 40):
        bits = torch.zeros(41, dtype=torch.int32)
        bits[place] = pattern
        assert read(stored([bits.view(torch.float32)], torch.bfloat16)) == [False]


@pytest.mark.parametrize("to", DTYPES)
def test_a_file_that_ends_too_soon_is_not_read(to, stored):
    good, bad = stored([randn(50, dtype=torch.bfloat16), randn(50, dtype=torch.bfloat16)], to)
    bad.file.write_bytes(bad.file.read_bytes()[:-1])
    assert read([good, bad]) == [True, False]


def test_what_cannot_be_read():
    assert not can_read(torch.float16, torch.empty(32))
    assert not can_read(torch.float32, torch.empty(32, dtype=torch.float16))
    assert not can_read(torch.float32, torch.empty(32, 64)[:, :32])
    assert not can_read(torch.float32, torch.empty(32, device="meta"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [((32,), 32), ((5, 40, 3), 64), ((64, 900), 160), ((70,), 2048)])
def test_rows_of_a_matrix_in_panels(rows, columns, dtype, stored):
    """Parts that are stacked share panels, and the last one is padded."""
    parts = [randn(count, columns, dtype=dtype, seed=seed) for seed, count in enumerate(rows)]
    matrix, row, wanted = empty_panels(sum(rows), columns), 0, []
    matrix.words[:-1] = -1  # whatever is not written stays so
    for one, count in zip(stored(parts, dtype), rows, strict=True):
        wanted.append(StoredRows(one.file, one.start, dtype, matrix, row, count))
        row += count
    assert read(wanted) == [True] * len(rows)
    expected = packed(torch.cat(parts).bfloat16())
    assert torch.equal(matrix.words, expected.words)
    x = randn(3, columns)
    assert torch.equal(matrix.multiply(x), expected.multiply(x))
    if len(rows) == 1:
        matrix.words.fill_(7)
        assert read_reference(wanted[0])
        assert torch.equal(matrix.words, expected.words)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_in_panels(dtype, stored):
    parts = [randn(40, 64, dtype=dtype), randn(40, 64, dtype=dtype)]
    parts[1][39, 63] = torch.nan
    one, other = stored(parts, dtype)
    matrix = empty_panels(80, 64)
    rows = [StoredRows(x.file, x.start, dtype, matrix, row, 40) for x, row in ((one, 0), (other, 40))]
    assert read(rows) == [True, False]
