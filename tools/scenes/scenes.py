"""Aerial scenes drawn from a seed: a background, objects on it, and questions with known answers.

A scene is a list of objects in frame pixels. `render` draws any rectangle of it at any size, so that a training tile
of a coarse view costs no more than one of a fine view. Sizes are chosen so that an object's longest side is 24 to 64 px
in a 4032 px view: 4 to 11 px in the anchor view, where its class can't be told.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ["ship", "plane", "truck", "tank", "house", "tent"]
COLOURS = {
    "red": (205, 38, 34),
    "blue": (36, 74, 215),
    "yellow": (238, 208, 36),
    "white": (243, 243, 243),
    "purple": (150, 44, 172),
    "cyan": (40, 205, 215),
}
QUADRANTS = ["northwest", "northeast", "southwest", "southeast"]
NUMBERS = ["one", "two", "three", "four"]
FAMILIES = ["presence", "count", "colour", "quadrant", "relation"]
FINEST_PX = 4032
SIZE_PX = (24, 64)
SUPERSAMPLE = 4

# Outlines in units of the longest side; x runs along the object. Roles: body, dark, light.
SHAPES = {
    "ship": [("body", [(-0.5, -0.15), (0.2, -0.17), (0.5, 0), (0.2, 0.17), (-0.5, 0.15)]), ("dark", [(-0.36, -0.08), (-0.16, -0.08), (-0.16, 0.08), (-0.36, 0.08)])],
    "plane": [
        ("body", [(-0.5, -0.05), (0.4, -0.06), (0.5, 0), (0.4, 0.06), (-0.5, 0.05)]),
        ("body", [(-0.08, -0.5), (0.06, -0.5), (0.2, 0), (0.06, 0.5), (-0.08, 0.5), (0.0, 0)]),
        ("body", [(-0.5, -0.2), (-0.42, -0.2), (-0.34, 0), (-0.42, 0.2), (-0.5, 0.2)]),
    ],
    "truck": [("body", [(-0.5, -0.19), (0.18, -0.19), (0.18, 0.19), (-0.5, 0.19)]), ("dark", [(0.24, -0.16), (0.5, -0.16), (0.5, 0.16), (0.24, 0.16)])],
    "tank": [("body", [(0.5 * math.cos(a * math.pi / 8), 0.5 * math.sin(a * math.pi / 8)) for a in range(16)]), ("dark", [(0.2 * math.cos(a * math.pi / 4), 0.2 * math.sin(a * math.pi / 4)) for a in range(8)])],
    "house": [("body", [(-0.45, -0.4), (0.45, -0.4), (0.45, 0.0), (-0.45, 0.0)]), ("dark", [(-0.45, 0.0), (0.45, 0.0), (0.45, 0.4), (-0.45, 0.4)])],
    "tent": [("body", [(-0.4, -0.45), (0.5, 0.0), (-0.4, 0.45)]), ("light", [(-0.4, -0.06), (0.5, 0.0), (-0.4, 0.06)])],
}


@dataclass
class Thing:
    """An object: class, colour, centre and longest side in frame pixels, heading in radians."""

    kind: str
    colour: str
    x: float
    y: float
    size: float
    angle: float
    rgb: tuple


@dataclass
class Scene:
    width: int
    height: int
    things: list
    clutter: list
    background: Image.Image
    noise: float

    @property
    def per_finest(self):
        """Frame pixels to one pixel of the finest view."""
        return max(self.width, self.height) / FINEST_PX


def jitter(rng, rgb, by):
    return tuple(int(min(255, max(0, v + rng.uniform(-by, by)))) for v in rgb)


def procedural(rng, side=512):
    """A texture: smoothed noise at several scales between two earthy colours, with field edges and roads."""
    nrng = np.random.default_rng(rng.getrandbits(32))
    field = np.zeros((side, side), np.float32)
    for cells, weight in ((3, 1.0), (9, 0.6), (27, 0.4), (90, 0.3), (256, 0.2)):
        grid = Image.fromarray((nrng.random((cells, cells)) * 255).astype(np.uint8))
        field += weight * np.asarray(grid.resize((side, side), Image.BICUBIC), np.float32) / 255
    field = (field - field.min()) / (np.ptp(field) + 1e-6)
    palette = [(60, 80, 40), (120, 110, 80), (90, 130, 70), (40, 60, 90), (150, 140, 120), (100, 80, 60), (30, 70, 80), (170, 160, 130), (110, 120, 110)]
    a, b = (np.array(jitter(rng, c, 20), np.float32) for c in rng.sample(palette, 2))
    picture = Image.fromarray((a + (b - a) * field[..., None]).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randrange(4)):
        points = [(rng.uniform(0, side), rng.uniform(0, side)) for _ in range(3)]
        draw.line(points, fill=jitter(rng, (130, 125, 115), 40), width=rng.randrange(1, 5))
    return picture


def background(rng, sources):
    """A crop of a real picture (most often) or a procedural texture, at a random zoom, flip and brightness."""
    if not sources or rng.random() < 0.25:
        picture = procedural(rng)
    else:
        source = rng.choice(sources)
        side = rng.uniform(0.35, 1.0) * min(source.size)
        left, top = rng.uniform(0, source.width - side), rng.uniform(0, source.height - side)
        out = int(min(side, 2048))
        picture = source.resize((out, out), Image.BILINEAR, box=(left, top, left + side, top + side))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    gain = rng.uniform(0.75, 1.15)
    return picture.point(lambda v: int(min(255, v * gain)))


def lay_out(rng):
    """Width, height and things: six to fourteen objects in groups of one to four alike, apart from each other, on 16 to 22 megapixels."""
    width = rng.randrange(4100, 4700, 4)
    height = int(width * rng.uniform(0.82, 1.0)) // 4 * 4
    if rng.random() < 0.3:
        width, height = height, width
    per_finest = max(width, height) / FINEST_PX
    pairs = [(k, c) for k in CLASSES for c in COLOURS]
    groups, target = [], rng.randrange(6, 13)
    while sum(n for _, n in groups) < target:
        kind, colour = rng.choice(pairs)
        if rng.random() < 0.4 and groups:
            kind = groups[0][0][0] if rng.random() < 0.5 else kind
        if any(p == (kind, colour) for p, _ in groups):
            continue
        groups.append(((kind, colour), rng.choice([1, 1, 1, 2, 2, 3, 4])))
    things = []
    for (kind, colour), count in groups:
        for _ in range(count):
            size = rng.uniform(*SIZE_PX) * per_finest
            for _ in range(50):
                margin = 0.04
                x, y = rng.uniform(margin, 1 - margin) * width, rng.uniform(margin, 1 - margin) * height
                if all(math.hypot(x - t.x, y - t.y) > 130 * per_finest for t in things):
                    break
            things.append(Thing(kind, colour, x, y, size, rng.uniform(0, 2 * math.pi), jitter(rng, COLOURS[colour], 12)))
    return width, height, things


def make_scene(seed, sources):
    """A scene over a picture of `sources`, with up to thirty grey patches that are no objects."""
    rng = random.Random(seed)
    width, height, things = lay_out(rng)
    per_finest = max(width, height) / FINEST_PX
    clutter = []
    for _ in range(rng.randrange(0, 30)):
        grey = rng.uniform(30, 190)
        clutter.append((rng.uniform(0, width), rng.uniform(0, height), rng.uniform(6, 40) * per_finest, rng.uniform(0.3, 1), rng.uniform(0, math.pi), jitter(rng, (grey, grey, grey * 0.85), 18)))
    return Scene(width, height, things, clutter, background(rng, sources), rng.uniform(1.0, 4.0))


def stamp(canvas, polygons, x, y, size, angle, scale_x, scale_y):
    """Draws `polygons` (colour with alpha, outline in units of `size`) at frame position x, y, antialiased."""
    reach = 0.75 * size + 3 / min(scale_x, scale_y)
    left, top = math.floor((x - reach) * scale_x), math.floor((y - reach) * scale_y)
    w, h = math.ceil(2 * reach * scale_x) + 2, math.ceil(2 * reach * scale_y) + 2
    patch = Image.new("RGBA", (w * SUPERSAMPLE, h * SUPERSAMPLE), polygons[0][0][:3] + (0,))
    draw = ImageDraw.Draw(patch)
    cos, sin = math.cos(angle), math.sin(angle)
    for colour, outline, (dx, dy) in polygons:
        points = []
        for u, v in outline:
            px = x + (u * cos - v * sin + dx) * size
            py = y + (u * sin + v * cos + dy) * size
            points.append(((px * scale_x - left) * SUPERSAMPLE, (py * scale_y - top) * SUPERSAMPLE))
        draw.polygon(points, fill=colour)
    patch = patch.resize((w, h), Image.BOX)
    canvas.paste(patch.convert("RGB"), (left, top), patch.getchannel("A"))


def render(scene, box, out_w, out_h, seed=0):
    """The rectangle `box` (left, top, right, bottom in frame pixels) of the scene at out_w x out_h; uint8 [out_h, out_w, 3]."""
    left, top, right, bottom = box
    bx, by = scene.background.width / scene.width, scene.background.height / scene.height
    crop = (max(0, left * bx), max(0, top * by), min(scene.background.width, right * bx), min(scene.background.height, bottom * by))
    canvas = scene.background.resize((out_w, out_h), Image.BICUBIC, box=crop)
    sx, sy = out_w / (right - left), out_h / (bottom - top)
    seen = lambda x, y, r: left - r < x < right + r and top - r < y < bottom + r
    square = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    for x, y, size, ratio, angle, rgb in scene.clutter:
        if seen(x, y, size):
            outline = [(u, v * ratio) for u, v in square]
            stamp(canvas, [(rgb + (200,), outline, (0, 0))], x - left, y - top, size, angle, sx, sy)
    for t in scene.things:
        if not seen(t.x, t.y, t.size):
            continue
        roles = {"body": t.rgb, "dark": tuple(int(v * 0.45) for v in t.rgb), "light": tuple(int(v + (255 - v) * 0.55) for v in t.rgb)}
        shadow = [((12, 14, 16, 150), outline, (0.07, 0.07)) for role, outline in SHAPES[t.kind][:2] if role == "body"]
        body = [(roles[role] + (255,), outline, (0, 0)) for role, outline in SHAPES[t.kind]]
        stamp(canvas, shadow + body, t.x - left, t.y - top, t.size, t.angle, sx, sy)
    pixels = np.asarray(canvas, np.float32)
    nrng = np.random.default_rng(seed)
    sigma = scene.noise * min(1.0, sx)
    return (pixels + nrng.standard_normal(pixels.shape, np.float32) * sigma).clip(0, 255).astype(np.uint8)


def plural(kind):
    return kind + "s"


def questions(width, height, things, seed, wanted=10):
    """Up to `wanted` questions, families in turn: dicts of family, question, answer and the indices of the objects it rests on."""
    rng = random.Random(seed * 7919 + 13)
    alike = {}
    for i, t in enumerate(things):
        alike.setdefault((t.kind, t.colour), []).append(i)
    single = [v[0] for v in alike.values() if len(v) == 1]
    kinds = {t.kind for t in things}
    made, asked, turn = [], set(), 0

    def add(family, question, answer, evidence):
        if question not in asked:
            asked.add(question)
            made.append({"family": family, "question": question, "answer": answer, "evidence": evidence})

    while len(made) < wanted and turn < wanted * 6:
        family = FAMILIES[turn % len(FAMILIES)]
        turn += 1
        if family == "presence":
            if rng.random() < 0.5:
                kind, colour = rng.choice(list(alike))
            else:
                absent = [(k, c) for k in CLASSES for c in COLOURS if (k, c) not in alike and (k in kinds or rng.random() < 0.3)]
                kind, colour = rng.choice(absent)
            here = alike.get((kind, colour), [])
            add(family, f"is there a {colour} {kind}?", "yes" if here else "no", here)
        elif family == "count":
            by_count = {}
            for pair, members in alike.items():
                by_count.setdefault(min(len(members), 5), []).append(pair)
            counts = [n for n in by_count if n <= 4]
            if counts:
                n = rng.choice(counts)
                kind, colour = rng.choice(by_count[n])
                add(family, f"how many {colour} {plural(kind)} are there?", NUMBERS[n - 1], alike[kind, colour])
        elif family == "colour":
            unique = [k for k in kinds if len({t.colour for t in things if t.kind == k}) == 1]
            if unique:
                kind = rng.choice(sorted(unique))
                here = [i for i, t in enumerate(things) if t.kind == kind]
                text = f"what colour is the {kind}?" if len(here) == 1 else f"what colour are the {plural(kind)}?"
                add(family, text, things[here[0]].colour, here)
        elif family == "quadrant":
            clear = [i for i in single if abs(things[i].x / width - 0.5) > 0.06 and abs(things[i].y / height - 0.5) > 0.06]
            if clear:
                i = rng.choice(clear)
                t = things[i]
                place = ("north" if t.y < height / 2 else "south") + ("west" if t.x < width / 2 else "east")
                add(family, f"where is the {t.colour} {t.kind}?", place, [i])
        elif len(single) >= 2:
            i, j = rng.sample(single, 2)
            a, b = things[i], things[j]
            side = max(width, height)
            way = rng.choice(["north", "south", "west", "east"])
            gap = {"north": b.y - a.y, "south": a.y - b.y, "west": b.x - a.x, "east": a.x - b.x}[way] / side
            if abs(gap) > 0.1:
                add(family, f"is the {a.colour} {a.kind} {way} of the {b.colour} {b.kind}?", "yes" if gap > 0 else "no", [i, j])
    return made
