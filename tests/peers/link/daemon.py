"""A daemon with uhr-nano and the committed frame, for the clients of the link."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PASSPHRASE = "the-peers-of-the-link"
PRESETS = ["How many ships are there?", "What colour is the largest building?"]


def free_port(kind=socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    """`lines`: each a line's address, whether it has the key, and what else its table says."""

    def __init__(self, binary, lines):
        self.folder = Path(tempfile.mkdtemp(prefix="uhr-link-"))
        self.binary = str(Path(binary).resolve())
        self.key = self.folder / "link.key"
        subprocess.run([self.binary, "gcs", "key", "from-passphrase", str(self.key)], input=PASSPHRASE + "\n", text=True, check=True, stdout=subprocess.PIPE)
        (self.folder / "capture").mkdir()
        shutil.copy(ROOT / "samples/drawn.jpg", self.folder / "capture")
        self.http = free_port(socket.SOCK_STREAM)
        profile = (ROOT / "firmware-config/host.toml").read_text()
        profile += f'\n[serve]\ncapture = ["{self.folder}/capture"]\nhttp = "127.0.0.1:{self.http}"\n'
        profile += f'\n[journal]\nfile = "{self.folder}/journal.sqlite"\n\n[link]\npresets = {json.dumps(PRESETS)}\n'
        for address, keyed, *more in lines:
            security = f'key-file = "{self.key}"' if keyed else "insecure = true"
            profile += "\n".join(["", "[[link.lines]]", f'to = "{address}"', security, *more, ""])
        (self.folder / "profile.toml").write_text(profile)
        self.log = open(self.folder / "log", "w+b")
        try:
            self.start()
        except BaseException:
            self.process.kill()
            raise

    def start(self):
        self.process = subprocess.Popen([self.binary, "--profile", str(self.folder / "profile.toml"), "serve"], cwd=ROOT, stdout=self.log, stderr=self.log)
        end = time.time() + 120
        while time.time() < end:
            try:
                if any(frame["state"] == "ready" for frame in self.get("/api/frames")["frames"]):
                    return
            except OSError:
                pass
            assert self.process.poll() is None, self.told()
            time.sleep(0.2)
        raise AssertionError("the daemon is not ready after two minutes\n" + self.told())

    def told(self):
        return (self.folder / "log").read_text(errors="replace")

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=10) as reply:
            return json.load(reply)

    def long_question(self):
        """Puts a frame before the daemon that isn't taken in yet, with work in front of it, and gives its number: what is asked about it takes a while, with shares to tell."""
        before = {frame["id"] for frame in self.get("/api/frames")["frames"]}
        for at in range(3):
            body = json.dumps({"text": f"Work in front, part {at}.", "frames": ["newest"]}).encode()
            urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.http}/api/questions", body, {"content-type": "application/json"}), timeout=10)
        shutil.copy(ROOT / "samples/real.jpg", self.folder / "capture")
        end = time.time() + 60
        while not (new := [frame for frame in self.get("/api/frames")["frames"] if frame["id"] not in before]):
            assert time.time() < end, "the frame is not seen"
            time.sleep(0.05)
        assert new[0]["state"] == "waiting", f"the frame was taken in before it was asked about: {new[0]}"
        return new[0]["number"]

    def answer(self, number):
        """The text of an answer in the journal."""
        return self.get(f"/api/answers/{number}")["text"]

    def questions(self):
        return self.get("/api/questions?limit=200")["questions"]

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def keeps_to(rate, counts, way="a_to_b"):
    """Whether no second and no ten carried more than `rate` says, by what tools/lossy-serial counted. A machine that gives a process no time moves a packet by as long."""
    slack = 1 + counts["late_s"]
    most = counts[way]
    assert most["most_in_1_s"] <= rate * slack and most["most_in_10_s"] <= 10 * rate, counts
    print(f"most bytes {way} in 1 s {most['most_in_1_s']}, in 10 s {most['most_in_10_s']}, at {rate} bytes/s, on a machine that was late by {counts['late_s']} s at most", flush=True)


def run(check):
    """Runs `check(binary)` with what the command line says; says how it ended."""
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--cache")
    args = parser.parse_args()
    check(args.binary)
    print("ok", flush=True)
    os._exit(0)
