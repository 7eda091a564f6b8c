// What the parts of the page share.

export const MINUTE = 60000; // ms

export const $ = (id) => document.getElementById(id);
export const set = (e, text) => { if (e.textContent !== text) e.textContent = text; };

export function make(name, className, text) {
  const e = document.createElement(name);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// row makes a row of a table; each cell says for narrow windows of which column it is.
export function row(labels, numbers, minor = []) {
  const tr = make('tr');
  for (const label of labels) {
    const td = make('td', [numbers.includes(label) && 'num', minor.includes(label) && 'minor'].filter(Boolean).join(' '));
    td.dataset.label = label;
    tr.append(td);
  }
  return tr;
}

// place puts rows into a body in their order, and moves none that is in its place.
export function place(body, rows) {
  rows.forEach((tr, i) => { if (body.children[i] !== tr) body.insertBefore(tr, body.children[i] || null); });
  while (body.children.length > rows.length) body.lastChild.remove();
}

// define fills a list of names and values; what has no value is left out.
export function define(dl, pairs) {
  const all = pairs.filter(([, value]) => value !== '' && value !== undefined);
  while (dl.children.length > 2 * all.length) dl.lastChild.remove();
  all.forEach(([name, value], i) => {
    if (!dl.children[2 * i]) dl.append(make('dt'), make('dd'));
    set(dl.children[2 * i], name);
    set(dl.children[2 * i + 1], value);
  });
}

// lines names the series of a chart, and their colours.
export const lines = (...series) => series.map(([name, color]) => ({ name, key: color }));

// startOf is where a chart begins: as far back as was asked for, but not before the first sample, and half a minute back at least.
export const startOf = (now, minutes, first) => Math.min(Math.max(now - minutes * MINUTE, first), now - MINUTE / 2);
