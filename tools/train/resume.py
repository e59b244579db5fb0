"""A package as checkpoints, so that training goes on from what is committed: encoder.pt and decoder.pt with no time spent.

Weights are as exported (the decoder's matrices at their int4 values); the optimisers start anew.
"""

import argparse
import random
from pathlib import Path

import gguf
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file

import decoder as dec
import encoder as enc


def initialisers(path):
    """Tensors of an ONNX file by name, and its nodes with weights, in order."""
    graph = onnx.load(path).graph
    values = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    return values, [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul", "BatchNormalization")]


@torch.no_grad()
def encoder(package, cache):
    """Convolutions come with their norms folded in; the norms are set from tiles of the training split, so that nothing changes but their scale."""
    values, nodes = initialisers(package / "encoder.onnx")
    convs = iter([node for node in nodes if node.op_type == "Conv"])
    model = enc.Encoder().eval()

    def plain(conv):
        node = next(convs)
        conv.weight.copy_(values[node.input[1]])
        if conv.bias is not None:
            conv.bias.copy_(values[node.input[2]])
        return values[node.input[2]]

    def folded(conv, norm):
        norm.weight.fill_(1)
        norm.bias.copy_(plain(conv))
        norm.running_mean.fill_(0)
        norm.running_var.fill_(1 - norm.eps)

    def block(part):
        folded(part.mix, part.norm)
        plain(part.up)
        plain(part.down)

    folded(model.stem[0], model.stem[1])
    block(model.stem[3])
    folded(model.reduce[0], model.reduce[1])
    for part in model.body:
        block(part)
    plain(model.heads)
    last = next(node for node in nodes if node.op_type == "BatchNormalization")
    for name, key in zip(("weight", "bias", "running_mean", "running_var"), last.input[1:]):
        getattr(model.norm, name).copy_(values[key])

    rng, sources = random.Random(5), enc.backgrounds.load(cache, "train")
    tiles = enc.normalise(np.stack([enc.draw_tile(rng, sources, view)[0] for view in rng.choices(range(4), weights=(5, 3, 2, 2), k=48)]))
    before = model(tiles[:4])

    def rescale(norm, inputs):
        mean, var = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False)
        spread = torch.sqrt(norm.running_var + norm.eps)
        norm.bias.add_((mean - norm.running_mean) / spread * norm.weight)
        norm.weight.mul_(torch.sqrt(var + norm.eps) / spread)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)

    hooks = [part.register_forward_pre_hook(rescale) for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    model(tiles)
    for hook in hooks:
        hook.remove()
    assert (model(tiles[:4]) - before).abs().max() < 1e-3, "the norms' new scale changed the features"
    return model


@torch.no_grad()
def decoder(package):
    model = dec.Model()
    values, [node] = initialisers(package / "projector.onnx")
    model.project.weight.copy_(values[node.input[1]].reshape(model.project.weight.shape))
    model.project.bias.copy_(values[node.input[2]])
    positions = load_file(package / "positions.safetensors")
    model.base.copy_(torch.from_numpy(positions["p"]))
    model.scale.copy_(torch.from_numpy(positions["q"]))
    tensors = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()) for t in gguf.GGUFReader(package / "decoder.gguf").tensors}
    for name, parameter in dec.gguf_names(model):
        parameter.copy_(tensors[name].reshape(parameter.shape))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, model in (("encoder", encoder(args.package, args.cache)), ("decoder", decoder(args.package))):
        torch.save({"model": model.state_dict(), "optimiser": None, "spent": 0.0, "step": 0}, args.out / f"{name}.pt")


if __name__ == "__main__":
    main()
