"""Golden vectors of the policy `released`: what the authors' own selection keeps and merges, on drawn features from given starts.

Their function is run from a checkout that the user gives (commit e40a792 made the committed file); inputs and results are committed, their code isn't.

    target/bench/bin/python tools/vectors/released.py --released PATH/TO/UHR-BAT
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/bench"))
import released_peer

# Tiles a side and tokens a side of a tile of each view; features, clusters, budgets.
CASES = [
    ([(1, 8), (2, 8)], 12, 20, [10, 60]),
    ([(2, 6), (4, 6)], 24, 40, [144, 30]),
    ([(2, 4), (3, 4), (6, 4)], 8, 15, [1, 200, 33]),
    ([(2, 12), (4, 12)], 32, 60, [80, 320]),
    ([(1, 5), (5, 5)], 16, 9, [25, 7]),
    ([(3, 8), (4, 8)], 20, 600, [40, 300]),
]


def draw(rng, tiles, tile, dim, groups):
    """Tokens tile by tile: some way off the direction of the patch they lie in."""
    directions = rng.standard_normal((groups, dim))
    side = tiles * tile
    ys, xs = np.mgrid[0:side, 0:side]
    own = (ys * 3 // side * 3 + xs * 3 // side) % groups
    raster = directions[own] + 0.5 * rng.standard_normal((side, side, dim))
    return raster.reshape(tiles, tile, tiles, tile, dim).transpose(0, 2, 1, 3, 4).reshape(-1, dim).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/vectors/released.safetensors")
    args = parser.parse_args()
    function, rng, out = released_peer.load(args.released), np.random.default_rng(20_260_413), {}
    for number, (views, dim, clusters, budgets) in enumerate(CASES):
        out[f"case{number}.clusters"] = np.array([clusters], np.int32)
        out[f"case{number}.budgets"] = np.array(budgets, np.int32)
        out[f"case{number}.shape"] = np.array(views, np.int32)
        for view, ((tiles, tile), budget) in enumerate(zip(views, budgets), 1):
            rows = draw(rng, tiles, tile, dim, 7)
            count = len(rows)
            scores = rng.random(count, np.float32)
            starts = rng.choice(count, min(clusters, count), replace=False).astype(np.int32)
            made, _ = released_peer.select(function, scores, rows, starts, budget, clusters, 10, tile)
            tokens = made["selected_indices"][0][0]["tokens"]
            name = f"case{number}.view{view}."
            out[name + "features"], out[name + "importance"], out[name + "init"] = rows, scores, starts
            out[name + "sources"] = np.concatenate([t["pos"] for t in tokens]).astype(np.int32)
            out[name + "offsets"] = np.cumsum([0] + [len(t["pos"]) for t in tokens]).astype(np.int64)
            out[name + "merged"] = np.array([t.get("aggregated", False) for t in tokens], np.uint8)
            out[name + "tokens"] = made["selected_embeddings"][0].numpy()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(out, args.out)
    print(f"{args.out}: {len(CASES)} cases, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
