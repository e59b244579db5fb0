"""Graphs of the compression for TensorRT, in f32 (opset 21): a step of k-means on a run of tokens, new centres, and merging rows into tokens.

k-means (Eq. 13 and 14 of UHR-BAT): distances by one matrix multiply, labels by arg-min, sums by a one-hot matrix multiply. A view goes through in runs whose sums and
counts are handed on; equal distances go to the lowest cluster.

`kmeans`: `features` `[n, d]` f16, `coordinates` `[n, 2]` f32 (times λ_xy/λ_f), `labels_before` `[n]` i32, `centres` `[k, d + 2]` f32, `sums_before` `[k, d + 2]` and
`counts_before` `[k]` f32 → `labels` `[n]` i32, `sums`, `counts`, `changed` `[1]` f32 (how many labels aren't those before). Features are L2-normalised here; one of zeros stays.

`centres`: `sums`, `counts`, `centres` → `next_centres` `[k, d + 2]` f32 (an empty cluster keeps its own), `moved` `[1]` f32: coordinates that moved by more than
1e-8 + 1e-5 of their value.

`merge` (Eq. 10): `rows` `[n, d]` f32, `slots` `[n]` i32 (the token that a row goes to), `shares` `[n]` f32 (1 of a kept row, 1/|R_m| of a merged one's), `tokens_before` `[B, d]`
f32 → `tokens` `[B, d]`.
"""

import numpy as np

from graph import Graph

OPSET = 21


def one_hot(g, places, like):
    """[n] i32 → [rows of `like`, n] f32."""
    count = g.op("Squeeze", g.op("Slice", g.op("Shape", like), g.ints(0), g.ints(1)), g.ints(0))
    rows = g.op("Range", g.constant(np.array(0, np.int64)), count, g.constant(np.array(1, np.int64)))
    equal = g.op("Equal", g.op("Unsqueeze", g.cast(rows, np.int32), g.ints(1)), g.op("Unsqueeze", places, g.ints(0)))
    return g.cast(equal, np.float32)


def embedded(g, features, coordinates):
    """u of Eq. 13, [n, d + 2]."""
    x = g.cast(features, np.float32)
    norm = g.op("Sqrt", g.op("ReduceSum", g.op("Mul", x, x), g.ints(1), keepdims=1))
    return g.op("Concat", g.op("Div", x, g.op("Max", norm, g.constant(np.array(1e-12, np.float32)))), coordinates, axis=1)


def kmeans(dim, clusters="clusters"):
    g = Graph("kmeans", OPSET)
    features = g.input("features", np.float16, ["rows", dim])
    coordinates = g.input("coordinates", np.float32, ["rows", 2])
    before = g.input("labels_before", np.int32, ["rows"])
    centres = g.input("centres", np.float32, [clusters, dim + 2])
    sums, counts = g.input("sums_before", np.float32, [clusters, dim + 2]), g.input("counts_before", np.float32, [clusters])
    rows = embedded(g, features, coordinates)
    # ‖u − c‖² less ‖u‖², which is the same for every centre.
    length = g.op("ReduceSum", g.op("Mul", centres, centres), g.ints(1), keepdims=0)
    products = g.op("MatMul", rows, g.op("Transpose", centres, perm=[1, 0]))
    gaps = g.op("Sub", length, g.op("Mul", products, g.constant(np.array(2, np.float32))))
    labels = g.cast(g.op("ArgMin", gaps, axis=1, keepdims=0), np.int32)
    belong = one_hot(g, labels, centres)
    changed = g.cast(g.op("Not", g.op("Equal", labels, before)), np.float32)
    g.output(labels, "labels", np.int32, ["rows"])
    g.output(g.op("Add", sums, g.op("MatMul", belong, rows)), "sums", np.float32, [clusters, dim + 2])
    g.output(g.op("Add", counts, g.op("ReduceSum", belong, g.ints(1), keepdims=0)), "counts", np.float32, [clusters])
    g.output(g.op("ReduceSum", changed, g.ints(0), keepdims=1), "changed", np.float32, [1])
    return g


def centres(dim, clusters="clusters"):
    g = Graph("centres", OPSET)
    sums, counts = g.input("sums", np.float32, [clusters, dim + 2]), g.input("counts", np.float32, [clusters])
    old = g.input("centres", np.float32, [clusters, dim + 2])
    number = lambda value: g.constant(np.array(value, np.float32))
    count = g.op("Unsqueeze", counts, g.ints(1))
    mean = g.op("Div", sums, g.op("Max", count, number(1)))
    new = g.op("Where", g.op("Greater", count, number(0)), mean, old)
    allowed = g.op("Add", g.op("Mul", g.op("Abs", old), number(1e-5)), number(1e-8))
    moved = g.cast(g.op("Greater", g.op("Abs", g.op("Sub", new, old)), allowed), np.float32)
    g.output(new, "next_centres", np.float32, [clusters, dim + 2])
    g.output(g.op("Reshape", g.op("ReduceSum", moved, g.ints(0, 1), keepdims=0), g.ints(1)), "moved", np.float32, [1])
    return g


def merge(dim):
    g = Graph("merge", OPSET)
    rows, slots = g.input("rows", np.float32, ["rows", dim]), g.input("slots", np.int32, ["rows"])
    shares, before = g.input("shares", np.float32, ["rows"]), g.input("tokens_before", np.float32, ["tokens", dim])
    weighed = g.op("Mul", rows, g.op("Unsqueeze", shares, g.ints(1)))
    g.output(g.op("Add", before, g.op("MatMul", one_hot(g, slots, before), weighed)), "tokens", np.float32, ["tokens", dim])
    return g
