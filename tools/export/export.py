"""A package for uhr-edge from a LLaVA-style checkpoint folder: CLIP tower, MLP projector, Qwen2 decoder, and of UHR-BAT's authors the selected tokens' MLP and residuals.

    python tools/export/export.py CHECKPOINT --out models/longva-7b --tower CLIP-FOLDER --name longva-7b --licence Apache-2.0
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import cluster
import decoder
import gguf_file
import gptq
import package
import quant
import vision
from checkpoint import Checkpoint, ExportError
from graph import Shared

TENSORRT = "tensorrt"
TYPES = {"f16": np.float16, "f32": np.float32}


def networks(checkpoint, out):
    """The graphs that the CPU runs, in f32."""
    vision.encoder(checkpoint.tower).save(out / "encoder.onnx")
    vision.mlp(checkpoint.projector, ("features", "rows")).save(out / "projector.onnx")
    if checkpoint.token_mlp:
        vision.mlp(checkpoint.token_mlp, ("tokens", "refined")).save(out / "token_mlp.onnx")


def tensorrt(checkpoint, out, interface_layer, bits=4, dtype=np.float16):
    """The graphs that `build-engines` makes engines from, and their files. The decoder's, three a form, share the weights in `decoder.weights`."""
    out.mkdir(exist_ok=True)
    files = {"encoder": "encoder.onnx", "projector": "projector.onnx"} | ({"token-mlp": "token_mlp.onnx"} if checkpoint.token_mlp else {})
    files |= {name: f"{name}.onnx" for name in ("prefill", "step", "anchor", "merge")} | {"weights": "decoder.weights"}
    model = checkpoint.decoder
    opset, half = decoder.OPSET, np.float16
    vision.encoder(checkpoint.tower, opset, dtype, half).save(out / "encoder.onnx")
    vision.mlp(checkpoint.projector, ("features", "rows"), opset, dtype, (half, np.float32)).save(out / "projector.onnx")
    if checkpoint.token_mlp:
        vision.mlp(checkpoint.token_mlp, ("tokens", "refined"), opset, dtype, (half, np.float32)).save(out / "token_mlp.onnx")
    shared = Shared(out / "decoder.weights")
    for in_place, end in ((False, ""), (True, "_in_place")):
        decoder.run(model, shared, bits, dtype, in_place=in_place).save(out / f"prefill{end}.onnx")
        decoder.run(model, shared, bits, dtype, rows=1, in_place=in_place).save(out / f"step{end}.onnx")
        decoder.anchor(model, interface_layer, shared, bits, dtype, in_place=in_place).save(out / f"anchor{end}.onnx")
    shared.close()
    files |= {f"in-place.{name}": f"{name}_in_place.onnx" for name in ("prefill", "step", "anchor")}
    # Policy `paper` clusters features, `released` projected tokens.
    for width in {checkpoint.tower.hidden, model.hidden}:
        cluster.kmeans(width).save(out / f"kmeans_{width}.onnx")
        cluster.centres(width).save(out / f"centres_{width}.onnx")
    cluster.merge(model.hidden).save(out / "merge.onnx")
    return files


def clustering(checkpoint, policy):
    """The graphs of the width that the package's own policy clusters: features, or with `released` projected tokens."""
    width = checkpoint.decoder.hidden if policy == "released" else checkpoint.tower.hidden
    return {name: f"{name}_{width}.onnx" for name in ("kmeans", "centres")}


def choose(model, settings):
    """Has the decoder's 4 bits chosen by GPTQ, where that is asked for."""
    if settings.group_size != quant.BLOCK:
        raise ExportError(f"--group-size: wanted {quant.BLOCK}, as Q4_0's blocks are, found {settings.group_size}")
    if settings.quant == "rtn":
        if settings.calibration:
            raise ExportError("--calibration: wanted --quant gptq, found rtn, which looks at no inputs")
        return
    if settings.weights != "q4_0":
        raise ExportError(f"--quant gptq: wanted --weights q4_0, found {settings.weights}")
    if not settings.calibration:
        raise ExportError("--quant gptq: wanted a calibration set, --calibration FILE, found none")
    model.chosen = gptq.quantise(model, gptq.sequences(settings.calibration, settings.checkpoint / "tokenizer.json", model))


def residuals(checkpoint, out, settings):
    """`positions.safetensors` of the authors' residuals by a token's place in its tile; whether there are any."""
    tables = {} if settings.drop_residuals else checkpoint.residuals(settings.views, settings.views[0])
    if tables:
        save_file({name: np.ascontiguousarray(table, np.float32) for name, table in tables.items()}, out / "positions.safetensors")
    return bool(tables)


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder, or one that isn't there")
    parser.add_argument("--tower", type=Path, help="the vision tower's folder [default: mm_vision_tower of config.json]")
    parser.add_argument("--name", required=True, help="in receipts")
    parser.add_argument("--licence", required=True, help="of the weights, SPDX")
    parser.add_argument("--views", default="672,1344,2688,4032", help="sides of the views, anchor first")
    parser.add_argument("--context", type=int, default=12288, help="most positions [default: %(default)s, or the checkpoint's where that is less]")
    parser.add_argument("--interface-layer", type=int, help="from 1 [default: the last, as the authors' code has it]")
    parser.add_argument("--policy", default="released", choices=["paper", "released"])
    parser.add_argument("--stop", action="append", help="a token that ends an answer [default: <|im_end|>]")
    parser.add_argument("--template", default=package.TEMPLATE)
    parser.add_argument("--system", default=package.SYSTEM)
    parser.add_argument("--weights", default="q4_0", choices=list(gguf_file.KINDS), help="of decoder.gguf; q4_0 goes with 4 bits in the graphs, the others with 16")
    parser.add_argument("--quant", choices=["rtn", "gptq"], help="how 4 bits are chosen: to nearest, or by GPTQ on a calibration set (requirements-gptq.txt) [default: gptq with --calibration]")
    parser.add_argument("--calibration", type=Path, help="for gptq: text, an empty line between sequences, or JSON lists of token ids")
    parser.add_argument("--group-size", type=int, default=quant.BLOCK, help="weights a scale; Q4_0 and the graphs have %(default)s and no other")
    parser.add_argument("--precision", default="f16", choices=list(TYPES), help="of the products in tensorrt/; f32 is for parity")
    parser.add_argument("--without-tensorrt", action="store_true", help="no tensorrt/: a package for the CPU alone")
    parser.add_argument("--drop-residuals", action="store_true", help="leaves out the authors' residuals")
    parser.add_argument("--parity", action="store_true", help="writes parity.json; needs torch and transformers (requirements-torch.txt)")
    settings = parser.parse_args(arguments)
    settings.views = [int(side) for side in settings.views.split(",")]
    settings.quant = settings.quant or ("gptq" if settings.calibration else "rtn")
    settings.stop = settings.stop or ["<|im_end|>"]
    return settings


def export(settings):
    """Writes the package; the checkpoint as it was read."""
    checkpoint, out = Checkpoint(settings.checkpoint, settings.tower), settings.out
    model = checkpoint.decoder
    settings.context = min(settings.context, model.context)
    settings.interface_layer = settings.interface_layer or model.layers
    if not 1 <= settings.interface_layer <= model.layers:
        raise ExportError(f"--interface-layer: wanted 1 to {model.layers}, found {settings.interface_layer}")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ExportError(f"{out}: wanted an empty folder, found files")
    choose(model, settings)
    networks(checkpoint, out)
    gguf_file.write(model, out / "decoder.gguf", settings.context, settings.weights)
    package.copy_tokenizer(settings.checkpoint, out)
    has = {"positions.safetensors"} if residuals(checkpoint, out, settings) else set()
    has |= {"token_mlp.onnx"} if checkpoint.token_mlp else set()
    graphs = {}
    if not settings.without_tensorrt:
        bits = 4 if settings.weights == "q4_0" else 16
        graphs = tensorrt(checkpoint, out / TENSORRT, settings.interface_layer, bits, TYPES[settings.precision]) | clustering(checkpoint, settings.policy)
    if settings.parity:
        import parity

        (out / "parity.json").write_text(json.dumps(parity.record(checkpoint, out, settings), indent=1) + "\n")
    graphs = {key: f"{TENSORRT}/{file}" for key, file in graphs.items()}
    package.manifest(out, settings.name, settings.licence, checkpoint.tower, settings, has, graphs)
    return checkpoint


def main():
    settings = parse()
    try:
        export(settings)
    except ExportError as error:
        sys.exit(str(error))
    size = sum(path.stat().st_size for path in settings.out.rglob("*") if path.is_file())
    print(f"{settings.out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
