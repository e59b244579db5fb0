"""Scenes made of banked tokens, with questions: what the decoder is trained on."""

import random
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scenes"))
import scenes

VIEWS, PATCH = (672, 1344, 2688, 4032), 14
SPECIAL = ["<unk>", "<s>", "</s>", "<q>", "<a>"]
WORDS = "is there a how many are ? what colour the where of north south west east yes no".split()
VOCAB = SPECIAL + sorted(set(WORDS + scenes.CLASSES + [scenes.plural(k) for k in scenes.CLASSES] + list(scenes.COLOURS) + scenes.QUADRANTS + scenes.NUMBERS))
INDEX = {word: i for i, word in enumerate(VOCAB)}
MEMBERS = 8
QUESTIONS, LENGTH = 10, 14
IGNORE = -100


def encode(text):
    return [INDEX[word] for word in text.replace("?", " ?").split()]


class Bank:
    """Objects by view, kind and colour; backgrounds by view."""

    def __init__(self, views):
        self.views = []
        for objects, ground in views:
            by_pair = {}
            for kind, colour, size, offsets, rows in objects:
                by_pair.setdefault((kind, colour), []).append((size, offsets, rows))
            self.views.append((by_pair, ground))
        self.dim = views[0][1].shape[-1]


def place_view(rng, nrng, bank, view, width, height, things, wanted, share):
    """About `wanted` tokens of a view: features [n,d], places [n,MEMBERS,2] in the unit square, and the object behind each token (-1: none).

    Each object's tokens are there with probability `share`; the rest is background, some of it merged from several tokens.
    """
    by_pair, ground = bank.views[view]
    grid, scale = VIEWS[view] // PATCH, VIEWS[view] / max(width, height)
    left, top = (VIEWS[view] - width * scale) / 2 / PATCH, (VIEWS[view] - height * scale) / 2 / PATCH
    x1, y1 = grid - left, grid - top
    finest = max(width, height) / scenes.FINEST_PX
    features, places, owners, taken = [], [], [], set()
    for i, t in enumerate(things):
        if rng.random() > share:
            continue
        cx, cy = left + t.x * scale / PATCH, top + t.y * scale / PATCH
        known = by_pair[t.kind, t.colour]
        _, offsets, rows = min(rng.sample(known, min(3, len(known))), key=lambda g: abs(g[0] - t.size / finest))
        # Most of the time all of an object's tokens are kept, sometimes some.
        keep = nrng.random(len(rows)) < rng.choice([1.0, 0.6, 0.4, 0.25])
        for (dx, dy), row in zip(offsets[keep], rows[keep]):
            u, v = int(cx + dx), int(cy + dy)
            if 0 <= u < grid and 0 <= v < grid and (u, v) not in taken:
                taken.add((u, v))
                features.append(row)
                places.append(np.broadcast_to([(u + 0.5) / grid, (v + 0.5) / grid], (MEMBERS, 2)))
                owners.append(i)
    left_over = max(0, wanted - len(features))
    if left_over:
        tiles = ground[nrng.integers(0, len(ground), rng.randrange(2, 7))].reshape(-1, bank.dim)
        free = lambda shape: np.stack([(nrng.integers(int(left), int(x1), shape) + 0.5) / grid, (nrng.integers(int(top), int(y1), shape) + 0.5) / grid], -1)
        merged = int(left_over * rng.choice([0, 0.1, 0.3])) if view or share < 1 else 0
        alone = left_over - merged
        features += list(tiles[nrng.integers(0, len(tiles), alone)])
        places += list(np.repeat(free((alone, 1)), MEMBERS, 1))
        if merged:
            members = tiles[nrng.integers(0, len(tiles), (merged, MEMBERS))]
            features += list(members.astype(np.float32).mean(1).astype(np.float16))
            places += list(free((merged, MEMBERS)))
        owners += [-1] * left_over
    # Algorithm 1 puts high scores first, but which they are differs with the question: any order must do.
    order = nrng.permutation(len(features))
    return np.stack(features)[order].astype(np.float32), np.stack(places)[order].astype(np.float32), np.array(owners)[order]


def make(seed, bank, anchor_tokens, total):
    """One scene: the anchor pass's tokens, the answer's tokens, and up to QUESTIONS questions."""
    rng, nrng = random.Random(seed), np.random.default_rng(seed)
    width, height, things = scenes.lay_out(rng)
    asked = scenes.questions(width, height, things, seed, QUESTIONS)
    anchor = place_view(rng, nrng, bank, 0, width, height, things, anchor_tokens, 1.0)
    anchor_order = np.lexsort((anchor[1][:, 0, 0], anchor[1][:, 0, 1]))
    anchor = tuple(part[anchor_order] for part in anchor)
    share = rng.choice([0.75, 0.9, 1.0])
    shares = np.array([80, 320, 600, 2000]) / 3000
    parts = [place_view(rng, nrng, bank, s, width, height, things, int(total * shares[s]) + 1, share if s == 0 else rng.choice([0.9, 1.0])) for s in range(4)]
    ids = np.zeros((QUESTIONS, LENGTH), np.int64)
    labels = np.full((QUESTIONS, LENGTH), IGNORE, np.int64)
    asks = np.full(QUESTIONS, -1, np.int64)
    near = np.zeros((QUESTIONS, len(anchor[2])), np.float32)
    fine = np.zeros((QUESTIONS, sum(len(p[2]) for p in parts)), np.float32)
    owners = np.concatenate([p[2] for p in parts])
    families = np.full(QUESTIONS, -1, np.int64)
    for i, q in enumerate(asked):
        prompt = [INDEX["<q>"], *encode(q["question"]), INDEX["<a>"]]
        row = prompt + [INDEX[q["answer"]]]
        ids[i, : len(row)] = row
        asks[i] = len(prompt) - 1
        labels[i, len(prompt) - 1] = INDEX[q["answer"]]
        labels[i, len(prompt)] = INDEX["</s>"]
        near[i] = np.isin(anchor[2], q["evidence"]) if q["evidence"] else 0
        fine[i] = np.isin(owners, q["evidence"]) if q["evidence"] else 0
        families[i] = scenes.FAMILIES.index(q["family"])
    view_of = np.concatenate([np.full(len(p[2]), s) for s, p in enumerate(parts)])
    return {
        "anchor": anchor[:2], "answer": (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), view_of),
        "ids": ids, "labels": labels, "asks": asks, "near": near, "fine": fine, "families": families,
    }


def batch(seed, bank, scenes_a_batch):
    """Scenes with the same numbers of tokens, cut where one has more, as arrays [scenes, ...]."""
    rng = random.Random(seed)
    anchor_tokens = rng.choice([300, 400, 500, 700]) if scenes_a_batch > 4 else 2200
    total = rng.choice([100, 150, 250, 350, 500, 1000])
    made = [make(seed * 64 + i, bank, anchor_tokens, total) for i in range(scenes_a_batch)]
    n = max(len(m["anchor"][0]) for m in made)
    k = max(len(m["answer"][0]) for m in made)
    pad = lambda a, size: np.concatenate([a, np.repeat(a[-1:], size - len(a), 0)]) if len(a) < size else a
    wide = lambda a, size: np.pad(a, ((0, 0), (0, size - a.shape[1])))
    return {
        "anchor_f": np.stack([pad(m["anchor"][0], n) for m in made]), "anchor_p": np.stack([pad(m["anchor"][1], n) for m in made]),
        "answer_f": np.stack([pad(m["answer"][0], k) for m in made]), "answer_p": np.stack([pad(m["answer"][1], k) for m in made]), "answer_v": np.stack([pad(m["answer"][2], k) for m in made]),
        **{key: np.stack([m[key] for m in made]) for key in ("ids", "labels", "asks", "families")},
        "near": np.stack([wide(m["near"], n) for m in made]), "fine": np.stack([wide(m["fine"], k) for m in made]),
    }
