"""Stage 2: a bank of encoded tokens, by view: those around each drawn object, and background.

Whole frames are 228 tiles each; scenes made of banked tokens cost nothing to draw, so that no scene is seen twice.
"""

import argparse
import random
import sys
from pathlib import Path

import numpy as np
import torch

import encoder as enc
from encoder import GRID, PATCH, TILE, VIEWS, Encoder, backgrounds, draw_tile, normalise, scenes

TILES = (1100, 900, 900, 1000)
# Background tokens of a tile that are kept, together: a scene's background is made of a few tiles.
GROUND = 220


@torch.no_grad()
def build(model, cache, seed):
    """For each view: objects (kind, colour, size in finest px, token offsets [n,2] in patches, features [n,d]) and ground [tiles,GROUND,d]."""
    model.eval()
    sources, bank = backgrounds.load(cache, "train"), []
    for view, tiles in enumerate(TILES):
        rng = random.Random(seed * 10 + view)
        objects, ground = [], []
        for start in range(0, tiles, 16):
            drawn = [draw_tile(rng, sources, view) for _ in range(16)]
            features = model(normalise(np.stack([d[0] for d in drawn]))).numpy()
            for (_, labels, things), rows in zip(drawn, features):
                rows = rows.reshape(GRID, GRID, -1).astype(np.float16)
                ys, xs = np.mgrid[0:GRID, 0:GRID] + 0.5
                far = np.full((GRID, GRID), True)
                for thing, cx, cy in things:
                    near = thing.size / 2 / (PATCH * scenes.FINEST_PX / VIEWS[view]) + 0.8
                    gap = np.hypot(xs - cx, ys - cy)
                    far &= gap > near + 1.5
                    if not (1 < cx < GRID - 1 and 1 < cy < GRID - 1):
                        continue
                    others = [np.hypot(xs - ox, ys - oy) for other, ox, oy in things if other is not thing]
                    mine = (gap < near) & np.all([gap < other for other in others], 0) if others else gap < near
                    if mine.any():
                        objects.append((thing.kind, thing.colour, thing.size, np.stack([xs[mine] - cx, ys[mine] - cy], 1).astype(np.float32), rows[mine]))
                left = rows[far]
                if len(left) >= GROUND:
                    ground.append(left[rng.sample(range(len(left)), GROUND)])
        bank.append((objects, np.stack(ground)))
        print(f"view {VIEWS[view]}: {len(objects)} objects, {len(ground)} grounds", flush=True)
    return bank


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = Encoder()
    model.load_state_dict(torch.load(args.out / "encoder.pt", weights_only=False)["model"])
    torch.save(build(model, args.cache, args.seed), args.out / "bank.pt")


if __name__ == "__main__":
    main()
