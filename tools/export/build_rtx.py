#!/usr/bin/env python3
"""What `tensorrt_rtx`, TensorRT-RTX's command line, does for `model build-engines --rtx`, by the Python wheels: they bring no command line. On the CPU alone, ahead of time.

    pip install --no-deps -r tools/export/requirements-rtx.txt
    uhr-edge --profile a6000 --model DIR model build-engines --rtx tools/export/build_rtx.py --compute 8.6 --tensorrt 1.7.1.116
"""

import argparse
import sys
from pathlib import Path


def build(trt, path, bounds, compute):
    """The serialised engine of an ONNX file for SM `compute` (two numbers), or None, and the parser's and builder's own words. `bounds(input)`: least, usual and largest shape."""
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
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{compute}"), 0)
    profile = builder.create_optimization_profile()
    for value in (network.get_input(n) for n in range(network.num_inputs)):
        profile.set_shape(value.name, *bounds(value))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config), said


def shapes(text):
    """`a:1x2,b:3` by name."""
    return {name: [int(side) for side in sides.split("x")] for name, sides in (part.split(":") for part in text.split(",") if part)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--saveEngine", type=Path, required=True)
    for kind in ("min", "opt", "max"):
        parser.add_argument(f"--{kind}Shapes", type=shapes, default={})
    parser.add_argument("--computeCapabilities", required=True, help="one, such as 86")
    parser.add_argument("--skipInference", action="store_true", help="nothing is ever run here")
    args = parser.parse_args()
    import tensorrt_rtx_bindings as trt

    if not hasattr(trt.ComputeCapability, f"SM{args.computeCapabilities}"):
        sys.exit(f"--computeCapabilities: wanted one that TensorRT-RTX {trt.__version__} builds for, found {args.computeCapabilities}")
    fixed = lambda value: [list(value.shape)] * 3
    given = (args.minShapes, args.optShapes, args.maxShapes)
    engine, said = build(trt, args.onnx, lambda value: [kind[value.name] for kind in given] if value.name in given[0] else fixed(value), args.computeCapabilities)
    print(f"TensorRT-RTX {trt.__version__}")
    print("\n".join(said))
    if engine is None:
        sys.exit(1)
    args.saveEngine.write_bytes(bytes(engine))


if __name__ == "__main__":
    main()
