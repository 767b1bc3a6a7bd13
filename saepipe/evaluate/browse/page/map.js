"use strict";
// Map of all alive latents of a run: density against another column. The latents of the list stand out.

const HEIGHTS = { max_act: ["Max act.", logarithmic], top_neighbour_cosine: ["Nearest cosine", linear] };
const MARGIN = { left: 52, right: 14, top: 10, bottom: 34 };
const REACH = 14; // pixels from a point at which it is meant

class LatentMap {
  // `choose` is told of a new column for the height; `dead` is called to list the dead latents.
  constructor(table, { choose, dead }) {
    Object.assign(this, { table, at: null, found: new Set(), points: [] });
    const keys = Object.keys(HEIGHTS).filter((key) => key in table.columns);
    this.key = keys.includes(list.y) ? list.y : keys[0];
    const y = h("select", { onchange: () => (this.measure(y.value), choose(this.key)) },
      keys.map((value) => h("option", { value, selected: value === this.key }, HEIGHTS[value][0])));
    this.canvas = h("canvas", {
      tabindex: 0, role: "application", "aria-roledescription": "map", onkeydown: (event) => this.press(event),
      "aria-label": `Map of the latents of ${table.about.label}; arrow keys move, Enter opens; the list below has the same`,
      onpointermove: (event) => this.show(this.near(event)), onpointerleave: () => this.show(null),
      onclick: (event) => this.open(this.near(event)), onblur: () => this.show(null),
    });
    this.tip = h("div", { class: "tip", hidden: true });
    this.swatches = Object.fromEntries(["point", "role", "rest"].map((kind) => [kind, h("b", { class: kind })]));
    const gone = table.about.num_dead;
    this.element = h("figure", { class: "map" },
      h("figcaption", {},
        h("label", {}, "Density against ", y),
        h("span", {}, this.swatches.point, "latent"),
        Object.keys(table.roles).length > 0 && h("span", {}, this.swatches.role, "with a role"),
        this.other = h("span", { hidden: true }, this.swatches.rest, "not in the list"),
        gone > 0 && h("button", { type: "button", class: "plain", onclick: dead },
          `${whole.format(gone)} dead, not on the map`)),
      h("div", { class: "sheet" }, this.canvas, this.tip));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.measure(this.key);
  }

  // Points (latent, x, y), as shares of the axes; dead latents have no place.
  measure(key) {
    this.key = key;
    const { density, [key]: height } = this.table.columns;
    const has = (latent) => density[latent] > 0 && Number.isFinite(height[latent]) && (key !== "max_act" || height[latent] > 0);
    const latents = Array.from(density.keys()).filter(has);
    this.x = logarithmic(latents.map((latent) => density[latent]));
    this.y = HEIGHTS[key][1](latents.map((latent) => height[latent]));
    this.points = latents.map((latent) => ({ latent, x: this.x.of(density[latent]), y: this.y.of(height[latent]) }));
    this.draw();
  }

  // Latents of the list; the others fade.
  update(found) {
    this.found = new Set(found);
    this.other.hidden = found.length === this.table.about.d_sae;
    this.draw();
  }

  place({ x, y }) {
    const { left, right, top, bottom } = MARGIN;
    return [
      left + x * (this.canvas.clientWidth - left - right),
      this.canvas.clientHeight - bottom - y * (this.canvas.clientHeight - top - bottom),
    ];
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas, dots = devicePixelRatio;
    if (!width || !this.points.length) return;
    Object.assign(this.canvas, { width: width * dots, height: height * dots });
    const paper = this.canvas.getContext("2d");
    paper.scale(dots, dots);
    this.axes(paper);
    const inList = ({ latent }) => this.found.has(latent), role = ({ latent }) => latent in this.table.roles;
    const groups = [
      ["rest", this.points.filter((point) => !inList(point))],
      ["point", this.points.filter((point) => inList(point) && !role(point))],
      ["role", this.points.filter((point) => inList(point) && role(point))],
    ];
    for (const [kind, points] of groups) this.scatter(paper, kind, points);
    this.ring(paper);
  }

  axes(paper) {
    const style = getComputedStyle(this.canvas), { left, top } = MARGIN;
    const [right, floor] = this.place({ x: 1, y: 0 });
    Object.assign(paper, { font: `12px ${style.fontFamily}`, fillStyle: style.color, strokeStyle: style.borderColor });
    const line = (...ends) => (paper.beginPath(), paper.moveTo(...ends[0]), paper.lineTo(...ends[1]), paper.stroke());
    const text = (words, x, y, align) => ((paper.textAlign = align), paper.fillText(words, x, y));
    for (const tick of this.x.ticks) {
      const [x] = this.place({ x: this.x.of(tick), y: 0 });
      line([x, top], [x, floor]);
      text(`${Number((tick * 100).toPrecision(2))} %`, x, floor + 14, "center");
    }
    for (const tick of this.y.ticks) {
      const [, y] = this.place({ x: 0, y: this.y.of(tick) });
      line([left, y], [right, y]);
      text(String(Number(tick.toPrecision(2))).replace("-", "−"), left - 6, y + 4, "right");
    }
    text("Density", right, floor + 29, "right");
    paper.save();
    paper.rotate(-Math.PI / 2);
    text(HEIGHTS[this.key][0], -top, 12, "right");
    paper.restore();
  }

  // Few points are round; many are squares, which are quick to draw. Points with a role are diamonds.
  scatter(paper, kind, points) {
    const { color, opacity } = getComputedStyle(this.swatches[kind]), many = this.points.length > 5000;
    const size = kind === "role" ? 4 : many ? 1 : this.points.length > 1000 ? 2 : 3;
    Object.assign(paper, { fillStyle: color, globalAlpha: Number(opacity) });
    for (const point of points) {
      const [x, y] = this.place(point);
      if (kind !== "role" && many) paper.fillRect(x - size, y - size, 2 * size, 2 * size);
      else mark(paper, x, y, size, kind === "role");
    }
    paper.globalAlpha = 1;
  }

  ring(paper) {
    if (!this.at) return;
    const [x, y] = this.place(this.at);
    Object.assign(paper, { strokeStyle: getComputedStyle(this.canvas).color, lineWidth: 2 });
    paper.beginPath();
    paper.arc(x, y, 8, 0, 2 * Math.PI);
    paper.stroke();
  }

  // The point at a pointer; points of the list come first.
  near({ offsetX, offsetY }) {
    let best = null, least = REACH;
    for (const point of this.points) {
      const [x, y] = this.place(point);
      const distance = Math.hypot(x - offsetX, y - offsetY) + (this.found.has(point.latent) ? 0 : REACH / 2);
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  show(point) {
    if (point === this.at) return;
    this.at = point;
    this.canvas.classList.toggle("aimed", Boolean(point));
    this.draw();
    this.tell(point);
  }

  // Called for a latent of the list, which is shown without its words.
  point(latent) {
    this.at = this.points.find((point) => point.latent === latent) ?? null;
    this.tip.hidden = true;
    this.draw();
  }

  async tell(point) {
    this.tip.hidden = !point;
    if (!point) return;
    const { latent } = point, { density, [this.key]: height } = this.table.columns;
    const figures = `density ${percent(density[latent])}, ${HEIGHTS[this.key][0].toLowerCase()} ${number(height[latent])}`;
    const tokens = h("p", {}, "…"), roles = this.table.roles[latent] ?? [];
    this.tip.replaceChildren(h("p", {}, h("b", {}, `Latent ${latent}`), ` ${figures}`), tokens,
      ...roles.map((role) => h("p", {}, role)));
    const [x, y] = this.place(point);
    const right = x > this.canvas.clientWidth / 2, low = y > this.canvas.clientHeight / 2;
    this.tip.style.cssText = [
      right ? `right: ${this.canvas.clientWidth - x + 14}px` : `left: ${x + 14}px`,
      low ? `bottom: ${this.canvas.clientHeight - y}px` : `top: ${y}px`,
    ].join(";");
    tokens.replaceChildren(...chips((await this.table.tokensOf(latent)).slice(0, 6)).flat());
  }

  open(point) {
    if (point) location.hash = address({ run: this.table.run, latent: point.latent });
  }

  press(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way && event.key !== "Enter") return;
    event.preventDefault();
    event.stopPropagation();
    if (!way) return this.open(this.at);
    const to = this.beside(way);
    if (!to) return;
    this.show(to);
    say(this.tip.firstChild.textContent);
  }

  // The nearest latent of the list in a direction; sideways steps count double.
  beside([right, down]) {
    const candidates = this.points.filter(({ latent }) => this.found.has(latent));
    if (!this.at) return candidates[0];
    const [x, y] = this.place(this.at);
    let best = null, least = Infinity;
    for (const point of candidates) {
      const [across, fall] = this.place(point).map((place, i) => place - [x, y][i]);
      const ahead = across * right + fall * down, aside = Math.abs(across * down) + Math.abs(fall * right);
      if (ahead > 0 && aside <= ahead && ahead + 2 * aside < least) [best, least] = [point, ahead + 2 * aside];
    }
    return best;
  }
}

function mark(paper, x, y, size, diamond) {
  paper.beginPath();
  if (diamond) [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]].forEach(([a, b]) => paper.lineTo(x + a * size, y + b * size));
  else paper.arc(x, y, size, 0, 2 * Math.PI);
  paper.fill();
}
