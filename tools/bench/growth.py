"""How the compression's cost grows: time and peak memory of `compress` against tokens, clusters and budget. Writes docs/growth.md and docs/growth.svg.

    tools/bench/run growth
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent.parent
SHARES = np.array([80, 320, 600, 2000]) / 3000
# Peak memory of a child that a small process starts: a fork would count this one's own.
MEASURE = "import os,sys;p=os.posix_spawn(sys.argv[1],sys.argv[1:],os.environ);_,s,u=os.wait4(p,0);print(u.ru_maxrss*1024,file=sys.stderr);sys.exit(os.waitstatus_to_exitcode(s))"


def make(path, tokens, dim, seed):
    rng = np.random.default_rng(seed)
    sides = [max(4, round(view / 14 * (tokens / 131_328) ** 0.5)) for view in (672, 1344, 2688, 4032)]
    tensors = {}
    for number, side in enumerate(sides, 1):
        directions = rng.standard_normal((400, dim), np.float32)
        own = (np.arange(side)[:, None] * 20 // side * 20 + np.arange(side)[None] * 20 // side).ravel()
        rows = np.empty((side * side, dim), np.float16)
        for start in range(0, len(rows), 8192):
            part = own[start : start + 8192]
            rows[start : start + 8192] = directions[part] + rng.standard_normal((len(part), dim), np.float32)
        tensors[f"view{number}.features"] = rows
        tensors[f"view{number}.importance"] = rng.random(side * side, np.float32)
    save_file(tensors, path, {"views": ",".join(str(14 * side) for side in sides), "tile": "14", "patch": "14"})
    return sum(side * side for side in sides), sum(t.nbytes for name, t in tensors.items() if "features" in name)


def run(binary, path, clusters, budget, runs):
    times, peaks = [], []
    per_view = ",".join(str(int(share * budget)) for share in SHARES)
    with tempfile.NamedTemporaryFile() as out:
        for _ in range(runs):
            command = [sys.executable, "-S", "-c", MEASURE, binary, "--json", "compress", str(path), "--out", out.name, "--budget", per_view, "--clusters", str(clusters)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            views = json.loads(done.stdout)["views"]
            total = lambda key: sum(view[key] for view in views)
            times.append((total("regions_ms"), total("select_ms"), total("merge_ms")))
            peaks.append(int(done.stderr.split()[-1]))
    return [statistics.median(column) for column in zip(*times)], max(peaks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/uhr-edge")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    cases = {
        "tokens": [(t, 600, 3000) for t in (10_000, 30_000, 100_000, 300_000, 1_000_000)],
        "clusters": [(100_000, k, 3000) for k in (50, 150, 600, 2000)],
        "budget": [(100_000, 600, b) for b in (500, 1000, 3000, 6000, 12_000)],
    }
    made, figures = {}, {}
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    lines = [f"# How cost grows\n\nMade by `tools/bench/run growth` on {cpu[1] if cpu else platform.processor()}, 2 threads, {args.dim} features (f16), at most 10 iterations, medians of {args.runs} runs.\n"]
    with tempfile.TemporaryDirectory() as folder:
        for what, points in cases.items():
            lines.append(f"\n## Against {what}\n\n| tokens | clusters at most | budget | regions ms | select ms | merge ms | peak MB | of it features |\n|---|---|---|---|---|---|---|---|")
            figures[what] = []
            for tokens, clusters, budget in points:
                path = Path(folder) / f"{tokens}.safetensors"
                if tokens not in made:
                    made[tokens] = make(path, tokens, args.dim, 1)
                count, held = made[tokens]
                (regions, select, merge), peak = run(args.binary, path, clusters, budget, args.runs)
                lines.append(f"| {count:,} | {clusters:,} | {budget:,} | {regions:.0f} | {select:.2f} | {merge:.1f} | {peak / 1e6:.0f} | {held / 1e6:.0f} |")
                print(lines[-1], flush=True)
                figures[what].append(({"tokens": count, "clusters": clusters, "budget": budget}[what], regions, select + merge, (peak - held) / 1e6))
                if what == "tokens" and tokens != 100_000:
                    path.unlink()
    _, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    for axis, (what, rows) in zip(axes, figures.items()):
        x, regions, rest, memory = zip(*rows)
        for values, label in ((regions, "regions ms"), (rest, "select + merge ms"), (memory, "memory over features MB")):
            axis.loglog(x, values, marker="o", label=label)
        axis.set_xlabel(what)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    plt.tight_layout()
    plt.savefig(ROOT / "docs/growth.svg", metadata={"Date": None})
    (ROOT / "docs/growth.md").write_text("\n".join(lines) + "\n\n![time and memory](growth.svg)\n")


if __name__ == "__main__":
    main()
