"""Questions over HTTP without end: the daemon's resident set and its descriptors stay what they were.

The committed encoder and the real compression, a scripted language model. UHR_SOAK_QUESTIONS (500) in groups of 50, each about a frame of its own; memory is looked at after each
group, and the first third counts for nothing. It must stay within the plan; over 5,000 questions or more, which is what it takes to tell, its slope must have 0 in its 95 % interval or lie below it.
"""

import argparse
import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from lib.daemon import ROOT, Daemon
from PIL import Image

GROUP = 50
# Two-sided 95 % of Student's t, by degrees of freedom.
T95 = {2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 8: 2.31, 10: 2.23, 15: 2.13, 30: 2.04, 60: 2.00}


def quantile(freedom):
    return next(value for most, value in reversed(T95.items()) if most <= freedom)


def resident(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def slope(values):
    """Of a line through values a group: the slope, and half its 95 % interval."""
    x = np.arange(len(values)) - (len(values) - 1) / 2
    y = np.array(values)
    rise = (x * y).sum() / (x * x).sum()
    rest = y - y.mean() - rise * x
    freedom = len(values) - 2
    return rise, quantile(freedom) * np.sqrt((rest * rest).sum() / freedom / (x * x).sum())


def post(address, document):
    request = urllib.request.Request(f"{address}/api/questions", json.dumps(document).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["id"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    groups = int(os.environ.get("UHR_SOAK_QUESTIONS", "500")) // GROUP
    random = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        profile = folder / "profile.toml"
        text = (ROOT / "firmware-config/host.toml").read_text().replace('language = "gguf"', 'language = "scripted"')
        profile.write_text(text + "\n[journal]\nmax-mib = 64\n")
        with Daemon(args.binary.resolve(), folder, profile=profile) as daemon:
            pid, sizes, handles, begun = daemon.process.pid, [], [], time.monotonic()
            for group in range(groups):
                picture = folder / f"{group}.jpg"
                noise = random.integers(0, 256, (60, 80, 3), np.uint8)
                Image.fromarray(noise).resize((1400, 1050), Image.BICUBIC).save(picture, quality=90)
                frame = daemon.put(picture)
                ids = [post(daemon.address, {"text": f"is there a red ship? {number}", "frames": [frame], "max_new": 4}) for number in range(GROUP)]
                for question in ids:
                    done = lambda: daemon.get(f"/api/questions/{question}")["state"] != "open" or None
                    daemon.wait(done, f"answer to {question}")
                outcome = [daemon.get(f"/api/questions/{question}")["outcome"] for question in (ids[0], ids[-1])]
                assert all(one and "answered" in one for one in outcome), outcome
                sizes.append(resident(pid))
                handles.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
            seconds = time.monotonic() - begun
            # The status is published five times a second.
            all_counted = lambda: (status := daemon.get("/api/status"))["questions"]["answered"] >= groups * GROUP and status
            status = daemon.wait(all_counted, "count of all answers", 10)
    steady = sizes[groups // 3 :]
    rise, half = slope(steady)
    print(f"{groups * GROUP} questions about {groups} frames in {seconds:.0f} s; resident {sizes[0]:.1f} MiB after the first group, {steady[0]:.1f} to {steady[-1]:.1f} MiB over the last {len(steady)}")
    print(f"slope {rise * 1024:.1f} ± {half * 1024:.1f} KiB a group of {GROUP}; descriptors {min(handles)} to {max(handles)}, {handles[-1]} at the end; answered {status['questions']['answered']}")
    assert status["questions"]["answered"] == groups * GROUP, status["questions"]
    planned = status["memory"]["planned_bytes"] / 2**20
    assert max(sizes) <= planned, f"resident {max(sizes):.0f} MiB of {planned:.0f} planned"
    if groups * GROUP >= 5_000:
        assert half < 64 / 1024, f"too noisy to tell: {[round(size, 1) for size in sizes]}"
        assert rise - half <= 0, f"the resident set grows: {[round(size, 1) for size in sizes]}"
    assert handles[-1] <= handles[groups // 3] + 2, f"descriptors grow: {handles}"


if __name__ == "__main__":
    main()
