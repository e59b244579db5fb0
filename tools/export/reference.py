"""The networks and the compression in NumPy f32, written from their definitions: what exported graphs are held against where there is no torch.

Sources: CLIP (arXiv 2103.00020), Qwen2 (arXiv 2407.10671), Eq. 13, 14 and 10 of UHR-BAT.
"""

import math

import numpy as np


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def gelu(x):
    return (x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))).astype(np.float32)


def mlp(layers, x):
    """[n, in] → [n, out]."""
    for number, (weight, bias) in enumerate(layers):
        x = (gelu(x) if number else x) @ weight.T + bias
    return x


def features(tower, tiles):
    """[n, 3, T, T] → [n, P, hidden]: the output of layer `run`, without the class token."""
    n, d, p, grid, heads = len(tiles), tower.hidden, tower.patch, tower.image // tower.patch, tower.heads
    weight = lambda name: tower(name, shapes[name])
    shapes = {
        "embeddings.patch_embedding.weight": [d, 3, p, p], "embeddings.class_embedding": [d], "embeddings.position_embedding.weight": [grid * grid + 1, d],
    }  # fmt: skip

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + tower.epsilon) * tower(f"{name}.weight", [d]) + tower(f"{name}.bias", [d])

    patches = tiles.reshape(n, 3, grid, p, grid, p).transpose(0, 2, 4, 1, 3, 5).reshape(n, grid * grid, 3 * p * p)
    x = patches @ weight("embeddings.patch_embedding.weight").reshape(d, -1).T
    x = np.concatenate([np.broadcast_to(weight("embeddings.class_embedding"), (n, 1, d)), x], 1) + weight("embeddings.position_embedding.weight")
    x = norm(x, "pre_layrnorm")
    for number in range(tower.run):
        at = f"encoder.layers.{number}."
        linear = lambda y, name, sides: y @ tower(f"{at}{name}.weight", sides).T + tower(f"{at}{name}.bias", sides[:1])
        split = lambda y: y.reshape(n, -1, heads, d // heads).transpose(0, 2, 1, 3)
        y = norm(x, at + "layer_norm1")
        q, k, v = (split(linear(y, f"self_attn.{name}_proj", [d, d])) for name in "qkv")
        mixed = softmax(q @ k.transpose(0, 1, 3, 2) / math.sqrt(d // heads)) @ v
        x = x + linear(mixed.transpose(0, 2, 1, 3).reshape(n, -1, d), "self_attn.out_proj", [d, d])
        y = linear(norm(x, at + "layer_norm2"), "mlp.fc1", [tower.ffn, d])
        x = x + linear(y / (1 + np.exp(-1.702 * y)), "mlp.fc2", [d, tower.ffn])
    return x[:, 1:]


class Qwen2:
    """`model` on a whole sequence at once. `change` is done to each matrix of a layer before it is used (quantisation there and back)."""

    def __init__(self, model, change=lambda weights: weights):
        self.model, self.change = model, change

    def linear(self, x, name, sides, bias=False):
        out = x @ self.change(self.model(f"{name}.weight", list(sides))).T
        return out + self.model(f"{name}.bias", list(sides[:1])) if bias else out

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.model.epsilon) * self.model(f"{name}.weight", [self.model.hidden])

    def rotate(self, x):
        """[T, heads, d]: the halves of a head against each other."""
        frequencies, magnitude = self.model.rotation
        angle = np.arange(len(x))[:, None, None] * frequencies
        cos, sin = (np.cos(angle) * magnitude).astype(np.float32), (np.sin(angle) * magnitude).astype(np.float32)
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, x, number):
        """Weights [heads, T, T], keys and values [T, kv_width] of a layer whose input is x."""
        m, at, t = self.model, f"layers.{number}.", len(x)
        y = self.norm(x, at + "input_layernorm")
        q = self.linear(y, at + "self_attn.q_proj", (m.heads * m.head_dim, m.hidden), True).reshape(t, m.heads, -1)
        k, v = (self.linear(y, f"{at}self_attn.{part}_proj", (m.kv_width, m.hidden), True) for part in "kv")
        k = self.rotate(k.reshape(t, m.kv_heads, -1))
        keys = np.repeat(k, m.heads // m.kv_heads, 1)
        scores = np.einsum("qhd,khd->hqk", self.rotate(q), keys) / math.sqrt(m.head_dim)
        return softmax(scores + np.triu(np.full((t, t), -np.inf, np.float32), 1)), k.reshape(t, -1), v

    def layer(self, x, number):
        """The layer's output, its keys and values."""
        m, at = self.model, f"layers.{number}."
        weights, k, v = self.attention(x, number)
        values = np.repeat(v.reshape(len(x), m.kv_heads, -1), m.heads // m.kv_heads, 1)
        mixed = np.einsum("hqk,khd->qhd", weights, values).reshape(len(x), -1)
        x = x + self.linear(mixed, at + "self_attn.o_proj", (m.hidden, m.heads * m.head_dim))
        y = self.norm(x, at + "post_attention_layernorm")
        gate, up = (self.linear(y, f"{at}mlp.{part}_proj", (m.ffn, m.hidden)) for part in ("gate", "up"))
        return x + self.linear(gate / (1 + np.exp(-gate)) * up, at + "mlp.down_proj", (m.hidden, m.ffn)), k, v

    def logits(self, embeds):
        """[T, hidden] → logits [T, vocab], and each layer's keys and values [T, kv_width]."""
        x, cached = embeds, []
        for number in range(self.model.layers):
            x, k, v = self.layer(x, number)
            cached.append((k, v))
        return self.norm(x, "norm") @ self.model.head.T, cached

    def importance(self, embeds, interface_layer, rows, visual):
        """Mean over heads and `rows` of the interface layer's attention to positions `visual`."""
        x = embeds
        for number in range(interface_layer - 1):
            x, _, _ = self.layer(x, number)
        return self.attention(x, interface_layer - 1)[0][:, rows].mean((0, 1))[visual]


def kmeans_step(features, coordinates, centres):
    """Labels, sums and counts of one assignment (Eq. 13: normalised features beside coordinates)."""
    x = features.astype(np.float32)
    u = np.concatenate([x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), coordinates], 1)
    labels = ((u[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
    sums = np.zeros_like(centres)
    np.add.at(sums, labels, u)
    return labels, sums, np.bincount(labels, minlength=len(centres)).astype(np.float32)
