"""A small package with drawn weights whose graphs for TensorRT have 16-bit weights in themselves, so that another runtime on the CPU can run them as they are.

    target/peers/bin/python tools/vectors/tensorrt_graphs.py tests/vectors/tensorrt_graphs

What `export.py --weights f16` writes, but for the shared file of weights and the graph `merge`. The same files from the same versions of NumPy and onnx.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/export"))
import cluster
import decoder
import drawn
import export
import package
import vision

# The interface layer is neither the first nor the last.
SEED, INTERFACE = 7, 2
SIZES = drawn.Sizes(
    image=28, vision_hidden=32, vision_layers=2, vision_heads=2, vision_ffn=64, layers=3, heads=2, kv_heads=1, head_dim=16, ffn=64, vocab=96, context=512,
)  # fmt: skip


def main():
    out, half, opset = Path(sys.argv[1]), np.float16, decoder.OPSET
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        source, made = Path(work) / "checkpoint", Path(work) / "package"
        drawn.save(source, SIZES, SEED)
        options = ["--name", "drawn", "--licence", "Apache-2.0", "--views", "28,56", "--interface-layer", str(INTERFACE), "--weights", "f16"]
        settings = export.parse([str(source), "--out", str(made), "--without-tensorrt", *options])
        checkpoint = export.export(settings)
        shutil.copytree(made, out)
    graphs = out / export.TENSORRT
    graphs.mkdir()
    made = {
        "encoder": vision.encoder(checkpoint.tower, opset, half, half),
        "projector": vision.mlp(checkpoint.projector, ("features", "rows"), opset, half, (half, np.float32)),
        "token-mlp": vision.mlp(checkpoint.token_mlp, ("tokens", "refined"), opset, half, (half, np.float32)),
        # Features and projected tokens are as wide here.
        "kmeans": cluster.kmeans(checkpoint.tower.hidden),
        "centres": cluster.centres(checkpoint.tower.hidden),
    }
    files = {key: f"{key.replace('-', '_')}.onnx" for key in made}
    for in_place, form, end in ((False, "", ""), (True, "in-place.", "_in_place")):
        graphs_of = {
            "prefill": decoder.run(checkpoint.decoder, None, 16, half, in_place=in_place),
            "step": decoder.run(checkpoint.decoder, None, 16, half, rows=1, in_place=in_place),
            "anchor": decoder.anchor(checkpoint.decoder, INTERFACE, None, 16, half, in_place=in_place),
        }
        made |= {form + key: graph for key, graph in graphs_of.items()}
        files |= {form + key: f"{key}{end}.onnx" for key in graphs_of}
    for key, graph in made.items():
        graph.save(graphs / files[key])
    named = {key: f"{export.TENSORRT}/{file}" for key, file in files.items()}
    package.manifest(out, settings.name, settings.licence, checkpoint.tower, settings, {"token_mlp.onnx"}, named)


if __name__ == "__main__":
    main()
