"""A checkpoint in the formats of the peers: GGUF, OpenVINO, ONNX.

Each format is written by its own project's converter, so run this with an interpreter that has that project's package:

    python benchmarks/peers/convert.py gguf MODEL FOLDER --converter PATH    llama-cpp-python, transformers
    python benchmarks/peers/convert.py openvino MODEL FOLDER                 optimum-intel, openvino, transformers 5.2
    python benchmarks/peers/convert.py onnx MODEL FOLDER                     onnxruntime-genai, transformers

PATH is convert_hf_to_gguf.py in llama-cpp-python's source, vendor/llama.cpp. What is written, ``FOLDER/bf16.gguf`` or
``FOLDER/onnx-int8`` for example, is what the systems of ``systems.py`` ask for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

GGUF_TYPES = {"q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0"}
# With accuracy level 4 the activations are int8 too, which is what onnxruntime-genai's own recipes choose on a CPU.
ONNX_OPTIONS = {"fp32": (), "int8": ("accuracy_level=4",), "int4": ("accuracy_level=4",)}


def gguf(model: Path, folder: Path, converter: Path) -> None:
    """bf16.gguf by llama.cpp's converter, and from it the quantized types."""
    import llama_cpp

    source = folder / "bf16.gguf"
    run(str(converter), str(model), "--outfile", str(source), "--outtype", "bf16", "--no-mtp")
    for name, ftype in GGUF_TYPES.items():
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype = getattr(llama_cpp, ftype)
        target = folder / f"{name}.gguf"
        if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), options):
            raise SystemExit(f"llama.cpp could not quantize {source} to {name}; its own message is above.")


def openvino(model: Path, folder: Path) -> None:
    """openvino-bf16, and openvino-int8 with weights of eight bits."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    for name, quantization in (("bf16", None), ("int8", OVWeightQuantizationConfig(bits=8))):
        options = {"quantization_config": quantization} if quantization else {"load_in_8bit": False}
        exported = OVModelForCausalLM.from_pretrained(model, export=True, compile=False, **options)
        exported.save_pretrained(folder / f"openvino-{name}")


def onnx(model: Path, folder: Path) -> None:
    """onnx-fp32, and onnx-int8 and onnx-int4 with block-quantized matrices."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        multimodal(model, Path(scratch) / "model")
        for name, options in ONNX_OPTIONS.items():
            command = ["-m", "onnxruntime_genai.models.builder", "-m", f"{scratch}/model", "-e", "cpu", "-p", name]
            extra = ["--extra_options", "prune_lm_head=true", *options]
            run(*command, "-o", str(folder / f"onnx-{name}"), "-c", f"{scratch}/cache", *extra)


def multimodal(model: Path, folder: Path) -> None:
    """The text checkpoint inside a multimodal one, the only Qwen3.5 that onnxruntime-genai's builder accepts.

    Its vision tower is a stub that the builder leaves out, and three equal position rows stand for the one of a text,
    so what is computed is the same.
    """
    import torch
    from transformers import Qwen3_5Config, Qwen3_5ForCausalLM, Qwen3_5ForConditionalGeneration

    source = Qwen3_5ForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    text = source.config.to_dict()
    pairs = int(source.config.head_dim * text["rope_parameters"]["partial_rotary_factor"]) // 2
    sections = {"mrope_section": [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3], "mrope_interleaved": True}
    text["rope_parameters"] |= sections
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = Qwen3_5Config(
        text_config=text,
        vision_config=vision | {"out_hidden_size": source.config.hidden_size},
        tie_word_embeddings=source.config.tie_word_embeddings,
        architectures=["Qwen3_5ForConditionalGeneration"],
    )
    target = Qwen3_5ForConditionalGeneration(config).bfloat16()
    target.model.language_model.load_state_dict(source.model.state_dict())
    target.lm_head.load_state_dict(source.lm_head.state_dict())
    target.save_pretrained(folder)


def run(*arguments: str) -> None:
    """Run Python with these arguments; a failure ends the program with its exit code."""
    result = subprocess.run([sys.executable, *arguments], check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(arguments[:2])} failed with exit code {result.returncode}; its message is above.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=("gguf", "openvino", "onnx"))
    parser.add_argument("model", type=Path, help="checkpoint folder, with its tokenizer for gguf")
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("--converter", type=Path, help="convert_hf_to_gguf.py of llama.cpp")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.format == "gguf":
        if options.converter is None:
            parser.error("gguf needs --converter: convert_hf_to_gguf.py in llama-cpp-python's source, vendor/llama.cpp")
        gguf(options.model, options.folder, options.converter)
    else:
        formats: dict[str, Callable[[Path, Path], None]] = {"openvino": openvino, "onnx": onnx}
        formats[options.format](options.model, options.folder)


if __name__ == "__main__":
    main()
