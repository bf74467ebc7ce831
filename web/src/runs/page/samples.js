// Answers side by side and judgements, a page at a time.
"use strict";

const PAGE_SIZE = 10;

function shownText(shown) {
  const box = textBox(shown.text);
  if (shown.cut) box.append(make("p", { class: "empty" }, "… cut here"));
  return box;
}

function question(asked) {
  const turns = asked.history.map((turn) =>
    make("div", { class: "turn" }, make("p", { class: "who" }, turn.role), shownText(turn.shown)));
  const parts = [...turns, shownText(asked.instruction)];
  if (asked.input) parts.push(make("div", { class: "input" }, make("p", { class: "part" }, "Input"), shownText(asked.input)));
  return make("div", { class: "asked" }, ...parts);
}

function unreadable(entry) {
  return make("article", { class: "card" }, make("p", { class: "quiet" }, "A line that is no record of its kind: ", make("code", {}, entry.unreadable)));
}

// How a judgement came about, in a line.
function circumstances(judgement) {
  const parts = [
    judgement.annotator,
    judgement.order === "swapped" ? "shown in the other order" : null,
    judgement.cost_usd ? `${short(judgement.cost_usd)} dollars` : null,
    judgement.time_secs ? `${short(judgement.time_secs)} s` : null,
    judgement.cached ? "kept from before" : null,
    judgement.noised ? "label noise" : null,
    judgement.scores ? `scores ${judgement.scores.map(short).join(" and ")}` : null,
  ];
  return parts.filter(Boolean).join(", ");
}

function rawAnswer(judgement) {
  if (!judgement.raw) return null;
  return make("details", {}, make("summary", { class: "small" }, "What the judge said"), textBox(judgement.raw));
}

function failed(judgement) {
  return make("p", {}, make("span", { class: "badge bad" }, `no verdict: ${judgement.failure.replaceAll("_", " ")}`), ` ${judgement.message}`);
}

// A verdict about a model's answer (the second) against the reference's (the first).
function againstReference(judgement) {
  if (judgement.unreadable) return make("p", { class: "quiet small" }, "an unreadable judgement");
  if (judgement.failure) return make("div", {}, failed(judgement), rawAnswer(judgement));
  const p = judgement.preference - 1;
  const [kind, words] = p === 0.5 ? ["", "tie with"] : p > 0.5 ? ["good", "better than"] : ["bad", "worse than"];
  const degree = p === 0 || p === 1 || p === 0.5 ? "" : ` (${percent(p)})`;
  return make("div", {},
    make("p", { class: "small" }, make("span", { class: `badge ${kind}` }, `${words} the reference${degree}`), ` ${circumstances(judgement)}`),
    rawAnswer(judgement));
}

function answersCard(entry, number) {
  if (entry.unreadable) return unreadable(entry);
  const column = (answer) => make("section", { class: "column" },
    make("h3", {}, answer.model),
    ...(answer.outputs.length ? answer.outputs : [null]).map((output) => (output
      ? make("div", { class: "answer" }, shownText(output.shown),
        make("p", { class: "quiet small" }, [output.n_tokens ? `${output.n_tokens} tokens` : null, output.finish === "length" ? "cut off at the limit" : null].filter(Boolean).join(", ")))
      : make("p", { class: "quiet" }, "no answer yet"))),
    ...answer.judgements.map(againstReference));
  return make("article", { class: "card" }, make("p", { class: "part" }, `Instruction ${number}`), question(entry.question),
    make("div", { class: "columns" }, ...entry.answers.map(column)));
}

const VERDICT = { 1: "the first is better", 2: "the second is better", 1.5: "tie" };

function judgementCard(entry) {
  if (entry.unreadable) return unreadable(entry);
  const p = entry.failure ? null : entry.preference - 1;
  const column = (side) => {
    const isBetter = p !== null && (side === 0 ? p < 0.5 : p > 0.5);
    return make("section", { class: `column ${isBetter ? "better" : ""}` },
      make("h3", {}, entry.generators[side] || `answer ${side + 1}`, isBetter ? make("span", { class: "badge good" }, "better") : null),
      shownText(entry.outputs[side]));
  };
  const verdict = entry.failure ? failed(entry)
    : make("p", {}, make("span", { class: "badge" }, VERDICT[entry.preference] || `the second with ${percent(p)}`), ` ${circumstances(entry)}`);
  return make("article", { class: "card" }, make("p", { class: "part" }, `Line ${entry.line}`), question(entry.question),
    make("div", { class: "columns" }, column(0), column(1)), verdict, rawAnswer(entry));
}

// A list with pages. `load(from, n)` gives { total, entries }, `card(entry, number)` an element.
function pagedList(load, card) {
  let from = 0;
  let total = 0;
  const list = make("div", {});
  const where = make("span", { class: "number small", role: "status", "aria-live": "polite" });
  const back = make("button", { type: "button" }, "← Back");
  const on = make("button", { type: "button" }, "On →");
  const jump = make("input", { type: "text", inputmode: "numeric", class: "jump", "aria-label": "Go to number" });
  async function show(to) {
    from = Math.max(0, to);
    const page = await load(from, PAGE_SIZE);
    total = page.total;
    list.replaceChildren(...page.entries.map((entry, i) => card(entry, from + i + 1)));
    if (total === 0) list.append(make("p", { class: "quiet" }, "Nothing here yet."));
    where.textContent = total === 0 ? "none" : `${from + 1}–${Math.min(total, from + PAGE_SIZE)} of ${total}`;
    back.disabled = from === 0;
    on.disabled = from + PAGE_SIZE >= total;
  }
  const go = (to) => show(to).catch((error) => trouble(error.message));
  back.addEventListener("click", () => go(from - PAGE_SIZE));
  on.addEventListener("click", () => go(from + PAGE_SIZE));
  jump.addEventListener("change", () => {
    const number = Number(jump.value);
    if (Number.isInteger(number) && number >= 1 && number <= total) go(number - 1);
    jump.value = "";
  });
  const bar = make("div", { class: "pager" }, back, where, on, make("label", { class: "small" }, "go to ", jump));
  return { element: make("div", {}, bar, list), go, reload: () => go(from) };
}
