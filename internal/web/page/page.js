// The page: asks the gateway every two seconds, and shows what it said.
//
// The rules are: what others have chosen (names, addresses, errors) is only ever set as textContent; rows of a table are kept and
// changed, not made anew, so that focus and selection stay.

import { Chart } from '/chart.js';
import { $, MINUTE, define, lines, make, place, row, set, startOf } from '/dom.js';
import { age, bits, bytes, count, kept, perSecond, said } from '/history.js';
import { drawSessions, nameOf } from '/sessions.js';

const EVERY = 2000; // ms between questions; a slow gateway is asked less often
const HIDDEN = 10000; // ms, while nobody sees the page

// The key comes in the fragment of the URL. Unlike a cookie it belongs to this port and this tab alone.
function takeKey() {
  if (/^#[A-Z2-7]{26}$/.test(location.hash)) {
    sessionStorage.setItem('key', location.hash.slice(1));
    history.replaceState(null, '', '/');
  }
  return sessionStorage.getItem('key') || '';
}
const key = takeKey();

class Refused extends Error {}

async function ask(method, path, asked) {
  const answer = await fetch(path, { method, headers: { 'Ferry-Key': key }, body: asked && JSON.stringify(asked), signal: AbortSignal.timeout(12000) });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  throw new (answer.status === 403 ? Refused : Error)(body.error || `the gateway answers ${answer.status}`);
}

let minutes = 5; // that charts show

// ---- charts

const charts = {
  throughput: new Chart($('chart-throughput'), lines(['From clients', 'in'], ['To clients', 'out']), bits),
  sessions: new Chart($('chart-sessions'), lines(['Sessions', 'plain']), count),
  packets: new Chart($('chart-packets'), lines(['Packets', 'in']), perSecond),
  drops: new Chart($('chart-drops'), lines(['Dropped', 'bad']), perSecond),
};
const traffic = { throughput: ['in', 'out'], sessions: ['sessions'], packets: ['packets'], drops: ['drops'] };

function drawCharts(now) {
  for (const [id, names] of Object.entries(traffic)) {
    const from = startOf(now, minutes, kept.all.first()), points = names.map((name) => kept.all.points(name, from));
    charts[id].show(points, from, now, (at) => legend(id, points, at, now));
  }
}

// legend says what is under the pointer, or else the last of it.
function legend(id, points, at, now) {
  const host = $('now-' + id), { series, write } = charts[id];
  if (host.children.length === 0) for (const s of series) host.append(make('span', 'key ' + s.key));
  series.forEach((s, i) => {
    const p = at < 0 ? points[i].at(-1) : points[i][at];
    const name = series.length > 1 ? s.name + ' ' : '', value = p ? write(p[1]) : '-';
    set(host.children[i], name + value + (at >= 0 && p && i === series.length - 1 ? `, ${Math.round((now - p[0]) / 1000)} s ago` : ''));
  });
}

// ---- published ports

const portRows = new Map();
const portColumns = ['Listens on', 'Leads to', 'State', 'Open', 'Total', 'Received', 'Sent', 'Refused', 'Failed', ''];

function portRow(name) {
  const tr = row(portColumns, portColumns.slice(3)), own = { tr, cells: [...tr.children], remove: make('button', 'quiet', 'Remove') };
  own.remove.type = 'button';
  own.remove.setAttribute('aria-label', 'Remove ' + name);
  own.cells[0].classList.add('mono');
  own.cells[1].classList.add('mono');
  for (const i of [1, 9]) own.cells[i].classList.add('whole');
  own.cells[9].append(own.remove);
  own.remove.addEventListener('click', () => confirmRemoval(own.forward));
  return own;
}

function drawPorts() {
  const rows = said.forwards.map((f) => {
    let own = portRows.get(f.from);
    if (!own) portRows.set(f.from, own = portRow(f.from));
    own.forward = f;
    const [from, to, state, live, all, received, sent, refused, failed] = own.cells;
    set(from, f.bound || f.from);
    from.title = f.from;
    set(to, f.to);
    set(state, f.error || (f.configured ? 'open, by the configuration' : 'open'));
    state.className = 'whole ' + (f.error ? 'bad' : 'good');
    [[live, f.connections], [all, f.total], [refused, f.refused], [failed, f.failed]].forEach(([td, n]) => set(td, count(n)));
    set(received, bytes(f.received));
    set(sent, bytes(f.sent));
    own.remove.hidden = Boolean(f.configured);
    return own.tr;
  });
  place($('ports-table').tBodies[0], rows);
  for (const from of portRows.keys()) if (!said.forwards.some((f) => f.from === from)) portRows.delete(from);
  $('ports-table').hidden = said.forwards.length === 0;
  $('ports-empty').hidden = said.forwards.length > 0;
  set($('ports-count'), said.forwards.length ? count(said.forwards.length) : '');
}

function say(id, text, kind = '') {
  $(id).className = 'said ' + kind;
  set($(id), text);
}

async function publish(event) {
  event.preventDefault();
  const button = event.submitter || $('publish').querySelector('button');
  button.disabled = true;
  say('publish-said', 'asking the gateway …');
  try {
    const f = await ask('POST', '/v1/forwards', { from: $('publish-from').value.trim(), to: $('publish-to').value.trim() });
    say('publish-said', `${f.bound} leads to ${f.to}`, 'good');
    $('publish').reset();
    await refresh();
  } catch (e) {
    say('publish-said', e.message, 'bad');
  } finally {
    button.disabled = false;
  }
}

let leaving = null;

function confirmRemoval(f) {
  leaving = f;
  set($('remove-what'), `${f.bound || f.from} → ${f.to}`);
  set($('remove-effect'), f.connections ? `${count(f.connections)} open connections end.` : 'No connection is open.');
  $('remove').showModal();
}

async function remove() {
  $('remove').close();
  try {
    await ask('DELETE', '/v1/forwards?from=' + encodeURIComponent(leaving.from));
    say('publish-said', `${leaving.bound || leaving.from} is published no more`, 'good');
    await refresh();
  } catch (e) {
    say('publish-said', e.message, 'bad');
  }
}

// ---- counters

const bars = {};

function drawBars(id, counts, now = () => '') {
  const body = $(id).tBodies[0], rows = bars[id] ||= new Map();
  const all = Object.entries(counts || {}).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
  const most = Math.max(...all.map(([, n]) => n), 1);
  place(body, all.map(([name, n]) => {
    let own = rows.get(name);
    if (!own) {
      const tr = make('tr'), bar = make('div', 'bar');
      tr.append(make('td', 'mono', name), make('td'), make('td', 'num'));
      tr.children[1].append(bar);
      rows.set(name, own = { tr, bar });
    }
    own.bar.style.width = `${100 * n / most}%`;
    set(own.tr.children[2], count(n) + now(name));
    return own.tr;
  }));
  $(id).nextElementSibling.hidden = all.length > 0;
}

function drawStatus() {
  const s = said.status, exit = s.exit === 'user' ? 'in user mode' : 'on ' + s.interface;
  set($('gateway'), `${s.gateway} ${exit}, up for ${age(s.started)}`);
  document.title = `Ferry ${s.gateway}`;
  drawBars('drops', s.drops, (reason) => (kept.reasons[reason] ? ` (${perSecond(kept.reasons[reason])})` : ''));
  drawBars('closed', s.closed);
  drawBars('beyond', s.beyond);
  drawBars('names', s.names);
  $('beyond-card').hidden = !s.beyond;
  $('names-card').hidden = !s.names;
  define($('about'), [
    ['Version', s.version], ['Started', new Date(s.started).toLocaleString()], ['Key', s.fingerprint || 'none: plain mode'], ['Next key', s.next_fingerprint],
    ['Pool', String(s.pool)], ...(s.listeners || []).map((l) => ['Listens', `${l.url} (${l.allow})`]), ['Devices', count(s.peers)],
    ['Unproven', count(s.unauthenticated)], ['Leases', `${count(s.leases.live)} live, ${count(s.leases.held)} held, ${count(s.leases.free)} free`],
    ['Disk', s.leases.error], ['Waiting', bytes(s.queued)], ['Forwarded', `${count(s.packets)} packets, ${bytes(s.bytes)}`],
    ['For a restart', (s.waits_for_restart || []).join(', ')],
  ]);
}

// ---- what the gateway says

function drawTargets() {
  const names = [...new Set(said.sessions.map((s) => nameOf(s) || s.address).filter(Boolean))].sort().slice(0, 200);
  const offer = (list, texts, first) => {
    if (list.dataset.of === texts.join(' ')) return;
    list.dataset.of = texts.join(' ');
    list.replaceChildren(...first, ...texts.map((text) => { const o = make('option'); o.value = text; if (first.length) o.textContent = text; return o; }));
  };
  offer($('targets'), names.map((n) => n + ':'), []);
  offer($('capture-peer'), names, [$('capture-peer').firstElementChild]);
}

function state(text, kind) {
  set($('state'), text);
  $('state').className = 'state ' + kind;
}

async function refresh() {
  const [s, all, ports, leases] = await Promise.all(['status', 'sessions', 'forwards', 'leases'].map((what) => ask('GET', '/v1/' + what)));
  const now = Date.now();
  Object.assign(said, { status: s, sessions: all, forwards: ports });
  said.claimed = new Map(leases.filter((l) => l.session && l.name).map((l) => [l.session, l.name]));
  kept.add(now, s, all);
  drawStatus();
  drawCharts(now);
  drawSessions(now);
  drawPorts();
  drawTargets();
}

async function watch() {
  for (;;) {
    const began = performance.now();
    try {
      await refresh();
      state('live', 'good');
      $('notice').hidden = true;
    } catch (e) {
      const over = e instanceof Refused;
      state(over ? 'refused' : 'no answer', 'bad');
      set($('notice'), over ? e.message : `The gateway can not be asked: ${e.message}. What is shown is what it said last; it is asked again.`);
      $('notice').hidden = false;
      if (over) return;
    }
    const pause = Math.max(document.hidden ? HIDDEN : EVERY, 3 * (performance.now() - began));
    await new Promise((resume) => setTimeout(resume, pause));
  }
}

// ---- captures

let capturing = null;

async function capture(event) {
  event.preventDefault();
  if (capturing) return capturing.abort();
  capturing = new AbortController();
  set($('capture-start'), 'Stop');
  const asked = new URLSearchParams({ seconds: $('capture-seconds').value, bytes: String($('capture-size').value * 2 ** 20) });
  for (const name of ['peer', 'filter']) if ($('capture-' + name).value.trim()) asked.set(name, $('capture-' + name).value.trim());
  const parts = [];
  let size = 0, broken = null;
  try {
    const answer = await fetch('/v1/capture?' + asked, { headers: { 'Ferry-Key': key }, signal: capturing.signal });
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `the gateway answers ${answer.status}`);
    say('capture-said', 'capturing …');
    for (const reader = answer.body.getReader();;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      size += value.length;
      say('capture-said', `capturing: ${bytes(size)}`);
    }
  } catch (e) {
    if (e.name !== 'AbortError') broken = e.message;
  }
  if (size > 0) save(new Blob(parts, { type: 'application/vnd.tcpdump.pcap' }));
  if (broken) say('capture-said', size > 0 ? `the capture broke off (${broken}): the ${bytes(size)} before are saved` : broken, 'bad');
  else if (size > 0) say('capture-said', `${bytes(size)} saved`, 'good');
  capturing = null;
  set($('capture-start'), 'Capture');
}

function save(blob) {
  const a = make('a');
  a.href = URL.createObjectURL(blob);
  a.download = `ferry-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.pcap`;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), MINUTE);
}

// offer shows what this gateway can do.
async function offer() {
  const routes = await ask('GET', '/v1/routes').catch(() => []);
  $('capture-card').hidden = !routes.includes('GET /v1/capture');
}

for (const button of $('window').children) {
  button.addEventListener('click', () => {
    minutes = Number(button.dataset.minutes);
    for (const b of $('window').children) b.setAttribute('aria-pressed', b === button);
    drawCharts(Date.now());
  });
}
$('publish').addEventListener('submit', publish);
$('remove-no').addEventListener('click', () => $('remove').close());
$('remove-yes').addEventListener('click', remove);
$('capture').addEventListener('submit', capture);
document.addEventListener('keydown', (e) => {
  if (e.key === '/' && !e.ctrlKey && !e.metaKey && !e.altKey && !e.target.closest('input, select, textarea, dialog')) {
    e.preventDefault();
    $('filter').focus();
  }
});
offer();
watch();
