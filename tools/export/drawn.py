"""Checkpoints of drawn weights: what tests export, from a few KiB up to the paper's own widths. Nothing is written unless [`save`] is called.

Linear layers keep the size of what goes through them (normal, in⁻½), norms stand about 1, biases and places about 0.
"""

import json
import zlib
from dataclasses import dataclass, field

import numpy as np
from safetensors.numpy import save_file

import gguf_file
from checkpoint import Decoder, Tower

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
NONE = {"type": "none", "factor": 1.0, "original": 0}


class Tensors:
    """A tensor is a function of the seed, its name and its shape."""

    def __init__(self, seed):
        self.seed = seed

    def __call__(self, name, shape):
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        values = rng.standard_normal(shape, np.float32)
        if "norm" in name and name.endswith("weight"):
            return 1 + 0.1 * values
        if len(shape) == 1 or "embedding" in name and "patch" not in name:
            return 0.1 * values
        return values if "embed_tokens" in name else values * np.float32(np.prod(shape[1:]) ** -0.5)


@dataclass
class Sizes:
    """By default small ones for quick tests; [`CLIP_L`] and [`QWEN2_7B`] are the paper's."""

    image: int = 56
    patch: int = 14
    vision_hidden: int = 64
    vision_layers: int = 3
    vision_heads: int = 4
    vision_ffn: int = 256
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 320
    vocab: int = 512
    context: int = 512
    scaling: dict = field(default_factory=lambda: dict(NONE))
    tied: bool = False

    @property
    def hidden(self):
        return self.heads * self.head_dim


CLIP_L = {"image": 336, "vision_hidden": 1024, "vision_layers": 24, "vision_heads": 16, "vision_ffn": 4096}
QWEN2_7B = {"heads": 28, "kv_heads": 4, "head_dim": 128, "ffn": 18944, "vocab": 152064, "context": 32768}


def tower(sizes, seed):
    return Tower(
        image=sizes.image, patch=sizes.patch, hidden=sizes.vision_hidden, layers=sizes.vision_layers, heads=sizes.vision_heads, ffn=sizes.vision_ffn, epsilon=1e-5,
        activation="quick_gelu", mean=MEAN, std=STD, run=sizes.vision_layers - 1, tensors=Tensors(seed), prefix="model.vision_tower.vision_tower.vision_model.",
    )  # fmt: skip


def decoder(sizes, seed):
    return Decoder(
        layers=sizes.layers, heads=sizes.heads, kv_heads=sizes.kv_heads, head_dim=sizes.head_dim, hidden=sizes.hidden, ffn=sizes.ffn, vocab=sizes.vocab,
        context=sizes.context, epsilon=1e-6, base=1e6, scaling=sizes.scaling, tied=sizes.tied, tensors=Tensors(seed),
    )  # fmt: skip


def mlp(prefix, widths, seed):
    """(weight [out, in], bias) of each layer, with the names of `nn.Sequential(Linear, GELU, Linear, …)`."""
    tensors = Tensors(seed)
    pairs = enumerate(zip(widths, widths[1:]))
    return {f"{prefix}.{2 * n}.{part}": tensors(f"{prefix}.{2 * n}.{part}", shape) for n, (a, b) in pairs for part, shape in [("weight", [b, a]), ("bias", [b])]}


def vision_shapes(sizes):
    """Names and shapes of the tower's tensors that any of its layers may want."""
    d, f = sizes.vision_hidden, sizes.vision_ffn
    yield "embeddings.class_embedding", [d]
    yield "embeddings.patch_embedding.weight", [d, 3, sizes.patch, sizes.patch]
    yield "embeddings.position_embedding.weight", [(sizes.image // sizes.patch) ** 2 + 1, d]
    for norm in ["pre_layrnorm", "post_layernorm"] + [f"encoder.layers.{n}.layer_norm{k}" for n in range(sizes.vision_layers) for k in (1, 2)]:
        yield from ((f"{norm}.{part}", [d]) for part in ("weight", "bias"))
    for n in range(sizes.vision_layers):
        sides = {f"self_attn.{part}_proj": (d, d) for part in ("q", "k", "v", "out")} | {"mlp.fc1": (f, d), "mlp.fc2": (d, f)}
        for part, side in sides.items():
            yield f"encoder.layers.{n}.{part}.weight", list(side)
            yield f"encoder.layers.{n}.{part}.bias", list(side[:1])


def decoder_shapes(sizes):
    """Names and shapes of the decoder's tensors."""
    d, kv, f = sizes.hidden, sizes.kv_heads * sizes.head_dim, sizes.ffn
    sides = {"q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d), "gate": (f, d), "up": (f, d), "down": (d, f)}
    yield "model.embed_tokens.weight", [sizes.vocab, d]
    yield "model.norm.weight", [d]
    if not sizes.tied:
        yield "lm_head.weight", [sizes.vocab, d]
    for n in range(sizes.layers):
        for part in gguf_file.PARTS:
            name = f"model.layers.{n}.{part}"
            if "norm" in part:
                yield f"{name}.weight", [d]
                continue
            side = sides[part.split(".")[1].removesuffix("_proj")]
            yield f"{name}.weight", list(side)
            if part.removesuffix("_proj")[-1] in "qkv":
                yield f"{name}.bias", list(side[:1])


def config(sizes, tower_folder):
    scaled = None
    if sizes.scaling["type"] != "none":
        scaled = {"rope_type": sizes.scaling["type"], "factor": sizes.scaling["factor"], "original_max_position_embeddings": sizes.scaling["original"]}
    return {
        "architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen", "hidden_size": sizes.hidden, "intermediate_size": sizes.ffn, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads, "vocab_size": sizes.vocab, "max_position_embeddings": sizes.context, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "rope_scaling": scaled, "tie_word_embeddings": sizes.tied, "hidden_act": "silu", "mm_vision_tower": str(tower_folder), "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": sizes.vision_hidden, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
    }  # fmt: skip


def tokenizer(words):
    """A `tokenizer.json` of whole words, the first three of which are Qwen2's special ones."""
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    vocab = {word: n for n, word in enumerate(special + [f"w{n}" for n in range(words - len(special))])}
    added = [{"id": n, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for n, word in enumerate(special)]
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<|endoftext|>"}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None, "model": model}


def save(folder, sizes, seed, extra=None):
    """A checkpoint folder with its tower in `folder/tower`; `extra`: tensors that replace or join the drawn ones. The tensors."""
    tensors, at = Tensors(seed), folder / "tower"
    at.mkdir(parents=True)
    vision = {f"vision_model.{name}": Tensors(seed)(f"model.vision_tower.vision_tower.vision_model.{name}", shape) for name, shape in vision_shapes(sizes)}
    save_file(vision, at / "model.safetensors", {"format": "pt"})
    clip = {
        "architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", "image_size": sizes.image, "patch_size": sizes.patch, "hidden_size": sizes.vision_hidden,
        "num_hidden_layers": sizes.vision_layers, "num_attention_heads": sizes.vision_heads, "intermediate_size": sizes.vision_ffn, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "projection_dim": sizes.vision_hidden,
    }  # fmt: skip
    (at / "config.json").write_text(json.dumps(clip))
    pixels = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": sizes.image}, "crop_size": {"height": sizes.image, "width": sizes.image}, "do_normalize": True, "do_rescale": True}
    (at / "preprocessor_config.json").write_text(json.dumps(pixels | {"do_resize": True, "do_center_crop": True, "image_processor_type": "CLIPImageProcessor"}))
    out = {name: tensors(name, shape) for name, shape in decoder_shapes(sizes)}
    out |= mlp("model.mm_projector", [sizes.vision_hidden, sizes.hidden, sizes.hidden], seed)
    out |= mlp("model.multiscale_token_mlp", [sizes.hidden] * 3, seed)
    out |= extra or {}
    save_file(out, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(sizes, at)))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(sizes.vocab)))
    return out
