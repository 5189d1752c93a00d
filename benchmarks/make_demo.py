"""Make the demo checkpoint that ships with slant, with one command: ``python benchmarks/make_demo.py``.

A Qwen3.5 text model of 1.4 million parameters learns to place a passage of political speech on a scale of five. Its
labels are the quintiles of a phrase index (phrases.py) fitted on the training speakers, so that what it has to learn is
known exactly: which phrases count, how much, and that their mean decides. The scaffold below shows it just that.

Everything random is seeded; the figures in the README are measured on the saved weights and on speakers of whom neither
the tokenizer nor the index nor the model has seen a word.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from demo_card import LABELS, cut_up, write_card
from phrases import PhraseIndex
from texts import sentences, speeches, split

SLANT = Path(__file__).resolve().parents[1] / "engine" / "slant"
TEMPLATE = (SLANT / "prompt.txt").read_text(encoding="utf-8")
SEED = 2010
VOCABULARY = 4096
END = "<|endoftext|>"
# Qwen's published pre-tokenization: contractions, words with their marks, single digits, punctuation, blanks.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PHRASES = 500
PASSAGES_CUT = 20_000  # training passages whose index gives the quintiles

BATCH_TOKENS = 6144  # padded
POOL = 512  # passages drawn, sorted by length and cut into batches at a time
FIRST_WORDS = 12  # a shorter beginning of a passage has no meaningful index
STEPS = 1500
REPORT = 20  # steps between progress lines
PEAK_RATE = 4e-3
WARMUP = 0.05  # of the steps


@dataclass(frozen=True)
class Example:
    """A prompt as tokens, its label, and for each word of the article what the scaffold teaches at that position.

    ``tokens`` is int64 ``[T]``; ``words`` int64 ``[W]`` is the position of each word's last token; ``weights`` float32
    ``[W]`` the weight of the phrases that end there; ``running`` int64 ``[W]`` the label of the passage up to there,
    -100 for the first words.
    """

    tokens: torch.Tensor
    words: torch.Tensor
    weights: torch.Tensor
    running: torch.Tensor
    label: int


def draw(said: Sequence[Sequence[str]], rng: np.random.Generator) -> str:
    """One random run of sentences, mostly 2 to 6, sometimes 1 to 12, from speeches weighted by their length."""
    size = int(rng.integers(1, 13)) if rng.random() < 0.25 else int(rng.integers(2, 7))
    lengths = np.array([len(speech) for speech in said])
    speech = said[rng.choice(len(said), p=lengths / lengths.sum())]
    start = int(rng.integers(0, max(1, len(speech) - size + 1)))
    return ("\n" if rng.random() < 0.1 else " ").join(speech[start : start + size])


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level BPE with Qwen's normalization and pre-tokenization; the digits 0 to 4 are the tokens 15 to 19."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    # The prompt is in every text the model reads, so its words are worth whole tokens.
    tokenizer.train_from_iterator([*texts, *[TEMPLATE] * 100], trainer)
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, not {VOCABULARY}")
    return tokenizer


def make_example(text: str, tokenizer: Tokenizer, index: PhraseIndex, cuts: NDArray[np.float64]) -> Example:
    """``text`` in the prompt, with its label and its scaffold; ``cuts`` float64 ``[4]`` separates the five labels."""
    encoding = tokenizer.encode(TEMPLATE.replace("{article}", text.strip()))
    ends, weights = index.marks(text.strip())
    positions = np.searchsorted([end for _, end in encoding.offsets], ends + TEMPLATE.index("{article}"))
    running = np.digitize(np.cumsum(weights) / np.arange(1, len(weights) + 1), cuts)
    label = int(running[-1])
    running[:FIRST_WORDS] = -100
    return Example(
        torch.tensor(encoding.ids),
        torch.from_numpy(positions),
        torch.from_numpy(weights).float(),
        torch.from_numpy(running),
        label,
    )


def batches(examples: Iterator[Example], rng: np.random.Generator) -> Iterator[list[Example]]:
    """Batches of similar length and at most BATCH_TOKENS padded tokens, without end."""
    while True:
        pool = sorted((next(examples) for _ in range(POOL)), key=lambda example: len(example.tokens))
        cut: list[list[Example]] = [[]]
        for example in pool:
            if cut[-1] and (len(cut[-1]) + 1) * len(example.tokens) > BATCH_TOKENS:
                cut.append([])
            cut[-1].append(example)
        for i in rng.permutation(len(cut)):
            yield cut[i]


def new_model() -> Qwen3_5ForCausalLM:
    """The untrained model, float32."""
    config = Qwen3_5TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        layer_types=["linear_attention"] * 3 + ["full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000_000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        pad_token_id=VOCABULARY - 1,
        eos_token_id=VOCABULARY - 1,
        use_cache=False,
    )
    model = Qwen3_5ForCausalLM(config).float()
    for layer in model.model.layers[:3]:
        # The Gated DeltaNet paper's start: steps log-uniform in [0.001, 0.1], so that heads remember 10 to 1000 tokens.
        # The library's own start forgets within a token or two.
        step = torch.exp(torch.empty(4).uniform_(np.log(1e-3), np.log(0.1)))
        layer.linear_attn.dt_bias.data.copy_(step + torch.log(-torch.expm1(-step)))
        layer.linear_attn.A_log.data.zero_()
    return model


def losses(
    model: Qwen3_5ForCausalLM, probe: torch.nn.Linear, batch: Sequence[Example], digits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """The loss on the answer; the scaffold's two, the answer so far at every word and each word's weight; accuracy."""
    tokens = torch.nn.utils.rnn.pad_sequence(
        [example.tokens for example in batch], batch_first=True, padding_value=VOCABULARY - 1
    )
    out = model.model(input_ids=tokens, output_hidden_states=True)
    head = model.model.embed_tokens.weight[digits]
    rows = torch.arange(len(batch))
    last = torch.tensor([len(example.tokens) - 1 for example in batch])
    labels = torch.tensor([example.label for example in batch])
    logits = out.last_hidden_state[rows, last] @ head.T
    answer = F.cross_entropy(logits, labels)
    right = (logits.argmax(-1) == labels).float().mean().item()

    where = torch.cat([example.words for example in batch])
    whose = torch.repeat_interleave(rows, torch.tensor([len(example.words) for example in batch]))
    so_far = F.cross_entropy(out.last_hidden_state[whose, where] @ head.T, torch.cat([e.running for e in batch]))
    weights = torch.cat([example.weights for example in batch])
    # hidden_states[3] is what the full attention reads: a word's weight must be known there to be averaged.
    lexicon = F.mse_loss(probe(out.hidden_states[3][whose, where]).squeeze(-1), weights) / weights.var()
    return answer, so_far, lexicon, right


def train(model: Qwen3_5ForCausalLM, data: Iterator[list[Example]], digits: torch.Tensor, steps: int) -> None:
    """AdamW with a cosine schedule, in place; the scaffold's share falls to nothing while the answer's stays."""
    probe = torch.nn.Linear(model.config.hidden_size, 1)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": [*others, *probe.parameters()], "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.98),
    )

    def rate(step: int) -> float:
        progress = (step + 1) / (steps + 1)
        return min(progress / WARMUP, 0.5 + 0.5 * np.cos(np.pi * max(0.0, progress - WARMUP) / (1 - WARMUP)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    begun, means = time.monotonic(), np.zeros(4)
    for step in range(1, steps + 1):
        batch = next(data)
        answer, so_far, lexicon, right = losses(model, probe, batch, digits)
        (answer + (1 - step / steps) * (so_far + lexicon)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        means += [answer.item(), so_far.item(), lexicon.item(), right]
        if step % REPORT == 0 or step == steps:
            answer_mean, so_far_mean, lexicon_mean, right_mean = means / (step % REPORT or REPORT)
            print(
                f"step {step}/{steps}  {time.monotonic() - begun:5.0f} s  loss {answer_mean:.3f}"
                f"  right {right_mean:.2f}  so far {so_far_mean:.3f}  lexicon {lexicon_mean:.3f}",
                flush=True,
            )
            means[:] = 0.0


def save(model: Qwen3_5ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Weights, configuration and tokenizer as a Hugging Face folder; matrices in bfloat16, the rest in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: parameter.detach().to(torch.bfloat16 if parameter.ndim > 1 else torch.float32).contiguous()
        for name, parameter in model.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the library writes files that only their owner can read
    model.config.architectures = ["Qwen3_5ForCausalLM"]
    model.config.dtype = "bfloat16"
    model.config.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen3_5Tokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": 32768,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo checkpoint that ships with slant.")
    parser.add_argument("--output", type=Path, default=SLANT / "demo", help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps, about two a second on two idle cores")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of torch; on a busy machine one is faster than two"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    begun = time.monotonic()

    training, held_out = split(speeches(), rng)
    tokenizer = train_tokenizer([speech.text for speech in training])
    index = PhraseIndex.fit(training, PHRASES)
    said = [sentences(speech.text) for speech in training]
    cuts = np.quantile([index.score(draw(said, rng)) for _ in range(PASSAGES_CUT)], np.arange(1, LABELS) / LABELS)
    examples = (make_example(draw(said, rng), tokenizer, index, cuts) for _ in count())
    digits = torch.tensor([tokenizer.token_to_id(str(label)) for label in range(LABELS)])

    model = new_model()
    train(model, batches(examples, rng), digits, arguments.steps)
    save(model, tokenizer, arguments.output)

    size = sum(parameter.numel() for parameter in model.parameters())
    made = (
        f"{size:,} parameters, {arguments.steps} steps of at most {BATCH_TOKENS} tokens from {len(training)} speeches,"
        f"\n  {(time.monotonic() - begun) / 60:.0f} minutes on a CPU (torch threads: {arguments.threads})."
    )
    short, long = cut_up(held_out, index, cuts, 2, 6, SEED), cut_up(held_out, index, cuts, 12, 12, SEED)
    lines = (SLANT / "demo" / "passages.jsonl").read_text(encoding="utf-8").splitlines()
    print(write_card(arguments.output, TEMPLATE, short, long, [json.loads(line) for line in lines], made))


if __name__ == "__main__":
    main()
