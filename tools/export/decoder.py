"""Graphs of the Qwen2 decoder for TensorRT, in two forms: the host appends keys and values (opset 21; no operator that TensorRT 10.3 lacks), or TensorScatter
writes them where they stay (opset 24; TensorRT 10.15 and later).

Every graph takes a run of T positions after `length` others and tells their keys and values; the caller copies those behind the others, one copy a layer and kind.

| name | | |
|---|---|---|
| `inputs_embeds` | in | `[T, hidden]`: rows of the table of embeddings, or visual tokens |
| `length` | in | `[1]` i32: how many positions the caches hold |
| `k_cache_I`, `v_cache_I` | in | `[S, kv_width]`, S at least 1 and at least `length`; what lies behind `length` is not looked at. Keys are rotated |
| `new_k_I`, `new_v_I` | out | `[T, kv_width]`: positions `length` to `length + T` |
| `logits` | out | `[vocab]` f32, of the run's last position |

So S may stay the same from step to step (a captured CUDA graph), and a cache of more rows is the same memory bound with a larger S.

In place there is no `new_…`; a cache is `[1, kv_heads, S, head_dim]`, S at least `length + T`, and comes out again:

| name | | |
|---|---|---|
| `kept_k_I`, `kept_v_I` | out | as the caches, and the same memory: positions `length` to `length + T` are written |

S is the same in every run then, since a head's rows lie S apart, and all of them are looked at. The numbers are those of the first form, summed in another order.

The anchor pass stops at the interface layer L (from 1), of which it makes keys and attention only:

| name | | |
|---|---|---|
| `query_rows` | in | `[M]` i32: which of the run's positions look (policy `released`: the prompt's last; `paper`: all text after the image) |
| `visual_keys` | in | `[N_1]` i32: where the visual tokens lie among the S + T keys: a cached position at its number, the run's position t at S + t (in place: each at its number) |
| `importance` | out | `[N_1]` f32: the mean of those rows over all heads of L |

It has no `v_cache_{L-1}`, `new_v_{L-1}`, `kept_v_{L-1}` and nothing of later layers. A prompt longer than a run goes through in several; only those that hold a looking row give
an importance that is used (rows of several runs: the mean weighted by M).

The residual stream, norms, rotation and softmax are f32, products of `dtype`.
"""

import numpy as np

from graph import Graph

OPSET, OPSET_IN_PLACE = 21, 24
HIDDEN = -1e9
NOWHERE = 1e9


class Builder:
    """A graph of `model`'s layers in `bits` (4, or 16: as `dtype` has it) on a run of `rows` positions (None: dynamic)."""

    def __init__(self, name, model, shared, bits=4, dtype=np.float16, rows=None, in_place=False):
        self.g, self.model, self.bits, self.dtype = Graph(name, OPSET_IN_PLACE if in_place else OPSET, shared), model, bits, dtype
        self.in_place = in_place
        self.rows = "rows" if rows is None else rows
        self.embeds = self.g.input("inputs_embeds", dtype, [self.rows, model.hidden])
        self.length = self.g.input("length", np.int32, [1])
        self.caches = {}

    def cache(self, kind, number):
        if (kind, number) not in self.caches:
            self.caches[kind, number] = self.g.input(f"{kind}_cache_{number}", self.dtype, self.cache_shape)
        return self.caches[kind, number]

    @property
    def cache_shape(self):
        model = self.model
        return [1, model.kv_heads, "cache", model.head_dim] if self.in_place else ["cache", model.kv_width]

    def range(self, value, axis=0):
        """0, 1, … up to a dimension of `value`, f32."""
        g = self.g
        count = g.op("Squeeze", g.op("Slice", g.op("Shape", value), g.ints(axis), g.ints(axis + 1)), g.ints(0))
        return g.cast(g.op("Range", g.constant(np.array(0, np.int64)), count, g.constant(np.array(1, np.int64))), np.float32)

    def places(self):
        """Cosines and sines [T, 1, head_dim/2] of the run's positions, and what is added to scores [T, keys]."""
        g, model = self.g, self.model
        before = g.cast(self.length, np.float32)
        position = g.op("Unsqueeze", g.op("Add", self.range(self.embeds), before), g.ints(1))
        if self.in_place:
            keys = self.range(self.cache("k", 0), axis=2)
            self.at = g.cast(self.length, np.int64)
        else:
            cached = self.range(self.cache("k", 0))
            cached = g.op("Where", g.op("Less", cached, before), cached, g.constant(np.array(NOWHERE, np.float32)))
            keys = g.op("Concat", cached, g.op("Squeeze", position, g.ints(1)), axis=0)
        seen = g.op("LessOrEqual", g.op("Unsqueeze", keys, g.ints(0)), position)
        self.mask = g.op("Where", seen, g.constant(np.array(0, np.float32)), g.constant(np.array(HIDDEN, np.float32)))
        frequencies, magnitude = model.rotation
        angle = g.op("Unsqueeze", g.op("Mul", position, g.constant(frequencies[None].astype(np.float32))), g.ints(1))
        scaled = lambda kind: g.op("Mul", g.op(kind, angle), g.constant(np.array(magnitude, np.float32)))
        self.cos, self.sin = scaled("Cos"), scaled("Sin")

    def linear(self, x, name, sides, bias=False):
        """x · weightᵀ (+ bias) of `dtype`; `sides`: (out, in)."""
        g, model = self.g, self.model
        if self.bits == 4:
            weights = g.matrix4(name, self.dtype, sides, lambda: model.rounded(name, list(sides)))
        else:
            weights = g.matrix(name, self.dtype, sides, lambda: model(f"{name}.weight", list(sides)))
        product = g.op("MatMul", x, weights)
        return g.op("Add", product, g.constant(self.model(f"{name}.bias", sides[:1]).astype(self.dtype))) if bias else product

    def norm(self, x, name):
        """x / rms(x) · weight, in `dtype`."""
        g = self.g
        mean = g.op("ReduceMean", g.op("Mul", x, x), g.ints(-1), keepdims=1)
        root = g.op("Sqrt", g.op("Add", mean, g.constant(np.array(self.model.epsilon, np.float32))))
        return g.cast(g.op("Mul", g.op("Div", x, root), g.constant(self.model(f"{name}.weight", [self.model.hidden]))), self.dtype)

    def rotated(self, x, heads):
        """[T, heads · head_dim] → [T, heads, head_dim] f32: the two halves of a head against each other."""
        g, d = self.g, self.model.head_dim
        a, b = g.op("Split", g.op("Reshape", g.cast(x, np.float32), g.ints(-1, heads, d)), outputs=2, axis=-1, num_outputs=2)
        product = lambda y, z: g.op("Mul", y, z)
        turned = g.op("Sub", product(a, self.cos), product(b, self.sin)), g.op("Add", product(b, self.cos), product(a, self.sin))
        return g.op("Concat", *turned, axis=-1)

    def keys(self, normed, number):
        """The layer's keys of cache and run, [kv_heads, 1, head_dim, keys]."""
        g, model = self.g, self.model
        at = f"layers.{number}.self_attn."
        flat = g.op("Reshape", self.rotated(self.linear(normed, at + "k_proj", (model.kv_width, model.hidden), True), model.kv_heads), g.ints(-1, model.kv_width))
        new = g.cast(flat, self.dtype)
        if self.in_place:
            return g.op("Transpose", self.kept("k", number, new), perm=[1, 0, 3, 2])
        return g.op("Transpose", self.appended("k", number, new), perm=[1, 2, 3, 0])

    def values(self, normed, number):
        """As [`keys`], [kv_heads, 1, keys, head_dim]."""
        g, model = self.g, self.model
        new = self.linear(normed, f"layers.{number}.self_attn.v_proj", (model.kv_width, model.hidden), True)
        if self.in_place:
            return g.op("Transpose", self.kept("v", number, new), perm=[1, 0, 2, 3])
        return g.op("Transpose", self.appended("v", number, new), perm=[1, 2, 0, 3])

    def appended(self, kind, number, new):
        """A cache and behind it the run's rows [T, kv_width], which are told: [S + T, kv_heads, 1, head_dim]."""
        g, model = self.g, self.model
        g.output(new, f"new_{kind}_{number}", self.dtype, [self.rows, model.kv_width])
        both = g.op("Concat", self.cache(kind, number), new, axis=0)
        return g.op("Reshape", both, g.ints(-1, model.kv_heads, 1, model.head_dim))

    def kept(self, kind, number, new):
        """A cache with the run's rows [T, kv_width] in their places: [1, kv_heads, S, head_dim]. TensorRT wants it to be an output itself."""
        g, model = self.g, self.model
        rows = g.op("Transpose", g.op("Reshape", new, g.ints(1, -1, model.kv_heads, model.head_dim)), perm=[0, 2, 1, 3])
        name = f"kept_{kind}_{number}"
        g.declare(g.op("TensorScatter", self.cache(kind, number), rows, self.at, name=name, axis=-2), self.dtype, self.cache_shape)
        return name

    def queries(self, normed, number):
        """[T, heads, head_dim] f32, scaled."""
        model, at = self.model, f"layers.{number}.self_attn.q_proj"
        turned = self.rotated(self.linear(normed, at, (model.heads * model.head_dim, model.hidden), True), model.heads)
        return self.g.op("Mul", turned, self.g.constant(np.array(model.head_dim**-0.5, np.float32)))

    def attention(self, queries, keys, mask):
        """Softmax weights [kv_heads, group, rows, keys] f32 of queries [rows, heads, head_dim]."""
        g, model = self.g, self.model
        group = model.heads // model.kv_heads
        split = g.op("Transpose", g.op("Reshape", queries, g.ints(-1, model.kv_heads, group, model.head_dim)), perm=[1, 2, 0, 3])
        scores = g.cast(g.op("MatMul", g.cast(split, self.dtype), keys), np.float32)
        return g.op("Softmax", g.op("Add", scores, mask), axis=-1)

    def layer(self, x, number):
        g, model = self.g, self.model
        at, width = f"layers.{number}.", model.heads * model.head_dim
        normed = self.norm(x, at + "input_layernorm")
        weights = self.attention(self.queries(normed, number), self.keys(normed, number), self.mask)
        mixed = g.op("MatMul", g.cast(weights, self.dtype), self.values(normed, number))
        mixed = g.op("Reshape", g.op("Transpose", mixed, perm=[2, 0, 1, 3]), g.ints(-1, width))
        x = g.op("Add", x, g.cast(self.linear(mixed, at + "self_attn.o_proj", (model.hidden, width)), np.float32))
        normed = self.norm(x, at + "post_attention_layernorm")
        gate = self.linear(normed, at + "mlp.gate_proj", (model.ffn, model.hidden))
        opened = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), self.linear(normed, at + "mlp.up_proj", (model.ffn, model.hidden)))
        return g.op("Add", x, g.cast(self.linear(opened, at + "mlp.down_proj", (model.hidden, model.ffn)), np.float32))

    def logits(self, x):
        """`logits` of the run's last position. The head stays in `dtype`."""
        g, model = self.g, self.model
        last = self.norm(g.op("Slice", x, g.ints(-1), g.ints(np.iinfo(np.int64).max), g.ints(0)), "norm")
        product = g.op("MatMul", last, g.matrix("head", self.dtype, (model.vocab, model.hidden), lambda: model.head))
        g.output(g.op("Squeeze", g.cast(product, np.float32), g.ints(0)), "logits", np.float32, [model.vocab])


def run(model, shared, bits=4, dtype=np.float16, rows=None, in_place=False):
    """The whole decoder on a run of positions: `rows` None for the prefill, 1 for a step."""
    builder = Builder("step" if rows == 1 else "prefill", model, shared, bits, dtype, rows, in_place)
    builder.places()
    x = builder.g.cast(builder.embeds, np.float32)
    for number in range(model.layers):
        x = builder.layer(x, number)
    builder.logits(x)
    return builder.g


def anchor(model, interface_layer, shared, bits=4, dtype=np.float16, in_place=False):
    """The anchor pass, as far as the attention of layer `interface_layer`."""
    if not 1 <= interface_layer <= model.layers:
        raise ValueError(f"interface layer: wanted 1 to {model.layers}, found {interface_layer}")
    builder = Builder("anchor", model, shared, bits, dtype, in_place=in_place)
    g = builder.g
    rows, visual = g.input("query_rows", np.int32, ["looking"]), g.input("visual_keys", np.int32, ["visual"])
    builder.places()
    x = g.cast(builder.embeds, np.float32)
    for number in range(interface_layer - 1):
        x = builder.layer(x, number)
    number = interface_layer - 1
    normed = builder.norm(x, f"layers.{number}.input_layernorm")
    queries = g.op("Gather", builder.queries(normed, number), rows, axis=0)
    weights = builder.attention(queries, builder.keys(normed, number), g.op("Gather", builder.mask, rows, axis=0))
    mean = g.op("ReduceMean", weights, g.ints(0, 1, 2), keepdims=0)
    g.output(g.op("Gather", mean, visual, axis=0), "importance", np.float32, ["visual"])
    return g


