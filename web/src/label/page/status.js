// The operator's page: asks every few seconds how things stand.
"use strict";

const EVERY_MS = 3000;

function figure(value, words) {
  return make("div", { class: "figure" }, make("b", {}, value), make("span", { class: "quiet small" }, words));
}

function ago(secs) {
  if (secs < 90) return `${Math.max(0, Math.round(secs))} s ago`;
  if (secs < 5400) return `${Math.round(secs / 60)} min ago`;
  return `${Math.round(secs / 3600)} h ago`;
}

function hours(secs) {
  if (secs < 3600) return `${Math.max(1, Math.round(secs / 60))} min`;
  return `${(secs / 3600).toFixed(1)} h`;
}

function figures(status) {
  const left = status.n_wanted - status.n_done;
  const list = [
    figure(`${status.n_done} / ${status.n_wanted}`, `verdicts, ${status.overlap} for each of ${status.n_items} comparisons`),
    figure(percent(status.n_wanted ? status.n_done / status.n_wanted : null), "done"),
    figure(String(Math.round(status.per_hour)), "answers an hour, lately"),
    figure(left && status.per_hour ? hours((3600 * left) / status.per_hour) : "–", "to go at this pace"),
    figure(percent(status.agreement.observed), `agreement of two raters, on ${status.agreement.n_items} comparisons`),
    figure(status.agreement.alpha === null ? "–" : status.agreement.alpha.toFixed(2), "Krippendorff’s α"),
  ];
  if (status.n_gold) list.push(figure(String(status.n_gold), "gold questions"));
  return list;
}

function raterRow(name, rater, now) {
  const number = (text) => make("td", { class: "number" }, text);
  const gold = rater.n_gold ? `${rater.n_gold_right} of ${rater.n_gold} (${percent(rater.n_gold_right / rater.n_gold)})` : "–";
  return make("tr", {},
    make("th", { scope: "row", dir: "auto" }, name),
    number(String(rater.n_verdicts)), number(String(rater.n_ties)), number(String(rater.n_skipped)), number(String(rater.n_undone)),
    number(gold), number(percent(rater.agreement)), number(percent(rater.left_share)),
    number(rater.median_secs === null ? "–" : `${rater.median_secs.toFixed(1)} s`),
    number(rater.last ? ago(now - rater.last) : "–"));
}

function show(status) {
  byId("figures").replaceChildren(...figures(status));
  byId("link").textContent = new URL(status.rater_path, location.href).href;
  const names = Object.keys(status.raters).sort((a, b) => a.localeCompare(b));
  const rows = names.map((name) => raterRow(name, status.raters[name], status.now));
  if (rows.length === 0) rows.push(make("tr", {}, make("td", { colspan: 10, class: "quiet" }, "Nobody has answered yet.")));
  byId("raters").replaceChildren(...rows);
  byId("comments-card").hidden = status.comments.length === 0;
  byId("comments").replaceChildren(...status.comments.map((comment) =>
    make("div", { class: "turn" },
      make("p", { class: "quiet small", dir: "auto" }, `${comment.rater}, on “${comment.about}”`),
      make("p", { class: "text", dir: "auto" }, comment.comment))));
  if (!byId("files").firstChild) {
    byId("files").append(...status.files.map((file) =>
      make("li", {}, make("a", { href: `files/${file.name}`, download: file.name }, file.name), ` – ${file.what}`)));
  }
}

async function look() {
  try {
    show(await ask("api/status"));
    byId("trouble").hidden = true;
    byId("fresh").textContent = `as of ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    byId("trouble").textContent = `No news: ${error.message}. Trying again.`;
    byId("trouble").hidden = false;
  }
  setTimeout(look, EVERY_MS);
}

byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(byId("link").textContent);
    byId("copied").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(byId("link"));
    byId("copied").textContent = "marked; copy it with your keys";
  }
});
look();
