"""Qwen2 with random weights: log-probabilities of `model logits` against Hugging Face's model, plain and with YaRN. Needs torch and transformers, so it is run by hand:

    pip install torch transformers==4.46.3 gguf==0.10.0 safetensors && python tools/vectors/qwen2.py --binary target/release/uhr-edge
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write(model, path, yarn):
    config = model.config
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    if yarn:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(yarn["factor"])
        # This release of transformers takes the configured context for the original one.
        writer.add_rope_scaling_orig_ctx_len(config.max_position_embeddings)
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            part, kind = rest.rsplit(".", 1)
            writer.add_tensor(f"blk.{layer}.{PARTS[part]}.{kind}", values)
        elif name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", values)
        elif name == "model.norm.weight":
            writer.add_tensor("output_norm.weight", values)
        elif not config.tie_word_embeddings:
            writer.add_tensor("output.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    args = parser.parse_args()
    worst = 0.0
    for tied, yarn in [(True, None), (False, None), (False, {"rope_type": "yarn", "factor": 4.0})]:
        torch.manual_seed(1)
        config = Qwen2Config(
            vocab_size=512, hidden_size=128, intermediate_size=320, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64 if yarn else 256, rope_theta=1e6, tie_word_embeddings=tied, rope_scaling=yarn, attn_implementation="eager",
        )  # fmt: skip
        model = Qwen2ForCausalLM(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 and parameter.shape[0] == 128 else 0.0, 0.1)
        ids = torch.randint(0, 512, (1, 200))
        with torch.no_grad():
            wanted = torch.log_softmax(model(ids).logits[0].double(), -1).numpy()
        with tempfile.TemporaryDirectory() as folder:
            path, out = Path(folder) / "model.gguf", Path(folder) / "logits.safetensors"
            write(model, path, yarn)
            tokens = ",".join(map(str, ids[0].tolist()))
            subprocess.run([args.binary, "model", "logits", "--decoder", str(path), "--tokens", tokens, "--out", str(out)], check=True)
            found = torch.log_softmax(torch.from_numpy(load_file(out)["logits"]).double(), -1).numpy()
        gap = np.abs(found - wanted).max()
        print(f"tied {tied}, yarn {bool(yarn)}: 200 positions, 512 words: largest difference of log-probabilities {gap:.5f}")
        worst = max(worst, gap)
    sys.exit(0 if worst < 0.02 else 1)


if __name__ == "__main__":
    main()
