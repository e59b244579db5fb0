// The page: frames on the left, the frame in the middle, questions and answers on the right.

import { Refusal, follow, json, post, request } from "./api.js";
import { degrees, draw as drawMap, positionOf } from "./map.js";
import { VIEW_COLOURS, clear, drawReceipt, el, mib, time } from "./receipt.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");

const state = {
  frames: [], // newest first
  open: null, // the frame in the viewer
  beside: new Set(), // frames that the question is about as well
  question: null, // the question that is shown
  document: null, // its answer
  looked: null, // its layers, a frame each
};

const clock = (ms) => `${new Date(ms).toLocaleDateString("en-CA")} ${new Date(ms).toLocaleTimeString("en-GB")}`;
const viewer = new Viewer($("canvas"), ({ scale, x, y }) => {
  $("place").textContent = `${Math.round(scale * 100) || (scale * 100).toFixed(1)} %   x ${Math.round(x)}, y ${Math.round(y)}`;
});
globalThis.uhrViewer = viewer; // for whoever measures how long tiles take

// --- the address holds what is shown, so that a reload shows it again

function remember() {
  const parts = new URLSearchParams();
  if (state.open) parts.set("frame", state.open.id);
  if (state.question) parts.set("question", state.question);
  history.replaceState(null, "", `#${parts}`);
}

const remembered = () => new URLSearchParams(location.hash.slice(1));

// --- frames

const thumbnails = new Map(); // addresses of blobs, by frame

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    loadThumbnail(target.dataset.frame);
  }
}, { rootMargin: "200px" });

async function loadThumbnail(id) {
  if (!thumbnails.has(id)) {
    thumbnails.set(id, request(`/api/frames/${id}/thumbnail.jpg`).then((response) => response.blob()).catch((error) => {
      // A busy maker is asked again when the list is drawn next.
      if (!(error instanceof Refusal) || error.status >= 500) thumbnails.delete(id);
      return null;
    }));
  }
  const blob = await thumbnails.get(id);
  if (!blob) return;
  blob.address ??= URL.createObjectURL(blob);
  for (const image of document.querySelectorAll(`.blank[data-frame="${id}"]`)) image.replaceWith(el("img", { src: blob.address, alt: "" }));
}

function frameNote(frame) {
  if (frame.state === "failed") return frame.reason ?? "could not be taken in";
  if (frame.state === "dropped") return "not taken in";
  if (frame.state === "waiting") return "waiting";
  return frame.in_slot ? "ready" : "taken in before";
}

function drawFrames() {
  const list = $("frame-list");
  const focused = document.activeElement?.closest?.(".frame")?.dataset.frame;
  clear(list);
  for (const frame of state.frames) {
    const name = new Date(frame.seen_at).toLocaleTimeString("en-GB");
    const day = new Date(frame.seen_at).toLocaleDateString("en-CA");
    const place = positionOf(frame);
    const open = el("button", { type: "button", "aria-pressed": String(frame.id === state.open?.id) },
      el("i", { class: "blank", "data-frame": frame.id }),
      el("div", { class: "tell" }, el("b", {}, name), el("span", {}, day), el("span", {}, `${frame.w} × ${frame.h}`), el("span", { title: frameNote(frame) }, frameNote(frame))),
      place ? el("span", { class: "where" }, degrees(place)) : "");
    open.addEventListener("click", () => openFrame(frame.id));
    const beside = el("input", { type: "checkbox", "aria-label": `Ask about the frame of ${name} as well` });
    beside.checked = state.beside.has(frame.id) || frame.id === state.open?.id;
    beside.disabled = frame.id === state.open?.id;
    beside.addEventListener("change", () => {
      if (beside.checked) state.beside.add(frame.id);
      else state.beside.delete(frame.id);
      drawAbout();
    });
    const item = el("li", { class: frame.id === state.open?.id ? "frame open" : "frame", "data-frame": frame.id }, open, el("label", { title: "Ask about this frame as well" }, beside));
    list.append(item);
    if (focused === frame.id) open.focus({ preventScroll: true });
    const blank = item.querySelector(".blank");
    if (thumbnails.has(frame.id)) loadThumbnail(frame.id);
    else seen.observe(blank);
  }
  $("no-frames").hidden = state.frames.length > 0;
  drawMap($("map"), state.frames, state.open?.id, openFrame);
  drawAbout();
}

let drawn = "";

async function loadFrames() {
  const { frames } = await json("/api/frames?limit=50");
  const newest = new Set(frames.map((frame) => frame.id));
  const least = frames.at(-1)?.number ?? 0;
  // Older pages that were asked for stay.
  state.frames = [...frames, ...state.frames.filter((frame) => !newest.has(frame.id) && frame.number < least)];
  if (frames.length === 50 && state.frames.length === 50) $("older-frames").hidden = false;
  const now = JSON.stringify(state.frames);
  if (now === drawn) return;
  drawn = now;
  drawFrames();
}

async function openFrame(id) {
  let frame = state.frames.find((frame) => frame.id === id);
  try {
    frame ??= await json(`/api/frames/${id}`);
  } catch {
    return;
  }
  if (state.open?.id !== id) {
    state.open = frame;
    state.beside.delete(id);
    remember();
    drawFrames();
    document.querySelector(".frame.open")?.scrollIntoView({ block: "nearest", inline: "nearest", behavior: still.matches ? "auto" : "smooth" });
    viewer.open(frame, null, null);
    showLayers();
    prepare(frame);
  }
}

function waiting(text, share = null) {
  $("preparing").hidden = text === null;
  if (text === null) return;
  $("preparing").firstElementChild.textContent = text;
  $("preparing").lastElementChild.hidden = share === null;
  $("preparing").lastElementChild.value = share ?? 0;
}

// Has the frame's tiles made and waits for them.
async function prepare(frame) {
  const own = () => state.open?.id === frame.id;
  waiting(null);
  loadThumbnail(frame.id).then(async () => {
    const blob = await thumbnails.get(frame.id);
    const bitmap = blob && (await createImageBitmap(blob));
    // The tiles may have come first.
    if (bitmap && own() && !viewer.pack) viewer.open(frame, null, bitmap);
  });
  const asked = { method: "POST", headers: { "content-type": "application/json" } };
  for (let first = true; own(); first = false) {
    let zoom;
    try {
      zoom = await json(`/api/frames/${frame.id}/zoom`, first ? asked : {});
      if (zoom.state === "absent") zoom = await json(`/api/frames/${frame.id}/zoom`, asked);
    } catch (error) {
      zoom = error instanceof Refusal && error.status === 503 ? { state: "preparing", share: 0 } : { state: "failed", reason: error.message };
    }
    if (!own()) return;
    if (zoom.state === "ready") {
      waiting(null);
      return viewer.open({ ...frame, w: zoom.w, h: zoom.h }, zoom, null);
    }
    if (zoom.state === "failed") return waiting(`This frame can't be shown: ${zoom.reason}`);
    waiting("Preparing the frame for viewing", zoom.share ?? 0);
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

function drawAbout() {
  const frames = asked();
  $("about").textContent = frames.length === 0 ? "No frame is open." : frames.length === 1 ? `About the open frame, ${state.open.w} × ${state.open.h} px` : `About ${frames.length} frames`;
}

const asked = () => (state.open ? [state.open.id, ...state.beside] : []);

async function bring(file) {
  const note = $("bring-note");
  note.hidden = false;
  note.textContent = `Sending ${file.name} …`;
  try {
    const frame = await json("/api/frames", { method: "POST", headers: { "content-type": file.type || "image/tiff" }, body: file });
    note.hidden = true;
    await loadFrames();
    openFrame(frame.id);
  } catch (error) {
    note.textContent = error.message;
  }
}

// --- layers

function drawLayerBoxes() {
  const [views, others] = [el("div", { role: "group", "aria-label": "Kept tokens, by the view's side in pixels" }, el("span", { class: "name", "aria-hidden": "true" }, "Kept, view px")), el("div")];
  $("layer-list").append(views, others);
  const box = (list, text, colour, checked, change) => {
    const input = el("input", { type: "checkbox" });
    input.checked = checked;
    input.addEventListener("change", () => {
      change(input.checked);
      viewer.draw();
    });
    const label = el("label", {}, input, colour ? el("span", { class: "swatch", colour }) : null, text);
    list.append(label);
    return input;
  };
  const sides = [672, 1344, 2688, 4032];
  const kept = VIEW_COLOURS.map((colour, view) => {
    const input = box(views, `${sides[view]}`, colour, viewer.shown.kept[view], (on) => (viewer.shown.kept[view] = on));
    return input;
  });
  const merged = box(others, "Merged", "linear-gradient(90deg, #f07ab4 33%, #7ae0f0 33% 66%, #d8f07a 66%)", viewer.shown.merged, (on) => (viewer.shown.merged = on));
  const heat = box(others, "Importance", "linear-gradient(90deg, #fff 0, #ff6a1a 60%, #ffe600)", viewer.shown.heat, (on) => (viewer.shown.heat = on));
  const evidence = box(others, "Evidence", null, viewer.shown.evidence, (on) => (viewer.shown.evidence = on));
  return { kept, merged, heat, evidence };
}

const boxes = drawLayerBoxes();

// Layers of the answer that is shown, where they are of the frame that is open.
function showLayers() {
  const frames = state.document?.receipt.frames ?? [];
  const at = frames.findIndex((frame) => frame.id === state.open?.id);
  const looked = at >= 0 ? (state.looked?.[at] ?? null) : null;
  const evidence = at >= 0 ? state.document.receipt.evidence.map((box, number) => ({ ...box, number })).filter((box) => box.frame === at) : [];
  viewer.setLayers(looked, evidence);
  const views = [...new Set((state.document?.receipt.budget.per_view ?? []).map((view) => view.view_px))];
  boxes.kept.forEach((input, view) => {
    input.disabled = !looked;
    const text = input.parentElement.lastChild;
    if (views[view]) text.textContent = `${views[view]}`;
  });
  boxes.merged.disabled = !looked;
  boxes.heat.disabled = !looked?.importance?.side;
  boxes.evidence.disabled = !evidence.length;
}

// --- answers

let following = null;

async function showQuestion(id) {
  following?.abort();
  const own = (following = new AbortController());
  state.question = id;
  state.document = state.looked = null;
  remember();
  select("answer");
  showLayers();
  let entry;
  try {
    entry = await json(`/api/questions/${id}`);
  } catch (error) {
    if (!own.signal.aborted) return refuse(error.message);
    return;
  }
  if (own.signal.aborted) return;
  $("no-answer").hidden = true;
  $("answer-body").hidden = false;
  $("asked").textContent = entry.text;
  $("text").textContent = "";
  $("text").className = "";
  $("progress").textContent = "";
  $("evidence").hidden = true;
  clear($("receipt"));
  if (entry.frames[0] && !entry.frames.includes(state.open?.id)) openFrame(entry.frames[0]);
  try {
    await follow(id, own.signal, (name, data) => {
      if (own.signal.aborted) return;
      if (name === "progress") $("progress").textContent = data.state === "queued" ? (data.ahead ? `${data.ahead} before it` : "next") : `${data.stage} …`;
      else if (name === "text") $("text").textContent = data.text;
      else if (name === "lost") $("progress").textContent = "The daemon can't be reached; trying again …";
      else if (name === "done") done(id, data, own.signal);
    });
  } catch (error) {
    refuse(error.message);
  }
}

function refuse(reason) {
  $("no-answer").hidden = true;
  $("answer-body").hidden = false;
  $("text").textContent = reason;
  $("text").className = "refused";
  $("progress").textContent = "";
}

const FINISH = { length: "Ended at the most new tokens.", deadline: "Cut at its deadline.", late: "Came after its deadline." };

async function done(id, outcome, signal) {
  loadHistory();
  if (outcome.refused) return refuse(`Refused: ${outcome.refused.reason}`);
  const { document: answer } = outcome.answered;
  state.document = answer;
  $("text").textContent = answer.text || "(an empty answer)";
  $("progress").textContent = [`Answered in ${time(answer.receipt.stages_ms.total)}.`, FINISH[answer.finish]].filter(Boolean).join(" ");
  drawEvidence(answer.receipt);
  drawReceipt($("receipt"), answer.receipt);
  showLayers();
  try {
    const looked = await json(`/api/answers/${id}/looked`);
    if (signal.aborted) return;
    state.looked = looked;
    showLayers();
  } catch {}
}

function drawEvidence(receipt) {
  const list = $("evidence").querySelector("ol");
  clear(list);
  $("evidence").hidden = receipt.evidence.length === 0;
  receipt.evidence.forEach((box, at) => {
    const whereOn = receipt.frames.length > 1 ? `frame ${box.frame + 1}, ` : "";
    const ground = box.wgs84 ? `${degrees([0, 1].map((axis) => box.wgs84.corners.reduce((sum, corner) => sum + corner[axis] / 4, 0)))} ± ${Math.round(box.wgs84.error_m)} m` : null;
    const row = el("button", { type: "button" }, el("span", { class: "number" }, String(at + 1)),
      el("span", {}, `${whereOn}x ${Math.round(box.x)}, y ${Math.round(box.y)}, ${Math.round(box.w)} × ${Math.round(box.h)} px`, ground ? el("small", {}, ground) : null));
    row.addEventListener("click", async () => {
      await openFrame(receipt.frames[box.frame].id);
      const own = viewer.evidence.findIndex((shown) => shown.number === at);
      viewer.show(box, own);
      if (matchMedia("(max-width: 1000px)").matches) $("stage").scrollIntoView({ block: "nearest", behavior: still.matches ? "auto" : "smooth" });
    });
    list.append(el("li", {}, row));
  });
}

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const note = $("ask-note");
  note.hidden = true;
  const say = (text) => {
    note.textContent = text;
    note.hidden = false;
  };
  if (!state.open) return say("No frame is open.");
  const budget = $("budget").value === "own" ? $("tokens").value.trim() : $("budget").value;
  const deadline = $("deadline").value.trim().replace(",", ".");
  if (deadline && !(Number(deadline) > 0)) return say(`Deadline: wanted seconds, found "${deadline}".`);
  const body = { text: $("question").value, frames: asked() };
  if (budget) body.budget = budget;
  if (deadline) body.deadline_ms = Math.round(Number(deadline) * 1000);
  const button = event.submitter ?? $("ask").querySelector(".primary");
  button.disabled = true;
  try {
    const { id } = await post("/api/questions", body);
    showQuestion(id);
    loadHistory();
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
});

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

$("budget").addEventListener("change", () => {
  $("own-budget").hidden = $("budget").value !== "own";
  $("tokens").required = $("budget").value === "own";
});

// --- history

async function loadHistory(older = false) {
  const before = older ? $("history-list").lastElementChild?.dataset.question : null;
  const query = new URLSearchParams({ limit: "30", q: $("search").value.trim() });
  if (before) query.set("before", before);
  let questions;
  try {
    ({ questions } = await json(`/api/questions?${query}`));
  } catch {
    return;
  }
  const rows = questions.map((entry) => {
    const outcome = entry.state === "answered" ? entry.outcome.answer : entry.state === "refused" ? `Refused: ${entry.outcome.reason}` : "not answered yet";
    const row = el("button", { type: "button" }, el("b", {}, entry.text), el("span", entry.state === "refused" ? { class: "refused" } : {}, outcome), el("span", {}, `${clock(entry.accepted_at)}${entry.outcome?.total_ms ? `, ${time(entry.outcome.total_ms)}` : ""}`));
    row.addEventListener("click", () => showQuestion(entry.id));
    return el("li", { "data-question": entry.id }, row);
  });
  if (older) $("history-list").append(...rows);
  else $("history-list").replaceChildren(...rows);
  $("older-questions").hidden = questions.length < 30;
  $("no-history").hidden = $("history-list").childElementCount > 0;
}

let typing = 0;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(loadHistory, 250);
});
$("older-questions").addEventListener("click", () => loadHistory(true));
$("older-frames").addEventListener("click", async () => {
  const { frames } = await json(`/api/frames?limit=50&before=${state.frames.at(-1).number}`);
  state.frames.push(...frames);
  $("older-frames").hidden = frames.length < 50;
  drawFrames();
});
$("bring").addEventListener("change", () => {
  const [file] = $("bring").files;
  if (file) bring(file);
  $("bring").value = "";
});

// --- tabs

const TABS = ["answer", "history"];
function select(name, focus = false) {
  for (const tab of TABS) {
    const button = $(`tab-${tab}`);
    const own = tab === name;
    button.setAttribute("aria-selected", String(own));
    button.tabIndex = own ? 0 : -1;
    if (own && focus) button.focus();
    $(tab).hidden = !own;
  }
  if (name === "history") loadHistory();
}
for (const tab of TABS) {
  $(`tab-${tab}`).addEventListener("click", () => select(tab));
  $(`tab-${tab}`).addEventListener("keydown", (event) => {
    if (["ArrowLeft", "ArrowRight"].includes(event.key)) select(TABS[1 - TABS.indexOf(tab)], true);
  });
}

$("zoom").addEventListener("click", ({ target }) => {
  const act = { in: () => viewer.zoom(1.8), out: () => viewer.zoom(1 / 1.8), fit: () => viewer.fit(), one: () => viewer.one() };
  act[target.dataset.zoom]?.();
});

// --- gauges

function gauge(name, value, share = null) {
  const own = el("div", {}, el("dt", {}, name), el("dd", {}, value));
  if (share !== null) {
    const bar = el("i");
    bar.style.width = `${Math.min(share, 1) * 100}%`;
    own.append(el("meter-bar", { "aria-hidden": "true" }, bar));
  }
  return own;
}

async function loadStatus() {
  const status = await json("/api/status");
  const { board, memory, questions, frames } = status;
  $("model").textContent = `${status.model.split("@")[0]} on ${status.profile}`;
  const stale = board.stale ? " (old)" : "";
  const shown = [gauge("Memory", `${mib(memory.resident_bytes)} of ${mib(memory.planned_bytes)}`, memory.resident_bytes / memory.planned_bytes)];
  if (board.temperature != null) shown.push(gauge("Temperature", `${board.temperature.toFixed(1)} °C${stale}`, board.temperature / 100));
  if (board.power != null) shown.push(gauge("Power", `${(board.power / 1000).toFixed(1)} W${stale}`));
  if (board["gpu-load"] != null) shown.push(gauge("GPU", `${(board["gpu-load"] / 10).toFixed(0)} %`, board["gpu-load"] / 1000));
  if (board["power-mode"]) shown.push(gauge("Mode", board["power-mode"]));
  shown.push(gauge("Frame slots", `${frames.in_slots.length} of ${frames.slots}`, frames.in_slots.length / Math.max(frames.slots, 1)));
  shown.push(gauge("Queue", questions.queued ? `${questions.queued} waiting` : questions.working_on ? "at work" : "idle"));
  $("gauges").replaceChildren(...shown);
  const wrong = status.journal.full ? `Nothing new is accepted: ${status.journal.full}` : status.watchdog.overdue ? `${status.watchdog.stage} takes too long` : status.stopping ? "The daemon is about to end" : "";
  if ($("link").textContent !== wrong) $("link").textContent = wrong;
}

async function often(work, ms) {
  for (;;) {
    if (!document.hidden) {
      try {
        await work();
      } catch (error) {
        if (!(error instanceof Refusal)) $("link").textContent = "The daemon can't be reached";
      }
    }
    await new Promise((resolve) => setTimeout(resolve, ms));
  }
}

// --- begin

async function begin() {
  await loadFrames().catch(() => {});
  const then = remembered();
  const question = then.get("question");
  const frame = then.get("frame") ?? state.frames[0]?.id;
  if (frame) await openFrame(frame);
  if (question) showQuestion(question);
  often(loadStatus, 2000);
  setTimeout(() => often(loadFrames, 3000), 3000);
}

showLayers();
begin();
