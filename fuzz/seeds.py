"""JPEGs, PNGs, TIFFs, a WebP and an npy of a few pixels, from nothing but the standard library: seeds for the targets that read pictures and label maps."""

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


def tiff(width, height):
    """Grey, 16 bits, two strips."""
    data = bytes(range(width * height * 2))
    half = len(data) // 2
    entries = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, height // 2), (279, 4, 0)]
    at = 8 + len(data)
    arrays = {273: struct.pack("<II", 8, 8 + half), 279: struct.pack("<II", half, half)}
    directory = struct.pack("<H", len(entries))
    tail, end = b"", at + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        if tag in arrays:
            directory += struct.pack("<HHII", tag, kind, 2, end + len(tail))
            tail += arrays[tag]
        else:
            directory += struct.pack("<HHII", tag, kind, 1, value)
    return struct.pack("<2sHI", b"II", 42, at) + data + directory + bytes(4) + tail


def npy(width, height):
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({height}, {width}), }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + struct.pack(f"<{width * height}i", *range(width * height))


# 20 x 12, lossless.
WEBP = "UklGRh4AAABXRUJQVlA4TBEAAAAvE8ACAAdQj2oVuf+BiOh/AAA="


def frame_tiff(width, height, tiled, packed):
    data = zlib.compress(bytes(width * height)) if packed else bytes(width * height)
    place = (322, 323, 324, 325) if tiled else (None, 278, 273, 279)
    entries = {256: width, 257: height, 258: 8, 259: 8 if packed else 1, 262: 1, 277: 1, place[1]: height, place[2]: 0, place[3]: len(data)}
    if tiled:
        entries[place[0]] = width
    entries[place[2]] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + data


def tagged(picture):
    """The JPEG with a place in EXIF and a drone's angles in XMP."""
    degrees = lambda d, m, s: struct.pack("<6I", d, 1, m, 1, s, 1)
    # TIFF header, a directory of two pointers, then those of EXIF and GPS with their rationals behind them.
    lens, gps = 8 + 2 + 24 + 4, 8 + 2 + 24 + 4 + 2 + 12 + 4
    angles = gps + 2 + 12 * 6 + 4
    entry = lambda tag, kind, count, value: struct.pack("<HHI", tag, kind, count) + value
    long, short = (lambda value: struct.pack("<I", value)), (lambda value: struct.pack("<HH", value, 0))
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entry(0x8769, 4, 1, long(lens)) + entry(0x8825, 4, 1, long(gps)) + bytes(4)
    tiff += struct.pack("<H", 1) + entry(0xA405, 3, 1, short(24)) + bytes(4)
    tiff += struct.pack("<H", 6) + entry(1, 2, 2, b"N\0\0\0") + entry(2, 5, 3, long(angles)) + entry(3, 2, 2, b"W\0\0\0") + entry(4, 5, 3, long(angles + 24))
    tiff += entry(5, 1, 1, bytes(4)) + entry(6, 5, 1, long(angles + 48)) + bytes(4) + degrees(50, 49, 30) + degrees(0, 8, 20) + struct.pack("<II", 120, 1)
    names = ["RelativeAltitude", "FlightYawDegree", "GimbalYawDegree", "GimbalPitchDegree", "GimbalRollDegree"]
    figures = " ".join(f'd:{name}="{figure}"' for name, figure in zip(names, ["+60.0", "+10.0", "+12.5", "-90.0", "0.0"]))
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    xmp = f'<r:RDF xmlns:r="{rdf}"><r:Description xmlns:d="http://www.dji.com/drone-dji/1.0/" {figures}/></r:RDF>'.encode()
    segment = lambda data: b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    return picture[:2] + segment(b"Exif\0\0" + tiff) + segment(b"http://ns.adobe.com/xap/1.0/\0" + xmp) + picture[2:]


def geotiff(width, height):
    """Grey, with a scale, a tie point and EPSG:32630."""
    data, doubles = bytes(width * height), struct.pack("<9d", 0.5, 0.5, 0, 0, 0, 0, 5e5, 5.6e6, 0)
    keys = struct.pack("<12H", 1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32630)
    plain = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height, 279: len(data)}
    end = 8 + 2 + 12 * (len(plain) + 4) + 4
    entries = [(tag, 4, 1, value) for tag, value in plain.items()] + [(273, 4, 1, end + len(doubles) + len(keys))]
    entries += [(33550, 12, 3, end), (33922, 12, 6, end + 24), (34735, 3, 12, end + len(doubles))]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + doubles + keys + data


folder = Path(sys.argv[1])
(folder / "placed.jpg").write_bytes(tagged(base64.b64decode(JPEG)))
(folder / "placed.tif").write_bytes(geotiff(32, 16))
(folder / "grey.tif").write_bytes(tiff(6, 4))
(folder / "whole.npy").write_bytes(npy(5, 4))
(folder / "picture.webp").write_bytes(base64.b64decode(WEBP))
for name, tiled, packed in [("strips", False, False), ("deflate", False, True), ("tiles", True, True)]:
    (folder / f"{name}.tif").write_bytes(frame_tiff(32, 16, tiled, packed))
(folder / "grey.jpg").write_bytes(base64.b64decode(JPEG))
for colour in (0, 2, 6):
    (folder / f"{colour}.png").write_bytes(png(20, 12, colour))
