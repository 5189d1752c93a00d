"""The whole forward against transformers in fp32 and bf16, and what must not change a text's numbers."""

import pytest
import torch

import tiny
from slant.batching.buckets import bucket_lengths
from slant.evaluation.reference import last_logits, load_model
from slant.model.checkpoint import Checkpoint
from slant.model.network import Model
from slant.model.weights import Weights
from slant_kernels.digit_head import digit_head

SHAPES = [*tiny.SHAPES, tiny.MULTIMODAL]
OFTEN = ("grouped", "odd heads", "attention first and last")
SOME_SHAPES = [shape if shape in OFTEN else pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES]
LENGTHS = (1, 2, 3, 4, 16, 63, 64, 65, 128, 130)
MAX_TOKENS = 512


def random_sequences(lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, tiny.VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


class Scorer:
    """A model and its head, scoring token sequences as one right-padded batch."""

    def __init__(self, folder, dtype=torch.float32, max_tokens=MAX_TOKENS):
        self.checkpoint = Checkpoint.open(folder)
        self.model = Model(Weights(self.checkpoint, dtype, torch.device("cpu")), max_tokens)

    @torch.inference_mode()
    def __call__(self, sequences, pad=0, width=None, prefix=None):
        lengths = torch.tensor([len(s) for s in sequences])
        ids = torch.full((len(sequences), width or int(lengths.max())), pad)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence)
        hidden = self.model(ids, lengths, prefix)
        norm, rows = self.checkpoint.read("norm.weight"), self.checkpoint.head_rows(tiny.ANSWERS)
        return digit_head(hidden, norm.float(), rows.float(), 1e-6)[0]


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint):
    return Scorer(tiny_checkpoint("grouped"))


@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_equals_transformers(tiny_checkpoint, shape):
    folder, sequences = tiny_checkpoint(shape), random_sequences(LENGTHS)
    truth = last_logits(load_model(folder, torch.float32), sequences, tiny.ANSWERS)
    assert truth.std() > 0.1
    torch.testing.assert_close(Scorer(folder)(sequences), truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SOME_SHAPES)
def test_bf16_is_as_close_to_the_truth_as_transformers(tiny_checkpoint, shape):
    """At most twice the reference's own distance: in the root mean square over answers, and at the worst."""
    folder, sequences = tiny_checkpoint(shape), random_sequences(range(1, 97))
    truth = last_logits(load_model(folder, torch.float32), sequences, tiny.ANSWERS)
    theirs = last_logits(load_model(folder, torch.bfloat16), sequences, tiny.ANSWERS) - truth
    ours = Scorer(folder, torch.bfloat16)(sequences) - truth
    assert 0 < ours.abs().max() <= 2 * theirs.abs().max()
    assert ours.square().mean().sqrt() <= 2 * theirs.square().mean().sqrt()


@pytest.mark.parametrize("shape", ["grouped", "linear last"])
def test_every_length_from_1_to_200(tiny_checkpoint, shape):
    folder, sequences = tiny_checkpoint(shape), random_sequences(range(1, 201))
    reference = load_model(folder, torch.float32)
    truth = torch.cat([last_logits(reference, sequences[i : i + 20], tiny.ANSWERS) for i in range(0, 200, 20)])
    torch.testing.assert_close(Scorer(folder)(sequences), truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("first", "last"), [(1, 512), pytest.param(512, 8191, marks=pytest.mark.slow)])
def test_every_bucket_edge(tiny_checkpoint, first, last):
    folder = tiny_checkpoint("grouped")
    scorer, reference = Scorer(folder, max_tokens=8192), load_model(folder, torch.float32)
    for bucket in (length for length in bucket_lengths(8192) if first <= length <= last):
        sequences = random_sequences((bucket - 1, bucket, bucket + 1), seed=bucket)
        truth = last_logits(reference, sequences, tiny.ANSWERS)
        torch.testing.assert_close(scorer(sequences), truth, atol=1e-4, rtol=0)


def test_batch_equals_single(scorer):
    sequences = random_sequences(LENGTHS)
    singles = torch.cat([scorer([s]) for s in sequences])
    torch.testing.assert_close(scorer(sequences), singles, atol=1e-5, rtol=0)


def test_neighbours_of_the_same_shape_change_nothing_at_all(scorer):
    """Bit for bit: the same text in the same batch shape, among other texts and in another row."""
    mine, *others = random_sequences((50, 3, 64, 41, 17, 60))
    first = scorer([mine, *others[:3]], width=64)[0]
    assert torch.equal(scorer([others[4], others[0], mine, others[3]], width=64)[2], first)


@pytest.mark.parametrize("shape", ["grouped", "linear last", "attention first and last"])
def test_padding_changes_nothing(tiny_checkpoint, shape):
    scorer, sequences = Scorer(tiny_checkpoint(shape)), random_sequences((1, 40, 63))
    expected = scorer(sequences, pad=0, width=80)
    assert torch.equal(scorer(sequences, pad=95, width=80), expected)


@pytest.mark.parametrize("shape", ["grouped", "linear last", "attention first and last"])
def test_nan_embedding_of_the_padding_changes_nothing(tiny_checkpoint, shape):
    scorer, sequences = Scorer(tiny_checkpoint(shape)), random_sequences((1, 40, 63))
    sequences = [[token % 95 for token in sequence] for sequence in sequences]
    expected = scorer(sequences, pad=95, width=80)
    scorer.model.embedding[95] = torch.nan
    assert torch.equal(scorer(sequences, pad=95, width=80), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [1, 2, 3, 30, 65])
def test_prefix_state_equals_full_recomputation(tiny_checkpoint, shape, length):
    scorer = Scorer(tiny_checkpoint(shape))
    (start,), bodies = random_sequences((length,), seed=7), random_sequences((1, 2, 33, 64, 100))
    with torch.inference_mode():
        prefix = scorer.model.prefix(torch.tensor(start))
    assert prefix.length == length
    full = scorer([start + body for body in bodies])
    # Tied heads read the unit-variance embedding: their logits are some seven times as large, and so is rounding.
    atol = 1e-4 if shape in ("tied", tiny.MULTIMODAL) else 2e-5
    torch.testing.assert_close(scorer(bodies, prefix=prefix, width=112), full, atol=atol, rtol=0)
