"""A daemon under test."""

import json
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


class Daemon:
    """A daemon on the committed model, on a port that the system chooses."""

    def __init__(self, binary, folder, *more):
        self.folder = Path(folder)
        self.capture = self.folder / "capture"
        self.capture.mkdir()
        command = [binary, "serve", "--capture", self.capture, "--journal", self.folder / "journal.sqlite", "--http", "127.0.0.1:0", *more]
        self.log = (self.folder / "log").open("w+")
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.log, stderr=self.log)
        self.address = self.wait(lambda: next((line.split("HTTP on ")[1].split()[0] for line in self.said() if "HTTP on " in line), None), "an address")

    def said(self):
        return (self.folder / "log").read_text().splitlines()

    def wait(self, found, what, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the daemon ended: {self.said()[-5:]}"
            value = found()
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(f"no {what} within {seconds} s: {self.said()[-5:]}")

    def get(self, path):
        with urllib.request.urlopen(self.address + path) as response:
            return json.load(response)

    def put(self, frame):
        """Copies a frame into the watched folder and waits until it is taken in; its id."""
        known = {entry["id"] for entry in self.get("/api/frames")["frames"]}
        (self.capture / frame.name).write_bytes(frame.read_bytes())
        new = lambda: next((e for e in self.get("/api/frames")["frames"] if e["id"] not in known and e["state"] == "ready"), None)
        return self.wait(new, f"{frame.name} taken in")["id"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(timeout=30) == 0, self.said()[-5:]
