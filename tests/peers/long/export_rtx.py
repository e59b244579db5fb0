"""TensorRT-RTX's own parser and builder, on the CPU, over every graph that tools/export writes for TensorRT: built ahead of time for SM 8.6 (the A6000).

The encoder is CLIP-L whole, the decoder has Qwen2-7B's widths and two layers, weights are drawn. The output head, one product
of f16, is smaller than Qwen2-7B's 152,064 words, which `--vocab` gives by hand. Nothing is run: that takes a GPU.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools/export"))
import build_rtx
import cluster
import decoder
import drawn
import vision
from graph import Shared

PACKAGES = ROOT / "tools/export/requirements-rtx.txt"
LAYERS = 2
# Least, usual and largest of each dynamic dimension, as the profiles bind them.
DIMS = {"n": (1, 4, 4), "rows": (1, 512, 512), "cache": (1, 3072, 12288), "looking": (1, 1, 256), "visual": (1, 2304, 2304), "clusters": (1, 600, 600), "tokens": (1, 3000, 11100)}


def load(cache):
    """The library, from the pinned wheels, which nothing else here needs."""
    folder = cache / "tensorrt-rtx"
    if not (folder / "tensorrt_rtx_bindings").is_dir():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(folder), "-r", str(PACKAGES)], check=True)
    sys.path.insert(0, str(folder))
    import tensorrt_rtx_bindings

    return tensorrt_rtx_bindings


def graphs(folder, vocab):
    """(name, what makes it) of every graph; the decoder's share a file of weights."""
    half, opset = np.float16, decoder.OPSET
    tower = drawn.tower(drawn.Sizes(**drawn.CLIP_L), 1)
    sizes = drawn.Sizes(**drawn.QWEN2_7B | {"layers": LAYERS, "vocab": vocab})
    small, shared = drawn.decoder(sizes, 1), Shared(folder / "decoder.weights")
    pairs = lambda prefix, widths: list(zip(*[iter(drawn.mlp(prefix, widths, 1).values())] * 2))
    made = {
        "encoder": lambda: vision.encoder(tower, opset, half, half),
        "projector": lambda: vision.mlp(pairs("p", [tower.hidden, sizes.hidden, sizes.hidden]), ("features", "rows"), opset, half, (half, np.float32)),
        "token_mlp": lambda: vision.mlp(pairs("t", [sizes.hidden] * 3), ("tokens", "refined"), opset, half, (half, np.float32)),
        "prefill": lambda: decoder.run(small, shared),
        "step": lambda: decoder.run(small, shared, rows=1),
        "anchor": lambda: decoder.anchor(small, LAYERS, shared),
        "prefill_in_place": lambda: decoder.run(small, shared, in_place=True),
        "step_in_place": lambda: decoder.run(small, shared, rows=1, in_place=True),
        "anchor_in_place": lambda: decoder.anchor(small, LAYERS, shared, in_place=True),
        "merge": lambda: cluster.merge(sizes.hidden),
    }
    for width in (tower.hidden, sizes.hidden):
        made |= {f"kmeans_{width}": lambda width=width: cluster.kmeans(width), f"centres_{width}": lambda width=width: cluster.centres(width)}
    return made


def number_caches(path):
    """Has the graph's caches of as many rows as the largest, as `model build-engines` does: TensorRT wants a number where it writes in place."""
    model = onnx.load(str(path), load_external_data=False)
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "cache":
                dim.dim_value = DIMS["cache"][2]
    path.write_bytes(model.SerializeToString())


def bounds(value):
    """Least, usual and largest shape of an input."""
    return [[DIMS[value.get_dimension_name(at)][kind] if side < 0 else side for at, side in enumerate(value.shape)] for kind in range(3)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--only", action="append", help="a graph's name; several may be given")
    args = parser.parse_args()
    trt, failed = load(args.cache), []
    print(f"TensorRT-RTX {trt.__version__}, for SM 8.6")
    print("| graph | ONNX and weights MiB | engine MiB | seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in graphs(Path(folder), args.vocab).items():
            if args.only and name not in args.only:
                continue
            path = Path(folder) / f"{name}.onnx"
            make().save(path)
            if name.endswith("in_place"):
                number_caches(path)
            begun = time.monotonic()
            engine, said = build_rtx.build(trt, path, bounds, "86")
            size = None if engine is None else engine.nbytes
            weights = path.stat().st_size + (path.with_name("decoder.weights").stat().st_size if name.startswith(("prefill", "step", "anchor")) else 0)
            if size is None:
                failed.append(name)
                print(f"| {name} | {weights / 2**20:.1f} | refused | |")
                print("\n".join(f"    {line}" for line in said))
            else:
                print(f"| {name} | {weights / 2**20:.1f} | {size / 2**20:.1f} | {time.monotonic() - begun:.1f} |", flush=True)
    print(f"refused: {', '.join(failed)}" if failed else "all checks passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
