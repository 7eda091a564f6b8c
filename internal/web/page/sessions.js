// The table of sessions: sorted, filtered, a few of them at first, each with its details.

import { Chart, Spark } from '/chart.js';
import { $, define, lines, make, place, row, set, startOf } from '/dom.js';
import { age, bits, bytes, count, kept, said, total } from '/history.js';

const ROWS = 20; // that are shown at first, and added by a press

const open = new Set(); // ids of sessions with details
let sortBy = 'name', descending = false, shown = ROWS;

export const nameOf = (s) => s.name || '';
const carrierOf = (s) => (s.away ? 'away' : s.carrier || '');
const ways = (s) => [...new Set((s.paths || []).filter((p) => p.standby).map((p) => p.carrier))];
const octets = (a) => (a || '').split('.').map((n) => n.padStart(3, '0')).join('.');
const order = {
  name: (s) => nameOf(s) || said.claimed.get(s.id) || '\uffff', address: (s) => octets(s.address), carrier: carrierOf, from: (s) => s.from, since: (s) => Date.parse(s.since),
  rate: (s) => kept.rate(s.id, 'in') + kept.rate(s.id, 'out'), received: (s) => s.received, sent: (s) => s.sent, dropped: (s) => total(s.drops),
};

function matching() {
  const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (s) => [s.id, nameOf(s), said.claimed.get(s.id), s.address, s.from, carrierOf(s), ...ways(s)].join(' ').toLowerCase();
  const keyed = said.sessions.filter((s) => words.every((w) => text(s).includes(w))).map((s) => [order[sortBy](s), s]);
  const compare = (a, b) => (typeof a === 'number' ? a - b : a.localeCompare(b, 'en', { numeric: true }));
  keyed.sort(([a, s], [b, t]) => (descending ? compare(b, a) : compare(a, b)) || s.id - t.id);
  return keyed.map(([, s]) => s);
}

const sessionRows = new Map();
const columns = ['Name', 'Address', 'Carrier', 'From', 'Since', 'Traffic now', 'Received', 'Sent', 'Dropped'];

function sessionRow(s) {
  const tr = row(columns, columns.slice(5), ['From']), own = { tr, cells: [...tr.children], spark: new Spark() };
  own.toggle = make('button', 'name');
  own.toggle.type = 'button';
  own.label = own.toggle.appendChild(make('span'));
  own.toggle.addEventListener('click', () => { open.has(s.id) ? open.delete(s.id) : open.add(s.id); drawSessions(); });
  own.cells[0].append(own.toggle);
  own.cells[0].classList.add('text');
  own.cells[3].classList.add('text');
  own.cells[5].classList.add('whole');
  const rates = own.cells[5].appendChild(make('span', 'rates')), words = rates.appendChild(make('span'));
  own.in = words.appendChild(make('small', 'in'));
  own.out = words.appendChild(make('small', 'out'));
  rates.append(own.spark.svg);
  return own;
}

function fillSession(own, s, now) {
  const claim = said.claimed.get(s.id), [, address, carrier, from, since, , received, sent, dropped] = own.cells;
  set(own.label, nameOf(s) || (claim ? `“${claim}”` : s.secure ? `session ${s.id}` : `no key, ${s.id}`));
  own.label.classList.toggle('claimed', !nameOf(s));
  own.label.title = nameOf(s) || !claim ? '' : 'What the client calls itself; it has no key that proves it';
  own.toggle.setAttribute('aria-expanded', open.has(s.id));
  set(address, s.address || '-');
  set(carrier, [carrierOf(s) || '-', ...ways(s).map((w) => `(${w})`)].join(' '));
  carrier.classList.toggle('fair', Boolean(s.away));
  set(from, s.from || '-');
  from.title = s.from;
  set(since, age(s.since));
  set(own.in, '↑ ' + bits(kept.rate(s.id, 'in')));
  set(own.out, '↓ ' + bits(kept.rate(s.id, 'out')));
  const start = startOf(now, 2, kept.first(s.id));
  own.spark.show(['in', 'out'].map((name) => kept.points(s.id, name, start)), start, now);
  set(received, bytes(s.received));
  set(sent, bytes(s.sent));
  set(dropped, count(total(s.drops)));
}

const named = (counts) => Object.entries(counts || {}).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${name} ${count(n)}`).join(', ');
const path = (p) => `${p.carrier} ${p.from}, for ${age(p.since)}${p.standby ? ', stands by' : ''}`;

function details(own, s, now) {
  if (!own.details) {
    own.details = make('tr', 'details');
    const td = own.details.appendChild(make('td'));
    td.colSpan = columns.length;
    const inside = td.appendChild(make('div', 'inside')), left = inside.appendChild(make('div'));
    own.chart = new Chart(left.appendChild(make('div', 'chart')), lines(['From the client', 'in'], ['To the client', 'out']), bits);
    own.facts = inside.appendChild(make('dl'));
  }
  const from = startOf(now, 5, kept.first(s.id));
  own.chart.show(['in', 'out'].map((name) => kept.points(s.id, name, from)), from, now);
  define(own.facts, [
    ['Number', String(s.id)], ['Key', s.secure ? 'proven' : 'none'], ['Calls itself', said.claimed.get(s.id)], ['Away for', s.away ? `${Math.round(s.away)} s` : ''],
    ...(s.paths || []).map((p) => ['Way', path(p)]), ['From', s.paths ? '' : s.from],
    ['Packets', count(s.packets)], ['Waiting', bytes(s.queued)], ['Sent again', s.replayed ? count(s.replayed) : ''], ['Dropped', named(s.drops)],
  ]);
  return own.details;
}

export function drawSessions(now = Date.now()) {
  const all = matching(), rows = [];
  for (const s of all.slice(0, shown)) {
    let own = sessionRows.get(s.id);
    if (!own) sessionRows.set(s.id, own = sessionRow(s));
    fillSession(own, s, now);
    rows.push(own.tr);
    if (open.has(s.id)) rows.push(details(own, s, now));
  }
  place($('sessions-table').tBodies[0], rows);
  for (const id of open) if (!said.sessions.some((s) => s.id === id)) open.delete(id);
  if (sessionRows.size > 2 * shown + ROWS) {
    const wanted = new Set(all.slice(0, shown).map((s) => s.id));
    for (const id of sessionRows.keys()) if (!wanted.has(id)) sessionRows.delete(id);
  }
  set($('sessions-count'), all.length === said.sessions.length ? count(said.sessions.length) : `${count(all.length)} of ${count(said.sessions.length)}`);
  $('sessions-empty').hidden = all.length > 0;
  set($('sessions-empty'), said.sessions.length ? 'No session matches the filter.' : 'Nobody is connected.');
  $('sessions-more').hidden = all.length <= shown;
  set($('sessions-more'), `Show more (${count(Math.max(all.length - shown, 0))} are not shown)`);
}

function sortSessions(by) {
  descending = by === sortBy ? !descending : ['rate', 'received', 'sent', 'dropped'].includes(by);
  sortBy = by;
  markSort();
  drawSessions();
}

function markSort() {
  for (const button of document.querySelectorAll('#sessions-table th button')) {
    const th = button.parentElement;
    if (button.dataset.sort === sortBy) th.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
    else th.removeAttribute('aria-sort');
  }
}

$('filter').addEventListener('input', () => { shown = ROWS; drawSessions(); });
$('sessions-more').addEventListener('click', () => { shown += ROWS; drawSessions(); });
for (const button of document.querySelectorAll('#sessions-table th button')) button.addEventListener('click', () => sortSessions(button.dataset.sort));
markSort();
