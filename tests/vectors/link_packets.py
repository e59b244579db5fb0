"""Writes link_packets.txt: every message that the board or our own client sends, as whole packets, by pymavlink (three by hand), without a line of our code.

    python tests/vectors/link_packets.py        # pymavlink 2.4.50

A line is a name, then hexadecimal groups: the header (magic, length, two bytes of flags, sequence, system, component, message id), the payload without the zeros at its end, the
checksum, and of a signed packet link number, timestamp and signature. A TUNNEL's payload is in groups of its own: payload type, target and length; the fragment's header (version,
kind, session, number, index, count, CRC-16); its data.
"""

import hashlib
import os
import struct
import zlib
from binascii import crc_hqx
from pathlib import Path

os.environ["MAVLINK20"] = "1"
from pymavlink.dialects.v20 import common

# 10 µs since 2015: 1,800,000,000 s after 1970.
STAMP = 37_992_960_000_000
KEY = bytes(range(32))
BOARD, GROUND = (1, 191), (255, 190)


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


# postcard: a variant or a length is a varint, an option is 0 or 1 and the value, a float its four bytes.
text = lambda words: varint(len(words.encode())) + words.encode()
some = lambda value: b"\1" + value
NONE = b"\0"

ASK = varint(0) + text("why?") + varint(1) + bytes.fromhex("ee557b46b565fd14") + some(text("600")) + some(varint(10_000)) + NONE + some(varint(7))
ANSWERED = varint(0) + varint(300) + text("four") + text("stop") + NONE + varint(600) + varint(600) + varint(1_853) + varint(1) + text("less") + varint(1) + b"\0" + varint(1) + varint(2) + varint(300) + varint(4)
LONG = varint(0) + varint(1) + text("x" * 120) + text("length") + some(text("B")) + varint(0) * 3 + varint(0) * 2
PIECE = varint(5) + varint(0xCBF43926) + varint(0) + b"12345"
sealed = lambda body: body + struct.pack("<I", zlib.crc32(body))
# Kind, data of each fragment.
FRAGMENTS = {
    "QUERY ask": (0, [sealed(ASK)]),
    "QUERY fetch": (0, [sealed(varint(1) + text("/answers/1/evidence.jpg") + varint(8_192) + varint(8_192))]),
    "QUERY frames": (0, [sealed(varint(2) + b"\x0a")]),
    "QUERY answers": (0, [sealed(varint(3) + b"\x40")]),
    "QUERY settings": (0, [sealed(varint(4) + some(text("UHR_TOKBUD") + struct.pack("<f", 600)))]),
    "QUERY status": (0, [sealed(varint(5))]),
    "ACCEPT": (1, [varint(300) + varint(2)]),
    "REJECT": (2, [text("busy") + text("full") + varint(5) + varint(4)]),
    "PROGRESS": (3, [text("prefill") + varint(500) + varint(130) + text("two")]),
    "ANSWER": (4, [sealed(ANSWERED)]),
    "ANSWER refused": (4, [sealed(varint(1) + varint(1) + text("late") + text("no"))]),
    "ANSWER of two": (4, [sealed(LONG)[:112], sealed(LONG)[112:]]),
    "BLOB": (5, [sealed(PIECE)]),
    "NACK": (6, [varint(3) + varint(2) + b"\x11\x40"]),
    "DONE-ACK": (7, [b""]),
    "CANCEL": (8, [b""]),
    "STATUS": (9, [sealed(b"{}\n")]),
}


def fragment(kind, index, count, data):
    head = struct.pack("<BBIIHH", 1, kind, 0x01020304, 0xFFFFFFFF, index, count)
    # CRC-16/IBM-3740.
    return head + struct.pack("<H", crc_hqx(head + data, 0xFFFF)) + data


class Plain:
    """A message by its number, check byte and payload."""

    def __init__(self, number, extra, payload):
        self.number, self.extra, self.payload = number, extra, payload.rstrip(b"\0") or b"\0"

    def pack(self, link):
        signed = link.signing.sign_outgoing
        head = struct.pack("<BBBBBB", len(self.payload), int(signed), 0, link.seq, link.srcSystem, link.srcComponent) + self.number.to_bytes(3, "little")
        value = 0xFFFF
        for byte in head + self.payload + bytes([self.extra]):
            byte ^= value & 0xFF
            byte = (byte ^ byte << 4) & 0xFF
            value = value >> 8 ^ byte << 8 ^ byte << 3 ^ byte >> 4
        packet = b"\xfd" + head + self.payload + struct.pack("<H", value)
        if signed:
            packet += bytes([link.signing.link_id]) + link.signing.timestamp.to_bytes(6, "little")
            packet += hashlib.sha256(KEY + packet).digest()[:6]
        return packet


def messages():
    make = common.MAVLink(None)
    yield "HEARTBEAT board", BOARD, make.heartbeat_encode(18, 8, 0, 0, 4)
    yield "HEARTBEAT ground", GROUND, make.heartbeat_encode(6, 8, 0, 0, 4)
    zeros = lambda count: [0] * count
    yield "ONBOARD_COMPUTER_STATUS", BOARD, make.onboard_computer_status_encode(1_800_000_000_000_000, 61_000, 0, zeros(8), zeros(10), zeros(4), zeros(10), 58, zeros(8), zeros(4), 230, 0, zeros(4), zeros(4), zeros(4), zeros(6), zeros(6), zeros(6), zeros(6), zeros(6))
    yield "COMMAND_ACK", BOARD, make.command_ack_encode(31_010, 5, 42, 0, 255, 190)
    yield "STATUSTEXT", BOARD, make.statustext_encode(6, b"uhr 12: two ships", 0, 0)
    yield "STATUSTEXT chunk", BOARD, make.statustext_encode(6, b"x" * 50, 7, 2)
    yield "PARAM_VALUE", BOARD, make.param_value_encode(b"UHR_TOKBUD", 600, 9, 5, 0)
    yield "PARAM_EXT_VALUE", BOARD, make.param_ext_value_encode(b"UHR_ASK", b"", 11, 6, 5)
    yield "PARAM_EXT_ACK", BOARD, make.param_ext_ack_encode(b"UHR_ASK", b"why?", 11, 0)
    payload = struct.pack("<HBBBBBBI", 8, 1, 128, 5, 5, 0, 0, 212) + b"bytes"
    yield "FILE_TRANSFER_PROTOCOL", BOARD, make.file_transfer_protocol_encode(0, 255, 190, list(payload.ljust(251, b"\0")))
    yield "AUTOPILOT_VERSION", BOARD, make.autopilot_version_encode(1 << 1 | 1 << 5 | 1 << 13, 0x000100FF, 0, 0, 0, zeros(8), zeros(8), zeros(8), 0, 0, 0)
    # Three that pymavlink has not. 217, 0 and 182: their check bytes, of https://github.com/mavlink/mavlink's generator.
    yield "PROTOCOL_VERSION", BOARD, Plain(300, 217, struct.pack("<HHH", 200, 200, 200) + bytes(16))
    uris = b"mftp:///general.json".ljust(100, b"\0") + bytes(100)
    yield "COMPONENT_INFORMATION", BOARD, Plain(395, 0, struct.pack("<III", 61_000, 0x12345678, 0) + uris)
    yield "COMPONENT_METADATA", BOARD, Plain(397, 182, struct.pack("<II", 61_000, 0x12345678) + b"mftp:///general.json")
    for name, (kind, parts) in FRAGMENTS.items():
        for index, data in enumerate(parts):
            source, target = (GROUND, BOARD) if kind in (0, 6, 7, 8) else (BOARD, GROUND)
            payload = fragment(kind, index, len(parts), data)
            yield f"TUNNEL {name}" + (f" {index}" if len(parts) > 1 else ""), source, make.tunnel_encode(*target, 33_331, len(payload), list(payload.ljust(128, b"\0")))


def groups(packet):
    end = 10 + packet[1]
    payload = packet[10:end]
    cuts = [payload[:5], payload[5:21], payload[21:]] if packet[7:10] == b"\x81\x01\0" else [payload]
    tail = packet[end + 2:]
    return " ".join(part.hex() for part in [packet[:10], *cuts, packet[end:end + 2], tail[:1], tail[1:7], tail[7:]] if part)


lines = []
for name, (system, component), message in messages():
    for signed in (False, True):
        link = common.MAVLink(None, srcSystem=system, srcComponent=component)
        link.seq = 7
        if signed:
            link.signing.secret_key, link.signing.link_id, link.signing.timestamp, link.signing.sign_outgoing = KEY, 3, STAMP, True
        lines.append(f"{name}{' signed' if signed else ''}: {groups(bytes(message.pack(link)))}\n")
(Path(__file__).parent / "link_packets.txt").write_text("".join(lines))
