"""Packets, fragments and payloads for the link's targets, from nothing but the standard library: `link_seeds.py TARGET FOLDER`."""

import hashlib
import struct
import sys
from pathlib import Path

# Message id: its check byte.
EXTRA = {0: 50, 20: 214, 21: 159, 23: 168, 30: 39, 33: 104, 76: 152, 109: 185, 110: 84, 253: 83, 256: 71, 323: 78, 385: 147}


def crc(data):
    value = 0xFFFF
    for byte in data:
        byte ^= value & 0xFF
        byte = (byte ^ (byte << 4)) & 0xFF
        value = (value >> 8) ^ (byte << 8) ^ (byte << 3) ^ (byte >> 4)
    return struct.pack("<H", value)


def packet(number, payload, key=None, system=255, component=190):
    payload = payload.rstrip(b"\0") or b"\0"
    head = struct.pack("<BBBBBB", len(payload), 1 if key else 0, 0, 0, system, component) + struct.pack("<I", number)[:3]
    body = head + payload + crc(head + payload + bytes([EXTRA[number]]))
    whole = b"\xfd" + body
    if key:
        stamp = b"\0" + struct.pack("<Q", 37_993_000_000_000)[:6]
        whole += stamp + hashlib.sha256(key + whole + stamp).digest()[:6]
    return whole


def text(words, number=0, sequence=0):
    return bytes([6]) + words.encode().ljust(50, b"\0") + struct.pack("<HB", number, sequence)


PAYLOADS = {
    0: struct.pack("<IBBBBB", 0, 2, 3, 0, 4, 3),
    20: struct.pack("<hBB", -1, 1, 191) + b"UHR_TOKBUD",
    21: bytes([1, 191]),
    23: struct.pack("<fBB", 600, 1, 191) + b"UHR_TOKBUD".ljust(16, b"\0") + b"\x09",
    33: struct.pack("<IiiiihhhH", 1, 473_000_000, 85_000_000, 500_000, 80_000, 0, 0, 0, 0),
    76: struct.pack("<7fHBBB", 1, 5, 0, 0, 0, 0, 0, 31010, 1, 191, 0),
    109: struct.pack("<HHBBBBB", 0, 0, 100, 100, 40, 0, 0),
    110: bytes([0, 1, 191]) + struct.pack("<HBBBBBBI", 1, 0, 4, 22, 0, 0, 0, 0) + b"/answers/1/answer.json",
    253: text("uhr: how many ships are there?"),
    256: struct.pack("<QBB", 1, 1, 191) + bytes(range(32)),
    323: bytes([1, 191]) + b"UHR_ASK".ljust(16, b"\0") + b"how many \\".ljust(128, b"\0") + b"\x0b",
}
IDS = [0, 20, 21, 23, 30, 33, 76, 109, 110, 180, 253, 256, 263, 320, 321, 323]


def seeds(target):
    if target == "link_parser":
        yield b"".join(packet(number, payload) for number, payload in PAYLOADS.items())
        yield b"\xfd\x20\0\0" + packet(0, PAYLOADS[0]) + b"\xfe" + packet(253, PAYLOADS[253], b"k" * 32)
        yield b"\xfe\x09\0\x01\x01\0" + PAYLOADS[0] + b"\0\0"
    elif target == "link_verifier":
        for number, payload in PAYLOADS.items():
            yield packet(number, payload, b"k" * 32) + packet(number, payload)
    elif target == "link_text":
        yield b"".join(bytes([IDS.index(number), len(payload)]) + payload for number, payload in PAYLOADS.items())
        for number, payload in PAYLOADS.items():
            yield bytes([IDS.index(number), len(payload)]) + payload
        yield b"".join(bytes([10, 54]) + text(words, 9, at) for at, words in enumerate(["uhr: " + "a" * 45, "b" * 50, "c"]))
    else:
        record = lambda time, source, data: bytes([time, source, len(data)]) + data
        piece = lambda kind, session, number, index, count, data: bytes([kind, session, number, index, count]) + data
        import zlib

        query = b"\x05" + struct.pack("<I", zlib.crc32(b"\x05"))
        yield record(1, 3, piece(0, 1, 0, 0, 1, query)) + record(255, 3, piece(6, 1, 0, 0, 1, b"\0\x01\x07")) + record(1, 3, piece(7, 1, 0, 0, 1, b""))
        yield record(1, 3, piece(0, 1, 1, 1, 3, b"x" * 112)) + record(255, 3, piece(0, 1, 1, 0, 3, b"y" * 112)) + record(255, 3, piece(0, 1, 1, 2, 3, b"z"))
        yield b"".join(record(3, 0, piece(4, 1, 0, at, 3, b"a" * 112)) for at in (2, 0, 1))
        yield record(0, 0, bytes.fromhex("010404030201ffffffff0200030087b6") + b"hello")


for at, seed in enumerate(seeds(sys.argv[1])):
    Path(sys.argv[2], f"seed{at}").write_bytes(seed)
