// Draw a picture and a mask, and have it denoised, completed, sharpened or varied.

import { el, get, say, send } from "./client.js";
import { field, number, samplerFields, settingsOf, taskFields, taskSettings } from "./forms.js";
import { showJob } from "./result.js";

const NAMES = { denoise: "Denoise", inpaint: "Fill in", super_resolution: "Enlarge", deblur: "Sharpen", sdedit: "Vary", colorize: "Color" };

// Pixels of a picture and its mask, drawn with a pointer or with keys.
class Editor {
  constructor(channels, height, width) {
    Object.assign(this, { channels, height, width, tool: "draw", radius: 0.8, color: [1, 1, 1], cursor: [height >> 1, width >> 1] });
    this.x = new Float32Array(channels * height * width);
    this.mask = new Uint8Array(height * width);
    this.canvas = el("canvas", {
      id: "editor", tabindex: 0, width, height, role: "application",
      "aria-label": "Picture to draw on. Arrow keys move, space paints.",
      onpointerdown: (event) => { this.canvas.setPointerCapture(event.pointerId); this.down = this.at(event); this.paint(...this.down); },
      onpointermove: (event) => this.move(event),
      onpointerup: () => { this.down = null; },
      onkeydown: (event) => this.key(event),
      onfocus: () => { this.keys = this.canvas.matches(":focus-visible"); this.draw(); },
      onblur: () => { this.keys = false; this.draw(); },
    });
    this.radius = Math.max(0.8, Math.min(height, width) / 22);
    this.draw();
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height) * this.height - 0.5, ((event.clientX - box.left) / box.width) * this.width - 0.5];
  }

  move(event) {
    if (!this.down) return;
    const [r, c] = this.at(event), [r0, c0] = this.down;
    const n = Math.max(1, Math.ceil(2 * Math.hypot(r - r0, c - c0)));
    for (let i = 1; i <= n; i++) this.paint(r0 + ((r - r0) * i) / n, c0 + ((c - c0) * i) / n, false);
    this.down = [r, c];
    this.draw();
  }

  key(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === " ") this.paint(...this.cursor);
    else if (moves[event.key]) {
      const [r, c] = this.cursor, [dr, dc] = moves[event.key];
      this.cursor = [Math.max(0, Math.min(this.height - 1, r + dr)), Math.max(0, Math.min(this.width - 1, c + dc))];
      if (event.shiftKey) this.paint(...this.cursor);
    } else return;
    event.preventDefault();
    this.keys = true;
    this.draw();
  }

  paint(row, column, draw = true) {
    const reach = Math.ceil(this.radius);
    for (let r = Math.round(row) - reach; r <= row + reach + 1; r++) {
      for (let c = Math.round(column) - reach; c <= column + reach + 1; c++) {
        if (r < 0 || c < 0 || r >= this.height || c >= this.width) continue;
        const strength = Math.max(0, Math.min(1, this.radius + 0.5 - Math.hypot(r - row, c - column)));
        if (!strength) continue;
        const i = r * this.width + c;
        if (this.tool === "mask" || this.tool === "unmask") {
          if (strength > 0.4) this.mask[i] = this.tool === "mask" ? 1 : 0;
          continue;
        }
        for (let k = 0; k < this.channels; k++) {
          const j = k * this.height * this.width + i;
          const goal = this.tool === "erase" ? 0 : this.color[this.channels === 1 ? 0 : k];
          this.x[j] += strength * (goal - this.x[j]);
        }
      }
    }
    if (draw) this.draw();
  }

  draw() {
    const pen = this.canvas.getContext("2d"), image = pen.createImageData(this.width, this.height), each = this.height * this.width;
    for (let i = 0; i < each; i++) {
      const rgb = [0, 1, 2].map((k) => 255 * Math.max(0, Math.min(1, this.x[(this.channels === 1 ? 0 : k) * each + i])));
      if (this.mask[i]) rgb.splice(0, 3, 0.4 * rgb[0] + 150, 0.4 * rgb[1] + 40, 0.4 * rgb[2] + 90);
      image.data.set([...rgb, 255], 4 * i);
    }
    const here = this.cursor[0] * this.width + this.cursor[1];
    if (this.keys) image.data.set([90, 180, 255, 255], 4 * here);
    pen.putImageData(image, 0, 0);
  }

  set(pixels) {
    this.x = Float32Array.from(pixels);
    this.draw();
  }

  addNoise(std) {
    for (let i = 0; i < this.x.length; i++) {
      this.x[i] += std * Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    }
    this.draw();
  }

  nested() {
    const { channels, height, width } = this;
    const rows = (values, k) => Array.from({ length: height }, (_, r) => Array.from(values.subarray((k * height + r) * width, (k * height + r + 1) * width)));
    return { x: Array.from({ length: channels }, (_, k) => rows(this.x, k)), mask: rows(this.mask, 0) };
  }
}

// The pixels of a picture, (C, H, W) flat in [0, 1].
function pixelsOf(source, editor, left = 0) {
  const { width, height, channels } = editor;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d");
  if (left === null) {
    const scale = Math.max(width / source.width, height / source.height); // fill, and crop the rest
    const [w, h] = [source.width * scale, source.height * scale];
    pen.drawImage(source, (width - w) / 2, (height - h) / 2, w, h);
  } else pen.drawImage(source, -left, 0);
  const { data } = pen.getImageData(0, 0, width, height);
  const gray = (i) => (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]) / 255;
  return Array.from({ length: channels * width * height }, (_, j) => {
    const k = Math.floor(j / (width * height)), i = 4 * (j % (width * height));
    return channels === 1 ? gray(i) : data[i + k] / 255;
  });
}

async function picture(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

export async function edit(run, main, parameters) {
  if (run.kind !== "images" || ![1, 3].includes(run.shape[0])) {
    main.className = "";
    main.replaceChildren(el("p", {}, "Only pictures can be drawn. Tasks on other samples: see ", el("a", { href: "/api" }, "the API"), "."));
    return;
  }
  const editor = new Editor(...run.shape);
  const names = Object.keys(run.tasks).filter((name) => name !== "interpolate" && (name !== "colorize" || run.shape[0] === 3));
  names.sort((a, b) => (b === "denoise") - (a === "denoise"));
  let task = names.includes(parameters.get("task")) ? parameters.get("task") : names[0];
  const out = el("section", { "aria-label": "Result" });
  const go = el("button", { class: "main" });
  const form = el("form", { class: "card" });
  const mask = () => editor.mask.some((value) => value);

  const tools = ["draw", "erase", "mask", "unmask"].map((name) =>
    el("button", { type: "button", "aria-pressed": name === editor.tool, onclick: () => useTool(name) }, { draw: "Draw", erase: "Erase", mask: "Mask", unmask: "Unmask" }[name]));
  const useTool = (name) => {
    editor.tool = name;
    tools.forEach((button, i) => button.setAttribute("aria-pressed", ["draw", "erase", "mask", "unmask"][i] === name));
  };
  const pens = run.shape[0] === 3
    ? field("Color", el("input", { type: "color", value: "#ffffff", oninput: (e) => { editor.color = [1, 3, 5].map((i) => parseInt(e.target.value.slice(i, i + 2), 16) / 255); } }))
    : field("Brightness", el("input", { type: "range", min: 0, max: 1, step: 0.05, value: 1, oninput: (e) => { editor.color = [Number(e.target.value)]; } }));
  const width = field("Width", el("input", { type: "range", min: 0.6, max: Math.max(2, run.shape[1] / 6), step: 0.1, value: editor.radius, oninput: (e) => { editor.radius = Number(e.target.value); } }));
  const file = field("Picture", el("input", { type: "file", accept: "image/*", onchange: async (event) => {
    const [chosen] = event.target.files;
    if (chosen) editor.set(pixelsOf(await createImageBitmap(chosen).catch(() => { say("This file is not a picture."); return editor.canvas; }), editor, null));
  } }));
  const amount = number("amount", { min: 0, max: 2, step: 0.05, value: 0.3, "aria-label": "Noise to add" });
  const clear = () => { editor.x.fill(0); editor.mask.fill(0); editor.draw(); };
  const board = el(
    "section", { class: "card", "aria-label": "Drawing" }, editor.canvas,
    el("div", { class: "actions" }, ...tools, el("button", { type: "button", onclick: clear }, "Clear")),
    el("div", { class: "row" }, pens, width, file),
    el("div", { class: "actions" }, amount, el("button", { type: "button", onclick: () => editor.addNoise(Number(amount.value)) }, "Add noise")),
    el("p", { class: "faint" }, "With keys: arrows move, space paints, shift with arrows draws a line. Mask what is to be filled in."),
  );

  const fill = () => {
    const tabs = names.map((name) => el("button", { type: "button", "aria-pressed": name === task, onclick: () => { task = name; if (name === "inpaint") useTool("mask"); fill(); } }, NAMES[name] || name));
    const solver = "noise_std" in run.tasks[task] && !("sample" in run.tasks[task])
      ? [field("Method", el("select", { name: "solver" }, el("option", { value: "" }, "default"), ...run.solvers.map((name) => el("option", { value: name }, name))))] : [];
    go.textContent = NAMES[task] || task;
    form.replaceChildren(
      el("div", { class: "actions", role: "group", "aria-label": "Task" }, ...tabs),
      ...taskFields(run.tasks[task]), ...solver,
      el("details", {}, el("summary", {}, "Sampling"), ...samplerFields(run)), go,
    );
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    say("");
    if (task === "inpaint" && !mask()) { say("Mask what is to be filled in."); return; }
    go.disabled = true;
    try {
      const { x, mask: masked } = editor.nested();
      const { n, ...settings } = settingsOf(form, run);
      const solver = form.elements.solver?.value;
      const job = await send("POST", `/tasks/${task}`, {
        x, ...settings, ...(solver ? { solver } : {}), settings: taskSettings(form, run.tasks[task]), ...(task === "inpaint" ? { mask: masked } : {}),
      });
      await showJob(run, job, out, 1);
    } catch (error) {
      say(error.message);
    }
    go.disabled = false;
  };
  fill();
  main.className = "two drawing";
  main.replaceChildren(board, el("div", {}, form, out));
  if (parameters.get("job")) {
    const strip = await picture((await get(`/jobs/${parameters.get("job")}/samples`)).picture);
    editor.set(pixelsOf(strip, editor, run.shape[2] * Number(parameters.get("index") || 0)));
  }
}
