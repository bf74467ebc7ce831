// Runs as they are: looks again every few seconds while someone looks at the page.
"use strict";

const EVERY_MS = 2000;
const TABS = [["overview", "Overview"], ["curves", "Curves"], ["samples", "Samples"], ["judgements", "Judgements"],
  ["leaderboard", "Leaderboard"], ["configuration", "Configuration"]];
const STATE_WORDS = { done: "done", running: "running", stopped: "stopped" };

const logs = new Map(); // run → RunLog
let view = { update: async () => {} }; // what is on the page
let visit = 0; // counts changes of view, so that a late answer does not draw over a newer view

function trouble(words) {
  byId("trouble").textContent = words || "";
  byId("trouble").hidden = !words;
}

function query(path, parameters) {
  return ask(`api/${path}?${new URLSearchParams(parameters)}`);
}

function ago(secs) {
  const passed = Date.now() / 1000 - secs;
  if (passed < 90) return `${Math.max(0, Math.round(passed))} s ago`;
  if (passed < 5400) return `${Math.round(passed / 60)} min ago`;
  if (passed < 172800) return `${Math.round(passed / 3600)} h ago`;
  return new Date(1000 * secs).toLocaleDateString();
}

function badge(isRunning) {
  return make("span", { class: `badge ${isRunning ? "good" : ""}` }, isRunning ? "running" : "at rest");
}

function show(...elements) {
  byId("view").replaceChildren(...elements);
}

function scrolled(table) {
  return make("div", { class: "scroll" }, table);
}

// ── the list ────────────────────────────────────────────────────────────────────────────────────────────────────────

function listView() {
  const chosen = new Set();
  const body = make("tbody");
  const folder = make("p", { class: "quiet small" });
  const compare = make("button", { type: "button", disabled: true }, "Compare the two chosen");
  compare.addEventListener("click", () => {
    location.hash = `#/compare/${[...chosen].map(encodeURIComponent).join("/")}`;
  });
  const count = () => {
    compare.disabled = chosen.size !== 2;
  };
  const row = (run) => {
    const box = make("input", { type: "checkbox", "aria-label": `Choose ${run.name}`, checked: chosen.has(run.name) });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(run.name);
      else chosen.delete(run.name);
      count();
    });
    return make("tr", {}, make("td", {}, box),
      make("th", { scope: "row", dir: "auto" }, make("a", { href: `#/run/${encodeURIComponent(run.name)}/overview` }, run.name)),
      make("td", {}, badge(run.is_running)), make("td", {}, run.last ? ago(run.last) : "–"));
  };
  let names = "";
  return {
    title: "",
    start() {
      show(make("div", { class: "card" }, make("h2", {}, "All runs"), folder,
        scrolled(make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, make("span", { class: "hidden" }, "Choose")),
          make("th", { scope: "col" }, "Run"), make("th", { scope: "col" }, "State"), make("th", { scope: "col" }, "Last told"))), body)),
        make("p", {}, compare)));
    },
    async update(isCurrent) {
      const { folder: path, runs } = await ask("api/runs");
      if (!isCurrent()) return;
      folder.textContent = path;
      const now = JSON.stringify(runs);
      if (now === names && runs.every((run) => Date.now() / 1000 - run.last > 90)) return;
      names = now;
      for (const name of chosen) if (!runs.some((run) => run.name === name)) chosen.delete(name);
      const focused = document.activeElement && document.activeElement.getAttribute("aria-label");
      body.replaceChildren(...runs.map(row));
      if (focused && focused.startsWith("Choose ")) [...body.querySelectorAll("input")].find((box) => box.getAttribute("aria-label") === focused)?.focus();
      if (runs.length === 0) body.append(make("tr", {}, make("td", { colspan: 4, class: "quiet" }, "No run yet. This page looks again by itself.")));
      count();
    },
  };
}

// ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function logOf(run) {
  if (!logs.has(run)) logs.set(run, new RunLog());
  return logs.get(run);
}

// Reads what is new in the log, a few pieces at a time. Views that ask at the same time wait for the same answer.
async function readLog(run, pieces = 20) {
  const log = logOf(run);
  log.reading ??= readPieces(run, log, pieces).finally(() => {
    log.reading = null;
  });
  await log.reading;
  return log;
}

async function readPieces(run, log, pieces) {
  for (let i = 0; i < pieces; i += 1) {
    const tail = await query("events", { run, from: log.next });
    const before = log.next;
    log.take(tail);
    if (tail.behind === 0 || tail.next === before) break;
  }
}

function stagesList(stages, log) {
  const order = [...log.stages.keys()];
  const place = (stage) => (order.includes(stage.name) ? order.indexOf(stage.name) : order.length);
  const sorted = [...stages].sort((a, b) => place(a) - place(b) || a.name.localeCompare(b.name));
  return make("ol", { class: "stages" }, ...sorted.map((stage) => {
    const times = log.stages.get(stage.name);
    const took = times && times[1] > times[0] ? `${short(Math.round(times[1] - times[0]))} s` : "";
    return make("li", { class: `stage ${stage.state}` }, make("b", {}, stage.name), make("span", { class: "small" }, STATE_WORDS[stage.state]),
      make("span", { class: "quiet small number" }, took));
  }));
}

const FIRST_COLUMNS = ["model", "win_rate", "standard_error", "length_controlled_winrate", "lc_standard_error", "mean_reward", "avg_length",
  "n_total", "annotator", "reference", "labels"];

function leaderboardTable(rows) {
  if (rows.length === 0) return make("p", { class: "quiet" }, "No model has been evaluated yet.");
  const names = new Set(rows.flatMap((row) => Object.keys(row)));
  const first = FIRST_COLUMNS.filter((name) => names.has(name));
  const rest = [...names].filter((name) => !first.includes(name)).sort();
  const cell = (value) => {
    if (typeof value === "number") return make("td", { class: "number" }, short(value));
    return make("td", { dir: "auto" }, value === null || value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value));
  };
  const table = (columns) => scrolled(make("table", {},
    make("thead", {}, make("tr", {}, ...columns.map((name) =>
      make("th", { scope: "col", class: rows.some((row) => typeof row[name] === "number") ? "number" : "" }, name.replaceAll("_", " "))))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...columns.map((name) => cell(row[name])))))));
  const more = rest.length ? make("details", {}, make("summary", {}, "All figures"), table(["model", ...rest])) : null;
  return make("div", {}, table(first), more);
}

function messagesList(log) {
  // Phases are told when they took a while, and the last one when it has not ended.
  const isTold = (told, i, all) => (told.level === "ended" ? told.secs >= 1 : told.level !== "began" || i === all.length - 1);
  const rows = log.messages.filter(isTold).slice(-50).reverse().map((told) => make("tr", { class: told.level },
    make("td", { class: "quiet small number" }, new Date(1000 * told.time).toLocaleTimeString()),
    make("td", { class: "small" }, told.stage),
    make("td", { dir: "auto" }, told.level === "warning" ? make("span", { class: "badge bad" }, "warning") : null, ` ${told.text.trim()}`, told.level === "began" ? " …" : null)));
  return make("div", { class: "scroll tall" }, make("table", { class: "messages" }, make("thead", { class: "hidden" }, make("tr", {}, ...["Time", "Stage", "Message"].map((name) =>
    make("th", { scope: "col" }, name)))), make("tbody", {}, ...rows)));
}

function overviewView(run) {
  const parts = { stages: make("div"), board: make("div"), log: make("div") };
  let known = "";
  return {
    start() {
      show(make("section", { class: "card" }, make("h2", {}, "Stages"), parts.stages),
        make("section", { class: "card" }, make("h2", {}, "Leaderboard"), parts.board),
        make("section", { class: "card" }, make("h2", {}, "Latest messages"), parts.log));
    },
    async update(isCurrent, found) {
      const log = await readLog(run);
      if (!isCurrent()) return;
      const now = JSON.stringify([found, log.next]);
      if (now === known) return;
      known = now;
      parts.stages.replaceChildren(stagesList(found.stages, log));
      parts.board.replaceChildren(leaderboardTable(found.leaderboard));
      parts.log.replaceChildren(messagesList(log));
    },
  };
}

function curvesView(run) {
  const wanted = make("input", { type: "text", id: "wanted", placeholder: "loss, reward, kl …", autocomplete: "off" });
  const smooth = make("input", { type: "checkbox", id: "smooth", checked: true });
  const panels = make("div", { class: "panels" });
  const figures = new Map(); // name → element
  const redraw = (names) => {
    const log = logOf(run);
    const fits = (name) => wanted.value.toLowerCase().split(/[\s,]+/).filter(Boolean).every((word) => name.toLowerCase().includes(word));
    const all = [...log.scalars.keys()].filter(fits).sort();
    for (const name of all) {
      if (!figures.has(name) || !names || names.has(name)) figures.set(name, panel(name, log.series(name), smooth.checked));
    }
    panels.replaceChildren(...all.map((name) => figures.get(name)));
    if (all.length === 0) panels.append(make("p", { class: "quiet" }, log.scalars.size ? "No quantity has this in its name." : "No numbers yet."));
  };
  wanted.addEventListener("input", () => redraw(new Set()));
  smooth.addEventListener("change", () => redraw());
  return {
    start() {
      show(make("div", { class: "card controls" }, make("label", { for: "wanted" }, "Quantities"), wanted,
        make("label", { class: "check" }, smooth, " smooth")), panels);
    },
    async update(isCurrent) {
      const log = await readLog(run);
      if (!isCurrent()) return;
      if (log.changed.size || !panels.firstChild) redraw(new Set(log.changed));
      log.changed.clear();
    },
  };
}

function samplesView(run) {
  const list = pagedList((from, n) => query("samples", { run, from, n }), answersCard);
  let isEmpty = true;
  return {
    start() {
      show(list.element);
      list.go(0);
    },
    // A page that someone reads stays as it is.
    async update(isCurrent, found) {
      const hasSome = found.stages.some((stage) => stage.has_completions && stage.name.startsWith("generate-"));
      if (isEmpty && hasSome && isCurrent()) {
        isEmpty = false;
        list.reload();
      }
    },
  };
}

function judgementsView(run) {
  const stage = make("select", { id: "stage" });
  const kind = make("select", { id: "kind" }, ...[["", "all"], ["first", "the first is better"], ["second", "the second is better"], ["tie", "ties"],
    ["failed", "no verdict"]].map(([value, words]) => make("option", { value }, words)));
  const load = (from, n) => {
    if (!stage.value) return { total: 0, entries: [] };
    return query("judgements", { run, stage: stage.value, from, n, ...(kind.value ? { kind: kind.value } : {}) });
  };
  const list = pagedList(load, judgementCard);
  stage.addEventListener("change", () => list.go(0));
  kind.addEventListener("change", () => list.go(0));
  return {
    start() {
      show(make("div", { class: "card controls" }, make("label", { for: "stage" }, "Stage"), stage, make("label", { for: "kind" }, "Verdict"), kind),
        list.element);
      list.go(0);
    },
    async update(isCurrent, found) {
      if (!isCurrent()) return;
      const names = found.stages.filter((known) => known.has_judgements).map((known) => known.name);
      const missing = names.filter((name) => ![...stage.options].some((option) => option.value === name));
      const wasEmpty = !stage.value;
      stage.append(...missing.map((name) => make("option", { value: name }, name)));
      if (wasEmpty && stage.value) list.go(0);
    },
  };
}

function leaderboardView() {
  const board = make("div", { class: "card" });
  let known = "";
  return {
    start() {
      show(board);
    },
    async update(isCurrent, found) {
      const now = JSON.stringify(found.leaderboard);
      if (!isCurrent() || now === known) return;
      known = now;
      board.replaceChildren(make("h2", {}, "Leaderboard"), leaderboardTable(found.leaderboard));
    },
  };
}

function configurationView(run) {
  const text = make("pre", { class: "config" });
  return {
    start() {
      show(make("div", { class: "card" }, make("h2", {}, "Configuration"), text));
      query("config", { run }).then((found) => {
        text.textContent = found.config || "run.toml is not there.";
      }).catch((error) => trouble(error.message));
    },
    async update() {},
  };
}

const RUN_VIEWS = { overview: overviewView, curves: curvesView, samples: samplesView, judgements: judgementsView, leaderboard: leaderboardView,
  configuration: configurationView };

function runView(run, tab) {
  const inner = RUN_VIEWS[tab](run);
  return {
    title: run,
    run,
    tab,
    start: inner.start,
    async update(isCurrent) {
      const found = await query("run", { run });
      if (!isCurrent()) return;
      byId("title").replaceChildren(run, " ", badge(found.is_running));
      if (found.problem) trouble(found.problem);
      await inner.update(isCurrent, found);
    },
  };
}

// ── two runs ────────────────────────────────────────────────────────────────────────────────────────────────────────

function compareView(a, b) {
  const side = (metric) => (metric ? `${short(metric.value)}${metric.std_error ? ` ± ${short(metric.std_error)}` : ""}` : "–");
  const change = (row) => {
    if (!row.a || !row.b) return make("td", { class: "number" }, "–");
    const delta = row.b.value - row.a.value;
    const sign = delta > 0 ? "+" : "";
    const isBetter = row.higher_is_better === null || delta === 0 ? null : (delta > 0) === row.higher_is_better;
    return make("td", { class: "number" }, `${sign}${short(delta)} `,
      isBetter === null ? null : make("span", { class: `badge ${isBetter ? "good" : "bad"}` }, isBetter ? "better" : "worse"));
  };
  const heads = (names) => make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));
  const config = make("div", { class: "card" });
  const results = make("div", { class: "card" });
  let known = "";
  return {
    title: `${a} and ${b}`,
    start() {
      show(config, results);
    },
    async update(isCurrent) {
      const found = await query("compare", { a, b });
      const now = JSON.stringify(found);
      if (!isCurrent() || now === known) return;
      known = now;
      const code = (value) => make("td", {}, value === null ? make("span", { class: "quiet" }, "not set") : make("code", {}, value));
      config.replaceChildren(make("h2", {}, "Configuration"), make("p", { class: "quiet small" }, `${found.config.length} values differ, ${found.n_same} are the same.`),
        scrolled(make("table", {}, heads(["Option", a, b]), make("tbody", {}, ...found.config.map((row) =>
          make("tr", {}, make("th", { scope: "row" }, make("code", {}, row.key)), code(row.a), code(row.b)))))));
      const rows = found.results.map((row) => make("tr", {}, make("th", { scope: "row" }, row.model), make("td", {}, row.metric.replaceAll("_", " ")),
        make("td", { class: "number" }, side(row.a)), make("td", { class: "number" }, side(row.b)), change(row), make("td", { class: "quiet" }, row.unit)));
      results.replaceChildren(make("h2", {}, "Results"), rows.length
        ? scrolled(make("table", {}, heads(["Model", "Metric", a, b, "Change", "Unit"]), make("tbody", {}, ...rows)))
        : make("p", { class: "quiet" }, "Neither run has evaluated a model yet."));
    },
  };
}

// ── going from view to view ─────────────────────────────────────────────────────────────────────────────────────────

function viewOf(hash) {
  const parts = hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (parts[0] === "run" && parts[1] && Object.hasOwn(RUN_VIEWS, parts[2] || "overview")) return runView(parts[1], parts[2] || "overview");
  if (parts[0] === "compare" && parts[1] && parts[2]) return compareView(parts[1], parts[2]);
  return listView();
}

function go() {
  if (location.hash === "#main") return;
  visit += 1;
  trouble("");
  view = viewOf(location.hash);
  byId("title").replaceChildren(view.title);
  document.title = view.title ? `${view.title} – runs` : "Runs";
  byId("tabs").hidden = !view.run;
  byId("tabs").replaceChildren(...(view.run ? TABS : []).map(([tab, words]) =>
    make("a", { href: `#/run/${encodeURIComponent(view.run)}/${tab}`, "aria-current": tab === view.tab ? "page" : null }, words)));
  view.start();
  look(visit);
}

async function look(mine) {
  const isCurrent = () => mine === visit;
  while (isCurrent()) {
    if (!document.hidden) {
      try {
        await view.update(isCurrent);
        if (!isCurrent()) return;
        if (byId("fresh").dataset.lost) trouble("");
        byId("fresh").dataset.lost = "";
        byId("fresh").textContent = `as of ${new Date().toLocaleTimeString()}`;
      } catch (error) {
        if (!isCurrent()) return;
        byId("fresh").dataset.lost = "yes";
        trouble(`No news: ${error.message}. Trying again.`);
      }
    }
    await wait(EVERY_MS);
  }
}

byId("skip-link").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
window.addEventListener("hashchange", go);
go();
