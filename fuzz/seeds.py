"""A JPEG and a PNG of a few pixels, from nothing but the standard library: seeds for the frame target."""

import base64
import struct
import sys
import zlib
from pathlib import Path

# 1 x 1, grey, baseline.
JPEG = (
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAAMCAgICAgMCAgIDAwMDBAYEBAQEBAgGBgUGCQgKCgkICQkKDA8MCgsOCwkJDRENDg8QEBEQCgwSExIQEw8QEBD/"
    "wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAACf/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AVN//2Q=="
)


def png(width, height, colour):
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    channels = {0: 1, 2: 3, 6: 4}[colour]
    rows = b"".join(b"\1" + bytes(range(width * channels)) for _ in range(height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


folder = Path(sys.argv[1])
(folder / "grey.jpg").write_bytes(base64.b64decode(JPEG))
for colour in (0, 2, 6):
    (folder / f"{colour}.png").write_bytes(png(20, 12, colour))
