// Decodes latents in the page: a chain of linear layers, an activation between them, then the mean of p(x|z).
"use strict";

(() => {
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const array = (Kind, text) => new Kind(bytes(text).buffer);
  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const two = (value) => (Math.round(100 * value) / 100 + 0).toFixed(2); // never -0.00
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const sigmoid = (number) => 1 / (1 + Math.exp(-number));
  const MEANS = {
    sigmoid,
    clamp: (number) => clamp(number, 0, 1),
    // next to 0 the first terms of the series, elsewhere the mean of the larger half, mirrored
    continuousBernoulli: (number) => {
      const size = Math.abs(number);
      const mean = size < 1e-2 ? 0.5 + size / 12 - size ** 3 / 720 : -1 / Math.expm1(-size) - 1 / size;
      return number > 0 ? mean : 1 - mean;
    },
  };
  const ACTIVATIONS = {
    silu: (x) => x * sigmoid(x),
    relu: (x) => Math.max(x, 0),
    tanh: Math.tanh,
    gelu: (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
    elu: (x) => (x > 0 ? x : Math.expm1(x)),
    leaky_relu: (x) => (x > 0 ? x : 0.01 * x),
    softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  };

  // Abramowitz & Stegun 1964, 7.1.26: off by less than 1.5e-7
  const erf = (x) => {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return Math.sign(x) * (1 - sum * Math.exp(-x * x));
  };

  // --- the decoder ---------------------------------------------------------------------------------------------------

  class Layer {
    constructor({ inputs, outputs, weight, scale, bias }) {
      Object.assign(this, { inputs, outputs });
      this.scale = array(Float32Array, scale);
      this.bias = array(Float32Array, bias);
      this.weight = Float32Array.from(array(Int16Array, weight));
      this.result = new Float32Array(outputs);
    }

    apply(x) {
      for (let row = 0, place = 0; row < this.outputs; row++) {
        let sum = 0;
        for (let column = 0; column < this.inputs; column++) sum += this.weight[place++] * x[column];
        this.result[row] = sum * this.scale[row] + this.bias[row];
      }
      return this.result;
    }
  }

  const decoder = (model) => {
    const layers = model.layers.map((layer) => new Layer(layer));
    const [activate, mean] = [ACTIVATIONS[model.activation], MEANS[model.mean]];
    return (z) => {
      let x = z;
      layers.forEach((layer, index) => {
        x = layer.apply(x);
        if (index < layers.length - 1) for (let i = 0; i < x.length; i++) x[i] = activate(x[i]);
      });
      return x.map(mean);
    };
  };

  // pixels of C planes (H, W) in [0, 1]: grey, colours, or colours and their opacity over white
  const paint = (canvas, pixels, [, height, width], channels) => {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const size = width * height;
    for (let place = 0; place < size; place++) {
      const opacity = channels === 4 ? pixels[place + 3 * size] : 1;
      for (let color = 0; color < 3; color++) {
        const value = pixels[place + (channels > 1 ? color * size : 0)];
        image.data[4 * place + color] = Math.round(255 * (value * opacity + 1 - opacity));
      }
      image.data[4 * place + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  };

  // --- the latent plane ----------------------------------------------------------------------------------------------

  class Plane {
    constructor(root, model, moved) {
      Object.assign(this, { model, moved, limit: model.limit, plane: model.plane, z: [0, 0] });
      this.points = array(Float32Array, model.plane.z);
      this.classes = array(Uint16Array, model.plane.classes);
      this.back = element("canvas", { ariaHidden: "true" });
      this.front = element("canvas", { tabIndex: 0, className: "plane-front" });
      this.front.setAttribute("role", "application");
      this.front.setAttribute("aria-roledescription", "latent plane");
      this.front.setAttribute("aria-label", "Latent plane: the arrow keys move z by 0.1, with Shift by 0.5; Home is 0");
      root.replaceChildren(this.back, this.front);
      this.listen();
      new ResizeObserver(() => this.draw()).observe(root);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    }

    listen() {
      const follow = (event) => {
        const box = this.front.getBoundingClientRect();
        const along = (2 * (event.clientX - box.left)) / box.width - 1;
        const up = 1 - (2 * (event.clientY - box.top)) / box.height;
        this.moved([along, up].map((place) => clamp(place * this.limit, -this.limit, this.limit)));
      };
      this.front.addEventListener("pointerdown", (event) => {
        this.front.setPointerCapture(event.pointerId);
        follow(event);
      });
      this.front.addEventListener("pointermove", follow);
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      this.front.addEventListener("keydown", (event) => {
        if (event.key in steps) {
          const size = event.shiftKey ? 0.5 : 0.1;
          const next = (value, i) => clamp(value + size * steps[event.key][i], -this.limit, this.limit);
          this.moved(Array.from(this.z, next));
        } else if (event.key === "Home") this.moved([0, 0]);
        else return;
        event.preventDefault();
      });
    }

    place(z, size) {
      return [((z[0] / this.limit + 1) / 2) * size, ((1 - z[1] / this.limit) / 2) * size];
    }

    prepare(canvas) {
      const size = Math.round(this.front.clientWidth * devicePixelRatio);
      if (canvas.width !== size) canvas.width = canvas.height = size;
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, size, size);
      context.lineWidth = devicePixelRatio;
      context.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
      const colors = getComputedStyle(this.front);
      const [ink, line, paper] = ["--ink", "--line", "--paper"].map((name) => colors.getPropertyValue(name));
      return { context, size, ink, line, paper };
    }

    draw() {
      if (!this.front.clientWidth) return;
      const brush = this.prepare(this.back);
      this.drawScale(brush);
      const dot = 1.4 * devicePixelRatio;
      brush.context.globalAlpha = 0.7;
      this.classes.forEach((kind, index) => {
        const [x, y] = this.place([this.points[2 * index], this.points[2 * index + 1]], brush.size);
        brush.context.fillStyle = this.plane.colors[kind];
        brush.context.fillRect(x - dot / 2, y - dot / 2, dot, dot);
      });
      brush.context.globalAlpha = 1;
      this.drawNames(brush);
      this.show(this.z);
    }

    drawScale({ context, size, ink, line }) {
      context.strokeStyle = line;
      context.fillStyle = ink;
      for (let tick = -Math.floor(this.limit); tick <= this.limit; tick++) {
        const [x, y] = this.place([tick, tick], size);
        context.strokeRect(x, -9, 0, size + 18);
        context.strokeRect(-9, y, size + 18, 0);
        context.textAlign = "center";
        context.fillText(tick, x, size - 4 * devicePixelRatio);
        context.textAlign = "left";
        if (tick !== -Math.floor(this.limit)) context.fillText(tick, 4 * devicePixelRatio, y + 4 * devicePixelRatio);
      }
      context.strokeStyle = ink;
      context.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
      for (const radius of this.plane.circles) {
        context.beginPath();
        context.arc(size / 2, size / 2, (radius / this.limit / 2) * size, 0, 2 * Math.PI);
        context.stroke();
      }
      context.setLineDash([]);
    }

    // each class's name at the median of its points
    drawNames({ context, size, ink, paper }) {
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.font = `bold ${13 * devicePixelRatio}px system-ui, sans-serif`;
      this.plane.names.forEach((name, kind) => {
        const members = [...this.classes.keys()].filter((index) => this.classes[index] === kind);
        if (!members.length) return;
        const middle = [0, 1].map((axis) => {
          const sorted = members.map((index) => this.points[2 * index + axis]).sort((a, b) => a - b);
          return sorted[sorted.length >> 1];
        });
        const place = this.place(middle, size);
        context.lineWidth = 4 * devicePixelRatio;
        context.strokeStyle = paper;
        context.strokeText(name, ...place);
        context.fillStyle = ink;
        context.fillText(name, ...place);
      });
      context.textBaseline = "alphabetic";
    }

    show(z) {
      this.z = z;
      if (!this.front.clientWidth) return;
      const { context, size, ink, paper } = this.prepare(this.front);
      const [x, y] = this.place(z, size);
      for (const [color, width] of [[paper, 5], [ink, 2]]) {
        context.strokeStyle = color;
        context.lineWidth = width * devicePixelRatio;
        context.beginPath();
        context.arc(x, y, 8 * devicePixelRatio, 0, 2 * Math.PI);
        context.stroke();
      }
    }
  }

  // --- one explorer --------------------------------------------------------------------------------------------------

  class Explorer {
    constructor(root, model) {
      Object.assign(this, { root, model, z: new Float32Array(model.latent_dim), drawn: 0 });
      this.decode = decoder(model);
      this.part = (name) => root.querySelector(`[data-part="${name}"]`);
      this.part("plane-figure").hidden = !model.plane;
      const onPlane = (z) => this.go(z);
      this.plane = model.plane && new Plane(this.part("plane"), model, onPlane);
      if (model.plane) this.addLegend();
      this.addSliders();
      this.addExamples();
      this.addStarts();
      this.go(this.z);
    }

    go(z) {
      this.z = Float32Array.from(z);
      if (this.plane) this.plane.z = this.z; // at once: keys may be faster than frames
      if (!this.drawn) this.drawn = requestAnimationFrame(() => this.draw());
    }

    draw() {
      this.drawn = 0;
      const picture = this.part("decoded");
      paint(picture, this.decode(this.z), this.model.shape, this.model.shown);
      const words = this.model.sliders.map((dim) => `z${dim + 1} = ${two(this.z[dim])}`).slice(0, 3).join(", ");
      this.part("position").textContent = words + (this.model.sliders.length > 3 ? ", …" : "");
      picture.setAttribute("aria-label", `Decoded image at ${words}`);
      for (const { dim, input, output } of this.sliders) {
        input.value = this.z[dim];
        output.textContent = two(this.z[dim]);
      }
      this.plane?.show(this.z);
    }

    addLegend() {
      const { names, colors } = this.model.plane;
      const entries = names.map((name, kind) => {
        const swatch = element("span", { className: "swatch" });
        swatch.style.background = colors[kind];
        return element("li", {}, swatch, name);
      });
      this.part("legend").replaceChildren(...entries);
    }

    addSliders() {
      const { limit, sliders, variances } = this.model;
      this.sliders = sliders.map((dim) => {
        const input = element("input", { type: "range", min: -limit, max: limit, step: 0.01, value: 0 });
        const output = element("span", { className: "value" });
        const spread = element("small", { textContent: `variance ${variances[dim].toPrecision(2)}` });
        const row = element("label", {}, element("span", {}, `z${dim + 1}`), input, output, spread);
        input.addEventListener("input", () => this.go(this.z.map((value, i) => (i === dim ? +input.value : value))));
        return { dim, input, output, row };
      });
      this.part("sliders").replaceChildren(...this.sliders.map(({ row }) => row));
    }

    addExamples() {
      const { shape: [, height, width], shown, latent_dim: dims, examples } = this.model;
      const pixels = Float32Array.from(bytes(examples.pixels), (value) => value / 255);
      const means = array(Float32Array, examples.z);
      const size = shown * height * width;
      const buttons = examples.index.map((index, i) => {
        const image = pixels.subarray(i * size, (i + 1) * size);
        const name = `test image ${index}` + (examples.names.length ? `, class ${examples.names[i]}` : "");
        const canvas = element("canvas", { ariaHidden: "true" });
        paint(canvas, image, this.model.shape, shown);
        const button = element("button", { type: "button", title: name, ariaLabel: `Encode ${name}` }, canvas);
        button.addEventListener("click", () => {
          paint(this.part("original"), image, this.model.shape, shown);
          this.part("original").setAttribute("aria-label", name);
          this.part("original-name").textContent = name;
          this.part("original-figure").hidden = false;
          this.go(means.subarray(i * dims, (i + 1) * dims));
        });
        return button;
      });
      this.part("examples").replaceChildren(...buttons);
    }

    addStarts() {
      const starts = array(Float32Array, this.model.starts);
      const dims = this.model.latent_dim;
      let next = 0;
      this.part("original-figure").hidden = true;
      this.part("random").onclick = () => {
        this.part("original-figure").hidden = true;
        this.go(starts.subarray(next, next + dims));
        next = (next + dims) % starts.length;
      };
      this.part("centre").onclick = () => {
        this.part("original-figure").hidden = true;
        this.go(new Float32Array(dims));
      };
    }
  }

  const root = document.getElementById("explorer");
  const choice = root.querySelector("select");
  const open = (index) => {
    const model = JSON.parse(document.getElementById(`model-${index}`).textContent);
    for (const text of root.querySelectorAll("[data-model]")) text.hidden = text.dataset.model !== String(index);
    root.explorer = new Explorer(root, model); // for the browser's console, and for tests
  };
  choice?.addEventListener("change", () => open(choice.value));
  open(choice?.value ?? 0);
  root.querySelector("[data-part=controls]").hidden = false;
})();
