// Small helpers: elements from text and properties (never from markup), numbers and times for people, service colours.

/** Builds an element. Strings become text nodes; `on…` properties become listeners; data never becomes markup. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') for (const [key, css] of Object.entries(value)) element.style.setProperty(key, css);
    else if (name === 'value' && 'value' in element) element.value = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Nanoseconds as `812 µs`, `12.3 ms`, `4.56 s`, `2 min 5 s`. */
export function duration(nanos) {
  if (nanos < 1e3) return `${Math.round(nanos)} ns`;
  if (nanos < 999.5e3) return `${round(nanos / 1e3)} µs`;
  if (nanos < 999.5e6) return `${round(nanos / 1e6)} ms`;
  if (nanos < 119.5e9) return `${round(nanos / 1e9)} s`;
  const seconds = Math.round(nanos / 1e9);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

function round(value) {
  if (value >= 100) return Math.round(value).toString();
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** 1234 as `1,234`; from 100,000 on as `123k`, `4.5M`. */
export function count(value) {
  if (value >= 1e6) return `${round(value / 1e6)}M`;
  if (value >= 1e5) return `${Math.round(value / 1e3)}k`;
  return value.toLocaleString('en');
}

/** `1 span`, `2 spans`. */
export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? '' : 's'}`;
}

/** Bytes as `4.1 MiB`. */
export function bytes(value) {
  if (value < 1024) return `${value} B`;
  if (value < 1024 * 1024) return `${round(value / 1024)} KiB`;
  return `${round(value / 1024 / 1024)} MiB`;
}

/** Milliseconds since the epoch as local `14:03:07.123`, with the date when it is not today. */
export function clock(millis) {
  const date = new Date(millis);
  const time = date.toLocaleTimeString('en-GB', { hour12: false });
  const part = String(date.getMilliseconds()).padStart(3, '0');
  const today = date.toDateString() === new Date().toDateString();
  return `${today ? '' : `${date.toLocaleDateString('en-CA')} `}${time}.${part}`;
}

/** `just now`, `12 s ago`, `5 min ago`, `3 h ago`, `2 d ago`. */
export function ago(millis) {
  const seconds = (Date.now() - millis) / 1000;
  if (seconds < 2) return 'just now';
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} d ago`;
}

const COLOURS = 12;
const taken = new Map();

/** A CSS colour for a service, the same on every view and different from its neighbours while colours last. */
export function colour(service) {
  let slot = taken.get(service);
  if (slot === undefined) {
    let hash = 7;
    for (const char of service) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
    slot = hash % COLOURS;
    const used = new Set(taken.values());
    for (let tries = 0; used.size < COLOURS && used.has(slot) && tries < COLOURS; tries += 1) slot = (slot + 5) % COLOURS;
    taken.set(service, slot);
  }
  return `var(--c${slot})`;
}

/** Puts text on the clipboard and says so. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    toast('The browser does not let this page copy; mark the text instead');
  }
}

let toastTimer;

/** Says something in passing, also to screen readers. */
export function toast(text) {
  const element = document.getElementById('toast');
  element.textContent = text;
  element.classList.add('shown');
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => element.classList.remove('shown'), 2500);
}
