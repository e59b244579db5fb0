"""A second question on a 58 MP frame that the daemon has taken in: nothing is decoded, encoded or clustered, and its median time against the planned one.

The plan is the calibration's (`uhr-edge qualify` on this machine, committed model, profile host): anchor, select, merge, prefill and generate. usage: tools/bench/run second [--n N]
"""

import argparse
import json
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests/peers")]
from large_frame import INGEST, fetch  # noqa: E402
from lib.daemon import Daemon  # noqa: E402

QUESTIONS = ["is there a red ship?", "how many yellow planes are there?", "what colour is the truck?", "where is the red plane?", "how many blue tents are there?"]
WARM_UP = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/uhr-edge")
    parser.add_argument("--cache", type=Path, default=ROOT / "target/peers-cache")
    parser.add_argument("--calibration", type=Path, default=ROOT / "qualification/qualification.json")
    parser.add_argument("--n", type=int, default=100)
    args = parser.parse_args()
    measured, planned = [], []
    with tempfile.TemporaryDirectory() as folder, Daemon(args.binary, folder, "--calibration", args.calibration) as daemon:
        frame = daemon.put(fetch(args.cache))
        for number in range(WARM_UP + args.n):
            body = json.dumps({"text": QUESTIONS[number % len(QUESTIONS)], "frames": [frame]}).encode()
            with urllib.request.urlopen(urllib.request.Request(f"{daemon.address}/api/questions", body, {"content-type": "application/json"})) as response:
                question = json.load(response)["id"]
            daemon.wait(lambda: daemon.get(f"/api/questions/{question}")["outcome"], "an answer")
            receipt = daemon.get(f"/api/answers/{question}")["receipt"]
            assert all(receipt["stages_ms"][stage] == 0 for stage in INGEST), receipt["stages_ms"]
            if number >= WARM_UP:
                measured.append(receipt["stages_ms"]["total"])
                planned.append(receipt["predicted_ms"]["total"]["p50"])
    measured.sort()
    median, plan = measured[len(measured) // 2], sorted(planned)[len(planned) // 2]
    at = lambda share: measured[min(len(measured) - 1, int(share * len(measured)))]
    print(f"n={args.n}, warm-up {WARM_UP}: p50 {median:.0f} ms, p95 {at(0.95):.0f}, p99 {at(0.99):.0f}; planned p50 {plan:.0f} ms: {median / plan - 1:+.1%}; decode, views, encode and regions 0 ms in all")


if __name__ == "__main__":
    main()
