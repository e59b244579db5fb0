"""A LLaVA-style checkpoint folder: `config.json` and safetensors, read tensor by tensor without torch, so that 7 billion weights fit a small machine.

Names are Hugging Face's: `model.layers.*` (Qwen2), `model.mm_projector.*`, `model.vision_tower.vision_tower.vision_model.*` (CLIP; or `vision_model.*` in the
tower's own folder), and of UHR-BAT's authors `model.multiscale_token_mlp.*` and `model.scale_pos_residuals.SIDE`.
"""

import json
import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import quant

KINDS = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": np.uint16}
IN_CHECKPOINT = "model.vision_tower.vision_tower.vision_model."
IN_FOLDER = "vision_model."


class ExportError(Exception):
    """What of a checkpoint isn't as wanted."""


class Tensors:
    """All `*.safetensors` of a folder, mapped."""

    def __init__(self, folder):
        self.folder, self.places = Path(folder), {}
        for path in sorted(self.folder.glob("*.safetensors")):
            with path.open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            length = int.from_bytes(data[:8], "little")
            for name, place in json.loads(bytes(data[8 : 8 + length])).items():
                if name != "__metadata__":
                    start, end = place["data_offsets"]
                    self.places[name] = (data[8 + length + start : 8 + length + end], place["dtype"], place["shape"])
        if not self.places:
            raise ExportError(f"{folder}: wanted safetensors, found none (a .bin checkpoint is saved anew with `save_pretrained(…, safe_serialization=True)`)")

    def __contains__(self, name):
        return name in self.places

    def __iter__(self):
        return iter(self.places)

    def __call__(self, name, shape=None):
        """The tensor as f32, of `shape` where that is given."""
        if name not in self.places:
            raise ExportError(f"{self.folder}: wanted tensor {name}, found none of that name")
        data, kind, found = self.places[name]
        if kind not in KINDS:
            raise ExportError(f"{self.folder}: tensor {name}: wanted one of {', '.join(KINDS)}, found {kind}")
        if shape is not None and list(shape) != list(found):
            raise ExportError(f"{self.folder}: tensor {name}: wanted {list(shape)}, found {found}")
        values = np.frombuffer(data, KINDS[kind]).reshape(found)
        if kind == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)


@dataclass
class Tower:
    """Sizes of a CLIP vision tower, and how pixels in 0..1 are normalised."""

    image: int
    patch: int
    hidden: int
    layers: int
    heads: int
    ffn: int
    epsilon: float
    activation: str
    mean: list
    std: list
    # Layers that run, and whether the class token is left out (`mm_vision_select_layer`, `mm_vision_select_feature`).
    run: int
    tensors: Tensors
    prefix: str

    @property
    def tokens(self):
        return (self.image // self.patch) ** 2

    def __call__(self, name, shape=None):
        return self.tensors(self.prefix + name, shape)


@dataclass
class Decoder:
    """Sizes of a Qwen2 decoder. `frequencies` [head_dim/2]: radians a position; rotated values are multiplied by `magnitude`."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    ffn: int
    vocab: int
    context: int
    epsilon: float
    base: float
    scaling: dict
    tied: bool
    tensors: Tensors
    # Integers and scales of linear layers that aren't rounded to nearest, by name.
    chosen: dict = field(default_factory=dict)

    def __call__(self, name, shape=None):
        return self.tensors(f"model.{name}", shape)

    def rounded(self, name, shape=None):
        """The linear layer `name` in 4 bits: integers and scales."""
        return self.chosen[name] if name in self.chosen else quant.quantise(self(f"{name}.weight", shape))

    @property
    def kv_width(self):
        return self.kv_heads * self.head_dim

    @property
    def head(self):
        """Weights of the output, [vocab, hidden]."""
        return self.tensors("model.embed_tokens.weight" if self.tied else "lm_head.weight", [self.vocab, self.hidden])

    @property
    def rotation(self):
        """(frequencies, magnitude): plain, linear (arXiv 2306.15595) or YaRN (arXiv 2309.00071; ramp 32 to 1, ends rounded outwards)."""
        d = self.head_dim
        plain = self.base ** (-np.arange(0, d, 2, dtype=np.float64) / d)
        if self.scaling["type"] == "linear":
            return plain / self.scaling["factor"], 1.0
        if self.scaling["type"] != "yarn":
            return plain, 1.0
        factor, context = self.scaling["factor"], self.scaling["original"]
        pair = lambda turns: d * np.log(context / (turns * 2 * np.pi)) / (2 * np.log(self.base))
        low, high = max(np.floor(pair(32.0)), 0.0), min(np.ceil(pair(1.0)), d - 1.0)
        share = np.clip((np.arange(d // 2) - low) / max(high - low, 1e-3), 0.0, 1.0)
        return plain / factor * share + plain * (1 - share), 0.1 * np.log(factor) + 1.0


def scaling(config):
    """`rope_scaling` of a Hugging Face configuration as {type, factor, original}."""
    given = config.get("rope_scaling") or {}
    kind = given.get("rope_type", given.get("type", "none"))
    if kind not in ("none", "default", "linear", "yarn"):
        raise ExportError(f"config.json: rope_scaling: wanted none, linear or yarn, found {kind!r}")
    original = given.get("original_max_position_embeddings", config["max_position_embeddings"])
    return {"type": "none" if kind == "default" else kind, "factor": float(given.get("factor", 1.0)), "original": int(original)}


class Checkpoint:
    """The folder `path`; `tower`: the vision tower's folder, where `config.json` doesn't name one that is there."""

    def __init__(self, path, tower=None):
        self.path = Path(path)
        self.config = json.loads((self.path / "config.json").read_text())
        self.tensors = Tensors(self.path)
        self.decoder = self.read_decoder()
        self.tower = self.read_tower(Path(tower or self.config.get("mm_vision_tower") or ""))

    def read_decoder(self):
        c = self.config
        if c.get("model_type") not in ("llava_qwen", "qwen2"):
            raise ExportError(f"config.json: model_type: wanted llava_qwen or qwen2, found {c.get('model_type')!r}")
        heads = c["num_attention_heads"]
        decoder = Decoder(
            layers=c["num_hidden_layers"], heads=heads, kv_heads=c.get("num_key_value_heads", heads), head_dim=c["hidden_size"] // heads,
            hidden=c["hidden_size"], ffn=c["intermediate_size"], vocab=c["vocab_size"], context=c["max_position_embeddings"],
            epsilon=c["rms_norm_eps"], base=float(c.get("rope_theta", 1e6)), scaling=scaling(c), tied=bool(c.get("tie_word_embeddings")), tensors=self.tensors,
        )  # fmt: skip
        if decoder.hidden % 32 or decoder.ffn % 32:
            raise ExportError(f"config.json: hidden_size and intermediate_size: wanted whole blocks of 32, found {decoder.hidden} and {decoder.ffn}")
        decoder("embed_tokens.weight", [decoder.vocab, decoder.hidden])
        return decoder

    def read_tower(self, folder):
        if not (folder / "config.json").is_file():
            raise ExportError(f"vision tower: wanted a folder with config.json, found {str(folder)!r}; name it with --tower")
        c = json.loads((folder / "config.json").read_text())
        c = c.get("vision_config", c)
        inside = any(name.startswith(IN_CHECKPOINT) for name in self.tensors)
        tensors, prefix = (self.tensors, IN_CHECKPOINT) if inside else (Tensors(folder), IN_FOLDER)
        layers, select = c["num_hidden_layers"], self.config.get("mm_vision_select_layer", -2)
        feature = self.config.get("mm_vision_select_feature", "patch")
        if feature != "patch" or not -layers <= select < 0:
            raise ExportError(f"config.json: wanted a layer of the tower from its end and its patches, found {select} and {feature!r}")
        pixels = json.loads((folder / "preprocessor_config.json").read_text())
        return Tower(
            image=c["image_size"], patch=c["patch_size"], hidden=c["hidden_size"], layers=layers, heads=c["num_attention_heads"], ffn=c["intermediate_size"],
            epsilon=c.get("layer_norm_eps", 1e-5), activation=c.get("hidden_act", "quick_gelu"), mean=pixels["image_mean"], std=pixels["image_std"],
            run=layers + 1 + select, tensors=tensors, prefix=prefix,
        )  # fmt: skip

    def mlp(self, prefix):
        """Weights [out, in] and biases of a chain of linear layers with GELU between (`nn.Sequential`), or nothing where it is absent."""
        numbers = sorted({int(found[1]) for name in self.tensors if (found := re.fullmatch(re.escape(prefix) + r"\.(\d+)\.weight", name))})
        return [(self.tensors(f"{prefix}.{n}.weight"), self.tensors(f"{prefix}.{n}.bias")) for n in numbers]

    @property
    def projector(self):
        kind = self.config.get("mm_projector_type", "linear")
        if not re.fullmatch(r"mlp\d+x_gelu", kind):
            raise ExportError(f"config.json: mm_projector_type: wanted mlpNx_gelu, found {kind!r}")
        return self.mlp("model.mm_projector")

    @property
    def token_mlp(self):
        return self.mlp("model.multiscale_token_mlp")

    def residuals(self, sides, anchor):
        """Tables that the authors' code adds by a token's place in its tile, [P, d] each: `anchor` in the pass for importance, `viewN` (side N of `sides`) elsewhere.

        Their code adds a scale's table, resized bilinearly to the tile's grid, in the pass for importance always, and to the tokens that are selected from
        twice where `enable_scale_pos_residual` is set (`llava_arch.py`, `_get_scale_pos_residual`).
        """
        tables = {int(name.rsplit(".", 1)[1]): self.tensors(name)[0] for name in self.tensors if name.startswith("model.scale_pos_residuals.")}
        tables = {side: table for side, table in tables.items() if np.any(table)}
        grid = self.tower.image // self.tower.patch
        out = {"anchor": resized(tables[anchor], grid)} if anchor in tables else {}
        if self.config.get("enable_scale_pos_residual"):
            out |= {f"view{number}": 2 * resized(tables[side], grid) for number, side in enumerate(sides, 1) if side in tables}
        return out


def resized(table, side):
    """[G², d] → [side², d]: bilinear between centres, clamped at the edge."""
    grid = int(round(len(table) ** 0.5))
    at = np.clip((np.arange(side) + 0.5) * grid / side - 0.5, 0, grid - 1)
    low = np.minimum(at.astype(int), grid - 1)
    high, share = np.minimum(low + 1, grid - 1), (at - low)[:, None].astype(np.float32)
    table = table.reshape(grid, grid, -1)
    rows = table[low] * (1 - share[..., None]) + table[high] * share[..., None]
    return (rows[:, low] * (1 - share) + rows[:, high] * share).reshape(side * side, -1)
