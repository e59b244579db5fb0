"""The parity record of a package: PyTorch's modules, with the checkpoint's weights, against the package's graphs under ONNX Runtime, on fixed inputs.

Needs requirements-torch.txt. What 4 bits and f16 change is in the record too: nothing here says that it is small.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

SEED, TILES, POSITIONS, BEFORE = 20_260_413, 2, 48, 6
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}


def run(path, **given):
    """Outputs by name, f32."""
    options = onnxruntime.SessionOptions()
    # Activations stay f32 where it fuses a product with INT4 weights; by default they become 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {value.name: np.asarray(given[value.name], TYPES[value.type]) for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return {name: value.astype(np.float32) for name, value in zip(names, session.run(names, given))}


def gap(found, wanted):
    """Largest and mean difference, and the cosine."""
    found, wanted = found.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    apart = np.abs(found - wanted)
    return {"max": float(apart.max()), "mean": float(apart.mean()), "cosine": float(found @ wanted / np.sqrt((found @ found) * (wanted @ wanted)))}


def tower_of(tower):
    config = CLIPVisionConfig(
        image_size=tower.image, patch_size=tower.patch, hidden_size=tower.hidden, num_hidden_layers=tower.layers, num_attention_heads=tower.heads,
        intermediate_size=tower.ffn, layer_norm_eps=tower.epsilon, hidden_act=tower.activation,
    )  # fmt: skip
    model = CLIPVisionModel(config).eval()
    state = {name: torch.from_numpy(tower(name.removeprefix("vision_model.")).copy()) for name in model.state_dict() if "position_ids" not in name}
    model.load_state_dict(state, strict=False)
    return model


def decoder_of(model):
    """Hugging Face's Qwen2, with attention weights to look at."""
    scaled = None
    if model.scaling["type"] != "none":
        scaled = {"rope_type": model.scaling["type"], "factor": model.scaling["factor"]}
    # This release of transformers takes the configured context for YaRN's original one.
    context = model.scaling["original"] if scaled else model.context
    config = Qwen2Config(
        vocab_size=model.vocab, hidden_size=model.hidden, intermediate_size=model.ffn, num_hidden_layers=model.layers, num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads, max_position_embeddings=context, rms_norm_eps=model.epsilon, rope_theta=model.base, rope_scaling=scaled,
        tie_word_embeddings=model.tied, attn_implementation="eager",
    )  # fmt: skip
    made = Qwen2ForCausalLM(config).eval()
    tensor = lambda name: model.head if name == "lm_head.weight" else model(name.removeprefix("model."))
    made.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(tensor(name))) for name in made.state_dict()})
    return made


def mlp_of(layers):
    parts = []
    for number, (weight, bias) in enumerate(layers):
        parts += [torch.nn.GELU()] if number else []
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": torch.from_numpy(weight.copy()), "bias": torch.from_numpy(bias.copy())})
        parts.append(linear)
    return torch.nn.Sequential(*parts)


def vision(checkpoint, out, rng):
    tower, graphs = checkpoint.tower, {}
    tiles = rng.standard_normal((TILES, 3, tower.image, tower.image), np.float32)
    features = tower_of(tower)(torch.from_numpy(tiles), output_hidden_states=True).hidden_states[tower.run][:, 1:].numpy()
    rows = features.reshape(-1, tower.hidden)
    cases = [("encoder.onnx", {"tiles": tiles}, "features", features), ("projector.onnx", {"features": rows}, "rows", mlp_of(checkpoint.projector)(torch.from_numpy(rows)).numpy())]
    if checkpoint.token_mlp:
        tokens = rng.standard_normal((64, checkpoint.decoder.hidden), np.float32)
        cases.append(("token_mlp.onnx", {"tokens": tokens}, "refined", mlp_of(checkpoint.token_mlp)(torch.from_numpy(tokens)).numpy()))
    for name, given, output, wanted in cases:
        for path in (out / name, out / "tensorrt" / name):
            if path.is_file():
                graphs[path.relative_to(out).as_posix()] = {output: gap(run(path, **given)[output], wanted)}
    return graphs


def language(checkpoint, folder, interface_layer, rng):
    """Prefill, a step after it and the anchor pass of the graphs in `folder`."""
    model, torch_model = checkpoint.decoder, decoder_of(checkpoint.decoder)
    ids = rng.integers(0, model.vocab, POSITIONS)
    embeds = model("embed_tokens.weight")[ids]
    made = torch_model(inputs_embeds=torch.from_numpy(embeds)[None], output_attentions=True)
    wanted = made.logits[0].numpy()
    caches = {f"{kind}_cache_{n}": np.zeros((POSITIONS, model.kv_width), np.float32) for n in range(model.layers) for kind in "kv"}
    prefill = run(folder / "prefill.onnx", inputs_embeds=embeds[:-1], length=[0], **caches)
    for name, rows in prefill.items():
        if name.startswith("new_"):
            caches[name.replace("new_", "").replace("_", "_cache_")][: POSITIONS - 1] = rows
    step = run(folder / "step.onnx", inputs_embeds=embeds[-1:], length=[POSITIONS - 1], **caches)
    visual = np.arange(BEFORE, POSITIONS - 10)
    anchor = run(folder / "anchor.onnx", inputs_embeds=embeds, length=[0], query_rows=[POSITIONS - 1], visual_keys=POSITIONS + visual, **caches)
    importance = made.attentions[interface_layer - 1][0, :, -1].mean(0).numpy()[visual]
    return {
        "prefill.onnx": {"logits": gap(prefill["logits"], wanted[-2])}, "step.onnx": {"logits": gap(step["logits"], wanted[-1])},
        "anchor.onnx": {"importance": gap(anchor["importance"], importance)},
    }  # fmt: skip


@torch.no_grad()
def record(checkpoint, out, settings):
    """What `parity.json` holds."""
    import export

    rng = np.random.default_rng(SEED)
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__.split("+")[0], "onnxruntime": onnxruntime.__version__}
    found = {"versions": versions, "input": f"normal values and token ids of NumPy's default generator, seed {SEED}", "graphs": vision(checkpoint, out, rng)}
    with tempfile.TemporaryDirectory() as work:
        plain = Path(work) / "plain"
        export.tensorrt(checkpoint, plain, settings.interface_layer, bits=16, dtype=np.float32)
        found["graphs in f32, not quantised"] = language(checkpoint, plain, settings.interface_layer, np.random.default_rng(SEED + 1))
    if (out / "tensorrt").is_dir():
        made = language(checkpoint, out / "tensorrt", settings.interface_layer, np.random.default_rng(SEED + 1))
        found["graphs"] |= {f"tensorrt/{name}": values for name, values in made.items()}
    return found
