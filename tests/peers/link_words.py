"""A busy line of 1 kB/s, a pseudo-terminal: pymavlink speaks our own client's protocol, written here from docs/link.md, while it fetches a picture and reads parameters all the
time. The first words of an answer are over there within 3 s of being generated, by the board's own times, and the line never carries more than its share."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from binascii import crc_hqx
from pathlib import Path

os.environ["MAVLINK20"] = "1"
from pymavlink import mavutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from link.daemon import PASSPHRASE, ROOT, Daemon, keeps_to, run

RATE = 1_000
PAYLOAD_TYPE, SESSION, DATA = 33_331, 0x1234, 112
QUERY, ACCEPT, REJECT, PROGRESS, ANSWER, BLOB, DONE_ACK = 0, 1, 2, 3, 4, 5, 7


def varint(data, at):
    value, shift = 0, 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def words_of(record):
    """The words in a PROGRESS: stage, per mille, from, words."""
    length, at = varint(record, 0)
    _, at = varint(record, at + length)
    _, at = varint(record, at)
    length, at = varint(record, at)
    return record[at:at + length].decode()


class Client:
    def __init__(self, link):
        self.link, self.parts, self.came = link, {}, []
        self.chatted, self.params, self.fetching = 0.0, 0, None
        self.number = 0

    def send(self, kind, number, data=b""):
        head = struct.pack("<BBIIHH", 1, kind, SESSION, number, 0, 1)
        payload = head + struct.pack("<H", crc_hqx(head + data, 0xFFFF)) + data
        self.link.mav.tunnel_send(1, 191, PAYLOAD_TYPE, len(payload), list(payload.ljust(128, b"\0")))

    def query(self, record):
        self.number += 1
        self.send(QUERY, self.number, record + struct.pack("<I", zlib.crc32(record)))
        return self.number

    def ask(self, text):
        # Ask: the text, no frames (the newest), four times nothing.
        return self.query(bytes([0, len(text)]) + text.encode() + bytes(5))

    def fetch(self, path):
        # Fetch: the path, from 0, at most 24,000 bytes.
        self.fetching = (path, self.query(bytes([1, len(path)]) + path.encode() + bytes([0, 0xC0, 0xBB, 0x01])))

    def step(self):
        """A packet, if one comes within 20 ms; the fragments of other things than pictures are put by, with their time."""
        if time.time() - self.chatted > 0.25:
            self.chatted = time.time()
            self.link.mav.param_request_read_send(1, 191, b"UHR_TOKBUD", -1)
        message = self.link.recv_match(blocking=True, timeout=0.02)
        if message is None:
            return
        if message.get_type() == "PARAM_VALUE":
            self.params += 1
        if message.get_type() != "TUNNEL" or message.payload_type != PAYLOAD_TYPE or message.target_system != 255:
            return
        payload = bytes(message.payload[:message.payload_length])
        version, kind, session, number, index, count, found = struct.unpack("<BBIIHHH", payload[:16])
        assert (version, session, found) == (1, SESSION, crc_hqx(payload[:14] + payload[16:], 0xFFFF)), payload
        self.came.append((time.time(), kind, number, payload[16:]))
        if kind in (ANSWER, BLOB):
            parts = self.parts.setdefault(number, {})
            parts[index] = payload[16:]
            if len(parts) == count:
                whole = b"".join(parts[at] for at in range(count))
                assert zlib.crc32(whole[:-4]) == struct.unpack("<I", whole[-4:])[0]
                self.send(DONE_ACK, number)
                if self.fetching and number == self.fetching[1]:
                    self.fetch(self.fetching[0])

    def wait(self, kinds, number, seconds=120):
        """The first fragment of these kinds, of this number."""
        end = time.time() + seconds
        while True:
            for at, kind, of, data in self.came:
                assert kind != REJECT, data
                if of == number and kind in kinds and not (kind == PROGRESS and not words_of(data)):
                    return at, kind, data
            assert time.time() < end, f"none of {kinds} in {seconds} s"
            self.step()


def made_at(daemon, number):
    """When the first word of an answer was generated, by the board's own times."""
    entry, = [entry for entry in daemon.questions() if entry["id"] == number]
    stages = daemon.get(f"/api/answers/{number}")["receipt"]["stages_ms"]
    return (entry["done_at"] - stages["total"] + stages["first_token"]) / 1e3


def check(binary):
    a, b = f"/tmp/uhr-words-a-{os.getpid()}", f"/tmp/uhr-words-b-{os.getpid()}"
    daemon = None
    pty = subprocess.Popen([sys.executable, str(ROOT / "tools/lossy-serial/lossy_serial.py"), "--a", a, "--b", b, "--rate", str(RATE), "--delay-ms", "300"], stdout=subprocess.PIPE, text=True)
    try:
        assert pty.stdout.readline().strip() == "ready"
        daemon = Daemon(binary, [(f"serial:{a}:57600", True, f"bytes-per-s = {RATE}")])
        link = mavutil.mavlink_connection(b, baud=57600, source_system=255, source_component=190, dialect="common")
        link.setup_signing(hashlib.sha256(PASSPHRASE.encode()).digest(), sign_outgoing=True, link_id=3)
        client = Client(link)
        first = client.ask("How many ships are there?")
        _, _, accept = client.wait([ACCEPT], first)
        client.wait([ANSWER], first)
        client.fetch(f"/answers/{varint(accept, 0)[0]}/evidence.jpg")
        client.wait([BLOB], client.fetching[1])
        waits = []
        blobs = lambda: len([kind for _, kind, _, _ in client.came if kind == BLOB])
        # Five, and more on a machine that is through with them before the line was busy.
        for at in range(40):
            number = client.ask(f"What is there in part {at} of this frame, and how many of them?")
            _, _, accept = client.wait([ACCEPT], number)
            heard, kind, _ = client.wait([PROGRESS, ANSWER], number)
            client.wait([ANSWER], number)
            waits.append((round(heard - made_at(daemon, varint(accept, 0)[0]), 2), {PROGRESS: "in progress", ANSWER: "in the answer"}[kind]))
            if at >= 4 and client.params > 20 and blobs() > 50:
                break
        print(f"first words after they were made: {waits}; {blobs()} fragments of pictures and {client.params} parameters beside them", flush=True)
        assert all(wait <= 3 for wait, _ in waits), waits
        assert client.params > 20 and blobs() > 50, (client.params, blobs())
    except BaseException:
        print(daemon.told() if daemon else "", flush=True)
        raise
    finally:
        if daemon:
            daemon.close()
        pty.terminate()
    counts = json.loads(pty.communicate(timeout=10)[0].strip())
    keeps_to(RATE, counts)
    # It was busy.
    assert counts["a_to_b"]["most_in_10_s"] >= 6 * RATE, counts


if __name__ == "__main__":
    run(check)
