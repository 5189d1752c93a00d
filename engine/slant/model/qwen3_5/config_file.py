"""The table of what a Qwen3.5 ``config.json`` may say: types, ranges and the defaults of transformers.

A field is computed, or must have the one value that is computed here, or makes no difference to the answers and has
the type that transformers asks for. What transformers does not read is not in the table; nor is the vision part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, model_validator

from slant.validation import STRICT, only

LayerType = Literal["linear_attention", "full_attention"]
# As they may be named; transformers takes the older names too.
LAYER_TYPES: dict[str, LayerType] = {
    "linear_attention": "linear_attention",
    "full_attention": "full_attention",
    "mamba": "linear_attention",
    "attention": "full_attention",
}


def _absent(reason: str) -> BeforeValidator:
    def refuse(value: object) -> None:
        raise ValueError(reason)

    return BeforeValidator(refuse)


# The upper bounds are far above any model, and low enough for a list of layers or a product of sizes.
Size = Annotated[int, Field(ge=1, le=1 << 24)]
RopeType = Annotated[str, only("default"), Field(validation_alias=AliasChoices("rope_type", "type"))]
FP32_LEAST = 2.0**-126  # what is smaller may be 0 in fp32, and the norm of zeros NaN
Theta = Annotated[float, Field(ge=1, le=1e15)]
Share = Annotated[float, Field(gt=0, le=1)]
Ids = Annotated[list[int], BeforeValidator(lambda ids: ids if isinstance(ids, list) else [ids])]
ByLayer = Annotated[None, _absent("settings by layer type are not computed here; set rope_theta beside it instead")]
Nested = Annotated[None, _absent("only a config.json whose model_type is qwen3_5 may have it, at its top")]


class Common(BaseModel):
    """Fields that any configuration of transformers has, the tied head among them; the others compute nothing."""

    model_config = STRICT

    model_type: str = ""
    architectures: list[str] | None = None
    quantization_config: dict[str, Any] | None = None  # whoever opens the files refuses one that says anything
    tie_word_embeddings: bool = False
    per_layer_config: None = None  # sizes that differ by layer
    is_encoder_decoder: Annotated[bool, only(False)] = False
    return_dict: Annotated[bool, only(True)] = True
    output_hidden_states: bool | None = False
    chunk_size_feed_forward: int = 0
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    num_labels: Annotated[int, Field(ge=0, le=1 << 20)] = 2
    id2label: dict[Annotated[str, BeforeValidator(str), Field(pattern=r"^\d+$")], str] | None = None
    label2id: dict[str, int | str] | None = None


class Rope(BaseModel):
    """The rotary settings. A text's three positions are the same, so that the sections of mrope change nothing."""

    model_config = ConfigDict(**STRICT, extra="allow")  # settings of the types that are not computed

    rope_type: RopeType = "default"
    rope_theta: Theta = 10000.0
    partial_rotary_factor: Share = 0.25
    mrope_section: Annotated[list[int], Field(min_length=3)] = [11, 11, 10]
    full_attention: ByLayer = None
    linear_attention: ByLayer = None
    attention: ByLayer = None
    mamba: ByLayer = None


class Text(Common):
    """The text model: ``config.json`` itself, or its ``text_config``."""

    model_type: Annotated[str, only("qwen3_5_text")] = "qwen3_5_text"
    vocab_size: Size = 248320
    hidden_size: Size = 4096
    intermediate_size: Size = 12288
    num_hidden_layers: Annotated[int, Field(ge=1, le=1024)] = 32
    num_attention_heads: Size = 16
    num_key_value_heads: Size = 4
    head_dim: Size = 256
    linear_num_key_heads: Size = 16
    linear_num_value_heads: Size = 32
    linear_key_head_dim: Size = 128
    linear_value_head_dim: Size = 128
    linear_conv_kernel_dim: Size = 4
    rms_norm_eps: Annotated[float, Field(ge=FP32_LEAST, lt=1)] = 1e-6
    max_position_embeddings: Annotated[int, Field(ge=1, le=1 << 31)] = 32768
    layer_types: list[Annotated[str, only(*LAYER_TYPES)]] | None = None
    full_attention_interval: Annotated[int, Field(ge=1, le=1024)] = 4
    # transformers takes the first of these that holds anything, and what that leaves out from the top level
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None
    rope_theta: Theta = 10000.0
    partial_rotary_factor: Share = 0.25

    hidden_act: Annotated[str, only("silu")] = "silu"
    attention_bias: Annotated[bool, only(False)] = False
    attn_output_gate: Annotated[bool, only(True)] = True  # transformers computes the gate whatever it says
    mlp_layer_types: None = None
    text_config: Nested = None

    mtp_layer_types: list[str] | None = None
    attention_dropout: float = 0.0
    initializer_range: InstanceOf[float] = 0.02
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: Ids | None = None

    @model_validator(mode="before")
    @classmethod
    def _needless_interval(cls, raw: Any) -> Any:
        """Where the layers are named, the interval is not read."""
        if isinstance(raw, Mapping) and raw.get("layer_types") is not None:
            return {key: value for key, value in raw.items() if key != "full_attention_interval"}
        return raw

    def layers(self) -> tuple[LayerType, ...]:
        """The mixer of each block; as many as ``layer_types`` has, right or wrong."""
        if self.layer_types is not None:
            return tuple(LAYER_TYPES[kind] for kind in self.layer_types)
        full = self.full_attention_interval
        return tuple("linear_attention" if (i + 1) % full else "full_attention" for i in range(self.num_hidden_layers))

    def rotary(self) -> tuple[float, float]:
        """Theta, and the share of a head's dimensions that are rotated."""
        given = [rope for rope in (self.rope_scaling, self.rope_parameters) if rope and rope.model_fields_set]
        rope = given[0] if given else Rope()
        first = [rope if name in rope.model_fields_set else self for name in ("rope_theta", "partial_rotary_factor")]
        return first[0].rope_theta, first[1].partial_rotary_factor


class Multimodal(Common):
    """The whole ``config.json`` of a model that has a vision part too."""

    text_config: Text
    vision_config: dict[str, Any] | None = None
    # Beside the text part they mean nothing, as in transformers, which asks for their types all the same.
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    layer_types: list[str] | None = None
    mtp_layer_types: list[str] | None = None
    image_token_id: int = 248056
    video_token_id: int = 248057
    vision_start_token_id: int = 248053
    vision_end_token_id: int = 248054
