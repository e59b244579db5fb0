"""Every graph that tools/export writes, of drawn weights: ONNX Runtime against NumPy in f32, and the INT4 decoder against this binary's own of the same package.

f32: cosine 0.9999 or more; so too between the decoder's two forms, keys and values appended or written in place. INT4: the arg-max is the same wherever the two best differ by more than 0.1 in log-probability, the five best within 0.1.
PyTorch's own modules are held against the same graphs by hand: `tools/export/export.py … --parity`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/export"))
import drawn
import export
import quant
import reference
from checkpoint import Checkpoint

COSINE, GAP, TOP = 0.9999, 0.1, 5
# Graphs as TensorRT gets them, with f16 products; on paper's drawn weights a bound of its rounding, not of a claim.
HALF = 0.999
POSITIONS, BEFORE, INTERFACE = 96, 40, 2
failed = []


def say(name, good, told):
    print(f"{'ok  ' if good else 'BAD '} {name}: {told}")
    if not good:
        failed.append(name)


def cosine(a, b):
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def alike(name, found, wanted, least=COSINE):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    least_of_all = cosine(found, wanted) if found.shape == wanted.shape else float("nan")
    say(name, least_of_all >= least, f"cosine {least_of_all:.7f} (at least {least}), largest difference {np.abs(found - wanted).max():.2e}")


class Session:
    """A graph under ONNX Runtime, outputs by name."""

    def __init__(self, path):
        onnx.checker.check_model(str(path))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Activations stay f32 where it fuses a product with INT4 weights; by default they become 8 bits.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value.type for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, **given):
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}
        given = {name: np.asarray(given[name], types[kind]) for name, kind in self.inputs.items()}
        return dict(zip(self.outputs, self.session.run(self.outputs, given)))


class Decoder:
    """`prefill`, `step` and `anchor` of a folder with caches as the runtime keeps them: more rows than are used, rubbish in those."""

    def __init__(self, folder, model):
        self.prefill, self.step, self.anchor = (Session(folder / f"{name}.onnx") for name in ("prefill", "step", "anchor"))
        self.model, self.length = model, 0
        self.caches = {f"{kind}_cache_{n}": np.full((POSITIONS + 7, model.kv_width), 3.0, np.float32) for n in range(model.layers) for kind in "kv"}

    def run(self, session, embeds, **more):
        out = session(inputs_embeds=embeds, length=[self.length], **self.caches, **more)
        for name, rows in out.items():
            if name.startswith("new_"):
                _, kind, number = name.split("_")
                self.caches[f"{kind}_cache_{number}"][self.length : self.length + len(embeds)] = rows
        self.length += len(embeds)
        return out

    def logits(self, embeds):
        """Of the first run's last position and of every later one."""
        self.length = 0
        rows = [self.run(self.prefill, embeds[:BEFORE])["logits"]]
        return np.stack(rows + [self.run(self.step, embeds[at : at + 1])["logits"] for at in range(BEFORE, len(embeds))])

    def importance(self, embeds, looking, visual):
        """In two runs, all that look in the second."""
        self.length = 0
        first = self.anchor(inputs_embeds=embeds[:BEFORE], length=[0], query_rows=[0], visual_keys=visual * 0, **self.caches)
        for name, rows in first.items():
            if name.startswith("new_"):
                _, kind, number = name.split("_")
                self.caches[f"{kind}_cache_{number}"][:BEFORE] = rows
        self.length = BEFORE
        keys = np.where(visual < BEFORE, visual, len(self.caches["k_cache_0"]) + visual - BEFORE)
        return self.run(self.anchor, embeds[BEFORE:], query_rows=looking - BEFORE, visual_keys=keys)["importance"]


class InPlace(Decoder):
    """The same of the graphs that write keys and values where they stay."""

    def __init__(self, folder, model):
        self.prefill, self.step, self.anchor = (Session(folder / f"{name}_in_place.onnx") for name in ("prefill", "step", "anchor"))
        self.model, self.length = model, 0
        shape = [1, model.kv_heads, POSITIONS + 7, model.head_dim]
        self.caches = {f"{kind}_cache_{n}": np.full(shape, 3.0, np.float32) for n in range(model.layers) for kind in "kv"}

    def run(self, session, embeds, **more):
        out = session(inputs_embeds=embeds, length=[self.length], **self.caches, **more)
        self.caches |= {name.replace("kept_", "").replace("_", "_cache_"): rows for name, rows in out.items() if name.startswith("kept_")}
        self.length += len(embeds)
        return out

    def rows(self, name):
        """As [`Decoder`] keeps them."""
        return self.caches[name][0].transpose(1, 0, 2).reshape(-1, self.model.kv_width)

    def importance(self, embeds, looking, visual):
        self.length = 0
        self.run(self.anchor, embeds[:BEFORE], query_rows=[0], visual_keys=visual * 0)
        return self.run(self.anchor, embeds[BEFORE:], query_rows=looking - BEFORE, visual_keys=visual)["importance"]


def vision(checkpoint, folder, rng):
    tower = checkpoint.tower
    tiles = rng.standard_normal((2, 3, tower.image, tower.image), np.float32)
    wanted = reference.features(tower, tiles)
    rows = wanted.reshape(-1, tower.hidden)
    refined = rng.standard_normal((50, checkpoint.decoder.hidden), np.float32)
    half = rows.astype(np.float16).astype(np.float32)
    alike("encoder.onnx", Session(folder / "encoder.onnx")(tiles=tiles)["features"], wanted)
    alike("projector.onnx", Session(folder / "projector.onnx")(features=rows)["rows"], reference.mlp(checkpoint.projector, rows))
    alike("token_mlp.onnx", Session(folder / "token_mlp.onnx")(tokens=refined)["refined"], reference.mlp(checkpoint.token_mlp, refined))
    at, least = folder / "tensorrt", COSINE if "float16" not in str(Session(folder / "tensorrt/step.onnx").inputs) else HALF
    alike("tensorrt/encoder.onnx", Session(at / "encoder.onnx")(tiles=tiles)["features"], wanted, least)
    alike("tensorrt/projector.onnx", Session(at / "projector.onnx")(features=rows)["rows"], reference.mlp(checkpoint.projector, half), least)
    alike("tensorrt/token_mlp.onnx", Session(at / "token_mlp.onnx")(tokens=refined)["refined"], reference.mlp(checkpoint.token_mlp, refined), least)


def language(checkpoint, folder, rng, least, change=lambda weights: weights):
    model = checkpoint.decoder
    ids = rng.integers(0, model.vocab, POSITIONS)
    embeds = model("embed_tokens.weight")[ids].astype(np.float16).astype(np.float32)
    wanted, cached = reference.Qwen2(model, change).logits(embeds)
    found = Decoder(folder / "tensorrt", model)
    alike("prefill, then step by step: logits", found.logits(embeds), wanted[BEFORE - 1 :], least)
    for number, (keys, values) in enumerate(cached):
        alike(f"keys of layer {number}", found.caches[f"k_cache_{number}"][:POSITIONS], keys, least)
        alike(f"values of layer {number}", found.caches[f"v_cache_{number}"][:POSITIONS], values, least)
    other = InPlace(folder / "tensorrt", model)
    alike("in place: logits, against those of the other form", other.logits(embeds), found.logits(embeds))
    for name in found.caches:
        alike(f"in place: {name}", other.rows(name)[:POSITIONS], found.caches[name][:POSITIONS])
    visual = np.arange(5, 60)
    for told, looking in [("the last row", np.array([POSITIONS - 1])), ("all rows after the image", np.arange(60, POSITIONS))]:
        wanted = reference.Qwen2(model, change).importance(embeds, INTERFACE, looking, visual)
        found = Decoder(folder / "tensorrt", model).importance(embeds, looking, visual)
        alike(f"anchor, {told}: importance", found, wanted, least)
        alike(f"anchor in place, {told}: importance, against that of the other form", InPlace(folder / "tensorrt", model).importance(embeds, looking, visual), found)


def compression(folder, width, rng):
    """k-means from random centres in two runs of tokens, and merging."""
    at = folder / "tensorrt"
    features = rng.standard_normal((300, width)).astype(np.float16)
    features[7] = 0
    coordinates = 0.05 * rng.random((300, 2), np.float32)
    rows = np.concatenate([features.astype(np.float32), coordinates], 1)
    centres = rows[rng.choice(300, 20, replace=False)] / np.sqrt(width)
    # A centre that no token is near.
    centres[3] = 9
    labels, sums, counts = reference.kmeans_step(features, coordinates, centres)
    step, found, so_far = Session(at / f"kmeans_{width}.onnx"), [], {"sums": np.zeros_like(centres), "counts": np.zeros(20, np.float32)}
    for part in (slice(0, 200), slice(200, 300)):
        out = step(features=features[part], coordinates=coordinates[part], labels_before=labels[part] * 0, centres=centres, sums_before=so_far["sums"], counts_before=so_far["counts"])
        so_far = out
        found.append((out["labels"], out["changed"][0]))
    say(f"kmeans_{width}.onnx: labels", np.array_equal(np.concatenate([labels for labels, _ in found]), labels), f"{len(set(labels.tolist()))} of 20 clusters have tokens")
    say(f"kmeans_{width}.onnx: changed", sum(changed for _, changed in found) == (labels != 0).sum(), f"{sum(changed for _, changed in found):.0f} labels")
    alike(f"kmeans_{width}.onnx: sums", so_far["sums"], sums)
    alike(f"kmeans_{width}.onnx: counts", so_far["counts"], counts)
    out = Session(at / f"centres_{width}.onnx")(sums=sums, counts=counts, centres=centres)
    wanted = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    alike(f"centres_{width}.onnx", out["next_centres"], wanted)
    moved = (np.abs(wanted - centres) > 1e-8 + 1e-5 * np.abs(centres)).sum()
    say(f"centres_{width}.onnx: moved", out["moved"][0] == moved, f"{out['moved'][0]:.0f} coordinates, wanted {moved}")


def merging(folder, width, rng):
    rows, slots = rng.standard_normal((90, width), np.float32), rng.integers(0, 12, 90)
    shares = (1 / np.bincount(slots, minlength=12)[slots]).astype(np.float32)
    tokens, merge = np.zeros((12, width), np.float32), Session(folder / "tensorrt/merge.onnx")
    for part in (slice(0, 50), slice(50, 90)):
        tokens = merge(rows=rows[part], slots=slots[part], shares=shares[part], tokens_before=tokens)["tokens"]
    alike("merge.onnx", tokens, np.stack([rows[slots == n].mean(0) for n in range(12)]))


def log_softmax(x):
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def against_binary(binary, checkpoint, folder, rng, name):
    """The package's graphs under ONNX Runtime and its decoder.gguf by this binary, of the same token ids."""
    model = checkpoint.decoder
    ids = rng.integers(0, model.vocab, POSITIONS)
    out = folder.parent / "logits.safetensors"
    tokens = ",".join(map(str, ids))
    subprocess.run([binary, "model", "logits", "--decoder", str(folder / "decoder.gguf"), "--tokens", tokens, "--threads", "1", "--out", str(out)], check=True)
    ours = log_softmax(load_file(out)["logits"][BEFORE - 1 :])
    embeds = model("embed_tokens.weight")[ids].astype(np.float16)
    theirs = log_softmax(Decoder(folder / "tensorrt", model).logits(embeds))
    best = np.sort(theirs, -1)
    clear = best[:, -1] - best[:, -2] > GAP
    same = (ours.argmax(-1) == theirs.argmax(-1))[clear].all()
    top = np.argsort(-theirs, -1)[:, :TOP]
    gap = np.abs(np.take_along_axis(ours, top, -1) - np.take_along_axis(theirs, top, -1)).max()
    say(f"{name} against this binary", same and gap <= GAP and clear.sum() > len(clear) // 2, f"arg-max of {clear.sum()} clear positions of {len(clear)}; the {TOP} best within {gap:.5f} (allowed {GAP})")


def same_integers(checkpoint, folder):
    """Q4_0's values are those of the INT4 initialisers, bit for bit."""
    model = onnx.load(str(folder / "tensorrt/prefill.onnx"))
    graph = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(str(folder / "decoder.gguf")).tensors}
    count = 0
    for number in range(checkpoint.decoder.layers):
        for part, short in export.gguf_file.PARTS.items():
            name = f"layers.{number}.{part}"
            if f"{name}.int4" in graph:
                ints = onnx.numpy_helper.to_array(graph[f"{name}.int4"]).astype(np.int8)
                scales = next(onnx.numpy_helper.to_array(graph[key]) for key in graph if key.startswith(f"{name}.scale."))
                count += np.array_equal(quant.dequantise(ints.T, scales.T), kept[f"blk.{number}.{short}.weight"])
    say("decoder.gguf and the graphs hold the same values", count == 7 * checkpoint.decoder.layers, f"{count} matrices")


def package(folder, source, *options):
    settings = ["--name", "drawn", "--licence", "Apache-2.0", "--views", "56,112", "--interface-layer", str(INTERFACE), "--out", str(folder), *options]
    return export.export(export.parse([str(source), *settings]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(8)
    yarn = {"type": "yarn", "factor": 4.0, "original": 64}
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        for name, sizes in [("plain", drawn.Sizes()), ("yarn, tied", drawn.Sizes(scaling=yarn, tied=True, vision_heads=2))]:
            print(f"-- {name}")
            source, here = work / name.replace(", ", "-"), work / f"{name[:4]}-packages"
            drawn.save(source, sizes, seed=5)
            checkpoint = package(here / "f32", source, "--weights", "f32", "--precision", "f32")
            vision(checkpoint, here / "f32", rng)
            language(checkpoint, here / "f32", rng, COSINE)
            compression(here / "f32", checkpoint.tower.hidden, rng)
            compression(here / "f32", checkpoint.decoder.hidden, rng)
            merging(here / "f32", checkpoint.decoder.hidden, rng)
            there_and_back = lambda weights: quant.dequantise(*quant.quantise(weights))
            for precision, least in [("f32", COSINE), ("f16", HALF)]:
                print(f"-- {name}, INT4, {precision}")
                folder = here / f"int4-{precision}"
                checkpoint = package(folder, source, "--precision", precision)
                language(checkpoint, folder, rng, least, there_and_back)
                against_binary(args.binary, checkpoint, folder, rng, f"INT4 {precision}")
            vision(checkpoint, folder, rng)
            same_integers(checkpoint, folder)
    print(f"{len(failed)} checks failed" if failed else "all checks passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
