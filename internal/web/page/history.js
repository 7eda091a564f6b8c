// Counters become rates here. What came of the last minutes is kept in rings of numbers; the gateway keeps no history.

const LEAST = 1; // seconds between samples: a rate over less is noise
const SAMPLES = 450; // of the gateway: a quarter of an hour at one each two seconds
const SESSION_SAMPLES = 150; // of each session: 1.2 KiB

// A Ring holds the last samples of several series: at(i) is the i-th of them, oldest first.
class Ring {
  constructor(names, size) {
    this.size = size;
    this.length = 0;
    this.next = 0;
    this.time = new Float64Array(size);
    this.series = Object.fromEntries(names.map((name) => [name, new Float32Array(size)]));
  }
  push(time, values) {
    this.time[this.next] = time;
    for (const [name, ring] of Object.entries(this.series)) ring[this.next] = values[name];
    this.next = (this.next + 1) % this.size;
    this.length = Math.min(this.length + 1, this.size);
  }
  // points returns those of one series since a time, as [time, value].
  points(name, since) {
    const all = [];
    for (let i = this.length; i > 0; i--) {
      const at = (this.next - i + this.size) % this.size;
      if (this.time[at] >= since) all.push([this.time[at], this.series[name][at]]);
    }
    return all;
  }
  // first is the time of the oldest sample, ms.
  first() {
    return this.length ? this.time[(this.next - this.length + this.size) % this.size] : Infinity;
  }
  last(name) {
    return this.length ? this.series[name][(this.next - 1 + this.size) % this.size] : 0;
  }
}

const sum = (counts) => Object.values(counts || {}).reduce((a, b) => a + b, 0);

// What was counted less than before was counted anew: by another path of a session, or by a gateway that was restarted.
const more = (now, before) => Math.max(now - before, 0);

export class History {
  constructor() {
    this.all = new Ring(['in', 'out', 'packets', 'drops', 'sessions'], SAMPLES);
    this.sessions = new Map(); // id -> {ring, received, sent, seen}
    this.reasons = {}; // drops a second, by reason
    this.before = null;
  }

  // add takes in what the gateway said at a time in ms. A gateway that was started anew begins a history.
  add(time, status, sessions) {
    const b = this.before && this.before.status.started === status.started ? this.before : null;
    if (!b) this.sessions.clear();
    const seconds = b ? (time - b.time) / 1000 : 0;
    if (b && seconds < LEAST) return;
    let received = 0, sent = 0;
    for (const s of sessions) {
      let own = this.sessions.get(s.id);
      if (!own) {
        // One that has come since is counted from its beginning.
        const fresh = b !== null;
        own = { ring: new Ring(['in', 'out'], SESSION_SAMPLES), received: fresh ? 0 : s.received, sent: fresh ? 0 : s.sent };
        this.sessions.set(s.id, own);
      }
      if (seconds > 0) {
        const rate = { in: 8 * more(s.received, own.received) / seconds, out: 8 * more(s.sent, own.sent) / seconds };
        received += rate.in;
        sent += rate.out;
        own.ring.push(time, rate);
      }
      own.received = s.received;
      own.sent = s.sent;
      own.seen = time;
    }
    for (const [id, own] of this.sessions) if (own.seen !== time) this.sessions.delete(id);
    if (seconds > 0) {
      this.all.push(time, {
        in: received, out: sent, sessions: sessions.length,
        packets: more(status.packets, b.status.packets) / seconds,
        drops: more(sum(status.drops), sum(b.status.drops)) / seconds,
      });
      this.reasons = {};
      for (const [reason, n] of Object.entries(status.drops || {})) this.reasons[reason] = more(n, (b.status.drops || {})[reason] || 0) / seconds;
    }
    this.before = { time, status };
  }

  rate(id, name) {
    const own = this.sessions.get(id);
    return own ? own.ring.last(name) : 0;
  }
  first(id) {
    const own = this.sessions.get(id);
    return own ? own.ring.first() : Infinity;
  }
  points(id, name, since) {
    const own = this.sessions.get(id);
    return own ? own.ring.points(name, since) : [];
  }
}

// kept is what came of the last minutes, and said what the gateway has said last; claimed are what clients without a key call themselves, by session.
export const kept = new History();
export const said = { status: null, sessions: [], forwards: [], claimed: new Map() };

export const total = sum;

const digits = (v) => (v >= 99.95 ? v.toFixed(0) : v >= 9.995 ? v.toFixed(1) : v.toFixed(2));

function scaled(v, step, units) {
  let i = 0;
  while (v >= step * 0.9995 && i < units.length - 1) { v /= step; i++; }
  return (i === 0 ? String(Math.round(v)) : digits(v)) + ' ' + units[i];
}

export const bits = (v) => scaled(v, 1000, ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s']);
export const bytes = (v) => scaled(v, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']);
export const count = (v) => Math.round(v).toLocaleString('en').replaceAll(',', '\u202f');
export const perSecond = (v) => (v < 10 && v > 0 ? v.toFixed(1) : count(v)) + '/s';

// age writes how long ago a time was, in its two largest units.
export function age(text, now = Date.now()) {
  const s = Math.max(Math.round((now - Date.parse(text)) / 1000), 0);
  if (Number.isNaN(s)) return '-';
  const two = (n) => String(n).padStart(2, '0');
  if (s >= 86400) return `${Math.floor(s / 86400)}d ${two(Math.floor(s % 86400 / 3600))}h`;
  if (s >= 3600) return `${Math.floor(s / 3600)}h ${two(Math.floor(s % 3600 / 60))}m`;
  return s >= 60 ? `${Math.floor(s / 60)}m ${two(s % 60)}s` : `${s}s`;
}
