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

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools/export"))
import cluster
import decoder
import drawn
import vision
from graph import Shared

PACKAGES = ["tensorrt_rtx_cu12_libs==1.7.1.116", "tensorrt_rtx_cu12_bindings==1.7.1.116"]
LAYERS = 2
# Least, usual and largest of each dynamic dimension, as the profiles bind them.
DIMS = {"n": (1, 4, 4), "rows": (1, 512, 512), "cache": (1, 3072, 12288), "looking": (1, 1, 256), "visual": (1, 2304, 2304), "clusters": (1, 600, 600), "tokens": (1, 3000, 11100)}


def load(cache):
    """The library, from the pinned wheels, which nothing else here needs."""
    folder = cache / "tensorrt-rtx"
    if not (folder / "tensorrt_rtx_bindings").is_dir():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(folder), *PACKAGES], check=True)
    sys.path.insert(0, str(folder))
    import tensorrt_rtx_bindings

    return tensorrt_rtx_bindings


def graphs(folder, vocab):
    """(name, what makes it) of every graph; the decoder's three share a file of weights."""
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
        "merge": lambda: cluster.merge(sizes.hidden),
    }
    for width in (tower.hidden, sizes.hidden):
        made |= {f"kmeans_{width}": lambda width=width: cluster.kmeans(width), f"centres_{width}": lambda width=width: cluster.centres(width)}
    return made


def build(trt, path):
    """The serialised engine's bytes, or the parser's and builder's own words."""
    said = []

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, message):
            if severity <= trt.ILogger.ERROR:
                said.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        return None, [str(parser.get_error(n)) for n in range(parser.num_errors)] + said
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    for value in (network.get_input(n) for n in range(network.num_inputs)):
        bounds = [[DIMS[value.get_dimension_name(at)][kind] if side < 0 else side for at, side in enumerate(value.shape)] for kind in range(3)]
        profile.set_shape(value.name, *bounds)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return (None, said) if engine is None else (engine.nbytes, said)


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
            begun = time.monotonic()
            size, said = build(trt, path)
            weights = path.stat().st_size + (path.with_name("decoder.weights").stat().st_size if name in ("prefill", "step", "anchor") else 0)
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
