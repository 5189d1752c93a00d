"""llama.cpp through llama-cpp-python's low-level interface: token ids in, the logits of the last position out.

Options: model (a GGUF file), sequences (the most texts a call of ``llama_decode``), max_tokens (of one text), ubatch
(tokens computed at once), threads, answers, and keep_prefix: whether the state after ``prefix`` is kept and copied
instead of being computed again with each text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import llama_cpp as ll

from harness.batching import by_length

PACKAGES = ("llama_cpp_python",)
CELLS = 256  # llama.cpp rounds a sequence's cells up to a multiple of this
LOG_ERROR = 4


def load(options: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[float]]]:
    return partial(by_length, Llama(options).score)


@ll.llama_log_callback
def _log(level: int, text: bytes, data: Any) -> None:
    if level == LOG_ERROR:
        print(text.decode(errors="replace"), end="")


class Llama:
    """A model and one context, in whose memory no text stays from one call to the next."""

    def __init__(self, options: dict[str, Any]) -> None:
        ll.llama_log_set(_log, None)
        ll.llama_backend_init()
        self.model = ll.llama_model_load_from_file(options["model"].encode(), ll.llama_model_default_params())
        if self.model is None:
            raise RuntimeError(f"llama.cpp cannot load {options['model']}.")
        self.answers: list[int] = options["answers"]
        self.prefix: list[int] = options["prefix"] if options.get("keep_prefix") else []
        self.sequences: int = options["sequences"]
        places = self.sequences + bool(self.prefix)  # the last one only holds the prefix
        params = ll.llama_context_default_params()
        params.n_seq_max = params.n_outputs_max = places
        params.n_ctx = -(-options["max_tokens"] // CELLS) * CELLS * places
        params.n_batch = options["max_tokens"] * self.sequences
        params.n_ubatch = min(options["ubatch"], params.n_batch)
        params.n_threads = params.n_threads_batch = options["threads"]
        self.context = ll.llama_init_from_model(self.model, params)
        if self.context is None:
            raise RuntimeError(f"llama.cpp cannot make a context of {params.n_ctx} tokens.")
        self.memory = ll.llama_get_memory(self.context)
        self.batch = ll.llama_batch_init(params.n_batch, 0, 1)
        if self.prefix:
            self._decode([self.prefix], self.sequences, start=0)

    def score(self, texts: list[list[int]]) -> list[list[float]]:
        """The answers' logits for at most ``sequences`` texts, in one call."""
        for place in range(self.sequences):
            ll.llama_memory_seq_rm(self.memory, place, -1, -1)
        kept = len(self.prefix)
        if any(ids[:kept] != self.prefix or len(ids) == kept for ids in texts):
            kept = 0
        for place in range(len(texts) if kept else 0):
            ll.llama_memory_seq_cp(self.memory, self.sequences, place, -1, -1)
        return self._decode([ids[kept:] for ids in texts], 0, start=kept)

    def _decode(self, texts: list[list[int]], place: int, start: int) -> list[list[float]]:
        """Compute the texts in the sequences from ``place`` on, each from position ``start``."""
        batch, at, last = self.batch, 0, []
        for sequence, ids in enumerate(texts, place):
            for offset, token in enumerate(ids):
                batch.token[at], batch.pos[at] = token, start + offset
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
                batch.logits[at] = offset == len(ids) - 1
                at += 1
            last.append(at - 1)
        batch.n_tokens = at
        code = ll.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode failed with code {code} on {len(texts)} texts of {at} tokens in all.")
        logits = [ll.llama_get_logits_ith(self.context, index) for index in last]
        return [[row[answer] for answer in self.answers] for row in logits]
