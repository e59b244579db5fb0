#!/usr/bin/env python3
"""A bad serial line: two pseudo-terminals, and between them loss, duplication, reordering, delay, a rate limit, stalls and noise, from a seed.

    python3 tools/lossy-serial/lossy_serial.py --a /tmp/board --b /tmp/ground --loss 0.2 --duplicate 0.05 --reorder 0.1 --delay-ms 1000 --rate 5760

Whole MAVLink packets are lost, doubled and held back, as a radio does it; bytes that are no packet pass as they are. SIGUSR1 stops the line for
--pause seconds, and what is under way is lost. With --tell each packet that goes in is a line, `a 385 4 01020304`: the end, the message's number and,
of a TUNNEL, the second byte of its payload and the next four, which are uhr-edge's kind and session. Ends with SIGTERM or SIGINT, and then prints a line of JSON: bytes and packets in each direction, and the
most bytes that went in in any one and any ten seconds (of what was read late only what must have gone in within them); and late_s, the longest
that this machine gave it no time for.
"""

import argparse
import heapq
import json
import os
import random
import select
import signal
import termios
import time
import tty


def packets(buffer):
    """Takes whole packets, or bytes that are none, off the front of `buffer`."""
    while buffer:
        first = buffer[0]
        if first not in (0xFD, 0xFE):
            end = 1
            while end < len(buffer) and buffer[end] not in (0xFD, 0xFE):
                end += 1
        elif len(buffer) < 3:
            return
        elif first == 0xFE:
            end = 8 + buffer[1]
        else:
            end = 12 + buffer[1] + (13 if buffer[2] & 1 else 0)
        if len(buffer) < end:
            return
        yield bytes(buffer[:end])
        del buffer[:end]


class Direction:
    def __init__(self, rules, seed):
        self.rules, self.random = rules, random.Random(seed)
        self.buffer, self.under_way, self.count = bytearray(), [], 0
        self.free_at = 0.0
        self.totals = dict(packets=0, bytes=0, lost=0, doubled=0, held=0, noise=0)
        self.log, self.most = [], {1: 0, 10: 0}

    def measure(self, now, looked, size):
        """`size` bytes went in between `looked` and `now`."""
        self.log.append((looked, size))
        self.log = [entry for entry in self.log if now - entry[0] < 10]
        for span in self.most:
            self.most[span] = max(self.most[span], sum(size for at, size in self.log if now - at < span))

    def put(self, data, now, looked, stalled, tell):
        self.measure(now, looked, len(data))
        self.buffer += data
        for packet in packets(self.buffer):
            rules, totals = self.rules, self.totals
            totals["packets"] += 1
            if tell:
                tell(packet)
            totals["bytes"] += len(packet)
            self.free_at = max(self.free_at, now) + len(packet) / rules.rate
            if stalled or self.random.random() < rules.loss:
                totals["lost"] += 1
                continue
            copies = 2 if self.random.random() < rules.duplicate else 1
            totals["doubled"] += copies - 1
            for _ in range(copies):
                at = self.free_at + rules.delay_ms / 1e3 + self.random.random() * rules.jitter_ms / 1e3
                if self.random.random() < rules.reorder:
                    totals["held"] += 1
                    at += self.random.random() * 0.4
                self.count += 1
                heapq.heappush(self.under_way, (at, self.count, packet))
            if self.random.random() < rules.noise:
                noise = bytes(self.random.randrange(256) for _ in range(self.random.randrange(1, 40)))
                totals["noise"] += len(noise)
                self.count += 1
                heapq.heappush(self.under_way, (self.free_at, self.count, noise))

    def due(self, now):
        while self.under_way and self.under_way[0][0] <= now:
            yield heapq.heappop(self.under_way)[2]


def told(end):
    """Says what a packet at `end` is."""

    def tell(packet):
        if packet[0] == 0xFD:
            number = int.from_bytes(packet[7:10], "little")
            payload = packet[15:10 + packet[1]] if number == 385 else b""
            print(end, number, *([payload[1], payload[2:6].hex()] if len(payload) >= 6 else []), flush=True)

    return tell


def terminal(link):
    master, slave = os.openpty()
    tty.setraw(master, termios.TCSANOW)
    tty.setraw(slave, termios.TCSANOW)
    os.set_blocking(master, False)
    if os.path.islink(link):
        os.unlink(link)
    os.symlink(os.ttyname(slave), link)
    return master, slave


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", required=True, help="a link to the one terminal is made here")
    parser.add_argument("--b", required=True, help="and to the other here")
    for name, usual in dict(loss=0.0, duplicate=0.0, reorder=0.0, noise=0.0, delay_ms=0.0, jitter_ms=0.0, rate=1e9).items():
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=usual)
    parser.add_argument("--stall", default="", help="FROM:SECONDS after the start, several by commas: nothing passes")
    parser.add_argument("--pause", type=float, default=60.0, help="seconds that the line stops for on SIGUSR1")
    parser.add_argument("--tell", action="store_true", help="a line for each packet that goes in")
    parser.add_argument("--seed", type=int, default=1)
    rules = parser.parse_args()
    stalls = [tuple(map(float, stall.split(":"))) for stall in rules.stall.split(",") if stall]
    (a, a_slave), (b, b_slave) = terminal(rules.a), terminal(rules.b)
    ways = {a: (Direction(rules, rules.seed), b), b: (Direction(rules, rules.seed + 1), a)}
    going = [True]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: going.clear())
    pauses = []
    signal.signal(signal.SIGUSR1, lambda *_: pauses.append(rules.pause))
    print("ready", flush=True)
    begun = time.monotonic()
    now, late = 0.0, 0.0
    while going:
        readable, _, _ = select.select([a, b], [], [], 0.005)
        looked, now = now, time.monotonic() - begun
        late = max(late, now - looked)
        while pauses:
            stalls.append((now, pauses.pop()))
            for way, _ in ways.values():
                way.totals["lost"] += len(way.under_way)
                way.under_way.clear()
        stalled = any(start <= now < start + span for start, span in stalls)
        for end in readable:
            try:
                ways[end][0].put(os.read(end, 4096), now, looked, stalled, told("ab"[end == b]) if rules.tell else None)
            except OSError:
                pass
        for way, to in ways.values():
            for data in way.due(now):
                try:
                    os.write(to, data)
                except BlockingIOError:
                    way.totals["lost"] += 1
    os.unlink(rules.a)
    os.unlink(rules.b)
    counts = {name: dict(way.totals, most_in_1_s=way.most[1], most_in_10_s=way.most[10]) for name, (way, _) in zip(("a_to_b", "b_to_a"), ways.values())}
    print(json.dumps(dict(counts, late_s=round(late, 3))), flush=True)


if __name__ == "__main__":
    main()
