"""4 bits, symmetric, blocks of 32 along a row: the same integers and f16 scales for ONNX's INT4 and for ggml's Q4_0. A scale is above 0, which TensorRT wants."""

import numpy as np

BLOCK = 32
STEPS = (8.0, 7.5, 7.0)
# The scale of a block of zeros: the least normal f16.
LEAST = np.float16(2.0**-14)


def quantise(weights):
    """To nearest: [out, in] f32 → integers [out, in] int8 in −8..7, scales [out, in/32] f16.

    A scale is the best by squared error of three: those under which the block's largest magnitude becomes 7, 7.5 and 8.
    """
    rows, cols = weights.shape
    blocks = weights.reshape(rows, cols // BLOCK, BLOCK).astype(np.float32)
    largest = np.abs(blocks).max(-1)
    best, ints, scales = np.full(largest.shape, np.inf, np.float32), np.zeros(blocks.shape, np.int8), np.zeros(largest.shape, np.float16)
    for step in STEPS:
        scale = np.maximum((largest / step).astype(np.float16), LEAST)
        tried = np.clip(np.rint(blocks / scale[..., None].astype(np.float32)), -8, 7)
        error = ((tried * scale[..., None].astype(np.float32) - blocks) ** 2).sum(-1)
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, scale, scales)
        ints = np.where(better[..., None], tried.astype(np.int8), ints)
    if not np.isfinite(best).all():
        raise ValueError("weights: wanted finite ones within f16's range, found others")
    return ints.reshape(rows, cols), scales


def dequantise(ints, scales):
    """[out, in] f32."""
    return ints.astype(np.float32) * np.repeat(scales.astype(np.float32), BLOCK, 1)


def q4_0(ints, scales):
    """ggml's Q4_0, uint8 [out, in/32 · 18]: f16 scale, then 16 bytes whose low nibbles are values 0..15 and whose high ones 16..31, each plus 8."""
    rows, cols = ints.shape
    nibbles = (ints.reshape(rows, cols // BLOCK, BLOCK) + 8).astype(np.uint8)
    packed = nibbles[..., : BLOCK // 2] | nibbles[..., BLOCK // 2 :] << 4
    return np.concatenate([scales[..., None].view(np.uint8), packed], -1).reshape(rows, -1)


def int4(values):
    """ONNX's INT4 (onnx.proto, TensorProto.INT4): two values a byte in the order of memory, the first in the low nibble."""
    flat = (values.reshape(-1) & 15).astype(np.uint8)
    return (flat[0::2] | flat[1::2] << 4).tobytes()
