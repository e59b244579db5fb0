"""Building an ONNX graph, and weights that several graphs of a folder share in one external file."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import quant

DTYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.int64): TensorProto.INT64, np.dtype(np.int32): TensorProto.INT32, np.dtype(bool): TensorProto.BOOL}
# ONNX's own pairs of operator set and file version.
IR = {17: 8, 21: 10, 24: 12}
ALIGN = 4096


class Shared:
    """A file of weights, each written once, that graphs beside it refer to by offset (ONNX's external data)."""

    def __init__(self, path):
        self.path, self.file, self.places = Path(path), Path(path).open("wb"), {}

    def put(self, name, data):
        """Bytes that `data()` makes, under `name`; their (offset, length)."""
        if name not in self.places:
            data = data()
            self.file.write(b"\0" * (-self.file.tell() % ALIGN))
            self.places[name] = (self.file.tell(), len(data))
            self.file.write(data)
        return self.places[name]

    def close(self):
        self.file.close()


class Graph:
    """Nodes, inputs, outputs and initialisers of one graph. A value is known by its name."""

    def __init__(self, name, opset, shared=None):
        self.name, self.opset, self.shared = name, opset, shared
        self.nodes, self.inputs, self.outputs, self.constants, self.known = [], [], [], [], {}

    def fresh(self, kind):
        return f"{kind.lower()}_{len(self.nodes)}"

    def input(self, name, dtype, shape):
        self.inputs.append(helper.make_tensor_value_info(name, DTYPES[np.dtype(dtype)], shape))
        return name

    def output(self, value, name, dtype, shape):
        self.declare(self.op("Identity", value, name=name), dtype, shape)

    def declare(self, name, dtype, shape):
        """A value that has its name already is an output."""
        self.outputs.append(helper.make_tensor_value_info(name, DTYPES[np.dtype(dtype)], shape))

    def op(self, kind, *inputs, name=None, outputs=None, **attributes):
        """A node of one output, whose name is returned, or of as many as `outputs`."""
        names = [name or self.fresh(kind)] if outputs is None else [f"{self.fresh(kind)}_{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs is None else names

    def cast(self, value, dtype):
        return self.op("Cast", value, to=DTYPES[np.dtype(dtype)])

    def ints(self, *values):
        return self.constant(np.array(values, np.int64))

    def constant(self, values, name=None):
        """A small initialiser, kept in the graph itself; equal ones are one."""
        values = np.asarray(values)
        key = name or (values.dtype.str, values.shape, values.tobytes())
        if key not in self.known:
            self.known[key] = name or f"c{len(self.constants)}"
            self.constants.append(helper.make_tensor(self.known[key], DTYPES[values.dtype], values.shape, np.ascontiguousarray(values).tobytes(), raw=True))
        return self.known[key]

    def weight(self, name, dtype, shape, data):
        """An initialiser called `name` of the bytes that `data()` makes, in the shared file where there is one."""
        if name not in self.known:
            tensor = TensorProto(name=name, data_type=dtype, dims=shape)
            if self.shared is None:
                tensor.raw_data = data()
            else:
                offset, length = self.shared.put(name, data)
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in [("location", self.shared.path.name), ("offset", offset), ("length", length)]:
                    tensor.external_data.add(key=key, value=str(value))
            self.constants.append(tensor)
            self.known[name] = name
        return name

    def matrix(self, name, dtype, sides, make):
        """`make()` [out, in] as an initialiser [in, out] of `dtype`, which is part of its name in the file. `sides`: (out, in)."""
        data = lambda: np.ascontiguousarray(make().T).astype(dtype).tobytes()
        return self.weight(f"{name}.{np.dtype(dtype).name}", DTYPES[np.dtype(dtype)], list(reversed(sides)), data)

    def matrix4(self, name, dtype, sides, make):
        """`make()`, integers and scales of 4 bits, dequantised to [in, out] of `dtype`: DequantizeLinear over blocks of 32 of the products' own axis. `sides`: (out, in)."""
        made = Once(make)
        out, inner = sides
        ints = self.weight(f"{name}.int4", TensorProto.INT4, [inner, out], lambda: quant.int4(np.ascontiguousarray(made()[0].T)))
        kind = np.dtype(dtype)
        scales = self.weight(f"{name}.scale.{kind.name}", DTYPES[kind], [inner // quant.BLOCK, out], lambda: np.ascontiguousarray(made()[1].T).astype(dtype).tobytes())
        return self.op("DequantizeLinear", ints, scales, axis=0, block_size=quant.BLOCK)

    def save(self, path):
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR[self.opset], producer_name="uhr-edge")
        if self.shared is None:
            onnx.checker.check_model(model)
        else:
            self.shared.file.flush()
        Path(path).write_bytes(model.SerializeToString())


class Once:
    """What `make()` gives, made when it is first wanted."""

    def __init__(self, make):
        self.make, self.value = make, None

    def __call__(self):
        if self.value is None:
            self.value = self.make()
        return self.value
