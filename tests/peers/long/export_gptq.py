"""The exporter's GPTQ on a calibration set: closer than rounding to nearest on inputs that it hasn't seen, the same integers in the graphs and in decoder.gguf, and clear errors.

The model is drawn; its table of embeddings has few directions, as inputs of a trained model's layers have and drawn ones don't: without any, GPTQ has nothing to gain.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import export_parity as parity
from export_parity import ROOT, say

import drawn
import export
import gptq
import quant
import reference
from checkpoint import Checkpoint, ExportError

PACKAGES = ROOT / "tools/export/requirements-gptq.txt"
SIZES = drawn.Sizes(vocab=1024)
DIRECTIONS, REST = 24, 0.15
CALIBRATION, UNSEEN, LENGTH = 48, 16, 64
# Squared error of outputs on unseen inputs, GPTQ's as a part of RTN's: of all layers of a kind, and of the logits. What goes into the last has most directions.
MOST, MOST_DOWN = 0.6, 0.9


def table(rng):
    """[vocab, hidden] rows along DIRECTIONS, and a little of all others."""
    along = rng.standard_normal((SIZES.vocab, DIRECTIONS)) @ rng.standard_normal((DIRECTIONS, SIZES.hidden)) / DIRECTIONS**0.5
    return (along + REST * rng.standard_normal((SIZES.vocab, SIZES.hidden))).astype(np.float32)


class Inputs(reference.Qwen2):
    """Keeps what goes into each linear layer."""

    def __init__(self, model):
        super().__init__(model)
        self.found = {}

    def linear(self, x, name, sides, bias=False):
        self.found.setdefault(name, []).append(x)
        return super().linear(x, name, sides, bias)


def closer(model, nearest, ids):
    """Of each kind of layer and of the logits."""
    rows = model("embed_tokens.weight")
    inputs = Inputs(model)
    wanted = [inputs.logits(rows[one])[0] for one in ids]
    off = {}
    for name, xs in inputs.found.items():
        x, weights = np.concatenate(xs), model(f"{name}.weight")
        kind = name.split(".", 2)[2]
        for told, (ints, scales) in [("gptq", model.rounded(name)), ("rtn", nearest.rounded(name))]:
            off[kind, told] = off.get((kind, told), 0.0) + float((((quant.dequantise(ints, scales) - weights) @ x.T) ** 2).sum())
    for told, of in [("gptq", model), ("rtn", nearest)]:
        made = Rounded(of)
        off["logits", told] = sum(float(((made.logits(rows[one])[0] - logits) ** 2).sum()) for one, logits in zip(ids, wanted))
    for kind in [key for key, told in off if told == "rtn"]:
        part, most = off[kind, "gptq"] / off[kind, "rtn"], MOST_DOWN if kind == "mlp.down_proj" else MOST
        say(f"{kind} on unseen inputs", part < most, f"squared error {part:.3f} of RTN's (below {most})")


def same_bits(model, folder):
    """decoder.gguf's blocks are the graph's integers and scales, and GPTQ's."""
    graph = {tensor.name: tensor for tensor in onnx.load(str(folder / "tensorrt/step.onnx")).graph.initializer}
    kept = {tensor.name: tensor.data for tensor in gguf.GGUFReader(str(folder / "decoder.gguf")).tensors}
    array, same = onnx.numpy_helper.to_array, 0
    for name, chosen in model.chosen.items():
        _, number, part = name.split(".", 2)
        ints, scales = array(graph[f"{name}.int4"], folder / "tensorrt").astype(np.int8).T, array(graph[f"{name}.scale.float16"], folder / "tensorrt").T
        blocks = quant.q4_0(np.ascontiguousarray(ints), np.ascontiguousarray(scales))
        same += np.array_equal(blocks, kept[f"blk.{number}.{export.gguf_file.PARTS[part]}.weight"]) and np.array_equal(blocks, quant.q4_0(*chosen))
    say("integers and scales of decoder.gguf and the graphs", same == 7 * model.layers, f"{same} matrices, bit for bit")


def refusals(source, work):
    """What is said of what can't be done."""
    given = {"empty.json": "[]", "words.json": '["a"]', "beyond.json": f"[[{SIZES.vocab}]]", "long.json": json.dumps([[5] * (SIZES.context + 1)]), "blank.txt": "\n \n", "ids.txt": "w4 w9"}
    for name, text in given.items():
        write(work / name, text)
    of = lambda name: ["--calibration", str(work / name)]
    cases = [
        (["--quant", "gptq"], "--calibration FILE, found none"),
        (["--quant", "rtn", *of("ids.txt")], "wanted --quant gptq, found rtn"),
        ([*of("ids.txt"), "--weights", "f16"], "wanted --weights q4_0, found f16"),
        ([*of("ids.txt"), "--group-size", "128"], "--group-size: wanted 32, as Q4_0's blocks are, found 128"),
        (of("none.json"), "No such file"),
        (of("empty.json"), "wanted sequences that aren't empty"),
        (of("words.json"), "wanted sequences that aren't empty"),
        (of("blank.txt"), "wanted sequences that aren't empty"),
        (of("beyond.json"), f"sequence 1: wanted token ids below {SIZES.vocab}, found {SIZES.vocab}"),
        (of("long.json"), f"wanted at most {SIZES.context} tokens, found {SIZES.context + 1}"),
    ]
    for number, (options, wanted) in enumerate(cases):
        try:
            parity.package(work / f"refused-{number}", source, *options)
            said = "nothing"
        except ExportError as error:
            said = str(error)
        say(" ".join(options[:1] + [Path(option).name for option in options[1:]]), wanted in said, said.replace(f"{work}/", ""))
    # An interpreter without the library.
    blind = "import sys; sys.modules['keras'] = None; import export; export.main()"
    command = [sys.executable, "-c", blind, str(source), "--out", str(work / "blind"), "--name", "drawn", "--licence", "Apache-2.0", "--views", "56,112", *of("ids.json")]
    ran = subprocess.run(command, cwd=ROOT / "tools/export", capture_output=True, text=True)
    say("no library", ran.returncode == 1 and "requirements-gptq.txt" in ran.stderr and "Traceback" not in ran.stderr, ran.stderr.strip())


class Rounded(reference.Qwen2):
    """With the 4 bits of its model."""

    def linear(self, x, name, sides, bias=False):
        out = x @ quant.dequantise(*self.model.rounded(name)).T
        return out + self.model(f"{name}.bias", list(sides[:1])) if bias else out


def write(path, text):
    path.write_text(text)
    return path


def load(cache):
    """The library, from the pinned wheels, which nothing else here needs; this interpreter's own packages stay before theirs."""
    folder = cache / "export-gptq"
    if not (folder / "keras").is_dir():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder), "-r", str(PACKAGES)], check=True)
    sys.path.append(str(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    load(args.cache)
    rng = np.random.default_rng(8)
    ids = rng.integers(3, SIZES.vocab, (CALIBRATION + UNSEEN, LENGTH))
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        drawn.save(work / "source", SIZES, seed=5, extra={"model.embed_tokens.weight": table(rng)})
        write(work / "ids.json", json.dumps(ids[:CALIBRATION].tolist()))
        made = parity.package(work / "gptq", work / "source", "--calibration", str(work / "ids.json"))
        nearest = Checkpoint(work / "source")
        closer(made.decoder, nearest.decoder, ids[CALIBRATION:])
        same_bits(made.decoder, work / "gptq")
        parity.against_binary(args.binary, made, work / "gptq", rng, "GPTQ")
        words = gptq.sequences(write(work / "words.txt", "w4 w9\nw11\n\nw7 <|im_end|>\n"), work / "source/tokenizer.json", made.decoder)
        say("text, an empty line between sequences", words == [[7, 12, 14], [10, 1]], str(words))
        refusals(work / "source", work)
    print(f"{len(parity.failed)} checks failed" if parity.failed else "all checks passed")
    sys.exit(1 if parity.failed else 0)


if __name__ == "__main__":
    main()
