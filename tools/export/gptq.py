"""GPTQ (arXiv 2210.17323): each input's weights are rounded in turn, and those of later inputs make good what that changes of the outputs on a calibration set.

The rounding is Keras's, by its NumPy backend on the CPU. Here the decoder runs on the set, a layer after the other, on what the rounded layers before it give. A row
that stays nearer its outputs when it is rounded to nearest is.
"""

import json
import os

import numpy as np

import quant
import reference
from checkpoint import ExportError

# Of the mean of the products' diagonal, as in the paper.
DAMP = 0.01
NEEDS = "pip install -r tools/export/requirements-gptq.txt"


def library():
    """Keras's GPTQ of a matrix."""
    os.environ["KERAS_BACKEND"] = "numpy"
    try:
        from keras.src.quantizers.gptq import gptq_quantize_matrix
    except ImportError as error:
        raise ExportError(f"--quant gptq: wanted Keras and what its NumPy backend needs, found less ({error}): {NEEDS}") from None
    return gptq_quantize_matrix


def sequences(path, tokenizer, model):
    """Token ids of a calibration set: of a `.json` file its lists, of any other what stands between empty lines, by the file `tokenizer`."""
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else tokenised(text, tokenizer)
    except (OSError, ValueError) as error:
        raise ExportError(f"--calibration: {path}: wanted text, or JSON lists of token ids: {error}") from None
    if not isinstance(found, list) or not found or not all(isinstance(ids, list) and ids for ids in found):
        raise ExportError(f"--calibration: {path}: wanted sequences that aren't empty, found others or none")
    for number, ids in enumerate(found, 1):
        if len(ids) > model.context:
            raise ExportError(f"--calibration: {path}: sequence {number}: wanted at most {model.context} tokens, found {len(ids)}")
        wrong = next((token for token in ids if type(token) is not int or not 0 <= token < model.vocab), None)
        if wrong is not None:
            raise ExportError(f"--calibration: {path}: sequence {number}: wanted token ids below {model.vocab}, found {wrong!r}")
    return found


def tokenised(text, tokenizer):
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ExportError(f"--calibration: text wants tokenizers, found none ({error}): {NEEDS}") from None
    words = Tokenizer.from_file(str(tokenizer))
    return [words.encode(part).ids for part in text.split("\n\n") if part.strip()]


class Watched(reference.Qwen2):
    """The decoder with the matrices of `kept` in place of its own; of every other it sums the products of its inputs, `[in, in]`."""

    def __init__(self, model, kept):
        super().__init__(model)
        self.kept, self.products = kept, {}

    def linear(self, x, name, sides, bias=False):
        if name not in self.kept:
            self.products[name] = self.products.get(name, 0.0) + x.T.astype(np.float64) @ x
            return super().linear(x, name, sides, bias)
        out = x @ quant.dequantise(*self.kept[name]).T
        return out + self.model(f"{name}.bias", list(sides[:1])) if bias else out


def rounded(weights, products, gptq):
    """Integers and scales of `weights` [out, in] whose inputs have the sum of `products`."""
    nearest = quant.quantise(weights)
    damped = products + DAMP * np.mean(np.diag(products)) * np.eye(len(products))
    # The paper's step 3: rows of the upper factor are what later inputs make good.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    zero = np.full((len(weights), 1), 8, np.float32)
    # Blocks of its own as long as a scale's: each scale is chosen from weights that all earlier inputs have changed. It works in the array that it is given.
    scale = lambda block: (quant.quantise(block)[1].astype(np.float32), zero, 15)
    ints, scales, _, _ = gptq(weights.copy(), factor, blocksize=quant.BLOCK, group_size=quant.BLOCK, compute_scale_zero=scale)
    found = (ints - 8).astype(np.int8), scales.astype(np.float16)
    off = lambda pair: np.einsum("oi,oi->o", (change := quant.dequantise(*pair) - weights) @ products, change)
    better = (off(found) < off(nearest))[:, None]
    return tuple(np.where(better, new, old) for new, old in zip(found, nearest))


def quantise(model, calibration):
    """Integers and scales of every linear layer of `model`, by name."""
    gptq, kept = library(), {}
    table = model("embed_tokens.weight")
    rows = [table[ids] for ids in calibration]
    for number in range(model.layers):
        network = Watched(model, kept)
        for x in rows:
            network.layer(x, number)
        for name, products in network.products.items():
            kept[name] = rounded(model(f"{name}.weight"), products, gptq)
        rows = [network.layer(x, number)[0] for x in rows]
    return kept
