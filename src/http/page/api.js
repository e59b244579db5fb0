// Requests to the daemon: the token where it wants one, refusals as errors with the daemon's own words, events that resume.

let token = sessionStorage.getItem("uhr-token");
let asking = null;

export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// Asks for the token once, however many requests want it.
function wantToken(again) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("token");
    const text = document.getElementById("token-text");
    document.getElementById("token-note").hidden = !again;
    text.value = "";
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      token = text.value.trim();
      sessionStorage.setItem("uhr-token", token);
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

export async function request(path, options = {}) {
  for (;;) {
    const sent = token;
    const headers = { ...options.headers };
    if (sent) headers.authorization = `Bearer ${sent}`;
    const response = await fetch(path, { ...options, headers });
    if (response.status === 401) {
      if (sent === token) await wantToken(sent !== null);
      continue;
    }
    if (response.ok) return response;
    let error = {};
    try {
      error = (await response.json()).error ?? {};
    } catch {}
    throw new Refusal(response.status, error.code ?? "", error.message ?? `the daemon answered ${response.status}`);
  }
}

export const json = async (path, options) => (await request(path, options)).json();

export const post = (path, body) =>
  json(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Calls `on(name, data)` for every event of a question until it is done; where the connection breaks it begins again, and the first events say how things
// stand then. `signal` ends it.
export async function follow(id, signal, on) {
  while (!signal.aborted) {
    try {
      const response = await request(`/api/questions/${id}/events`, { signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        rest += value;
        const blocks = rest.split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const name = /^event: (.*)$/m.exec(block)?.[1];
          const data = /^data: (.*)$/m.exec(block)?.[1];
          if (!name) continue;
          on(name, JSON.parse(data));
          if (name === "done") return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.status < 500) throw error;
    }
    on("lost", {});
    await pause(1000);
  }
}
