"""The names of published weights and settings in ours: two tables for each architecture.

A row of `names` is "their name": "our name", where {} stands for a block's number. A row that names a module
stands for its .weight and, where our module has one, its .bias. " + " in a row says that their tensor is
several of ours side by side, "[None]" that theirs has an additional first axis of size 1. Where `out_in` is
true their matrices are (out, in), as torch.nn.Linear stores them, and are transposed while loading.

A row of `fields` is "our field of ModelConfig": "their key of config.json", or several keys that must agree.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from llmcore.config import ModelConfig, RotaryScaling

# our name of an activation function: their names, of which the first is written
ACTIVATIONS = {
    "gelu": ("gelu",),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "relu": ("relu",),
    "silu": ("silu", "swish"),
}


@dataclass(frozen=True)
class Architecture:
    """A published family of models: Hugging Face's names of its class, its weights and its settings."""

    model_type: str
    model_class: str
    names: Mapping[str, str]
    fields: Mapping[str, str | tuple[str, ...]]
    ours: Mapping[str, Any]  # fields of ModelConfig that are the same in every model of the architecture
    prefix: str  # of every name but those in `outside`; the bare base model is published without it
    outside: tuple[str, ...] = ()
    out_in: bool = True
    activation: str | None = None  # their key for the activation function
    optional: Mapping[str, Any] = field(default_factory=dict)  # their keys that may be absent: the default
    # their keys: the only value that llmcore computes
    required: Mapping[str, Any] = field(default_factory=dict)
    dropout: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)  # second name of a weight in a file: its first
    left_out: Mapping[str, str] = field(default_factory=dict)  # pattern of names: why they are not loaded

    def config(self, theirs: Mapping[str, Any], names: set[str], where: str) -> ModelConfig:
        """Our config for the settings of a config.json; `names` are the weights that the file has.

        Raises ValueError for settings that are missing or that ask for what llmcore does not compute.
        """
        theirs = {**self.optional, **theirs}
        for key, value in self.required.items():
            if theirs.get(key, value) != value:
                raise ValueError(
                    f"{where}: {key}={theirs[key]!r} computes something that llmcore has not, only {value!r}"
                )
        found = {**self.ours, **self._read_fields(theirs, where)}
        if self.activation:
            word = theirs.get(self.activation)
            kind = next((ours for ours, words in ACTIVATIONS.items() if word in words), None)
            if kind is None:
                raise ValueError(
                    f"{where}: {self.activation}={word!r} is none of {sum(ACTIVATIONS.values(), ())}"
                )
            found["feed_forward"] = kind
        if self.model_type == "llama":
            found |= _read_rotary(theirs, where)
        if self.model_type == "bert":
            found["head_transform"] = "cls.predictions.transform.dense.weight" in names
        if "d_ff" not in found:
            found["d_ff"] = 4 * found["d_model"]
        return ModelConfig(**found)

    def _read_fields(self, theirs: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The fields of ModelConfig that stand in a config.json under keys of their own."""
        found = {}
        for ours, keys in self.fields.items():
            keys = (keys,) if isinstance(keys, str) else keys
            values = [theirs[k] for k in keys if k in theirs]
            if not values or values[0] is None:
                if ours in DERIVED:
                    continue
                raise ValueError(
                    f"{where} does not say {keys[0]}: "
                    f"it is no complete config.json of a {self.model_type} model"
                )
            if any(v != values[0] for v in values):
                raise ValueError(
                    f"{where}: {', '.join(keys)} are {values}: llmcore has one {ours}, so they must be equal"
                )
            found[ours] = values[0]
        return found

    def settings(self, config: ModelConfig) -> dict[str, Any]:
        """The config.json of one of our configs; ValueError names the fields that the architecture lacks."""
        theirs: dict[str, Any] = {"architectures": [self.model_class], "model_type": self.model_type}
        theirs["dtype"] = "float32"
        for ours, keys in self.fields.items():
            for key in (keys,) if isinstance(keys, str) else keys:
                theirs[key] = getattr(config, ours)
        theirs |= {**self.required, **dict.fromkeys(self.dropout, config.dropout)}
        # of a kind without a name of theirs gelu is written, and the check below names it
        if self.activation:
            theirs[self.activation] = ACTIVATIONS.get(config.feed_forward, ("gelu",))[0]
        if self.model_type == "llama":
            theirs |= _write_rotary(config)
        if self.model_type == "bert" and not config.head_transform:
            theirs["architectures"] = ["BertModel"]
        self._check_return(theirs, config)
        return theirs

    def _check_return(self, theirs: Mapping[str, Any], config: ModelConfig) -> None:
        """Raise ValueError unless these settings, read again, give the config that they were written from."""
        names = {"cls.predictions.transform.dense.weight"} if config.head_transform else set()
        try:
            back = self.config(theirs, names, self.model_type)
        except ValueError as error:
            raise ValueError(
                f"this model is no {self.model_type}: {error}; save it with llmcore.checkpoint"
            ) from error
        different = [
            f"{f.name}={getattr(config, f.name)!r} (there {getattr(back, f.name)!r})"
            for f in fields(ModelConfig)
            if f.name not in ("attention", "dropout") and getattr(config, f.name) != getattr(back, f.name)
        ]
        if self.model_type == "bert" and not config.n_segments:
            different.append("n_segments=0 (there at least 1)")
        if different:
            raise ValueError(
                f"this model is no {self.model_type}: {'; '.join(different)}; save it with llmcore.checkpoint"
            )

    def full(self, name: str) -> str:
        """A weight's name in the whole model, given its name there, in the base model or in an old file."""
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        return name if name.startswith((self.prefix, *self.outside)) else self.prefix + name


DERIVED = ("n_kv_heads", "d_head", "d_ff", "init_std", "n_segments")  # fields with a default of their own


def _read_rotary(theirs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """rotary_base, rotary_scaling and bias, from either of the two forms of Llama's config.json."""
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    found: dict[str, Any] = {"rotary_base": float(rope.get("rope_theta", theirs.get("rope_theta", 10000.0)))}
    if kind == "llama3":
        found["rotary_scaling"] = RotaryScaling(
            float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )  # fmt: skip
    elif kind != "default":
        raise ValueError(f"{where}: rope_type={kind!r} is none that llmcore has: 'default' or 'llama3'")
    if theirs.get("attention_bias", False) != theirs.get("mlp_bias", False):
        raise ValueError(f"{where}: attention_bias and mlp_bias differ: llmcore has one bias for both")
    return {**found, "bias": bool(theirs.get("attention_bias", False))}


def _write_rotary(config: ModelConfig) -> dict[str, Any]:
    """Both forms: rope_theta and rope_scaling of transformers 4, rope_parameters of transformers 5."""
    scaling = config.rotary_scaling
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        rope = {
            "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.original,
        }  # fmt: skip
    return {
        "attention_bias": config.bias, "mlp_bias": config.bias, "rope_theta": config.rotary_base,
        "rope_scaling": rope if scaling else None,
        "rope_parameters": {**rope, "rope_theta": config.rotary_base},
    }  # fmt: skip


GPT2 = Architecture(
    model_type="gpt2",
    model_class="GPT2LMHeadModel",
    prefix="transformer.",
    outside=("lm_head.",),
    out_in=False,  # its matrices are (in, out), as ours
    names={
        "transformer.wte.weight": "embedding.table",
        "transformer.wpe.weight": "embedding.position.table",
        "transformer.h.{}.ln_1": "decoder.blocks.{}.attention_norm",
        "transformer.h.{}.attn.c_attn": (
            "decoder.blocks.{}.attention.W_q + decoder.blocks.{}.attention.W_k + "
            "decoder.blocks.{}.attention.W_v"
        ),
        "transformer.h.{}.attn.c_proj": "decoder.blocks.{}.attention.W_o",
        "transformer.h.{}.ln_2": "decoder.blocks.{}.feed_forward_norm",
        "transformer.h.{}.mlp.c_fc": "decoder.blocks.{}.feed_forward.up",
        "transformer.h.{}.mlp.c_proj": "decoder.blocks.{}.feed_forward.down",
        "transformer.ln_f": "decoder.norm",
        "lm_head.weight": "head.table",
    },
    fields={
        "vocab_size": "vocab_size", "context_length": "n_positions", "d_model": "n_embd",
        "n_layers": "n_layer", "n_heads": "n_head", "d_ff": "n_inner", "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings", "init_std": "initializer_range",
    },
    optional={"tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"},
    activation="activation_function",
    ours={"family": "decoder", "norm": "layer", "position": "learned", "residual": "pre", "bias": True},
    required={
        "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
    },
    dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    copies={"lm_head.weight": "transformer.wte.weight"},
    left_out={r"transformer\.h\.\d+\.attn\.(bias|masked_bias)": "the causal mask, computed here"},
)  # fmt: skip

LLAMA = Architecture(
    model_type="llama",
    model_class="LlamaForCausalLM",
    prefix="model.",
    outside=("lm_head.",),
    names={
        "model.embed_tokens.weight": "embedding.table",
        "model.layers.{}.input_layernorm": "decoder.blocks.{}.attention_norm",
        "model.layers.{}.self_attn.q_proj": "decoder.blocks.{}.attention.W_q",
        "model.layers.{}.self_attn.k_proj": "decoder.blocks.{}.attention.W_k",
        "model.layers.{}.self_attn.v_proj": "decoder.blocks.{}.attention.W_v",
        "model.layers.{}.self_attn.o_proj": "decoder.blocks.{}.attention.W_o",
        "model.layers.{}.post_attention_layernorm": "decoder.blocks.{}.feed_forward_norm",
        "model.layers.{}.mlp.gate_proj": "decoder.blocks.{}.feed_forward.gate",
        "model.layers.{}.mlp.up_proj": "decoder.blocks.{}.feed_forward.up",
        "model.layers.{}.mlp.down_proj": "decoder.blocks.{}.feed_forward.down",
        "model.norm": "decoder.norm",
        "lm_head.weight": "head.table",
    },
    fields={
        "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "d_model": "hidden_size",
        "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads", "d_head": "head_dim", "d_ff": "intermediate_size",
        "norm_eps": "rms_norm_eps",
        "tied": "tie_word_embeddings", "init_std": "initializer_range",
    },
    optional={"tie_word_embeddings": False, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
    ours={
        "family": "decoder", "norm": "rms", "feed_forward": "swiglu", "position": "rotary", "residual": "pre",
    },
    required={"hidden_act": "silu"},
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    left_out={
        r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "the rotary frequencies, computed here",
    },
)  # fmt: skip

BERT = Architecture(
    model_type="bert",
    model_class="BertForMaskedLM",
    prefix="bert.",
    outside=("cls.",),
    names={
        "bert.embeddings.word_embeddings.weight": "embedding.table",
        "bert.embeddings.position_embeddings.weight": "embedding.position.table",
        "bert.embeddings.token_type_embeddings.weight": "embedding.segments",
        "bert.embeddings.LayerNorm": "embedding.norm",
        "bert.encoder.layer.{}.attention.self.query": "encoder.blocks.{}.attention.W_q",
        "bert.encoder.layer.{}.attention.self.key": "encoder.blocks.{}.attention.W_k",
        "bert.encoder.layer.{}.attention.self.value": "encoder.blocks.{}.attention.W_v",
        "bert.encoder.layer.{}.attention.output.dense": "encoder.blocks.{}.attention.W_o",
        "bert.encoder.layer.{}.attention.output.LayerNorm": "encoder.blocks.{}.attention_norm",
        "bert.encoder.layer.{}.intermediate.dense": "encoder.blocks.{}.feed_forward.up",
        "bert.encoder.layer.{}.output.dense": "encoder.blocks.{}.feed_forward.down",
        "bert.encoder.layer.{}.output.LayerNorm": "encoder.blocks.{}.feed_forward_norm",
        "cls.predictions.transform.dense": "head.transform",
        "cls.predictions.transform.LayerNorm": "head.norm",
        "cls.predictions.bias": "head.bias",
    },
    fields={
        "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "d_model": "hidden_size",
        "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "d_ff": "intermediate_size",
        "norm_eps": "layer_norm_eps", "n_segments": "type_vocab_size", "init_std": "initializer_range",
    },
    optional={"type_vocab_size": 2, "layer_norm_eps": 1e-12},
    activation="hidden_act",
    ours={
        "family": "encoder", "norm": "layer", "position": "learned", "residual": "post", "bias": True,
        "embedding_norm": True, "tied": True,
    },
    required={"position_embedding_type": "absolute", "is_decoder": False, "tie_word_embeddings": True},
    dropout=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    left_out={
        r"bert\.embeddings\.position_ids": "the numbers 0, 1, 2, ..., computed here",
        r"bert\.pooler\..*": "a layer after the encoder that only a classifier of whole texts reads",
        r"cls\.seq_relationship\..*": "the head that told whether two sentences follow each other",
    },
)  # fmt: skip

MARIAN = Architecture(
    model_type="marian",
    model_class="MarianMTModel",
    prefix="model.",
    outside=("lm_head.", "final_logits_bias"),
    names={
        "model.shared.weight": "embedding.table",
        "model.encoder.layers.{}.self_attn.q_proj": "encoder.blocks.{}.attention.W_q",
        "model.encoder.layers.{}.self_attn.k_proj": "encoder.blocks.{}.attention.W_k",
        "model.encoder.layers.{}.self_attn.v_proj": "encoder.blocks.{}.attention.W_v",
        "model.encoder.layers.{}.self_attn.out_proj": "encoder.blocks.{}.attention.W_o",
        "model.encoder.layers.{}.self_attn_layer_norm": "encoder.blocks.{}.attention_norm",
        "model.encoder.layers.{}.fc1": "encoder.blocks.{}.feed_forward.up",
        "model.encoder.layers.{}.fc2": "encoder.blocks.{}.feed_forward.down",
        "model.encoder.layers.{}.final_layer_norm": "encoder.blocks.{}.feed_forward_norm",
        "model.decoder.layers.{}.self_attn.q_proj": "decoder.blocks.{}.attention.W_q",
        "model.decoder.layers.{}.self_attn.k_proj": "decoder.blocks.{}.attention.W_k",
        "model.decoder.layers.{}.self_attn.v_proj": "decoder.blocks.{}.attention.W_v",
        "model.decoder.layers.{}.self_attn.out_proj": "decoder.blocks.{}.attention.W_o",
        "model.decoder.layers.{}.self_attn_layer_norm": "decoder.blocks.{}.attention_norm",
        "model.decoder.layers.{}.encoder_attn.q_proj": "decoder.blocks.{}.cross_attention.W_q",
        "model.decoder.layers.{}.encoder_attn.k_proj": "decoder.blocks.{}.cross_attention.W_k",
        "model.decoder.layers.{}.encoder_attn.v_proj": "decoder.blocks.{}.cross_attention.W_v",
        "model.decoder.layers.{}.encoder_attn.out_proj": "decoder.blocks.{}.cross_attention.W_o",
        "model.decoder.layers.{}.encoder_attn_layer_norm": "decoder.blocks.{}.cross_norm",
        "model.decoder.layers.{}.fc1": "decoder.blocks.{}.feed_forward.up",
        "model.decoder.layers.{}.fc2": "decoder.blocks.{}.feed_forward.down",
        "model.decoder.layers.{}.final_layer_norm": "decoder.blocks.{}.feed_forward_norm",
        "final_logits_bias": "head.bias [None]",
    },
    fields={
        "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "d_model": "d_model",
        "n_layers": ("encoder_layers", "decoder_layers"),
        "n_heads": ("encoder_attention_heads", "decoder_attention_heads"),
        "d_ff": ("encoder_ffn_dim", "decoder_ffn_dim"),
        "scale_embedding": "scale_embedding", "init_std": "init_std",
    },
    optional={"scale_embedding": False},
    activation="activation_function",
    ours={
        "family": "encoder-decoder", "norm": "layer", "norm_eps": 1e-5, "position": "sinusoidal_halves",
        "residual": "post", "bias": True, "tied": True, "head_bias": True,
    },
    required={
        "share_encoder_decoder_embeddings": True, "tie_word_embeddings": True, "normalize_before": False,
        "normalize_embedding": False, "add_final_layer_norm": False, "static_position_embeddings": True,
    },
    dropout=("dropout", "attention_dropout"),
    copies={
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    },
    left_out={r"model\.(encoder|decoder)\.embed_positions\.weight": "sines and cosines, computed here"},
)  # fmt: skip

ARCHITECTURES = {a.model_type: a for a in (GPT2, LLAMA, BERT, MARIAN)}
