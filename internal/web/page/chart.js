// Lines over time, as SVG. A Chart is as large as the element that it is in, and is drawn anew with each sample.

const SVG = 'http://www.w3.org/2000/svg';
const GAP = 30000; // ms without a sample that break a line: less is a slow answer, and the rate is that of the whole time

function shape(name, attributes, parent) {
  const e = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  if (parent) parent.append(e);
  return e;
}

// ceiling is the next round number above a value, whose half is round, too.
function ceiling(v) {
  if (!(v > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 4, 6, 8, 10].find((n) => n * power >= v) * power;
}

// trace returns the paths of a line and of the area below it.
function trace(points, x, y, ground) {
  let line = '', area = '', begun = 0, last = 0;
  for (const [t, v] of points) {
    const at = `${x(t).toFixed(1)} ${y(v).toFixed(1)}`;
    if (last && t - last <= GAP) {
      line += 'L' + at;
      area += 'L' + at;
    } else {
      if (begun) area += `L${x(last).toFixed(1)} ${ground}Z`;
      line += 'M' + at;
      area += `M${x(t).toFixed(1)} ${ground}L` + at;
      begun = t;
    }
    last = t;
  }
  return { line, area: area && `${area}L${x(last).toFixed(1)} ${ground}Z` };
}

export class Chart {
  // series are {name, key}: what to call it, and which colour it has; write makes words of a value.
  constructor(host, series, write) {
    Object.assign(this, { host, series, write, over: null, state: null });
    this.svg = shape('svg', { role: 'img' }, host);
    this.rules = [0, 1, 2].map(() => shape('line', { class: 'rule' }, this.svg));
    this.areas = series.map((s) => shape('path', { class: 'area-' + s.key }, this.svg));
    this.lines = series.map((s) => shape('path', { class: 'line-' + s.key }, this.svg));
    this.values = [1, 2].map(() => shape('text', {}, this.svg)); // above the lines, or they would be crossed out
    this.times = [shape('text', {}, this.svg), shape('text', { 'text-anchor': 'end' }, this.svg)];
    this.cursor = shape('line', { class: 'cursor', visibility: 'hidden' }, this.svg);
    new ResizeObserver(() => this.draw()).observe(host);
    host.addEventListener('pointermove', (e) => { this.over = e.offsetX; this.draw(); });
    host.addEventListener('pointerleave', () => { this.over = null; this.draw(); });
  }

  // show draws points of each series, [[time, value]], from one time to another. onHover is told the index under the pointer, or -1.
  show(points, from, to, onHover) {
    this.state = { points, from, to, onHover };
    this.draw();
  }

  draw() {
    const s = this.state, w = this.host.clientWidth, h = this.host.clientHeight;
    if (!s || !w || !h) return;
    const top = 6, ground = h - 18, left = 0, right = w;
    const max = ceiling(Math.max(...s.points.flatMap((p) => p.map((q) => q[1])), 0));
    const x = (t) => left + (right - left) * (t - s.from) / (s.to - s.from);
    const y = (v) => ground - (ground - top) * v / max;
    this.svg.setAttribute('viewBox', `0 0 ${w} ${h}`);
    this.rules.forEach((line, i) => {
      const at = Math.round(y(max * i / 2));
      for (const [key, value] of Object.entries({ x1: left, x2: right, y1: at, y2: at })) line.setAttribute(key, value);
      if (i === 0) return;
      const text = this.values[i - 1];
      text.setAttribute('x', left);
      text.setAttribute('y', at + 12);
      text.textContent = max <= 1 && i === 1 ? '' : this.write(max * i / 2);
    });
    this.times.forEach((text, i) => {
      text.setAttribute('x', i ? right : left);
      text.setAttribute('y', h - 4);
    });
    const seconds = Math.round((s.to - s.from) / 1000);
    this.times[0].textContent = seconds < 90 ? `${seconds} s ago` : `${Math.round(seconds / 60)} min ago`;
    this.times[1].textContent = 'now';
    s.points.forEach((points, i) => {
      const { line, area } = trace(points, x, y, ground);
      this.lines[i].setAttribute('d', line);
      this.areas[i].setAttribute('d', area);
    });
    this.hover(s, x, top, ground);
    this.svg.setAttribute('aria-label', this.series.map((own, i) => `${own.name}: ${this.write(s.points[i].at(-1)?.[1] ?? 0)} now`).join(', '));
  }

  hover(s, x, top, ground) {
    let nearest = -1;
    if (this.over !== null) {
      s.points[0].forEach(([t], i) => {
        if (nearest < 0 || Math.abs(x(t) - this.over) < Math.abs(x(s.points[0][nearest][0]) - this.over)) nearest = i;
      });
    }
    this.cursor.setAttribute('visibility', nearest < 0 ? 'hidden' : 'visible');
    if (nearest >= 0) {
      const at = Math.round(x(s.points[0][nearest][0]));
      for (const [key, value] of Object.entries({ x1: at, x2: at, y1: top, y2: ground })) this.cursor.setAttribute(key, value);
    }
    if (s.onHover) s.onHover(nearest);
  }
}

// A Spark is a chart of the size of a word.
export class Spark {
  constructor() {
    this.svg = shape('svg', { class: 'spark', viewBox: '0 0 84 26', 'aria-hidden': 'true' });
    this.lines = ['in', 'out'].map((key) => shape('path', { class: 'line-' + key }, this.svg));
  }
  show(series, from, to) {
    const max = Math.max(...series.flatMap((p) => p.map((q) => q[1])), 1);
    const x = (t) => 84 * (t - from) / (to - from), y = (v) => 24.5 - 23 * v / max;
    series.forEach((points, i) => this.lines[i].setAttribute('d', trace(points, x, y, 26).line));
  }
}
