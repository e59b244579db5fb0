// A plot of where frames were taken: north up, metres to scale, no map behind it.

import { svg, clear } from "./receipt.js";

const M_PER_DEGREE = 111_320;

export const positionOf = (frame) => frame.geotag?.position ?? null;

export function degrees([lat, lon]) {
  const part = (value, plus, minus) => `${Math.abs(value).toFixed(5)}° ${value < 0 ? minus : plus}`;
  return `${part(lat, "N", "S")}, ${part(lon, "E", "W")}`;
}

// A length of 1, 2 or 5 times a power of ten.
function round(metres) {
  const power = 10 ** Math.floor(Math.log10(metres));
  return [5, 2, 1].map((step) => step * power).find((length) => length <= metres);
}

export function draw(figure, frames, open, choose) {
  const placed = frames.filter(positionOf);
  figure.hidden = placed.length === 0;
  if (placed.length === 0) return;
  const [width, height, edge] = [240, 148, 22];
  const mid = placed.reduce(([a, b], frame) => [a + positionOf(frame)[0] / placed.length, b + positionOf(frame)[1] / placed.length], [0, 0]);
  const flat = placed.map((frame) => {
    const [lat, lon] = positionOf(frame);
    return [(lon - mid[1]) * M_PER_DEGREE * Math.cos((mid[0] * Math.PI) / 180), (lat - mid[0]) * M_PER_DEGREE];
  });
  const span = (axis) => Math.max(...flat.map((at) => Math.abs(at[axis])), 25);
  const scale = Math.min((width / 2 - edge) / span(0), (height / 2 - edge) / span(1));
  const picture = figure.querySelector("svg");
  clear(picture);
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const bar = round((width * 0.35) / scale);
  picture.append(
    svg("path", { d: `M10 ${height - 10}h${bar * scale}`, stroke: "#10151c", "stroke-width": 2 }),
    svg("text", { x: 10, y: height - 15, "font-size": 11, fill: "#10151c" }, bar >= 1000 ? `${bar / 1000} km` : `${bar} m`),
    svg("path", { d: `M${width - 14} 24v-14m-4 5l4 -6l4 6`, fill: "none", stroke: "#3d4752", "stroke-width": 1.5 }),
    svg("text", { x: width - 18, y: 36, "font-size": 11, fill: "#3d4752" }, "N"),
  );
  // The open one last, on top.
  placed.map((frame, at) => [frame, flat[at]]).sort(([a], [b]) => (a.id === open) - (b.id === open)).forEach(([frame, [x, y]]) => {
    const own = frame.id === open;
    const dot = svg("circle", { cx: width / 2 + x * scale, cy: height / 2 - y * scale, r: own ? 7 : 5, fill: own ? "#0b3d91" : "#ffffff", stroke: "#0b3d91", "stroke-width": 2 });
    dot.addEventListener("click", () => choose(frame.id));
    picture.append(dot);
  });
  const own = placed.find((frame) => frame.id === open);
  figure.querySelector("figcaption").textContent = own ? degrees(positionOf(own)) : `${placed.length} of ${frames.length} frames say where they were taken`;
}
