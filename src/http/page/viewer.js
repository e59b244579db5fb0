// The frame on a canvas: tiles of the level that the screen can show, layers above them, moved by pointer, wheel and keys.

import { request } from "./api.js";
import { VIEW_COLOURS } from "./receipt.js";

const AT_ONCE = 6; // tiles that are fetched together
const KEPT = 320; // tiles kept as bitmaps: 80 MiB of 256 px
const MOST = 16; // screen pixels a frame pixel, at most

const HUES = [0, 137, 275, 52, 190, 327, 105, 242, 20, 157, 295, 72];

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Viewer {
  constructor(canvas, told) {
    this.canvas = canvas;
    this.told = told;
    this.pen = canvas.getContext("2d", { alpha: false });
    this.frame = null;
    this.at = { x: 0, y: 0, scale: 1 }; // the frame pixel in the middle; CSS pixels a frame pixel
    this.tiles = new Map();
    this.wanted = [];
    this.coming = new Set();
    this.failed = new Set();
    this.layers = null;
    this.shown = { kept: [true, true, true, true], merged: false, heat: false, evidence: true };
    this.evidence = [];
    this.chosen = -1;
    this.loads = []; // milliseconds of each tile, for whoever measures
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
  }

  // --- what is shown

  // `pack`: size, tile and levels; null while there are no tiles. `thumbnail`: a bitmap until then.
  open(frame, pack, thumbnail) {
    const other = this.frame?.id !== frame.id;
    if (other) {
      this.generation = (this.generation ?? 0) + 1;
      for (const bitmap of this.tiles.values()) bitmap.close();
      this.tiles.clear();
      this.failed.clear();
      this.layers = null;
      this.evidence = [];
      this.chosen = -1;
    }
    this.frame = frame;
    this.pack = pack;
    this.thumbnail = thumbnail ?? (other ? null : this.thumbnail);
    this.canvas.setAttribute("aria-label", `Frame ${frame.id}, ${frame.w} by ${frame.h} pixels`);
    if (other) this.fit(true);
    this.draw();
  }

  // Layers of one frame of an answer, as the journal has them.
  setLayers(looked, evidence) {
    this.evidence = evidence;
    this.layers = null;
    this.chosen = -1;
    if (looked) {
      const paths = VIEW_COLOURS.map(() => ({ path: new Path2D(), side: 0 }));
      for (const token of looked.kept) {
        const view = paths[Math.min(token.view, 3)];
        view.path.rect(token.x, token.y, token.w, token.h);
        view.side = Math.max(view.side, token.w);
      }
      // Neighbours in number differ in hue: what was merged into one token is told from the next.
      const merged = HUES.map(() => new Path2D());
      for (const region of looked.merged) for (const [x, y, w, h] of region.members) merged[region.region % HUES.length].rect(x, y, w, h);
      this.layers = { paths, merged, heat: this.heatOf(looked.importance) };
    }
    this.draw();
  }

  // Importance as a picture of its own, a pixel a token of the coarsest view.
  heatOf(importance) {
    if (!importance?.side) return null;
    const { side, scores } = importance;
    const picture = new OffscreenCanvas(side, side);
    const pen = picture.getContext("2d");
    const pixels = pen.createImageData(side, side);
    scores.forEach((score, at) => {
      // Few tokens matter: the square root lets the others be seen as well.
      const heat = Math.sqrt(score / 255);
      pixels.data.set([255, Math.round(40 + 190 * heat), Math.round(30 * (1 - heat)), Math.round(165 * heat)], at * 4);
    });
    pen.putImageData(pixels, 0, 0);
    return picture;
  }

  // --- where

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.ratio = devicePixelRatio || 1;
    this.width = box.width;
    this.height = box.height;
    this.canvas.width = Math.max(1, Math.round(box.width * this.ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * this.ratio));
    if (this.fitted) this.fit(true);
    this.draw();
  }

  get whole() {
    return Math.min(this.width / this.frame.w, this.height / this.frame.h) || 1;
  }

  limit(at) {
    const scale = Math.min(Math.max(at.scale, this.whole * 0.7), MOST);
    return { scale, x: Math.min(Math.max(at.x, 0), this.frame.w), y: Math.min(Math.max(at.y, 0), this.frame.h) };
  }

  go(to, quick = false) {
    if (!this.frame) return;
    const [from, target] = [this.at, this.limit(to)];
    this.fitted = false;
    cancelAnimationFrame(this.moving);
    if (quick || still.matches) {
      this.at = target;
      return this.draw();
    }
    const begun = performance.now();
    const step = (now) => {
      const part = Math.min((now - begun) / 320, 1);
      const eased = 1 - (1 - part) ** 3;
      const scale = from.scale * (target.scale / from.scale) ** eased;
      // The place follows the scale, so that the target stays in sight while it grows.
      const way = Math.abs(target.scale / from.scale - 1) < 0.01 ? eased : (1 / from.scale - 1 / scale) / (1 / from.scale - 1 / target.scale);
      this.at = { scale, x: from.x + (target.x - from.x) * way, y: from.y + (target.y - from.y) * way };
      this.draw();
      if (part < 1) this.moving = requestAnimationFrame(step);
    };
    this.moving = requestAnimationFrame(step);
  }

  fit(quick = false) {
    if (!this.frame) return;
    this.go({ x: this.frame.w / 2, y: this.frame.h / 2, scale: this.whole * 0.98 }, quick);
    this.fitted = true;
  }

  one() {
    this.go({ ...this.at, scale: 1 / this.ratio });
  }

  zoom(factor, x = this.width / 2, y = this.height / 2, quick = false) {
    if (!this.frame) return;
    const scale = this.limit({ ...this.at, scale: this.at.scale * factor }).scale;
    const move = 1 / this.at.scale - 1 / scale;
    this.go({ scale, x: this.at.x + (x - this.width / 2) * move, y: this.at.y + (y - this.height / 2) * move }, quick);
  }

  // A box of the frame, with its surroundings.
  show(box, number) {
    this.chosen = number;
    const scale = Math.min(this.width / (box.w * 3), this.height / (box.h * 3), 4);
    this.go({ x: box.x + box.w / 2, y: box.y + box.h / 2, scale });
  }

  // --- drawing

  draw() {
    if (this.queued) return;
    this.queued = requestAnimationFrame(() => {
      this.queued = null;
      this.paint();
    });
  }

  paint() {
    const pen = this.pen;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.fillStyle = "#1c2127";
    pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.frame) return;
    const scale = this.at.scale * this.ratio;
    const left = this.canvas.width / 2 - this.at.x * scale;
    const top = this.canvas.height / 2 - this.at.y * scale;
    pen.setTransform(scale, 0, 0, scale, left, top);
    pen.imageSmoothingEnabled = scale < 2;
    pen.imageSmoothingQuality = "high";
    if (this.thumbnail) pen.drawImage(this.thumbnail, 0, 0, this.frame.w, this.frame.h);
    if (this.pack) this.paintTiles(pen, scale, left, top);
    this.paintLayers(pen, scale);
    this.told({ scale, x: this.at.x, y: this.at.y });
  }

  paintTiles(pen, scale, left, top) {
    const { levels, tile } = this.pack;
    const finest = levels - 1;
    const level = Math.min(Math.max(Math.ceil(finest + Math.log2(scale) - 0.25), 0), finest);
    this.wanted = [];
    // Coarser levels first: they fill what isn't there yet.
    for (let number = Math.max(level - 3, 0); number <= level; number += 1) {
      const size = tile * 2 ** (finest - number); // of a tile, in frame pixels
      const [columns, rows] = [Math.ceil(this.frame.w / size), Math.ceil(this.frame.h / size)];
      const range = (from, to, most) => [Math.max(Math.floor(from / scale / size), 0), Math.min(Math.ceil(to / scale / size), most)];
      const [x0, x1] = range(-left, this.canvas.width - left, columns);
      const [y0, y1] = range(-top, this.canvas.height - top, rows);
      for (let y = y0; y < y1; y += 1) {
        for (let x = x0; x < x1; x += 1) {
          const key = `${number}/${x}_${y}`;
          const bitmap = this.tiles.get(key);
          if (bitmap) {
            // Used last: it stays longest.
            this.tiles.delete(key);
            this.tiles.set(key, bitmap);
            const part = 2 ** (finest - number);
            pen.drawImage(bitmap, x * size, y * size, bitmap.width * part, bitmap.height * part);
          } else if ((number === level || number === 0) && !this.failed.has(key)) {
            const off = Math.hypot((x + 0.5) * size - this.at.x, (y + 0.5) * size - this.at.y);
            this.wanted.push({ key, off: number === level ? off : -1 });
          }
        }
      }
    }
    this.wanted.sort((a, b) => a.off - b.off);
    this.fetch();
  }

  fetch() {
    while (this.coming.size < AT_ONCE) {
      const next = this.wanted.find(({ key }) => !this.coming.has(key));
      if (!next) return;
      this.load(next.key);
    }
  }

  async load(key) {
    const [generation, begun] = [this.generation, performance.now()];
    this.coming.add(key);
    try {
      const response = await request(`/api/frames/${this.frame.id}/tiles/${key}.jpg`);
      const bitmap = await createImageBitmap(await response.blob());
      if (generation !== this.generation) {
        bitmap.close();
      } else {
        this.loads.push(performance.now() - begun);
        if (this.loads.length > 2000) this.loads.shift();
        this.tiles.set(key, bitmap);
        for (const [old, kept] of this.tiles) {
          if (this.tiles.size <= KEPT) break;
          if (old.startsWith("0/")) continue;
          kept.close();
          this.tiles.delete(old);
        }
        this.draw();
      }
    } catch (error) {
      if (generation === this.generation) {
        this.failed.add(key);
        setTimeout(() => {
          this.failed.delete(key);
          this.draw();
        }, 2000);
      }
    } finally {
      this.coming.delete(key);
      this.wanted = this.wanted.filter((tile) => tile.key !== key);
      this.fetch();
    }
  }

  paintLayers(pen, scale) {
    const layers = this.layers;
    if (layers?.heat && this.shown.heat) {
      // The coarsest view is a square with the frame in its middle.
      const side = Math.max(this.frame.w, this.frame.h);
      pen.save();
      pen.beginPath();
      pen.rect(0, 0, this.frame.w, this.frame.h);
      pen.clip();
      pen.imageSmoothingEnabled = true;
      pen.drawImage(layers.heat, (this.frame.w - side) / 2, (this.frame.h - side) / 2, side, side);
      pen.restore();
    }
    if (layers && this.shown.merged) {
      layers.merged.forEach((path, at) => {
        pen.fillStyle = `hsl(${HUES[at]} 85% 60% / 38%)`;
        pen.fill(path);
      });
    }
    if (layers) {
      layers.paths.forEach(({ path, side }, view) => {
        if (!this.shown.kept[view]) return;
        // Thin where tokens are small on the screen, so that the frame is seen through them.
        pen.lineWidth = (Math.min(Math.max((side * scale) / this.ratio / 9, 0.45), 2) * this.ratio) / scale;
        pen.strokeStyle = VIEW_COLOURS[view];
        pen.stroke(path);
      });
    }
    if (!this.shown.evidence) return;
    const unit = this.ratio / scale;
    this.evidence.forEach((box, at) => {
      pen.lineWidth = 6 * unit;
      pen.strokeStyle = "#10151c";
      pen.strokeRect(box.x, box.y, box.w, box.h);
      pen.lineWidth = 3 * unit;
      pen.strokeStyle = "#ffffff";
      pen.strokeRect(box.x, box.y, box.w, box.h);
      const size = 24 * unit;
      const up = box.y > size ? box.y - size : box.y;
      pen.fillStyle = at === this.chosen ? "#0b3d91" : "#10151c";
      pen.fillRect(box.x - 3 * unit, up - 3 * unit, size, size);
      pen.fillStyle = "#ffffff";
      pen.font = `700 ${15 * unit}px system-ui, sans-serif`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.fillText(String(at + 1), box.x + size / 2 - 3 * unit, up + size / 2 - 2 * unit);
    });
  }

  // --- hands

  listen() {
    const canvas = this.canvas;
    const touches = new Map();
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      touches.set(event.pointerId, place(event));
      canvas.classList.add("moving");
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = touches.get(event.pointerId);
      if (!before || !this.frame) return;
      const now = place(event);
      const others = [...touches].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      if (others.length === 1) {
        const [other] = others;
        const far = (at) => Math.hypot(at.x - other.x, at.y - other.y) || 1;
        this.zoom(far(now) / far(before), (now.x + other.x) / 2, (now.y + other.y) / 2, true);
      }
      const share = others.length === 1 ? 0.5 : 1;
      this.go({ ...this.at, x: this.at.x - ((now.x - before.x) * share) / this.at.scale, y: this.at.y - ((now.y - before.y) * share) / this.at.scale }, true);
      touches.set(event.pointerId, now);
    });
    const up = (event) => {
      touches.delete(event.pointerId);
      if (!touches.size) canvas.classList.remove("moving");
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const at = place(event);
      this.zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY)) / 320), at.x, at.y, true);
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => this.zoom(2.5, place(event).x, place(event).y));
    canvas.addEventListener("keydown", (event) => {
      const step = 90 / this.at.scale;
      const move = (x, y) => this.go({ ...this.at, x: this.at.x + x * step, y: this.at.y + y * step }, true);
      const keys = {
        ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1),
        "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), 0: () => this.fit(), 1: () => this.one(),
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
  }
}
