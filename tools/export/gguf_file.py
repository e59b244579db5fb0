"""`decoder.gguf`: the Qwen2 architecture with ggml's names, written a tensor at a time.

Linear layers in Q4_0 with the integers and scales of the INT4 graphs (or in f16 or f32), the table of embeddings and the output in f16 (f32), norms and biases in f32.
"""

import gguf
import numpy as np

import quant

PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
KINDS = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "f16": gguf.GGMLQuantizationType.F16, "f32": gguf.GGMLQuantizationType.F32}


def tensors(model):
    """(ggml's name, how it is kept: "linear", "table" or "vector", the f32 values when called, the model's name)."""
    yield "token_embd.weight", "table", lambda: model("embed_tokens.weight"), "embed_tokens"
    for number in range(model.layers):
        for part, name in PARTS.items():
            at = f"layers.{number}.{part}"
            kind = "vector" if "norm" in name else "linear"
            yield f"blk.{number}.{name}.weight", kind, lambda at=at: model(f"{at}.weight"), at
            if name in ("attn_q", "attn_k", "attn_v"):
                yield f"blk.{number}.{name}.bias", "vector", lambda at=at: model(f"{at}.bias"), at
    yield "output_norm.weight", "vector", lambda: model("norm.weight"), "norm"
    if not model.tied:
        yield "output.weight", "table", lambda: model.head, "head"


def stored(values, kind, weights):
    """Values as the file has them, and their type, where that isn't Q4_0."""
    if kind == "vector" or weights == "f32":
        return np.ascontiguousarray(values, np.float32), KINDS["f32"]
    return np.ascontiguousarray(values, np.float16), KINDS["f16"]


def write(model, path, context, weights="q4_0"):
    """`weights`: q4_0, f16 or f32; `context`: positions that the package allows."""
    writer = gguf.GGUFWriter(str(path), "qwen2", use_temp_file=True)
    writer.add_block_count(model.layers)
    writer.add_context_length(context)
    writer.add_embedding_length(model.hidden)
    writer.add_feed_forward_length(model.ffn)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(model.epsilon)
    writer.add_rope_freq_base(model.base)
    writer.add_vocab_size(model.vocab)
    if model.scaling["type"] != "none":
        writer.add_rope_scaling_type(gguf.RopeScalingType(model.scaling["type"]))
        writer.add_rope_scaling_factor(model.scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(model.scaling["original"])
    for name, kind, values, at in tensors(model):
        four = kind == "linear" and weights == "q4_0"
        data, stored_as = (quant.q4_0(*model.rounded(at)), KINDS["q4_0"]) if four else stored(values(), kind, weights)
        writer.add_tensor(name, data, raw_dtype=stored_as)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
