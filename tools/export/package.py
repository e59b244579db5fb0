"""`model.toml` and what it lists (docs/model-package.md)."""

import hashlib
import json
import shutil

from checkpoint import ExportError

# Qwen2's ChatML, as the authors' code fills it in (`conversation.py`, qwen_1_5).
TEMPLATE = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{image}\n{question}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = "You are a helpful assistant."
CHOICE_SUFFIX = "Answer with the option letter only."


def text(value):
    """A TOML basic string: JSON's escapes are among TOML's."""
    return json.dumps(value, ensure_ascii=False)


def copy_tokenizer(source, out):
    """`tokenizer.json` of the checkpoint."""
    if not (source / "tokenizer.json").is_file():
        raise ExportError(f"{source}: wanted tokenizer.json, found none: transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…) writes it")
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")


def listed(out):
    """Name and SHA-256 of every file of the package but the manifest."""
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name != "model.toml"):
        with path.open("rb") as file:
            yield path.relative_to(out).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()


def manifest(out, name, licence, tower, settings, has, graphs=None):
    """Writes `model.toml`. `settings`: views, context, interface_layer, stop, template, system, policy; `has`: which optional files there are; `graphs`: keys and files of [tensorrt]."""
    optional = "".join(f"{key} = {text(file)}\n" for key, file in [("positions", "positions.safetensors"), ("selected-token-mlp", "token_mlp.onnx")] if file in has)
    built = "".join(f"{key} = {text(file)}\n" for key, file in (graphs or {}).items())
    built = f"[tensorrt]\n{built}\n" if built else ""
    files = "\n".join(f"{text(file)} = {text(digest)}" for file, digest in listed(out))
    (out / "model.toml").write_text(f"""format = 1
name = {text(name)}
licence = {text(licence)}

[vision]
tile-px = {tower.image}
patch-px = {tower.patch}
views-px = {settings.views}
mean = {[round(value, 8) for value in tower.mean]}
std = {[round(value, 8) for value in tower.std]}
pad = "mean"
feature-dim = {tower.hidden}
encoder = "encoder.onnx"
projector = "projector.onnx"
{optional}
[language]
decoder = "decoder.gguf"
tokenizer = "tokenizer.json"
context = {settings.context}
interface-layer = {settings.interface_layer}
stop = {json.dumps(settings.stop)}

[prompt]
template = {text(settings.template)}
system = {text(settings.system)}
choice-suffix = {text(CHOICE_SUFFIX)}

[compression]
policy = {text(settings.policy)}

{built}[files]
{files}
""")
