// A receipt as a picture: where the time went, what the budget let through, memory, and the step of the ladder.

export const VIEW_COLOURS = ["#56b4e9", "#009e73", "#f0e442", "#e8730c"];

const STAGES = ["decode", "views", "encode", "regions", "anchor", "select", "merge", "prefill", "generate"];
// Of the accent's hue: what is done once a frame is grey, the question's own work blue.
const STAGE_COLOURS = ["#aab2bb", "#8d97a1", "#6f7a86", "#525d69", "#b9cdf0", "#8aaae0", "#5b87cf", "#2c5fb3", "#0b3d91"];

export function svg(name, attributes = {}, text = null) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key === "colour") made.style.background = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const clear = (node) => node.replaceChildren();

export const time = (ms) => (ms >= 10_000 ? `${(ms / 1000).toFixed(1)} s` : ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : ms >= 10 ? `${Math.round(ms)} ms` : `${ms.toFixed(1)} ms`);
export const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
const count = (number) => number.toLocaleString("en");

function part(title, figure, ...children) {
  return el("section", {}, el("h3", {}, title, el("b", {}, figure)), ...children);
}

function stages(receipt) {
  const times = receipt.stages_ms;
  const spent = STAGES.map((name) => times[name] ?? 0);
  const sum = spent.reduce((a, b) => a + b, 0) || 1;
  const limit = receipt.plan?.deadline_ms ?? 0;
  const bound = receipt.predicted_ms?.total?.p99 ?? 0;
  const whole = Math.max(sum, limit, bound);
  const picture = svg("svg", { viewBox: "0 0 340 46", role: "img", "aria-label": `Stages: ${STAGES.map((name, at) => `${name} ${time(spent[at])}`).join(", ")}` });
  picture.append(svg("rect", { x: 0, y: 4, width: 340, height: 22, fill: "#ffffff", stroke: "#c3cad2" }));
  let x = 0;
  spent.forEach((ms, at) => {
    const width = (ms / whole) * 340;
    if (width > 0) picture.append(svg("rect", { x, y: 4, width: Math.max(width, 0.6), height: 22, fill: STAGE_COLOURS[at] }));
    x += width;
  });
  for (const [ms, label] of [[bound, `bound ${time(bound)}`], [limit, `deadline ${time(limit)}`]]) {
    if (!ms) continue;
    const at = Math.min((ms / whole) * 340, 339);
    picture.append(svg("path", { d: `M${at} 0v31`, stroke: "#10151c", "stroke-width": 2, "stroke-dasharray": label.startsWith("b") ? "3 3" : "none" }));
    picture.append(svg("text", { x: at, y: 43, "text-anchor": at > 240 ? "end" : at < 60 ? "start" : "middle" }, label === `bound ${time(bound)}` && limit && Math.abs(limit - bound) / whole < 0.3 ? "" : label));
  }
  const list = el("ul", { class: "parts" });
  STAGES.forEach((name, at) => {
    if (spent[at] > 0) list.append(el("li", {}, el("span", { class: "swatch", colour: STAGE_COLOURS[at] }), name, el("b", {}, time(spent[at]))));
  });
  const there = STAGES.slice(0, 4).every((name) => !times[name]);
  return part("Time", time(times.total), picture, list, there ? el("p", { class: "note" }, "The frame was taken in before: nothing was decoded, encoded or clustered.") : null,
    bound ? el("p", { class: "note" }, `Predicted: ${time(receipt.predicted_ms.total.p50)} at the median, at most ${time(bound)}.`) : null);
}

function tokens(receipt) {
  const sides = [...new Set(receipt.budget.per_view.map((view) => view.view_px))];
  const rows = sides.map((side) => receipt.budget.per_view.filter((view) => view.view_px === side).reduce((sum, view) => ({
    kept: sum.kept + view.kept, merged: sum.merged + view.merged, budget: sum.budget + view.budget,
  }), { kept: 0, merged: 0, budget: 0 }));
  const most = Math.max(...rows.map((row) => Math.max(row.budget, row.kept + row.merged)), 1);
  const high = 24;
  const picture = svg("svg", { viewBox: `0 0 340 ${rows.length * high}`, role: "img", "aria-label": sides.map((side, at) => `View of ${side} px: ${rows[at].kept} kept, ${rows[at].merged} merged, of ${rows[at].budget}`).join("; ") });
  const wide = 176;
  rows.forEach((row, at) => {
    const y = at * high;
    const scale = (value) => (value / most) * wide;
    picture.append(
      svg("text", { x: 0, y: y + 15 }, `${sides[at]} px`),
      svg("rect", { x: 62, y: y + 4, width: Math.max(scale(row.budget), 1), height: 14, fill: "#ffffff", stroke: "#3d4752" }),
      svg("rect", { x: 62, y: y + 4, width: scale(row.kept), height: 14, fill: VIEW_COLOURS[at % 4] }),
      svg("rect", { x: 62 + scale(row.kept), y: y + 4, width: scale(row.merged), height: 14, fill: VIEW_COLOURS[at % 4], opacity: 0.45 }),
      svg("rect", { x: 62, y: y + 4, width: Math.max(scale(row.budget), 1), height: 14, fill: "none", stroke: "#3d4752" }),
      svg("text", { x: 340, y: y + 15, "text-anchor": "end" }, `${count(row.kept)} + ${count(row.merged)}`),
    );
  });
  const used = rows.reduce((sum, row) => sum + row.kept + row.merged, 0);
  return part("Tokens", `${count(used)} of ${count(receipt.budget.total)}`, picture, el("p", { class: "note" }, "Kept + merged by view; the outline is the view's budget."));
}

function memory(receipt) {
  const { planned_bytes: planned, peak_bytes: peak } = receipt.memory;
  const share = Math.min(peak / planned, 1.15);
  const picture = svg("svg", { viewBox: "0 0 340 22", role: "img", "aria-label": `Memory: peak ${mib(peak)} of ${mib(planned)} planned` });
  const full = 340 / 1.15;
  picture.append(
    svg("rect", { x: 0.5, y: 3, width: full, height: 14, fill: "#ffffff", stroke: "#3d4752" }),
    svg("rect", { x: 0.5, y: 3, width: full * share, height: 14, fill: peak > planned ? "#8a1010" : "#0b3d91" }),
    svg("path", { d: `M${full} 0v20`, stroke: "#10151c", "stroke-width": 2 }),
  );
  return part("Memory", peak ? `${mib(peak)} of ${mib(planned)}` : `${mib(planned)} planned`, picture);
}

function ladder(receipt) {
  const { asked, began, ended, descents } = receipt.plan;
  const names = [asked.name, began, ...descents.map((step) => step.to), ended.name].filter((name, at, all) => name !== all[at - 1]);
  const arrow = () => el("li", { class: "arrow", "aria-hidden": "true" }, "→");
  const steps = el("ol", { class: "steps" }, ...names.flatMap((name, at) => [at ? arrow() : null, el("li", at + 1 === names.length ? { class: "now" } : {}, name)].filter(Boolean)));
  return part("Step of the ladder", `at most ${ended.max_new} new tokens`, steps,
    ...descents.map((step) => el("p", { class: "note" }, `Before ${step.before}: ${time(step.left_ms)} left, ${time(step.needed_ms)} needed.`)));
}

function notes(receipt) {
  if (!receipt.degraded.length) return null;
  return part("Not as asked", String(receipt.degraded.length), ...receipt.degraded.map((line) => el("p", { class: "note" }, line)));
}

function rest(receipt) {
  const list = el("dl");
  const engines = receipt.engines;
  for (const [name, value] of [
    ["model", receipt.model], ["profile", receipt.profile], ["policy", `${receipt.policy}, ${receipt.mode}, ${receipt.select}`], ["regions", engines.partition],
    ["seed", receipt.seed], ["encoder", engines.encoder], ["decoder", engines.decoder], ...receipt.frames.map((frame) => ["frame", `${frame.id}, ${frame.w} × ${frame.h} px`]),
  ]) list.append(el("dt", {}, name), el("dd", {}, String(value)));
  return el("section", {}, el("details", {}, el("summary", {}, "What it ran under"), list));
}

export function drawReceipt(into, receipt) {
  into.replaceChildren(...[stages(receipt), tokens(receipt), memory(receipt), ladder(receipt), notes(receipt), rest(receipt)].filter(Boolean));
}
