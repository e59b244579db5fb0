"""The daemon under the profile of a workstation, on a machine that has no GPU: it answers over HTTP on the CPU, says so and why, and answers as the host's profile does."""

import argparse
import json
import tempfile
import urllib.request
from pathlib import Path

from lib.daemon import ROOT, Daemon

QUESTION = "how many yellow planes are there?"
# Of the receipt: what the same plan and seed give anywhere.
SAME = ("seed", "policy", "mode", "budget", "tokens", "evidence", "clusters")


def answered(binary, profile):
    """Answer, status and log of a daemon under `profile`."""
    with tempfile.TemporaryDirectory() as folder, Daemon(binary, folder, profile=profile) as daemon:
        frame = daemon.put(ROOT / "samples/drawn.jpg")
        content = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": f"frame:{frame}"}}]
        body = {"model": "uhr-nano", "seed": 0, "budget": "xlrs", "messages": [{"role": "user", "content": content}]}
        request = urllib.request.Request(f"{daemon.address}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as response:
            whole = json.load(response)
        return whole["choices"][0]["message"]["content"], whole["uhr"]["receipt"], daemon.get("/api/status"), daemon.said()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    binary = parser.parse_args().binary.resolve()
    text, receipt, status, _ = answered(binary, "host")
    assert text and receipt["engines"]["chosen"] is None and status["engines"] is None, (receipt["engines"], status["engines"])
    there, other, status, said = answered(binary, "a6000")
    chosen = other["engines"]["chosen"]
    assert chosen.startswith("CPU; TensorRT missing: ") and "libuhr_shim.so" in chosen, chosen
    assert status["engines"] == chosen and any(f"engines: {chosen}" in line for line in said), (status["engines"], said)
    assert there == text, (there, text)
    for key in SAME:
        assert other[key] == receipt[key], (key, other[key], receipt[key])
    assert {**other["engines"], "chosen": None} == receipt["engines"], other["engines"]
    print(f"a6000 and host answer {text!r} over HTTP, with the same {', '.join(SAME)}; a6000: {chosen!r}")


if __name__ == "__main__":
    main()
