"""The same random weights give the same logits and gradients in llmcore, Hugging Face and torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import BASE, ids_of, model_of, roundings, within
from torch import nn

from llmcore.config import GPT2, LLAMA, PRESETS, ModelConfig, RotaryScaling
from llmcore.functional import cross_entropy
from llmcore.mask import Padding
from llmcore.model import Transformer

transformers = pytest.importorskip("transformers")
# the identity is proved in float64; `make test` holds float32 to its bound as well
DTYPES = [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)]


def close(
    y: torch.Tensor, expected: torch.Tensor, config: ModelConfig, gradient: bool = False, msg=None
) -> None:
    """Equal but for rounding; the way of a gradient goes there and back, takes what was kept, and ends in
    a sum over tokens.
    """
    T = config.context_length
    n = 3 * roundings(config, T) + 3 * T if gradient else roundings(config, T)
    torch.testing.assert_close(y, expected, **within(n, y.dtype, expected.abs().max().item()), msg=msg)


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    """What is built inside has this type, so that copying weights into it rounds nothing."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def put(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy each (theirs <- ours); a shape that differs raises."""
    with torch.no_grad():
        for theirs, ours in pairs:
            assert theirs.shape == ours.shape
            theirs.copy_(ours)


def pair_linear(theirs: nn.Linear, ours) -> list:
    return [(theirs.weight, ours.weight.T)] + ([] if ours.bias is None else [(theirs.bias, ours.bias)])


def pair_norm(theirs, ours) -> list:
    bias = getattr(ours, "bias", None)
    return [(theirs.weight, ours.weight)] + ([] if bias is None else [(theirs.bias, bias)])


def gpt2(config, model):
    reference = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.d_model,
            n_layer=config.n_layers, n_head=config.n_heads, n_inner=config.d_ff, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    pairs = [(reference.transformer.wte.weight, model.embedding.table)]
    pairs += [(reference.transformer.wpe.weight, model.embedding.position.table)]
    for theirs, ours in zip(reference.transformer.h, model.decoder.blocks, strict=True):
        qkv = [ours.attention.W_q, ours.attention.W_k, ours.attention.W_v]
        pairs += [(theirs.attn.c_attn.weight, torch.cat([m.weight for m in qkv], 1))]
        pairs += [(theirs.attn.c_attn.bias, torch.cat([m.bias for m in qkv]))]
        for a, b in [
            (theirs.attn.c_proj, ours.attention.W_o),
            (theirs.mlp.c_fc, ours.feed_forward.up),
            (theirs.mlp.c_proj, ours.feed_forward.down),
        ]:
            pairs += [(a.weight, b.weight), (a.bias, b.bias)]
        pairs += pair_norm(theirs.ln_1, ours.attention_norm) + pair_norm(theirs.ln_2, ours.feed_forward_norm)
    put(pairs + pair_norm(reference.transformer.ln_f, model.decoder.norm))
    return reference


def llama(config, model):
    scaling = config.rotary_scaling
    rope = {"rope_type": "default", "rope_theta": config.rotary_base}
    if scaling:
        rope |= {
            "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high, "original_max_position_embeddings": scaling.original,
        }  # fmt: skip
    settings = transformers.LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.d_model, intermediate_size=config.d_ff,
        num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads, max_position_embeddings=config.context_length,
        rms_norm_eps=config.norm_eps, tie_word_embeddings=config.tied,
        attn_implementation="eager", rope_theta=config.rotary_base, rope_scaling=rope if scaling else None,
        rope_parameters=rope,
    )  # fmt: skip
    reference = transformers.LlamaForCausalLM(settings).eval()
    pairs = [(reference.model.embed_tokens.weight, model.embedding.table)]
    pairs += [(reference.lm_head.weight, model.embedding.table if config.tied else model.head.table)]
    for theirs, ours in zip(reference.model.layers, model.decoder.blocks, strict=True):
        for name in ("q", "k", "v", "o"):
            pairs += pair_linear(
                getattr(theirs.self_attn, f"{name}_proj"), getattr(ours.attention, f"W_{name}")
            )
        for name in ("gate", "up", "down"):
            pairs += pair_linear(getattr(theirs.mlp, f"{name}_proj"), getattr(ours.feed_forward, name))
        pairs += pair_norm(theirs.input_layernorm, ours.attention_norm)
        pairs += pair_norm(theirs.post_attention_layernorm, ours.feed_forward_norm)
    put(pairs + pair_norm(reference.model.norm, model.decoder.norm))
    return reference


def bert(config, model):
    settings = transformers.BertConfig(
        vocab_size=config.vocab_size, hidden_size=config.d_model, num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads, intermediate_size=config.d_ff, layer_norm_eps=config.norm_eps,
        max_position_embeddings=config.context_length, type_vocab_size=2, attn_implementation="eager",
    )  # fmt: skip
    reference = transformers.BertForMaskedLM(settings).eval()
    table, head = reference.bert.embeddings, reference.cls.predictions
    pairs = [
        (table.word_embeddings.weight, model.embedding.table),
        (table.position_embeddings.weight, model.embedding.position.table),
        (table.token_type_embeddings.weight, model.embedding.segments),
        (head.bias, model.head.bias),
        *pair_norm(table.LayerNorm, model.embedding.norm),
        *pair_linear(head.transform.dense, model.head.transform),
        *pair_norm(head.transform.LayerNorm, model.head.norm),
    ]
    for theirs, ours in zip(reference.bert.encoder.layer, model.encoder.blocks, strict=True):
        for name, mine in (("query", "W_q"), ("key", "W_k"), ("value", "W_v")):
            pairs += pair_linear(getattr(theirs.attention.self, name), getattr(ours.attention, mine))
        pairs += pair_linear(theirs.attention.output.dense, ours.attention.W_o)
        pairs += pair_norm(theirs.attention.output.LayerNorm, ours.attention_norm)
        pairs += pair_linear(theirs.intermediate.dense, ours.feed_forward.up)
        pairs += pair_linear(theirs.output.dense, ours.feed_forward.down)
        pairs += pair_norm(theirs.output.LayerNorm, ours.feed_forward_norm)
    put(pairs)
    return reference


GPT = replace(BASE, tied=True)
BERT = replace(
    BASE, tied=True, family="encoder", norm_eps=1e-12, feed_forward="gelu", residual="post",
    embedding_norm=True, n_segments=2, head_transform=True,
)  # fmt: skip
LLAMA_SMALL = BASE.with_(norm="rms", feed_forward="swiglu", position="rotary", bias=False)
DECODERS = {
    "gpt2": (gpt2, GPT),
    "llama": (llama, LLAMA_SMALL),
    "llama-gqa": (llama, LLAMA_SMALL.with_(n_kv_heads=2)),
    "llama-mqa-tied": (llama, LLAMA_SMALL.with_(n_kv_heads=1, tied=True)),
    "llama-3-scaling": (
        llama,
        LLAMA_SMALL.with_(rotary_scaling=RotaryScaling(8.0, 1.0, 4.0, 16), context_length=64, d_model=32),
    ),
}


# Hugging Face computes a Llama's norms, angles and softmax in fp32 whatever its type:
# only GPT-2 can be compared in float64
@pytest.mark.parametrize(
    ("name", "dtype"), [("gpt2", torch.float64), *((name, torch.float32) for name in DECODERS)]
)
@pytest.mark.parametrize("path", ["explicit", "fused"])
def test_decoder_equals_hugging_face_in_logits_loss_and_gradients(name, path, dtype):
    build, config = DECODERS[name]
    model = model_of(replace(config, attention=path), dtype=dtype)
    with default_type(dtype):
        reference = build(config, model)
    ids = ids_of(3, config.context_length)
    theirs = reference(ids, labels=ids)
    logits = model(ids)
    loss = cross_entropy(logits[:, :-1], ids[:, 1:])
    close(logits, theirs.logits, config)
    in_fp32 = dtype == torch.float32  # Hugging Face's own loss is
    their_loss = (
        theirs.loss if in_fp32 else F.cross_entropy(theirs.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    )
    close(loss, their_loss, config)
    loss.backward()
    their_loss.backward()
    table = reference.get_input_embeddings().weight.grad
    close(model.embedding.table.grad, table, config, gradient=True)
    # every other gradient: copy ours into a second reference's weights through the same table of names
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.grad
    with default_type(dtype):
        gradients = dict(build(config, model).named_parameters())
    largest = max(parameter.grad.abs().max().item() for parameter in reference.parameters())
    n = 3 * roundings(config, config.context_length) + ids.numel()
    for key, parameter in reference.named_parameters():
        same = within(n, dtype, largest)
        torch.testing.assert_close(
            gradients[key].data, parameter.grad, **same, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", ["explicit", "fused"])
def test_encoder_equals_bert_with_padding_and_segments(path, dtype):
    model = model_of(replace(BERT, attention=path), dtype=dtype)
    with default_type(dtype):
        reference = bert(BERT, model)
    ids, segments = ids_of(3, 8), ids_of(3, 8, 2)
    lengths = torch.tensor([8, 5, 1])
    real = torch.arange(8) < lengths[:, None]
    theirs = reference(ids, attention_mask=real.long(), token_type_ids=segments).logits
    ours = model(ids, padding=Padding(stop=lengths), segments=segments)
    close(ours[real], theirs[real], BERT)


def pair_attention(theirs, ours):
    qkv = [ours.W_q, ours.W_k, ours.W_v]
    return [
        (theirs.in_proj_weight, torch.cat([m.weight.T for m in qkv])),
        (theirs.in_proj_bias, torch.cat([m.bias for m in qkv])),
        *pair_linear(theirs.out_proj, ours.W_o),
    ]


def pair_blocks(theirs, ours):
    """The attentions, the norms in the order in which they are used, and a block's feed-forward layer."""
    pairs = pair_attention(theirs.self_attn, ours.attention) + pair_norm(theirs.norm1, ours.attention_norm)
    last = theirs.norm2
    if hasattr(theirs, "multihead_attn"):
        pairs += pair_attention(theirs.multihead_attn, ours.cross_attention)
        pairs += pair_norm(theirs.norm2, ours.cross_norm)
        last = theirs.norm3
    pairs += pair_linear(theirs.linear1, ours.feed_forward.up)
    pairs += pair_linear(theirs.linear2, ours.feed_forward.down)
    return pairs + pair_norm(last, ours.feed_forward_norm)


def as_torch_has_it(model, residual, dtype):
    """torch's encoder-decoder with the model's weights."""
    same = {"dropout": 0.0, "activation": "relu", "batch_first": True, "dtype": dtype}
    reference = nn.Transformer(16, 4, 2, 2, 24, norm_first=residual == "pre", **same).eval()
    pairs = []
    for theirs, ours in ((reference.encoder, model.encoder), (reference.decoder, model.decoder)):
        for one, other in zip(theirs.layers, ours.blocks, strict=True):
            pairs += pair_blocks(one, other)
        if residual == "pre":
            pairs += pair_norm(theirs.norm, ours.norm)
        else:  # torch normalises once more at the end of each stack; the paper does not
            theirs.norm = None
    put(pairs)
    return reference


@pytest.mark.parametrize("path", ["explicit", "fused"])
@pytest.mark.parametrize("residual", ["pre", "post"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_encoder_decoder_equals_torch(residual, path, dtype):
    kind = {"family": "encoder-decoder", "feed_forward": "relu", "position": "sinusoidal"}
    config = replace(BASE, residual=residual, attention=path, **kind)
    model = model_of(config, dtype=dtype)
    reference = as_torch_has_it(model, residual, dtype)

    source, target = ids_of(3, 9, seed=1), ids_of(3, 6, seed=2)
    lengths = torch.tensor([9, 4, 1])
    padded = torch.arange(9) >= lengths[:, None]
    vectors = reference(
        model.embed(source, Padding(), 0)[0],
        model.embed(target, Padding(), 0)[0],
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(6, dtype=dtype),
        tgt_is_causal=True,
        src_key_padding_mask=padded,
        memory_key_padding_mask=padded,
    )
    ours = model(target, source=source, source_padding=Padding(stop=lengths))
    close(ours, vectors @ model.head.table.T, config)
    gradient = torch.autograd.grad(ours.square().mean(), model.encoder.blocks[0].attention.W_q.weight)[0]
    vectors_loss = (vectors @ model.head.table.T).square().mean()
    theirs = torch.autograd.grad(vectors_loss, reference.encoder.layers[0].self_attn.in_proj_weight)[0]
    close(gradient, theirs[:16].T, config, gradient=True)


@pytest.mark.parametrize(
    ("preset", "count"),
    # GPT-2: the published file's numbers; Llama 3.1 8B: Hugging Face's model card; BERT:
    # its encoder has 109,482,240
    # with a pooler of 590,592 that we leave out, the masked-language head adds 622,650
    [("gpt2", 124_439_808), ("llama", 8_030_261_248), ("bert-base", 109_482_240 - 590_592 + 622_650)],
)
def test_presets_have_the_published_number_of_parameters(preset, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in Transformer(PRESETS[preset]).parameters()) == count


def test_the_loss_at_the_start_is_near_ln_v():
    """Small weights give nearly equal logits: -log(1/V)."""
    torch.manual_seed(0)
    model = Transformer(replace(BASE, init_std=0.02, vocab_size=200))
    ids = ids_of(4, 12, 200)
    loss = cross_entropy(model(ids)[:, :-1], ids[:, 1:])
    torch.testing.assert_close(loss, torch.tensor(200.0).log(), atol=0.05, rtol=0)


def test_matrices_that_write_into_the_stream_start_smaller():
    torch.manual_seed(0)
    block = Transformer(GPT2.with_(vocab_size=10, n_layers=8, context_length=4)).decoder.blocks[0]
    assert abs(block.feed_forward.up.weight.std().item() - 0.02) < 1e-4
    assert abs(block.feed_forward.down.weight.std().item() - 0.02 / 4) < 1e-4  # sqrt(2 * 8) = 4


def test_tied_logits_send_gradients_into_one_table():
    model = model_of(GPT)
    assert model.head.table is None
    cross_entropy(model(ids_of(1, 3)), torch.tensor([[1, 2, 3]])).backward()
    assert (model.embedding.table.grad != 0).any(dim=1).all()  # the head reads every row


def test_mistakes_are_named(as_a_reader_calls_it):
    model = model_of(BASE)
    with pytest.raises(ValueError, match="13 tokens with context_length=12"):
        model(ids_of(1, 13))
    with pytest.raises(ValueError, match=r"id 23 is outside 0\.\.22"):
        model(torch.tensor([[1, 23]]))
    with pytest.raises(ValueError, match="id -1 is outside"):
        model(torch.tensor([[-1]]))
    with pytest.raises(ValueError, match="at least one token"):
        model(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="source with family='decoder'"):
        model(ids_of(1, 3), source=ids_of(1, 3))
    with pytest.raises(ValueError, match="source with family='encoder-decoder'"):
        model_of(replace(BASE, family="encoder-decoder"))(ids_of(1, 3))
    with pytest.raises(ValueError, match="segments were given"):
        model(ids_of(1, 3), segments=ids_of(1, 3, 2))
    encoder = model_of(replace(BASE, family="encoder"))
    with pytest.raises(ValueError, match="cache with family='encoder'"):
        encoder(ids_of(1, 3), cache=encoder.new_cache())
    with pytest.raises(ValueError, match="encode with family='decoder'"):
        model.encode(ids_of(1, 3))
    with pytest.raises(ValueError, match="stop has 2 entries for a batch of 1"):
        model(ids_of(1, 3), padding=Padding(stop=torch.tensor([1, 2])))
    with pytest.raises(ValueError, match=r"must lie in 0\.\.3"):
        model(ids_of(1, 3), padding=Padding(stop=torch.tensor([4])))
    with pytest.raises(ValueError, match="one integer per sequence"):
        Padding(stop=torch.tensor([[True]]))


def test_llama_at_8192_tokens_turns_by_published_frequencies():
    """Fast pairs keep their angle, slow pairs are eight times slower (LLAMA's scaling)."""
    from llmcore.position import frequencies, scale_frequencies

    theta = frequencies(LLAMA.d_head, LLAMA.rotary_base)
    ratio = scale_frequencies(theta, LLAMA.rotary_scaling) / theta
    torch.testing.assert_close(ratio[0], torch.tensor(1.0))
    torch.testing.assert_close(ratio[-1], torch.tensor(1 / 8))
    assert (ratio.diff() <= 1e-7).all()


def test_dropout_is_on_in_training_only():
    model = model_of(replace(BASE, dropout=0.5))
    ids = ids_of(2, 5)
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))
    assert F.mse_loss(model(ids), model(ids)) > 0
