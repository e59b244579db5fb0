"""Graphs of the vision tower and of chains of linear layers: for tract and ONNX Runtime in f32 (opset 17), for TensorRT with f16 in the middle (opset 21)."""

import numpy as np

from graph import Graph


def linear(g, x, name, weight, bias, dtype):
    """x · weightᵀ + bias, of weights [out, in]."""
    product = g.op("MatMul", x, g.matrix(name, dtype, weight.shape, lambda: weight))
    return g.op("Add", product, g.constant(bias.astype(dtype)))


def gelu(g, x, dtype):
    """x · Φ(x), by the error function."""
    number = lambda value: g.constant(np.array(value, dtype))
    turned = g.op("Erf", g.op("Mul", x, number(0.5**0.5)))
    return g.op("Mul", g.op("Mul", x, number(0.5)), g.op("Add", turned, number(1.0)))


def activate(g, x, kind, dtype):
    if kind == "quick_gelu":
        return g.op("Mul", x, g.op("Sigmoid", g.op("Mul", x, g.constant(np.array(1.702, dtype)))))
    if kind == "gelu":
        return gelu(g, x, dtype)
    raise ValueError(f"hidden_act: wanted quick_gelu or gelu, found {kind!r}")


def mlp(layers, names, opset=17, dtype=np.float32, dtypes=(np.float32, np.float32)):
    """Linear layers with GELU between: `names[0]` [n, in] → `names[1]` [n, out], of `dtypes`; n dynamic."""
    g = Graph("mlp", opset)
    x = g.cast(g.input(names[0], dtypes[0], ["n", layers[0][0].shape[1]]), dtype)
    for number, (weight, bias) in enumerate(layers):
        x = gelu(g, x, dtype) if number else x
        x = linear(g, x, f"linear{number}", weight, bias, dtype)
    g.output(g.cast(x, dtypes[1]), names[1], dtypes[1], ["n", layers[-1][0].shape[0]])
    return g


def normalise(g, x, tower, name, dtype):
    weight, bias = (g.constant(tower(f"{name}.{part}", [tower.hidden]).astype(dtype)) for part in ("weight", "bias"))
    return g.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=tower.epsilon)


def layer(g, x, tower, number, dtype):
    """One layer of the tower on x [n, 1 + P, hidden] (CLIP, arXiv 2103.00020: norm first)."""
    d, heads = tower.hidden, tower.heads
    at = f"encoder.layers.{number}."
    part = lambda y, name, sides: linear(g, y, at + name, tower(f"{at}{name}.weight", sides), tower(f"{at}{name}.bias", sides[:1]), dtype)
    split = lambda y, order: g.op("Transpose", g.op("Reshape", y, g.ints(0, 0, heads, d // heads)), perm=order)
    normed = normalise(g, x, tower, at + "layer_norm1", dtype)
    scale = g.constant(np.array((d // heads) ** -0.5, dtype))
    query = split(g.op("Mul", part(normed, "self_attn.q_proj", [d, d]), scale), [0, 2, 1, 3])
    key = split(part(normed, "self_attn.k_proj", [d, d]), [0, 2, 3, 1])
    value = split(part(normed, "self_attn.v_proj", [d, d]), [0, 2, 1, 3])
    mixed = g.op("MatMul", g.op("Softmax", g.op("MatMul", query, key), axis=-1), value)
    mixed = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.ints(0, 0, d))
    x = g.op("Add", x, part(mixed, "self_attn.out_proj", [d, d]))
    wide = part(normalise(g, x, tower, at + "layer_norm2", dtype), "mlp.fc1", [tower.ffn, d])
    return g.op("Add", x, part(activate(g, wide, tower.activation, dtype), "mlp.fc2", [d, tower.ffn]))


def encoder(tower, opset=17, dtype=np.float32, out=np.float32):
    """`tiles` [n, 3, T, T] f32 → `features` [n, P, hidden] of `out`: the tower as far as its layer `run`, without the class token; n dynamic."""
    g = Graph("encoder", opset)
    d, p = tower.hidden, tower.patch
    tiles = g.cast(g.input("tiles", np.float32, ["n", 3, tower.image, tower.image]), dtype)
    kernel = g.constant(tower("embeddings.patch_embedding.weight", [d, 3, p, p]).astype(dtype))
    x = g.op("Conv", tiles, kernel, kernel_shape=[p, p], strides=[p, p])
    x = g.op("Transpose", g.op("Reshape", x, g.ints(0, d, tower.tokens)), perm=[0, 2, 1])
    # A row of zeros in front takes the class embedding with its position.
    x = g.op("Pad", x, g.ints(0, 1, 0, 0, 0, 0), g.constant(np.array(0, dtype)))
    places = tower("embeddings.position_embedding.weight", [tower.tokens + 1, d]).copy()
    places[0] += tower("embeddings.class_embedding", [d])
    x = g.op("Add", x, g.constant(places[None].astype(dtype)))
    x = normalise(g, x, tower, "pre_layrnorm", dtype)
    for number in range(tower.run):
        x = layer(g, x, tower, number, dtype)
    x = g.op("Slice", x, g.ints(1), g.ints(tower.tokens + 1), g.ints(1))
    g.output(g.cast(x, out), "features", out, ["n", tower.tokens, d])
    return g
