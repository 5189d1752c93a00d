"""One function a system: it takes options, loads a model, and gives a function of (sequences, batch size).

That function returns the answers' logits for each sequence of token ids; a system that reads texts gets texts.
``harness/worker.py`` calls them, in whatever interpreter has the system's package: hence the imports in the functions.
All options hold threads, answers (token ids) and model: a folder or file of the system's own format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.batching import by_length

Answers = list[list[float]]
Score = Callable[[list[Any], int], Answers]
CELLS = 256  # llama.cpp rounds a sequence's cells up to a multiple of this
LOG_ERROR = 4  # llama.cpp's
WITHOUT_BF16 = ("AVX2", "AVX512_CORE", "AVX512_CORE_VNNI")  # values of ONEDNN_MAX_CPU_ISA


def slant(options: dict[str, Any]) -> Score:
    """slant, from the state that it keeps of the prompt's prefix; it plans its batches itself.

    weights and max_tokens are as ``Engine.load`` takes them. tier: a memory tier's name, which gets just the memory
    that it asks for; the default has no limit. keep_prefix=False computes the prefix with each text, as the peers do.
    """
    import numpy as np

    from slant.engine import Engine
    from slant.options import LoadOptions
    from slant.runtime.classifier import Classifier
    from slant.runtime.memory import tiers
    from slant.runtime.runner import Runner

    model, settings = options["model"], {key: options[key] for key in ("weights", "max_tokens", "threads")}
    load = LoadOptions(device="cpu", **settings)
    if tier := options.get("tier"):
        request = Classifier.open(model, load).memory_request()
        load = replace(load, memory=next(each.peak for each in tiers(request) if each.name == tier))
    runner = Engine.load(model, load).runner
    if isinstance(runner, Runner) and not options.get("keep_prefix", True):
        runner.prefix_ids = runner.prefix_ids[:0]  # then no text starts with it

    def score(sequences: list[list[int]], batch: int) -> Answers:
        answers: dict[int, list[float]] = {}
        for result in runner.run([np.array(ids, dtype=np.int32) for ids in sequences]):
            answers.update(zip(result.rows, result.logits.tolist(), strict=True))
        return [answers[row] for row in range(len(sequences))]

    return score


def transformers(options: dict[str, Any]) -> Score:
    """transformers as the model card runs it: left-padded batches, the last position's logits only; bf16 or fp32."""
    import torch

    from slant.evaluation.reference import DTYPES, last_logits, load_model

    torch.set_num_threads(options["threads"])
    model = load_model(Path(options["model"]), DTYPES[options["weights"]])
    return partial(by_length, lambda texts: last_logits(model, texts, options["answers"]).tolist())


def embeddings(options: dict[str, Any]) -> Score:
    """Sentence embeddings, the cheap alternative: texts in, their own tokenization included.

    The answers are the embeddings: a linear classifier on top takes microseconds a text. model: an installed package
    that carries a sentence-transformers model, whose own limit stays: MiniLM reads 256 word pieces of a text.
    """
    import torch

    from baselines.packaged import Packaged

    torch.set_num_threads(options["threads"])
    embed = Packaged(options["model"], (options["model"],)).embedder()
    return lambda texts, batch: embed(texts, batch).tolist()


def onnx(options: dict[str, Any]) -> Score:
    """ONNX Runtime's CPU provider on a folder of onnxruntime-genai's builder.

    The attention operator takes padding on the right only and the pruned head answers for the last position, so a
    padded row cannot be answered: only texts of one length share a call.
    """
    import numpy as np
    import onnxruntime

    dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options["threads"]
    folder = Path(options["model"])
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    head_dim = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]["head_size"]
    states = [node for node in session.get_inputs() if node.name.startswith("past")]

    def empty(node: Any, rows: int) -> Any:
        sizes = {"batch_size": rows, "past_sequence_length": 0, "kv_cache_dim": head_dim}
        return np.zeros([sizes.get(size, size) for size in node.shape], dtypes[node.type])

    def batch(texts: list[list[int]]) -> Answers:
        ids = np.array(texts, dtype=np.int64)
        positions = np.broadcast_to(np.arange(ids.shape[1]), (3, *ids.shape)).copy()
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions}
        feed |= {node.name: empty(node, len(ids)) for node in states}
        (logits,) = session.run(["logits"], feed)
        return logits[:, -1, options["answers"]].tolist()

    return partial(by_length, batch, padded=False)


def openvino(options: dict[str, Any]) -> Score:
    """OpenVINO's CPU plugin, without optimum; precision ("bf16" or "f32") is what is computed in.

    Where oneDNN is restricted to instructions without bf16 that is f32, as OpenVINO chooses on such a processor: told
    to compute in bf16 it then fails.

    The exported model has lost the branch that hides left padding from the recurrent layers, so padded rows would get
    other answers: only texts of one length share a call. Its language-model head is cut down to the last position, as
    OpenVINO's own text-generation library does.
    """
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    core, limit = ov.Core(), os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    model = core.read_model(Path(options["model"]) / "openvino_model.xml")
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    bounds = (ops.constant([value], np.int64) for value in (-1, np.iinfo(np.int64).max, 1, 1))  # to the end, of axis 1
    node.input(0).replace_source_output(ops.slice(node.input_value(0), *bounds).output(0))
    model.validate_nodes_and_infer_types()
    settings = {
        "INFERENCE_NUM_THREADS": options["threads"],
        "INFERENCE_PRECISION_HINT": "f32" if limit in WITHOUT_BF16 else options["precision"],
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def batch(texts: list[list[int]]) -> Answers:
        ids = np.array(texts, dtype=np.int64)
        request.reset_state()
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "beam_idx": np.arange(len(ids), dtype=np.int32)}
        feed["position_ids"] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy()
        return request.infer(feed)["logits"][:, -1, options["answers"]].tolist()

    return partial(by_length, batch, padded=False)


def llama(options: dict[str, Any]) -> Score:
    """llama.cpp through llama-cpp-python's low-level interface, on a GGUF file.

    sequences: the most texts a call of ``llama_decode``; max_tokens: of one text; ubatch: tokens computed at once;
    keep_prefix: whether the state after ``prefix`` is kept and copied instead of being computed again with each text.
    """
    return partial(by_length, Llama(options).score)


def ik(options: dict[str, Any]) -> Score:
    """ik_llama.cpp through ik-llama-cpp-python's low-level interface, on the GGUF file of llama.cpp; a text a call."""
    from ik_llama_cpp import _ctypes_api as ll

    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(options["model"].encode(), ll.llama_model_default_params())
    if not model:
        raise RuntimeError(f"ik_llama.cpp cannot load {options['model']}.")
    params = ll.llama_context_default_params()
    params.n_ctx = params.n_batch = -(-options["max_tokens"] // CELLS) * CELLS
    params.n_ubatch = min(options["ubatch"], params.n_batch)
    params.n_threads = params.n_threads_batch = options["threads"]
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError(f"ik_llama.cpp cannot make a context of {params.n_ctx} tokens.")
    batch = ll.llama_batch_init(params.n_batch, 0, 1)

    def logits(ids: list[int]) -> list[float]:
        ll.llama_kv_cache_clear(context)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = place == len(ids) - 1
        batch.n_tokens = len(ids)
        if code := ll.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode failed with code {code} on {len(ids)} tokens.")
        row = ll.llama_get_logits_ith(context, len(ids) - 1)
        return [row[answer] for answer in options["answers"]]

    return lambda texts, _: [logits(ids) for ids in texts]


class Llama:
    """A model and one context, in whose memory no text stays from one call to the next."""

    def __init__(self, options: dict[str, Any]) -> None:
        import llama_cpp as ll

        @ll.llama_log_callback
        def log(level: int, text: bytes, data: Any) -> None:
            if level == LOG_ERROR:
                print(text.decode(errors="replace"), end="")

        self._library, self._log = ll, log  # which llama.cpp calls as long as it lives
        ll.llama_log_set(log, None)
        ll.llama_backend_init()
        self.model = ll.llama_model_load_from_file(options["model"].encode(), ll.llama_model_default_params())
        if self.model is None:
            raise RuntimeError(f"llama.cpp cannot load {options['model']}.")
        self.answers: Sequence[int] = options["answers"]
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

    def score(self, texts: list[list[int]]) -> Answers:
        """The answers' logits for at most ``sequences`` texts, in one call."""
        for place in range(self.sequences):
            self._library.llama_memory_seq_rm(self.memory, place, -1, -1)
        kept = len(self.prefix)
        if any(ids[:kept] != self.prefix or len(ids) == kept for ids in texts):
            kept = 0
        for place in range(len(texts) if kept else 0):
            self._library.llama_memory_seq_cp(self.memory, self.sequences, place, -1, -1)
        return self._decode([ids[kept:] for ids in texts], 0, start=kept)

    def _decode(self, texts: list[list[int]], place: int, start: int) -> Answers:
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
        code = self._library.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode failed with code {code} on {len(texts)} texts of {at} tokens in all.")
        logits = [self._library.llama_get_logits_ith(self.context, index) for index in last]
        return [[row[answer] for answer in self.answers] for row in logits]


PACKAGES = {  # whose versions are reported
    "slant": ("slant", "torch"),
    "transformers": ("transformers", "torch"),
    "embeddings": ("sentence_transformers", "transformers", "torch"),
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "llama": ("llama_cpp_python",),
    "ik": ("ik_llama_cpp_python",),
}
