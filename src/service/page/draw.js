// Draw samples on canvases: pictures as they are, signals as curves, points in the plane, fields in colors.

import { el } from "./client.js";

const load = (url) =>
  new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = url;
  });

// The canvases of samples, made once and drawn on again at every step.
export class Samples {
  constructor(run, count, { onselect = null, label = "Sample" } = {}) {
    this.run = run;
    this.selected = 0;
    this.node = el("div", { class: run.kind === "signals" ? "samples wide" : count <= 4 ? "samples few" : "samples" });
    this.canvases = Array.from({ length: count }, (_, i) => {
      const canvas = el("canvas", { role: "img", "aria-label": `${label} ${i + 1}` });
      if (onselect) {
        const press = () => { this.select(i); onselect(i); };
        this.node.append(el("button", { type: "button", onclick: press, "aria-pressed": i === 0 }, canvas));
      } else this.node.append(canvas);
      return canvas;
    });
  }

  select(i) {
    this.selected = i;
    [...this.node.children].forEach((button, j) => button.setAttribute("aria-pressed", i === j));
  }

  async show(data, first = 0) {
    const put = (i) => this.canvases[first + i];
    if (data.picture) {
      const strip = await load(data.picture);
      const width = this.run.shape[2], height = this.run.shape[1];
      const w = strip.width % width === 0 ? width : strip.height;
      for (let i = 0; i * w < strip.width && put(i); i++) {
        Object.assign(put(i), { width: w, height: strip.height });
        put(i).getContext("2d").drawImage(strip, -i * w, 0);
      }
      return height;
    }
    const [count, channels, ...size] = data.shape;
    const each = data.numbers.length / count;
    const low = Math.min(...data.numbers), high = Math.max(...data.numbers);
    for (let i = 0; i < count && put(i); i++) {
      const values = data.numbers.slice(i * each, (i + 1) * each);
      if (size.length >= 2) field(put(i), values, size, low, high);
      else if (size.length === 1) curves(put(i), values, channels, size[0], low, high);
      else point(put(i), values, low, high);
    }
    return 0;
  }
}

function plot(canvas) {
  canvas.classList.add("plot");
  Object.assign(canvas, { width: 320, height: 200 });
  const pen = canvas.getContext("2d");
  pen.lineWidth = 2;
  return pen;
}

function curves(canvas, values, channels, length, low, high) {
  const pen = plot(canvas), span = high - low || 1;
  for (let c = 0; c < channels; c++) {
    pen.strokeStyle = ["#2b6cb0", "#d9730d", "#2f9e63", "#8e5bd0"][c % 4];
    pen.beginPath();
    for (let i = 0; i < length; i++) {
      pen.lineTo(6 + (308 * i) / Math.max(1, length - 1), 194 - (188 * (values[c * length + i] - low)) / span);
    }
    pen.stroke();
  }
}

function point(canvas, values, low, high) {
  const pen = plot(canvas), span = high - low || 1;
  pen.fillStyle = "#2b6cb0";
  pen.beginPath();
  pen.arc(10 + (300 * (values[0] - low)) / span, 190 - (180 * ((values[1] ?? 0) - low)) / span, 6, 0, 7);
  pen.fill();
}

function field(canvas, values, [height, width], low, high) {
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d"), image = pen.createImageData(width, height), span = high - low || 1;
  for (let i = 0; i < width * height; i++) {
    const v = (values[i] - low) / span; // from blue over white to orange
    const blue = Math.min(1, 2 * v), orange = Math.min(1, 2 - 2 * v);
    image.data.set([40 + 215 * Math.min(blue, 1), 100 + 155 * Math.min(blue, orange), 255 * orange, 255], 4 * i);
  }
  pen.putImageData(image, 0, 0);
}
