"""Writes seeds/link_*/: what the link's fuzz targets begin with, from nothing but the standard library. The files are in the repository; run this after a target's form changed."""

import hashlib
import struct
from pathlib import Path

# Message id: its check byte.
EXTRA = {0: 50, 20: 214, 21: 159, 23: 168, 30: 39, 33: 104, 76: 152, 109: 185, 110: 84, 180: 52, 253: 83, 256: 71, 263: 133, 320: 243, 321: 88, 323: 78, 385: 147}
# Of link_text.rs.
IDS = [0, 20, 21, 23, 30, 33, 76, 109, 110, 180, 253, 256, 263, 320, 321, 323, 385, 111]


def crc(data):
    value = 0xFFFF
    for byte in data:
        byte ^= value & 0xFF
        byte = (byte ^ (byte << 4)) & 0xFF
        value = (value >> 8) ^ (byte << 8) ^ (byte << 3) ^ (byte >> 4)
    return struct.pack("<H", value & 0xFFFF)


def packet(number, payload, key=None, system=255, component=190):
    payload = payload.rstrip(b"\0") or b"\0"
    head = struct.pack("<BBBBBB", len(payload), 1 if key else 0, 0, 0, system, component) + struct.pack("<I", number)[:3]
    whole = b"\xfd" + head + payload + crc(head + payload + bytes([EXTRA[number]]))
    if key:
        stamp = b"\0" + struct.pack("<Q", 37_993_000_000_000)[:6]
        whole += stamp + hashlib.sha256(key + whole + stamp).digest()[:6]
    return whole


def text(words, number=0, sequence=0):
    return bytes([6]) + words.encode().ljust(50, b"\0") + struct.pack("<HB", number, sequence)


def ftp(opcode, data=b"", session=0, size=None, offset=0):
    return bytes([0, 1, 191]) + struct.pack("<HBBBBBBI", 1, session, opcode, len(data) if size is None else size, 0, 0, 0, offset) + data


def ask(words):
    return bytes([1, 191]) + b"UHR_ASK".ljust(16, b"\0") + words.encode().ljust(128, b"\0") + b"\x0b"


PAYLOADS = {
    0: struct.pack("<IBBBBB", 0, 2, 3, 0, 4, 3),
    20: struct.pack("<hBB", -1, 1, 191) + b"UHR_TOKBUD",
    21: bytes([1, 191]),
    23: struct.pack("<fBB", 600, 1, 191) + b"UHR_TOKBUD".ljust(16, b"\0") + b"\x09",
    30: struct.pack("<I6f", 1, 0.1, 0.2, -0.5, 0, 0, 0),
    33: struct.pack("<IiiiihhhH", 1, 473_000_000, 85_000_000, 500_000, 80_000, 0, 0, 0, 0),
    76: struct.pack("<7fHBBB", 1, 5, 0, 0, 0, 0, 0, 31010, 1, 191, 0),
    109: struct.pack("<HHBBBBB", 0, 0, 100, 100, 40, 0, 0),
    110: ftp(4, b"/answers/1/answer.json"),
    180: struct.pack("<Qii6fHBBB", 1, 473_000_000, 85_000_000, 500, 80, 0, 0, 0, 0, 1, 1, 0, 0),
    253: text("uhr: how many ships are there?"),
    256: struct.pack("<QBB", 1, 1, 191) + bytes(range(32)),
    263: struct.pack("<QIiiii4fiBb", 1, 1, 473_000_000, 85_000_000, 500_000, 80_000, 1, 0, 0, 0, 1, 0, 1),
    320: struct.pack("<hBB", -1, 1, 191) + b"UHR_ASK",
    321: bytes([1, 191]),
    323: ask("how many \\"),
}

# Records of src/link/wire/records.rs, as tests/link_golden.rs has them.
QUERIES = [bytes.fromhex(line) for line in """
00047768793f01ee557b46b565fd14010336303001904e000107
01022f61c8018040
01172f616e73776572732f312f616e737765722e6a736f6e008040
020a
0340
04010a5548525f544f4b42554400001644
0400
05""".split()]
REPLY = bytes.fromhex("00ac0204666f75720473746f7000d804d804bd0e01046c65737301000102ac0204")
REFUSED = bytes.fromhex("0101046c617465026e6f")
SINGLE = {1: "ac0202", 2: "04627573790466756c6c0504", 3: "0770726566696c6cf40382010374776f", 6: "03021140"}


def parser():
    every = b"".join(packet(number, payload) for number, payload in PAYLOADS.items())
    yield b"\x3e" + every
    yield b"\x01" + every
    yield b"\x0e" + b"\xfd\x20\0\0" + packet(0, PAYLOADS[0]) + b"\xfe" + packet(253, PAYLOADS[253], b"k" * 32)
    yield b"\x03" + b"\xfe\x09\0\x01\x01\0" + PAYLOADS[0] + b"\0\0"
    yield b"\x05" + b"\xfd\x04\x01\0\0\x01\x01\x63\x63\x63" + bytes(4 + 2 + 13) + packet(0, PAYLOADS[0])


def verifier():
    sent = lambda what, system, component, link, off, used: bytes([what, system, component, link]) + struct.pack("<hB", off, used)
    again, restart = bytes([4, 0, 0, 0]), bytes([4, 1, 0, 0])
    session = b"".join(sent(at % 3, 9, 1, 0, at, at) for at in range(20))
    yield session + again + restart + again + sent(0, 9, 1, 0, 100, 0)
    # More streams than there is room for.
    yield b"".join(sent(0, at % 16, at // 16, 2, at, at) for at in range(60)) + again + restart + again
    yield sent(0, 1, 1, 1, -1_000, 0) + sent(0, 1, 1, 1, 1_000, 0) + sent(0x80, 1, 1, 1, 1_001, 33) + sent(0, 2, 2, 2, 32_000, 0)
    yield bytes([5, 0, 9, 0]) + session + again + bytes([5, 1, 200, 0]) + again + bytes([3, 5, 0, 0])
    yield bytes([6, 0, 10, 0, 6, 1, 3, 40]) + packet(76, PAYLOADS[76], b"k" * 32)[:40] + session
    # A memory of one stream, forgotten, own.
    yield bytes([7, 0, 0, 6]) + bytes.fromhex("01ffbe000a01") + bytes([7, 0, 0, 9]) + b"\xff" * 9


def fragments():
    record = lambda what, time, a, b, data: bytes([what, time, a, b, len(data)]) + data
    rounds = b"".join(record(6, 40, 0, 0, b"") for _ in range(6))
    losing = b"".join(record(6, 60, 0, lost, b"") for lost in (0xAA, 0x55, 0x0F, 0, 0, 0))
    for query in QUERIES:
        # Asked by the ground station, taken, answered over a line that loses.
        yield record(4, 1, 0, 0, query) + rounds + record(5, 1, 0, 0, b"") + record(5, 30, 0, 1, b"words") + record(5, 30, 20, 3, REPLY) + losing
    yield b"".join(record(2, 10, at << 4, 0, query) for at, query in enumerate(QUERIES)) + record(5, 1, 0, 2, b"busy") + rounds
    long = b"\x00" + b"\xe8\x01" + b"a" * 232 + bytes(5)
    yield record(2, 1, 0, 2, long) + rounds + record(2, 255, 0, 1, long) + record(2 | 128, 1, 16, 0, long)
    yield record(4, 1, 0, 0, b"\x05") + record(3, 1, 0, 1, REPLY * 7) + losing + record(3 | 128, 1, 0, 0, REPLY * 7) + record(3, 1, 0, 0, REFUSED)
    yield b"".join(record(0, 0, 0, 0, bytes.fromhex(line)) for line in SINGLE.values())
    yield record(4, 1, 0, 1, b"\x05") + b"".join(record(1, 9, 0, kind, bytes([1, 0, 1]) + bytes.fromhex(line)) for kind, line in SINGLE.items()) + rounds
    yield record(0, 0, 0, 0, bytes.fromhex("010404030201ffffffff020003002021") + b"hello") + record(7, 1, 0, 0, b"")


def words():
    # Who: 0 a ground station, 1 and 2 autopilots; 4 aims at us; the rest is time.
    record = lambda number, payload, who=0: bytes([IDS.index(number), who, len(payload)]) + payload
    yield b"".join(record(number, payload) for number, payload in PAYLOADS.items())
    # The autopilot is learnt, says where it is, the camera where it took a picture.
    yield record(0, PAYLOADS[0], 1) + b"".join(record(number, PAYLOADS[number], 1 | 8) for number in (33, 30, 180, 263, 33, 30))
    yield record(0, PAYLOADS[0], 2) + record(33, PAYLOADS[33], 2) + record(30, PAYLOADS[30], 2 | 8 * 20) + record(180, PAYLOADS[180], 2)
    yield record(323, ask("how many \\")) + record(323, ask("ships are there?")) + record(323, ask("and where?"), 4 | 8)
    yield record(253, text("uhr: is there a runway?")) + b"".join(record(253, text(part, 9, at)) for at, part in enumerate(["uhr: " + "a" * 45, "b" * 50, "c"]))
    # Each query is acknowledged; a source has four at once.
    yield b"".join(record(385, bytes([at]) + query, 4 | 8) + record(385, bytes([0x80 | at]), 4) for at, query in enumerate(QUERIES))
    yield b"".join(record(385, bytes([at]) + QUERIES[-1], 4) for at in range(6))
    yield b"".join(record(76, PAYLOADS[76], 4 | 8 * wait) for wait in (0, 9, 9, 9, 9, 9)) + record(76, struct.pack("<7fHBBB", 397, 0, 0, 0, 0, 0, 0, 512, 1, 191, 0))
    steps = [ftp(3, b"/answers"), ftp(4, b"/answers/1/answer.json"), ftp(5, size=212), ftp(15, size=212, offset=212), ftp(14, b"/general.json"), ftp(4, b"/answers/1/evidence.jpg"), ftp(13, b"/x"), ftp(1), ftp(2)]
    yield b"".join(record(110, step, 4) for step in steps)
    yield b"".join(record(number, PAYLOADS[number], 4) for number in (21, 321, 20, 320, 23, 256, 109))


for name, seeds in {"link_parser": parser, "link_verifier": verifier, "link_fragments": fragments, "link_text": words}.items():
    folder = Path(__file__).resolve().parent / "seeds" / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for at, seed in enumerate(seeds()):
        (folder / f"{at:02}").write_bytes(seed)
