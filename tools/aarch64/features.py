"""A safetensors file for `compress` of two views, f16 features about a few directions, from nothing but the standard library."""

import json
import random
import struct
import sys

random.seed(7)
DIM, GRIDS = 40, (24, 48)
tensors = {}
for number, side in enumerate(GRIDS, 1):
    directions = [[random.gauss(0, 1) for _ in range(DIM)] for _ in range(9)]
    rows = [[value + random.gauss(0, 0.7) for value in directions[(y * 3 // side) * 3 + x * 3 // side]] for y in range(side) for x in range(side)]
    tensors[f"view{number}.features"] = ("F16", [side * side, DIM], b"".join(struct.pack(f"<{DIM}e", *row) for row in rows))
tensors["importance"] = ("F32", [GRIDS[0] ** 2], struct.pack(f"<{GRIDS[0] ** 2}f", *(random.random() for _ in range(GRIDS[0] ** 2))))
header, data = {"__metadata__": {"views": ",".join(str(14 * side) for side in GRIDS), "tile": "336", "patch": "14"}}, b""
for name, (dtype, shape, values) in tensors.items():
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
    data += values
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(sys.argv[1], "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text + data)
