"""A small package with drawn weights whose graphs for TensorRT have 16-bit weights in themselves, so that another runtime on the CPU can run them as they are.

    target/peers/bin/python tools/vectors/tensorrt_graphs.py tests/vectors/tensorrt_graphs

What `export.py --weights f16` writes, but for the shared file of weights and the compression's graphs. The same files from the same versions of NumPy and onnx.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/export"))
import decoder
import drawn
import export
import vision

# The interface layer is neither the first nor the last.
SEED, INTERFACE = 7, 2
SIZES = drawn.Sizes(
    image=28, vision_hidden=32, vision_layers=2, vision_heads=2, vision_ffn=64, layers=3, heads=2, kv_heads=1, head_dim=16, ffn=64, vocab=96, context=512,
)  # fmt: skip


def main():
    out, half = Path(sys.argv[1]), np.float16
    with tempfile.TemporaryDirectory() as work:
        drawn.save(Path(work) / "checkpoint", SIZES, SEED)
        settings = ["--name", "drawn", "--licence", "Apache-2.0", "--views", "28,56", "--interface-layer", str(INTERFACE), "--weights", "f16", "--without-tensorrt"]
        made = Path(work) / "package"
        checkpoint = export.export(export.parse([str(Path(work) / "checkpoint"), "--out", str(made), *settings]))
        out.mkdir(parents=True, exist_ok=True)
        for name in ["encoder.onnx", "projector.onnx", "token_mlp.onnx", "decoder.gguf"]:
            shutil.copyfile(made / name, out / name)
    graphs, opset = out / export.TENSORRT, decoder.OPSET
    graphs.mkdir(exist_ok=True)
    vision.encoder(checkpoint.tower, opset, half, half).save(graphs / "encoder.onnx")
    vision.mlp(checkpoint.projector, ("features", "rows"), opset, half, (half, np.float32)).save(graphs / "projector.onnx")
    vision.mlp(checkpoint.token_mlp, ("tokens", "refined"), opset, half, (half, np.float32)).save(graphs / "token_mlp.onnx")
    decoder.run(checkpoint.decoder, None, 16, half).save(graphs / "prefill.onnx")
    decoder.run(checkpoint.decoder, None, 16, half, rows=1).save(graphs / "step.onnx")
    decoder.anchor(checkpoint.decoder, INTERFACE, None, 16, half).save(graphs / "anchor.onnx")


if __name__ == "__main__":
    main()
