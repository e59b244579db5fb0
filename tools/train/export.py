"""Stage 4: the package models/uhr-nano from the two checkpoints."""

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file

import decoder as dec
import encoder as enc
from tokens import SPECIAL, VOCAB

README = """# uhr-nano

A demonstrator: a small vision encoder and a four-layer decoder, trained by tools/train on drawn scenes (ships, planes, trucks, tanks, houses and tents
in six colours) over textures and real backgrounds. It answers questions of presence, count, colour, quadrant and relation about such scenes. About
anything else, real aerial pictures included, its answers mean nothing.

`self-test.jpg` is drawn by tools/scenes alone (Apache-2.0, as the rest).
"""
# On the picture of tools/scenes/self_test.py; what a model must answer to be this one.
SELF_TEST = ("what colour is the truck?", "yellow")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("models/uhr-nano"))
    parser.add_argument("--self-test", type=Path, required=True, help="the picture of tools/scenes/self_test.py")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    load = lambda name: torch.load(args.work / name, weights_only=False)["model"]
    encoder = enc.Encoder()
    encoder.load_state_dict(load("encoder.pt"))
    encoder.eval()
    torch.onnx.export(encoder, torch.zeros(1, 3, 336, 336), str(args.out / "encoder.onnx"), opset_version=17, input_names=["tiles"], output_names=["features"], dynamic_axes={"tiles": {0: "n"}, "features": {0: "n"}}, do_constant_folding=True)
    model = dec.Model()
    model.load_state_dict(load("decoder.pt"))
    model.eval()
    torch.onnx.export(model.project, torch.zeros(1, dec.FEATURES), str(args.out / "projector.onnx"), opset_version=17, input_names=["features"], output_names=["rows"], dynamic_axes={"features": {0: "n"}, "rows": {0: "n"}})
    array = lambda t: t.detach().float().numpy()
    save_file({"p": array(model.base), "q": array(model.scale)}, str(args.out / "positions.safetensors"))
    writer = gguf.GGUFWriter(str(args.out / "decoder.gguf"), "llama")
    writer.add_block_count(dec.LAYERS)
    writer.add_context_length(12288)
    writer.add_embedding_length(dec.DIM)
    writer.add_feed_forward_length(dec.FFN)
    writer.add_head_count(dec.HEADS)
    writer.add_head_count_kv(dec.HEADS)
    writer.add_layer_norm_rms_eps(dec.EPS)
    writer.add_rope_dimension_count(dec.ROTARY)
    writer.add_rope_freq_base(dec.BASE)
    writer.add_vocab_size(len(VOCAB))

    def put(name, tensor, kind):
        values = np.ascontiguousarray(array(tensor))
        writer.add_tensor(name, gguf.quants.quantize(values, kind) if kind != gguf.GGMLQuantizationType.F32 else values, raw_dtype=kind)

    q4, q8, f32 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32
    for name, parameter in dec.gguf_names(model):
        put(name, parameter, f32 if "norm" in name else q8 if name in ("token_embd.weight", "output.weight") else q4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    special = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, token in enumerate(SPECIAL)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None, "decoder": None, "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(VOCAB)}, "unk_token": "<unk>"},
    }
    (args.out / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1) + "\n")
    (args.out / "README.md").write_text(README)
    (args.out / "LICENSE").write_text((Path(__file__).resolve().parents[2] / "LICENSE").read_text())
    (args.out / "self-test.jpg").write_bytes(args.self_test.read_bytes())
    files = sorted(p for p in args.out.iterdir() if p.name != "model.toml")
    digests = "\n".join(f'"{p.name}" = "{hashlib.sha256(p.read_bytes()).hexdigest()}"' for p in files)
    (args.out / "model.toml").write_text(f'''format = 1
name = "uhr-nano"
licence = "Apache-2.0"

[vision]
tile-px = 336
patch-px = 14
views-px = [672, 1344, 2688, 4032]
mean = {list(enc.MEAN)}
std = {list(enc.STD)}
pad = "mean"
feature-dim = {dec.FEATURES}
encoder = "encoder.onnx"
projector = "projector.onnx"
positions = "positions.safetensors"

[language]
decoder = "decoder.gguf"
tokenizer = "tokenizer.json"
context = 12288
interface-layer = {dec.INTERFACE}
stop = ["</s>"]

[prompt]
template = "<s>{{image}}<q>{{question}}<a>"
system = ""
choice-suffix = ""

[compression]
policy = "paper"

[self-test]
image = "self-test.jpg"
question = "{SELF_TEST[0]}"
budget = "600"
tokens = [{VOCAB.index(SELF_TEST[1])}]

[files]
{digests}
''')


if __name__ == "__main__":
    main()
