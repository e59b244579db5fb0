"""Stage 1: the vision encoder, trained on tiles drawn at the four scales of the pyramid.

Convolutional, stride 14, so that its tokens are those of a 14 px patch grid. Its output is 128 features and 16 probabilities a
token: object, centre, six classes, six colours, clutter, and any part of an object. The decoder reads the probabilities too.
"""

import argparse
import math
import multiprocessing as mp
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from PIL import Image
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scenes"))
import backgrounds
import scenes

TILE, PATCH, GRID = 336, 14, 24
VIEWS = (672, 1344, 2688, 4032)
MEAN = (0.4815, 0.4578, 0.4082)
STD = (0.2686, 0.2613, 0.2758)
WIDTH, HEADS = 128, 16
FEATURES = WIDTH + HEADS
OBJECT, CENTRE, CLASS, COLOUR, CLUTTER, PART = 0, 1, 2, 8, 14, 15


class Block(nn.Module):
    """Depthwise 7x7, then two products with a gate between; residual."""

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.up = nn.Conv2d(width, 2 * width, 1)
        self.down = nn.Conv2d(2 * width, width, 1)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x):
        return x + self.down(F.relu(self.up(self.norm(self.mix(x)))))


class Encoder(nn.Module):
    """[n,3,336,336] -> features [n,576,144]; in training the logits of the 16 probabilities too."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 11, 7, 2, bias=False), nn.BatchNorm2d(64), nn.ReLU(), Block(64))
        self.reduce = nn.Sequential(nn.Conv2d(64, WIDTH, 4, 2, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.body = nn.Sequential(*[Block(WIDTH) for _ in range(4)])
        self.norm = nn.BatchNorm2d(WIDTH)
        self.heads = nn.Conv2d(WIDTH, HEADS, 1)

    def forward(self, x, logits=False):
        x = self.norm(self.body(self.reduce(self.stem(x))))
        heads = self.heads(F.relu(x))
        if logits:
            return heads
        x = torch.cat([0.25 * x, torch.sigmoid(heads)], 1)
        return x.flatten(2).transpose(1, 2)


def blotches(rng, height, width, share):
    """A mask [height,width,1] of smooth-edged blotches over about `share` of the picture."""
    nrng = np.random.default_rng(rng.getrandbits(32))
    noise = Image.fromarray((nrng.random((rng.choice([5, 9, 17, 33]),) * 2) * 255).astype(np.uint8))
    field = np.asarray(noise.resize((width, height), Image.BICUBIC), np.float32)
    edge = np.quantile(field[::7, ::7], 1 - share)
    return ((field - edge) / rng.uniform(2, 25) + 0.5).clip(0, 1)[..., None]


def vary(rng, picture, sources):
    """A background as another place, season or sensor might show it: the few pictures there are must stand for all unseen ones."""
    x = np.asarray(picture, np.float32)
    if rng.random() < 0.3:
        other = rng.choice(sources)
        w = max(8, int(min(other.size) * rng.uniform(0.1, 0.8)))
        left, top = rng.randrange(other.width - w + 1), rng.randrange(other.height - w + 1)
        other = np.asarray(other.resize(picture.size, Image.BICUBIC, box=(left, top, left + w, top + w)), np.float32)
        x = x + (other - x) * blotches(rng, *x.shape[:2], rng.uniform(0.2, 0.8))
    grey = x.mean(2, keepdims=True)
    if rng.random() < 0.25:
        # Dark, middle and light tones of another place, over the same relief.
        tones = np.sort(np.array([[rng.uniform(10, 235) for _ in range(3)] for _ in range(3)], np.float32).mean(1))[:, None]
        tones = tones + np.array([[rng.uniform(-30, 30) for _ in range(3)] for _ in range(3)], np.float32)
        x = np.stack([np.interp(grey[..., 0], [0, 127, 255], tones[:, c]) for c in range(3)], -1)
    else:
        x = grey + (x - grey) * rng.uniform(0.0, 1.3)
        if rng.random() < 0.4:
            x = x[..., rng.sample(range(3), 3)]
    mean = x.mean((0, 1), keepdims=True)
    x = mean + (x - mean) * rng.uniform(0.7, 1.8)
    x = x * np.array([rng.uniform(0.75, 1.2) for _ in range(3)], np.float32) + rng.uniform(-25, 35)
    if rng.random() < 0.35:
        # Shadows: darker, and bluer than what they fall on.
        dark = np.array([rng.uniform(0.15, 0.6)] * 3, np.float32) * np.array([0.85, 1.0, rng.uniform(1.0, 1.5)], np.float32)
        x = x * (1 - (1 - dark) * blotches(rng, *x.shape[:2], rng.uniform(0.05, 0.5)))
    return Image.fromarray(x.clip(0, 255).astype(np.uint8))


def draw_tile(rng, sources, view, empty=False, varied=True):
    """A tile as the encoder gets it at `view`, its labels [16,24,24], and its objects with their centres in patches."""
    zoom = scenes.FINEST_PX / VIEWS[view]
    side = TILE * zoom
    things = []
    wanted = 0 if empty else {0: rng.randrange(3, 16), 1: rng.randrange(2, 9), 2: rng.randrange(1, 6), 3: rng.randrange(1, 5)}[view]
    for _ in range(wanted):
        size = rng.uniform(*scenes.SIZE_PX)
        kind, colour = rng.choice(scenes.CLASSES), rng.choice(list(scenes.COLOURS))
        x, y = rng.uniform(-0.02, 1.02) * side, rng.uniform(-0.02, 1.02) * side
        if all(math.hypot(x - t.x, y - t.y) > 90 for t in things):
            things.append(scenes.Thing(kind, colour, x, y, size, rng.uniform(0, 2 * math.pi), scenes.jitter(rng, scenes.COLOURS[colour], 12)))
    clutter = []
    for _ in range(rng.randrange(0, 3 + 5 * (4 - view))):
        grey = rng.uniform(30, 190)
        clutter.append((rng.uniform(0, side), rng.uniform(0, side), rng.uniform(6, 40), rng.uniform(0.3, 1), rng.uniform(0, math.pi), scenes.jitter(rng, (grey, grey, grey * 0.85), 18)))
    if rng.random() < 0.5:
        picture = scenes.background(rng, sources)
        crop = rng.uniform(0.1, 0.5) if view > 1 else rng.uniform(0.3, 0.6)
        w = max(8, int(picture.width * crop))
        left, top = rng.randrange(picture.width - w + 1), rng.randrange(picture.height - w + 1)
        picture = picture.crop((left, top, left + w, top + w))
    else:
        source = rng.choice(sources)
        # One finest pixel is 0.1 to 1 source pixels, as in the frames that make_scene lays out.
        w = max(8, min(int(side * rng.uniform(0.08, 0.5)), min(source.size)))
        left, top = rng.randrange(source.width - w + 1), rng.randrange(source.height - w + 1)
        gain = rng.uniform(0.75, 1.15)
        picture = source.crop((left, top, left + w, top + w)).point(lambda v: int(min(255, v * gain)))
    if varied and rng.random() < 0.7:
        if max(picture.size) > 512:
            picture = picture.resize((512, 512), Image.BICUBIC)
        picture = vary(rng, picture, sources)
    scene = scenes.Scene(side, side, things, clutter, picture, rng.uniform(1.0, 4.0))
    pixels = scenes.render(scene, (0, 0, side, side), TILE, TILE, rng.getrandbits(31))
    labels = np.zeros((HEADS, GRID, GRID), np.float32)
    step = PATCH * zoom
    grid = (np.arange(9) + 0.5) / 9 - 0.5
    for t in things:
        narrow = {"ship": 0.34, "truck": 0.38}.get(t.kind, 0.8)
        u, v = np.meshgrid(grid * 0.9 * t.size, grid * narrow * t.size)
        cos, sin = math.cos(t.angle), math.sin(t.angle)
        px, py = (t.x + u * cos - v * sin) / step, (t.y + u * sin + v * cos) / step
        part = np.zeros((GRID, GRID), np.float32)
        inside = (px >= 0) & (px < GRID) & (py >= 0) & (py < GRID)
        np.add.at(part, (py[inside].astype(int), px[inside].astype(int)), 1)
        share = part / 81
        covered = share * 0.81 * t.size * narrow * t.size / step**2
        core = (share > 0.2) | (covered > 0.3)
        labels[OBJECT][core] = 1
        labels[CLASS + scenes.CLASSES.index(t.kind)][core] = 1
        labels[COLOUR + list(scenes.COLOURS).index(t.colour)][core] = 1
        labels[PART][part > 0] = 1
        cx, cy = int(t.x // step), int(t.y // step)
        if 0 <= cx < GRID and 0 <= cy < GRID:
            labels[CENTRE][cy, cx] = 1
            labels[OBJECT][cy, cx] = 1
            labels[CLASS + scenes.CLASSES.index(t.kind)][cy, cx] = 1
            labels[COLOUR + list(scenes.COLOURS).index(t.colour)][cy, cx] = 1
    for x, y, *_ in clutter:
        labels[CLUTTER][min(GRID - 1, int(y // step)), min(GRID - 1, int(x // step))] = 1
    return pixels, labels, [(t, t.x / step, t.y / step) for t in things]


def normalise(pixels):
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def supply(cache, split, seed, batch, queue):
    sources = backgrounds.load(cache, split)
    rng = random.Random(seed)
    while True:
        views = rng.choices(range(4), weights=(5, 3, 2, 2), k=batch)
        tiles = [draw_tile(rng, sources, v) for v in views]
        queue.put((np.stack([t[0] for t in tiles]), np.stack([t[1] for t in tiles]), views))


@torch.no_grad()
def check(model, cache, split, tiles=24):
    """Precision and recall of the object probability at 0.5, and class and colour accuracy on object patches, a view."""
    model.eval()
    sources, rng, lines = backgrounds.load(cache, split), random.Random(99), []
    for view in range(4):
        drawn = [draw_tile(rng, sources, view, varied=False) for _ in range(tiles)]
        truth = torch.from_numpy(np.stack([d[1] for d in drawn]))
        p = torch.cat([torch.sigmoid(model(normalise(np.stack([d[0] for d in drawn[i : i + 8]])), logits=True)) for i in range(0, tiles, 8)])
        hit, real = p[:, OBJECT] > 0.5, truth[:, OBJECT] > 0.5
        both = hit & real
        pick = lambda t, a, n: t[:, a : a + n].argmax(1)[real]
        lines.append(
            (both.sum() / hit.sum().clamp(1), both.sum() / real.sum(), (pick(p, CLASS, 6) == pick(truth, CLASS, 6)).float().mean(), (pick(p, COLOUR, 6) == pick(truth, COLOUR, 6)).float().mean())
        )
    model.train()
    return " | ".join(f"{p:.2f}/{r:.2f} {k:.2f} {c:.2f}" for p, r, k, c in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    state, batch = args.out / "encoder.pt", 12
    model = Encoder().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.02)
    spent, step = 0.0, 0
    if state.exists():
        saved = torch.load(state, weights_only=False)
        model.load_state_dict(saved["model"])
        if saved["optimiser"]:
            optimiser.load_state_dict(saved["optimiser"])
        spent, step = saved["spent"], saved["step"]
    queue = mp.Queue(8)
    worker = mp.Process(target=supply, args=(args.cache, "train", args.seed * 1000 + step, batch, queue), daemon=True)
    worker.start()
    log = open(args.out / "encoder.log", "a")
    begun, last, ema = time.time(), time.time(), None
    while spent + (time.time() - begun) / 60 < args.minutes:
        done = (spent + (time.time() - begun) / 60) / args.minutes
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-5
        pixels, labels, _ = queue.get()
        x = normalise(pixels).contiguous(memory_format=torch.channels_last)
        y = torch.from_numpy(labels)
        logits = model(x, logits=True)
        weight = torch.ones(HEADS, 1, 1)
        weight[CLUTTER] = 0.1
        weight[PART] = 0.3
        loss = (F.binary_cross_entropy_with_logits(logits, y, reduction="none") * weight).sum() / y[:, OBJECT].sum().clamp(8)
        on = y[:, OBJECT] > 0.5
        if on.any():  # which class, given an object: the hardest of the sixteen, and rare among the patches
            picked = logits.permute(0, 2, 3, 1)[on]
            loss = loss + F.cross_entropy(picked[:, CLASS : CLASS + 6], y.permute(0, 2, 3, 1)[on][:, CLASS : CLASS + 6].argmax(1))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        ema = loss.item() if ema is None else 0.98 * ema + 0.02 * loss.item()
        step += 1
        if time.time() - last > 180:
            line = f"{spent + (time.time() - begun) / 60:.1f} min, {step} updates, loss {ema:.3f}; precision/recall class colour a view: {check(model, args.cache, 'train')}; unseen: {check(model, args.cache, 'test')}"
            print(line, flush=True)
            log.write(line + "\n")
            log.flush()
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "spent": spent + (time.time() - begun) / 60, "step": step}, state)
            last = time.time()
    line = f"end, {step} updates, loss {ema:.3f}; unseen backgrounds: {check(model, args.cache, 'test')}"
    print(line, flush=True)
    log.write(line + "\n")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "spent": args.minutes, "step": step}, state)
    worker.terminate()


if __name__ == "__main__":
    main()
