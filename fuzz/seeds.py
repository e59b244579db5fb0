"""A JPEG, PNGs, TIFFs and a WebP of a few pixels, from nothing but the standard library: seeds for the frame target."""

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


# 20 x 12, lossless.
WEBP = "UklGRh4AAABXRUJQVlA4TBEAAAAvE8ACAAdQj2oVuf+BiOh/AAA="


def tiff(width, height, tiled, packed):
    data = zlib.compress(bytes(width * height)) if packed else bytes(width * height)
    place = (322, 323, 324, 325) if tiled else (None, 278, 273, 279)
    entries = {256: width, 257: height, 258: 8, 259: 8 if packed else 1, 262: 1, 277: 1, place[1]: height, place[2]: 0, place[3]: len(data)}
    if tiled:
        entries[place[0]] = width
    entries[place[2]] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + data


folder = Path(sys.argv[1])
(folder / "picture.webp").write_bytes(base64.b64decode(WEBP))
for name, tiled, packed in [("strips", False, False), ("deflate", False, True), ("tiles", True, True)]:
    (folder / f"{name}.tif").write_bytes(tiff(32, 16, tiled, packed))
(folder / "grey.jpg").write_bytes(base64.b64decode(JPEG))
for colour in (0, 2, 6):
    (folder / f"{colour}.png").write_bytes(png(20, 12, colour))
