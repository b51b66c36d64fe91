// The API: requests with the token, and server-sent events.

let asking = null;

export const el = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.startsWith("aria-")) node.setAttribute(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
};

export function say(text) {
  const message = document.getElementById("message");
  message.textContent = text || "";
  message.hidden = !text;
}

function askToken() {
  asking ||= new Promise((resolve) => {
    const form = document.getElementById("token");
    form.hidden = false;
    form.elements.token.focus();
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem("token", form.elements.token.value);
      form.hidden = true;
      asking = null;
      resolve();
    };
  });
  return asking;
}

async function request(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem("token");
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const answer = await fetch(path, { ...options, headers });
    if (answer.status === 401) {
      await askToken();
      continue;
    }
    if (answer.ok) return answer;
    const { detail } = await answer.json().catch(() => ({}));
    const wait = answer.headers.get("Retry-After");
    throw new Error(detail || `The service answered ${answer.status}${wait ? `; try again in ${wait} s` : ""}.`);
  }
}

export const get = async (path) => (await request(path)).json();

export const send = async (method, path, body) =>
  (
    await request(path, {
      method,
      headers: { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    })
  ).json();

export async function download(path, name) {
  const url = URL.createObjectURL(await (await request(path)).blob());
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Call `on(name, data)` for every event of a job until its end, which is returned.
export async function follow(job, on) {
  const reader = (await request(`/jobs/${job}/events`)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return get(`/jobs/${job}`);
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [name, data] = part.split("\n").map((line) => line.replace(/^\w+: /, ""));
      const news = JSON.parse(data);
      if (name === "end") return news;
      on(name, news);
    }
  }
}
