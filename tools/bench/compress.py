"""`compress` against what could stand in its place, on the same features and the same starts, in one run.

Peers: scikit-learn's Lloyd and Elkan, faiss-cpu's k-means, and the authors' released selection (from a checkout the user gives: regions, selection and
merge in one function). Regions of all views, `--clusters` in every view, at most 10 iterations. Prints medians, ratios and peak memory.

    tools/bench/run compress --released PATH/TO/UHR-BAT
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

VIEWS = [672, 1344, 2688, 4032]
BUDGET = [80, 320, 600, 2000]
ITERATIONS = 10


def features(side, dim, groups, noise, seed):
    """Tokens [side², dim] f16: patches of a map of `groups` directions, each token some way off its own."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((groups, dim), np.float32)
    points = rng.random((groups, 2), np.float32)
    ys, xs = np.mgrid[0:side, 0:side].astype(np.float32) / side
    places = np.stack([xs.ravel(), ys.ravel()], 1)
    own = np.concatenate([((block[:, None] - points) ** 2).sum(-1).argmin(1) for block in np.array_split(places, max(1, side * side // 4096))])
    out = np.empty((side * side, dim), np.float16)
    for start in range(0, side * side, 4096):
        rows = own[start : start + 4096]
        out[start : start + 4096] = directions[rows] + noise * rng.standard_normal((len(rows), dim), np.float32)
    return out


def make(folder, args):
    """The input and the starts, as files and arrays."""
    tensors, starts, rng = {}, {}, np.random.default_rng(args.seed)
    scale = args.tokens / 131_328
    # Views of whole tiles of 14 px tokens, one token a tile, so that any number of tokens can be had.
    sides = [max(4, round(view / 14 * scale**0.5)) for view in VIEWS]
    for number, side in enumerate(sides, 1):
        tensors[f"view{number}.features"] = features(side, args.dim, args.groups, args.noise, args.seed + number)
        tensors[f"view{number}.importance"] = rng.random(side * side, np.float32)
        starts[f"view{number}.init"] = rng.choice(side * side, min(args.clusters, side * side), replace=False).astype(np.int32)
    tile = 24 if all(side % 24 == 0 for side in sides) else 1
    metadata = {"views": ",".join(str(14 * side) for side in sides), "tile": str(14 * tile), "patch": "14"}
    save_file(tensors, folder / "in.safetensors", metadata)
    save_file(starts, folder / "init.safetensors")
    return tensors, starts, sides


# Peak memory of a child that a small process starts: a fork would count this one's own.
MEASURE = "import os,sys;p=os.posix_spawn(sys.argv[1],sys.argv[1:],os.environ);_,s,u=os.wait4(p,0);print(u.ru_maxrss*1024,file=sys.stderr);sys.exit(os.waitstatus_to_exitcode(s))"


def child(command):
    """Peak resident bytes and output of a process."""
    done = subprocess.run([sys.executable, "-S", "-c", MEASURE, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]}: exit {done.returncode}: {done.stderr[-2000:]}")
    return int(done.stderr.split()[-1]), done.stdout


def ours(args, folder, *more):
    command = [args.binary, "--json", "compress", folder / "in.safetensors", "--out", folder / "out.safetensors", "--init", folder / "init.safetensors"]
    command += ["--budget", ",".join(map(str, BUDGET)), "--clusters", args.clusters, "--iters", ITERATIONS, "--threads", args.threads, *more]
    peak, text = child(command)
    views = json.loads(text)["views"]
    total = lambda key: sum(view[key] for view in views) / 1e3
    return {"regions": total("regions_ms"), "select": total("select_ms"), "merge": total("merge_ms"), "peak": peak, "iterations": [v["iterations"] for v in views], "inertia": sum(v["objective"] for v in views)}


def embed(rows, side):
    """u of Eq. 13, f32."""
    rows = rows.astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ys, xs = np.mgrid[0:side, 0:side]
    places = (np.stack([xs.ravel(), ys.ravel()], 1) + 0.5) / side
    return np.concatenate([rows, 0.05 * places.astype(np.float32)], 1)


def peer(name, folder, args):
    """One peer over all views, in a process of its own: seconds of clustering (for `released`: of selection, merge included) and inertia."""
    tensors, starts = load_file(folder / "in.safetensors"), load_file(folder / "init.safetensors")
    seconds, inertia, views = 0.0, 0.0, len(VIEWS)
    if name == "released":
        return released(tensors, starts, args)
    for number in range(1, views + 1):
        rows, start = tensors[f"view{number}.features"], starts[f"view{number}.init"]
        side = round(len(rows) ** 0.5)
        points = embed(rows, side)
        init = np.ascontiguousarray(points[start])
        if name in ("lloyd", "elkan"):
            from sklearn.cluster import KMeans

            model = KMeans(len(init), init=init, n_init=1, max_iter=ITERATIONS, tol=0, algorithm=name)
            begun = time.perf_counter()
            model.fit(points)
            seconds += time.perf_counter() - begun
            inertia += model.inertia_
        else:
            import faiss

            model = faiss.Kmeans(points.shape[1], len(init), niter=ITERATIONS, max_points_per_centroid=len(points), min_points_per_centroid=1)
            begun = time.perf_counter()
            model.train(points, init_centroids=init)
            gaps, _ = model.index.search(points, 1)
            seconds += time.perf_counter() - begun
            inertia += gaps.sum()
    return {"seconds": seconds, "inertia": float(inertia)}


def released(tensors, starts, args):
    """The authors' function as it stands, its random starts replaced by ours (torch.randperm is patched)."""
    sys.path.insert(0, str(Path(__file__).parent))
    import released_peer

    return released_peer.run(tensors, starts, args.released, BUDGET, args.clusters, ITERATIONS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/uhr-edge")
    parser.add_argument("--released", help="a checkout of the authors' repository")
    parser.add_argument("--peers", default="faiss,lloyd,elkan,released")
    parser.add_argument("--tokens", type=int, default=131_328)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--clusters", type=int, default=600)
    parser.add_argument("--groups", type=int, default=400, help="directions behind each view's tokens")
    parser.add_argument("--noise", type=float, default=1.0, help="of a token's own, to its direction's unit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(peer(args.peer, args.folder, args)))
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    peers = [name for name in args.peers.split(",") if name and (name != "released" or args.released)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tensors, _, sides = make(folder, args)
        held = sum(t.nbytes for name, t in tensors.items() if name.endswith("features"))
        del tensors
        tokens = sum(side * side for side in sides)
        print(f"{tokens} tokens of {args.dim} features (f16, {held / 1e6:.0f} MB), k = {args.clusters}, {ITERATIONS} iterations at most, {args.threads} threads; medians of {args.runs} runs\n", flush=True)
        rows, dim64 = [], []
        times = {name: [] for name in peers}
        for _ in range(args.runs):
            rows.append(ours(args, folder))
            dim64.append(ours(args, folder, "--cluster-dim", 64))
            for name in peers:
                command = [sys.executable, __file__, "--peer", name, "--folder", folder, "--clusters", args.clusters, "--threads", args.threads]
                if args.released:
                    command += ["--released", args.released]
                peak, text = child(command)
                times[name].append({**json.loads(text), "peak": peak})
        median = lambda values: statistics.median(values)
        spread = lambda values: f"{median(values):.2f} s ({min(values):.2f}–{max(values):.2f})"
        whole = lambda r: r["regions"] + r["select"] + r["merge"]
        own, own64 = median([whole(r) for r in rows]), median([whole(r) for r in dim64])
        clustering = median([r["regions"] for r in rows])
        print("| what | time | over uhr-edge | peak MB | inertia |\n|---|---|---|---|---|")
        print(f"| uhr-edge: regions + select + merge | {spread([whole(r) for r in rows])} | 1 | {median([r['peak'] for r in rows]) / 1e6:.0f} | {rows[0]['inertia']:.6g} |")
        print(f"| uhr-edge: regions alone | {spread([r['regions'] for r in rows])} | | | |")
        print(f"| uhr-edge: select alone | {spread([r['select'] for r in rows])} | 1/{clustering / median([r['select'] for r in rows]):.0f} of regions | | |")
        print(f"| uhr-edge, cluster-dim 64 | {spread([whole(r) for r in dim64])} | {own64 / own:.2f} | {median([r['peak'] for r in dim64]) / 1e6:.0f} | |")
        for name in peers:
            taken = [r["seconds"] for r in times[name]]
            base, note = (own, "whole") if name == "released" else (clustering, "regions")
            ratio = f"{median(taken) / base:.1f} ({note})"
            if name == "released":
                ratio += f"; cluster-dim 64: {median(taken) / own64:.0f}"
            inertia = times[name][0].get("inertia")
            print(f"| {name} | {spread(taken)} | {ratio} | {median([r['peak'] for r in times[name]]) / 1e6:.0f} | {f'{inertia:.6g}' if inertia else ''} |")
        print(f"\npeak over the features: {(median([r['peak'] for r in rows]) - held) / 1e6:.0f} MB; iterations {rows[0]['iterations']}")


if __name__ == "__main__":
    main()
