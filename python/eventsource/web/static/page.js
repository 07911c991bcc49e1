"use strict";
// Everything that is shown comes as text, never as markup: an error message may hold anything.

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function amount(value) { return value === null || value === undefined ? "" : number.format(Math.round(value)); }

function lasting(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} min`;
}

const PHASES = {
  waiting: "… waiting", pending: "… preparing", bulk_copy: "▸ copying", dual_write: "≈ catching up",
  cutover_paused: "✂ cutting over", migrated: "✓ moved", paused: "‖ paused", parked: "‖ parked",
  failed: "✗ failed", rolled_back: "↩ aborted",
};
const OUTCOMES = { moved: "✓ moved", failed: "✗ failed", held: "‖ held", refused: "⊘ refused" };

const SVG = "http://www.w3.org/2000/svg";

function plot(values, what, unit) {
  if (!values || values.length < 2) return null;
  const most = Math.max(...values, 1);
  const points = values.map((value, at) =>
    `${(100 * at / (values.length - 1)).toFixed(1)},${(20 - 19 * value / most).toFixed(1)}`);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "plot");
  svg.setAttribute("role", "img");
  const last = values[values.length - 1];
  svg.setAttribute("aria-label", `${what}: now ${amount(last)} ${unit}, at most ${amount(most)} ${unit}`);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return svg;
}

// Rows keep their elements while they are shown, so that the focus stays where it is.
function fill(holder, caption, columns, rows, key) {
  let table = holder.querySelector(":scope > table");
  if (!rows.length) { if (table) table.remove(); return; }
  if (!table) {
    const heads = columns.map(([head]) => make("th", { scope: "col" }, head));
    table = make("table", {}, make("caption", {}), make("thead", {}, make("tr", {}, ...heads)), make("tbody"));
    holder.append(table);
  }
  table.caption.textContent = caption;
  const body = table.tBodies[0];
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  rows.forEach((each, at) => {
    const name = String(key(each));
    let row = known.get(name);
    known.delete(name);
    if (!row) {
      row = make("tr", { "data-key": name }, ...columns.map(([head, , kind]) =>
        make("td", { "data-label": head, class: kind || false })));
    }
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] || null);
    columns.forEach(([, show], cell) => put(row.cells[cell], show(each)));
  });
  for (const row of known.values()) row.remove();
}

function put(cell, shown) {
  const parts = (Array.isArray(shown) ? shown : [shown])
    .filter((part) => part !== null && part !== undefined && part !== "");
  const text = parts.map((part) => part.outerHTML || String(part)).join("|");
  if (cell.dataset.shown === text) return;
  cell.dataset.shown = text;
  cell.replaceChildren(...parts);
}

const tenantLink = (id) => make("a", { href: `#tenant/${encodeURIComponent(id)}`, class: "id" }, id);

const MOVING = [
  ["tenant", (m) => tenantLink(m.tenant_id), "id"],
  ["from – to", (m) => `${m.source_store_id} – ${m.target_store_id}`],
  ["phase", (m) => PHASES[m.phase] || m.phase],
  ["copied", (m) => m.total_events ? `${amount(m.events_copied)} (${Math.round(m.percent)} %)` : "", "number"],
  ["rate", (m) => m.events_per_second
    ? [`${amount(m.rates[m.rates.length - 1] ?? m.events_per_second)}/s `, plot(m.rates, "rate", "events a second")] : "", "number"],
  ["left", (m) => lasting(m.eta_seconds), "number"],
  ["lag", (m) => m.lags.length
    ? [`${amount(m.lags[m.lags.length - 1])} `, plot(m.lags, "lag", "events")] : "", "number"],
  ["waits for", (m) => (m.waits_for || "").replace(/^waiting:? ?(for )?/, "")],
  ["driver", (m) => m.driver_name || ""],
];

const ARRIVED = [
  ["tenant", (m) => tenantLink(m.tenant_id), "id"],
  ["from – to", (m) => `${m.source_store_id} – ${m.target_store_id}`],
  ["pause", (m) => `${m.cutover_pause_ms.toFixed(1)} ms`, "number"],
  ["moved at", (m) => new Date(m.ended_at).toLocaleString(), "number"],
];

const TROUBLES = [
  ["tenant", (t) => tenantLink(t.tenant_id), "id"],
  ["outcome", (t) => OUTCOMES[t.outcome] || t.outcome],
  ["why", (t) => [t.error_code ? `${t.error_code}: ` : "", t.error_message || ""]],
  ["attempts", (t) => t.attempts ? amount(t.attempts) : "", "number"],
];

function fact(name, value, ...more) {
  return value === "" || value === null || value === undefined
    ? null : make("li", {}, `${name} `, make("b", {}, String(value)), ...more);
}

function showWave(wave) {
  const id = `wave-${wave.name}`;
  let section = byId(id);
  if (!section) {
    section = make("section", { id, class: "wave" }, make("h2"), make("div", { class: "alarm", role: "alert", hidden: true }),
      make("progress", { max: 1, "aria-label": `wave ${wave.name}` }), make("ul", { class: "facts" }),
      make("div", { class: "moving" }), make("div", { class: "troubles" }), make("div", { class: "arrived" }));
    byId("waves").append(section);
  }
  const [title, alarm, progress, facts, moving, troubles, arrived] = section.children;
  put(title, [`Wave ${wave.name} `, make("span", { class: `state ${wave.state}` }, wave.state)]);
  alarm.hidden = wave.state !== "stopped";
  put(alarm, wave.state === "stopped" ? `Stopped by ${wave.stopped_by}: ${wave.stop_reason}` : "");
  progress.value = wave.tenants ? (wave.tenants - wave.left) / wave.tenants : 1;
  const pauses = plot(wave.pauses, "pauses of the last tenants", "ms");
  put(facts, [
    fact("moved", `${amount(wave.counts.moved || 0)} of ${amount(wave.tenants)}`),
    fact("moving", amount(wave.counts.begun || 0)),
    fact("waiting", amount(wave.counts.waiting || 0)),
    fact("failed", wave.counts.failed || ""), fact("held", wave.counts.held || ""),
    fact("refused", wave.counts.refused || ""),
    fact("a minute", wave.tenants_per_second ? (60 * wave.tenants_per_second).toFixed(1) : ""),
    fact("left", wave.left ? lasting(wave.eta_seconds) : ""),
    fact("pause", wave.longest_pause_ms
      ? `${wave.median_pause_ms.toFixed(1)} ms, at most ${wave.longest_pause_ms.toFixed(1)} ms ` : "", pauses),
    fact("window", wave.window ? `${wave.window} (${wave.window_for})` : ""),
  ]);
  fill(moving, "Under way", MOVING, wave.moving, (m) => m.tenant_id);
  fill(troubles, "Did not move", TROUBLES, wave.troubles, (t) => t.tenant_id);
  fill(arrived, "Moved last", ARRIVED, wave.arrived, (m) => m.tenant_id);
}

const states = new Map();

function show(now) {
  byId("connection").textContent = now.trouble
    ? `the control database does not answer: ${now.trouble}` : "live";
  if (!now.waves) return;
  const names = new Set(now.waves.map((wave) => `wave-${wave.name}`));
  for (const section of [...byId("waves").children]) if (!names.has(section.id)) section.remove();
  now.waves.forEach((wave, at) => {
    showWave(wave);
    const section = byId(`wave-${wave.name}`);
    if (byId("waves").children[at] !== section) byId("waves").insertBefore(section, byId("waves").children[at] || null);
    const before = states.get(wave.name);
    if (before && before !== wave.state) byId("news").textContent = `Wave ${wave.name} is ${wave.state} now.`;
    states.set(wave.name, wave.state);
  });
  byId("alone").hidden = !now.alone.length;
  fill(byId("alone").querySelector(".moving"), "Under way", MOVING, now.alone, (m) => m.tenant_id);
  byId("empty").hidden = now.waves.length > 0 || now.alone.length > 0;
}

async function showHistory() {
  const asked = location.hash.match(/^#tenant\/(.+)$/);
  byId("history").hidden = !asked;
  if (!asked) return;
  const body = byId("history-body");
  byId("history-title").textContent = `History of tenant ${decodeURIComponent(asked[1])}`;
  body.replaceChildren("reading …");
  const answer = await fetch(`api/tenant?id=${encodeURIComponent(decodeURIComponent(asked[1]))}`);
  const found = await answer.json().catch(() => ({ error: "no answer" }));
  body.replaceChildren();
  if (found.error) body.append(found.error);
  else if (!found.migrations.length) body.append("It has never moved.");
  else {
    for (const migration of found.migrations) {
      body.append(make("h3", {}, `${migration.source_store_id} – ${migration.target_store_id}, `
        + `${PHASES[migration.state] || migration.state}, `, make("span", { class: "id" }, migration.id)));
      const holder = make("div");
      body.append(holder);
      fill(holder, migration.error_message || "What happened", [
        ["at", (e) => new Date(e.created_at).toLocaleString(), "number"],
        ["what", (e) => e.event_type],
        ["by", (e) => e.operator || ""],
        ["details", (e) => Object.entries(e.details || {}).map(([k, v]) => `${k}=${typeof v === "object" ? JSON.stringify(v) : v}`).join(", ")],
      ], migration.audit, (e) => e.id);
    }
  }
  byId("history-title").focus();
}

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("tenant").value.trim();
  if (id) location.hash = `tenant/${encodeURIComponent(id)}`;
});
addEventListener("hashchange", showHistory);
showHistory();

// With ?once it is shown as it is now: to be printed, or read by a program.
if (new URLSearchParams(location.search).has("once")) {
  fetch("api/now").then((answer) => answer.json()).then(show);
} else {
  const stream = new EventSource("api/stream");
  stream.onmessage = (message) => show(JSON.parse(message.data));
  stream.onerror = () => { byId("connection").textContent = "not connected; trying again"; };
}
