"""The demo checkpoint's tokenizer and the base model that ``slant finetune`` makes a classifier of.

A Qwen3.5 text model of 1.4 million parameters is pre-trained on passages of the training speakers. It continues them
token by token; and since so small a model reads so little, a scaffold helps: at every word it learns the weight of the
phrases of the index that end there. It sees neither a passage's label nor a digit as an answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

import slant
from demo_task import SEED, PhraseIndex, Task, draw

TEMPLATE = (Path(slant.__file__).parent / "prompt/prompt.txt").read_text(encoding="utf-8")
VOCABULARY = 4096
END = "<|endoftext|>"
# Qwen's published pre-tokenization: contractions, words with their marks, single digits, punctuation, blanks.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

BATCH_TOKENS = 6144  # padded
POOL = 512  # passages drawn, sorted by length and cut into batches at a time
PROMPTED = 0.5  # share of the passages that are in the prompt
LANGUAGE = 0.5  # weight of the language model's loss beside the scaffold's
STEPS = 600
REPORT = 20  # steps between progress lines
PEAK_RATE = 4e-3
WARMUP = 0.05  # of the steps


class Example(NamedTuple):
    """A passage as tokens, bare or in the prompt, and for each of its words what the scaffold teaches at that position.

    ``tokens`` is int64 ``[T]``, of which ``article`` are the passage's own; ``words`` int64 ``[W]`` is the position of
    each word's last token and ``weights`` float32 ``[W]`` the weight of the phrases that end there.
    """

    tokens: Tensor
    article: slice
    words: Tensor
    weights: Tensor


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


def make_example(text: str, tokenizer: Tokenizer, index: PhraseIndex, prompted: bool) -> Example:
    """``text`` with its scaffold, in the prompt (which ends before the answer) if ``prompted``."""
    before, after = TEMPLATE.split("{article}") if prompted else ("", "")
    encoding = tokenizer.encode(before + text + after)
    ends, weights = index.marks(text)
    token_ends = [end for _, end in encoding.offsets]
    start, stop = np.searchsorted(token_ends, [len(before), len(before + text)], side="right")
    return Example(
        torch.tensor(encoding.ids),
        slice(start, stop),
        torch.from_numpy(np.searchsorted(token_ends, ends + len(before))),
        torch.from_numpy(weights).float(),
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


def losses(model: Qwen3_5ForCausalLM, probe: torch.nn.Linear, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """The language model's loss on the passages' tokens, nats a token, and the scaffold's on their words' weights."""
    every, where, weights = zip(*((one.tokens, one.words, one.weights) for one in batch), strict=True)
    tokens = torch.nn.utils.rnn.pad_sequence(every, batch_first=True, padding_value=VOCABULARY - 1)
    out = model.model(input_ids=tokens, output_hidden_states=True)
    spoken = torch.zeros_like(tokens, dtype=torch.bool)
    for row, example in zip(spoken, batch, strict=True):
        row[example.article] = True
    spoken = spoken[:, 1:]
    logits = out.last_hidden_state[:, :-1][spoken] @ model.model.embed_tokens.weight.T
    language = F.cross_entropy(logits, tokens[:, 1:][spoken])

    # hidden_states[3] is what the full attention reads: a word's weight must be known there to be averaged.
    states = torch.cat([hidden[words] for hidden, words in zip(out.hidden_states[3], where, strict=True)])
    wanted = torch.cat(weights)
    return language, F.mse_loss(probe(states).squeeze(-1), wanted) / wanted.var()


def pretrain(model: Qwen3_5ForCausalLM, data: Iterator[list[Example]], steps: int) -> None:
    """AdamW with a cosine schedule, in place."""
    probe = torch.nn.Linear(model.config.hidden_size, 1)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [*(p for p in model.parameters() if p.ndim != 2), *probe.parameters()]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))

    def rate(step: int) -> float:
        progress = (step + 1) / (steps + 1)
        return min(progress / WARMUP, 0.5 + 0.5 * np.cos(np.pi * max(0.0, progress - WARMUP) / (1 - WARMUP)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    begun, means = time.monotonic(), np.zeros(2)
    for step in range(1, steps + 1):
        language, lexicon = losses(model, probe, next(data))
        (LANGUAGE * language + lexicon).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        means += [language.item(), lexicon.item()]
        if step % REPORT == 0 or step == steps:
            said = "  language {:.3f}  lexicon {:.3f}".format(*means / (step % REPORT or REPORT))
            print(f"step {step}/{steps}  {time.monotonic() - begun:5.0f} s{said}", flush=True)
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


def make_base(task: Task, steps: int, folder: Path) -> None:
    """Train the tokenizer and the base on the training speakers, and save both to ``folder``."""
    rng = np.random.default_rng(SEED)
    tokenizer = train_tokenizer([speech.text for speech in task.training])
    examples = (
        make_example(text, tokenizer, task.index, prompted=rng.random() < PROMPTED)
        for _, text in draw(task.training, rng)
    )
    torch.manual_seed(SEED)
    model = new_model()
    pretrain(model, batches(examples, rng), steps)
    save(model, tokenizer, folder)
