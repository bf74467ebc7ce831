// The raters' page. One question at a time; an answer is shown as given only when the server has it on its disk.
"use strict";

const NAME_KEY = "farmhand-rater";
const RETRY_SECS = [0.5, 1, 2, 4, 8];
const HOLD_EVERY_MS = 60_000;
const LOOK_AGAIN_MS = 5_000;

const page = {
  setup: null,
  rater: null,
  item: null, // the handle of the question on the page
  busy: false,
  canUndo: false,
  watched: 0, // milliseconds that the question was in sight
  since: null, // since when it is in sight; null while it is not
};

// ── what is on the page ─────────────────────────────────────────────────────────────────────────────────────────────

function showOnly(section) {
  for (const id of ["welcome", "judging", "resting"]) byId(id).hidden = id !== section;
  byId("verdict").hidden = section !== "judging";
}

function tell(words) {
  byId("message").textContent = words;
}

function trouble(words) {
  byId("trouble").textContent = words || "";
  byId("trouble").hidden = !words;
}

function setBusy(busy) {
  page.busy = busy;
  for (const id of ["choose-left", "choose-right", "choose-tie", "skip"]) byId(id).disabled = busy;
  byId("undo").disabled = busy || !page.canUndo;
  byId("rest-undo").disabled = busy || !page.canUndo;
  byId("verdict").setAttribute("aria-busy", String(busy));
}

function showState(state) {
  page.rater = state.rater;
  page.canUndo = state.can_undo;
  byId("who").textContent = state.rater;
  byId("change").hidden = false;
  byId("progress").textContent = `${state.done} answered, ${state.left} to go`;
  byId("meter").hidden = false;
  byId("meter").max = Math.max(1, state.done + state.left);
  byId("meter").value = state.done;
  if (state.state === "item") return showItem(state.item);
  page.item = null;
  rest(state.state);
}

function rest(state) {
  const waits = state === "wait";
  byId("rest-title").textContent = waits ? "Just a moment" : "Thank you, that was all";
  byId("rest-text").textContent = waits
    ? "Other raters have the last questions in front of them. This page looks again by itself."
    : "There is nothing left for you to judge. Your answers are saved; you can close this page.";
  byId("rest-undo").hidden = !page.canUndo;
  showOnly("resting");
  setBusy(false);
  if (waits) setTimeout(() => { if (page.item === null && !page.busy) refresh(); }, LOOK_AGAIN_MS);
}

function showItem(item) {
  const isSame = page.item === item.item && !item.was;
  page.item = item.item;
  if (!isSame) {
    fillQuestion(item);
    for (const side of ["left", "right"]) {
      byId(`${side}-text`).replaceChildren(textBox(item[side]));
      byId(`${side}-scales`).replaceChildren(...scales(side, item.was ? item.was.ratings[side] : {}));
      byId(side).classList.toggle("chosen", Boolean(item.was) && item.was.choice === side);
      byId(side).classList.remove("fresh");
      void byId(side).offsetWidth;
      byId(side).classList.add("fresh");
    }
    byId("comment").value = (item.was && item.was.comment) || "";
    openComment(byId("comment").value !== "");
    page.watched = 0;
    page.since = document.hidden ? null : performance.now();
  }
  showOnly("judging");
  setBusy(false);
  if (!isSame) {
    window.scrollTo(0, 0);
    byId("question").scrollTop = 0;
    byId("question").focus({ preventScroll: true });
  }
}

function fillQuestion(item) {
  const turns = item.history.map((turn) =>
    make("div", { class: "turn" }, make("p", { class: "who" }, turn.role), textBox(turn.text)));
  const parts = [...turns, textBox(item.instruction)];
  if (item.input) parts.push(make("div", { class: "input" }, make("p", { class: "part" }, "Input"), textBox(item.input)));
  byId("question-text").replaceChildren(...parts);
}

// A row of buttons for each attribute of the rubric.
function scales(side, given) {
  return page.setup.attributes.map((attribute) => {
    const name = `${side}:${attribute.name}`;
    const steps = make("div", { class: "steps" });
    const [low, high] = attribute.labels || [null, null];
    if (low) steps.append(make("span", { class: "quiet small" }, low));
    for (let value = attribute.min; value <= attribute.max; value += 1) {
      const input = make("input", { type: "radio", name, value, checked: given[attribute.name] === value });
      steps.append(make("label", {}, input, String(value)));
    }
    if (high) steps.append(make("span", { class: "quiet small" }, high));
    const title = (attribute.question || attribute.name) + (attribute.required ? "" : " (optional)");
    return make("fieldset", { class: "scale" }, make("legend", {}, title), steps);
  });
}

function ratingsOf(side) {
  const values = {};
  for (const attribute of page.setup.attributes) {
    const chosen = document.querySelector(`input[name="${CSS.escape(`${side}:${attribute.name}`)}"]:checked`);
    if (chosen) values[attribute.name] = Number(chosen.value);
  }
  return values;
}

function openComment(open) {
  byId("comment-box").hidden = !open;
  byId("comment-toggle").setAttribute("aria-expanded", String(open));
}

// ── asking the server ───────────────────────────────────────────────────────────────────────────────────────────────

function newClick() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Sends until an answer comes: the click keeps its id, so that sending it again counts once.
async function send(path, body) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const answer = await ask(path, body);
      trouble("");
      return answer;
    } catch (error) {
      if (error.status !== 0 && error.status < 500) throw error;
      const secs = RETRY_SECS[Math.min(attempt, RETRY_SECS.length - 1)];
      trouble(`Your answer is not saved yet: ${error.message}. Trying again; leave this page open.`);
      await wait(1000 * secs);
    }
  }
}

async function refresh() {
  setBusy(true);
  try {
    showState(await send("api/next", { rater: page.rater }));
  } catch (error) {
    trouble(error.message);
    setBusy(false);
  }
}

function secondsWatched() {
  const now = page.since === null ? 0 : performance.now() - page.since;
  return (page.watched + now) / 1000;
}

const ANSWER = { left: "answer 1", right: "answer 2" };
const DONE = { left: "Saved: answer 1 is better.", right: "Saved: answer 2 is better.", tie: "Saved: a tie.", skip: "Skipped." };

async function choose(choice) {
  if (page.busy || page.item === null) return;
  const ratings = { left: ratingsOf("left"), right: ratingsOf("right") };
  if (choice !== "skip") {
    for (const side of ["left", "right"]) {
      const missing = page.setup.attributes.find((attribute) => attribute.required && !(attribute.name in ratings[side]));
      if (missing) {
        tell(`Please rate ${ANSWER[side]} first: ${missing.question || missing.name}`);
        document.querySelector(`input[name="${CSS.escape(`${side}:${missing.name}`)}"]`).focus();
        return;
      }
    }
  }
  setBusy(true);
  const body = {
    click: newClick(), rater: page.rater, item: page.item, choice, ratings,
    comment: byId("comment").value, secs: secondsWatched(),
  };
  try {
    const state = await send("api/label", body);
    tell(DONE[choice]);
    showState(state);
  } catch (error) {
    if (error.status === 409 || error.status === 404) {
      tell(error.message);
      await refresh();
    } else {
      tell(`Not saved: ${error.message}`);
      setBusy(false);
    }
  }
}

async function undo() {
  if (page.busy || !page.canUndo) return;
  setBusy(true);
  try {
    const state = await send("api/undo", { click: newClick(), rater: page.rater });
    tell("Taken back. Judge it again.");
    showState(state);
  } catch (error) {
    tell(error.message);
    setBusy(false);
  }
}

// ── keys, clicks, time ──────────────────────────────────────────────────────────────────────────────────────────────

const KEYS = {
  1: () => choose("left"),
  2: () => choose("right"),
  arrowleft: () => choose("left"),
  arrowright: () => choose("right"),
  t: () => choose("tie"),
  s: () => choose("skip"),
  u: undo,
  c: () => {
    openComment(true);
    byId("comment").focus();
  },
  "?": () => byId("help-box").showModal(),
};

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (byId("help-box").open || (byId("judging").hidden && byId("resting").hidden)) return;
  const target = event.target;
  if (target instanceof HTMLTextAreaElement || (target instanceof HTMLInputElement && target.type === "text")) {
    if (event.key === "Escape") {
      byId("question").focus({ preventScroll: true });
      if (byId("comment").value.trim() === "") openComment(false);
    }
    return;
  }
  const key = event.key.toLowerCase();
  // On a scale the arrows move along the scale.
  if (key.startsWith("arrow") && target instanceof HTMLInputElement) return;
  const action = KEYS[key];
  if (!action) return;
  event.preventDefault();
  action();
}

function onVisibility() {
  if (document.hidden && page.since !== null) {
    page.watched += performance.now() - page.since;
    page.since = null;
  } else if (!document.hidden && page.since === null) {
    page.since = performance.now();
  }
}

function enter(name) {
  page.rater = name.normalize("NFC");
  localStorage.setItem(NAME_KEY, page.rater);
  tell("");
  refresh();
}

function welcome() {
  page.item = null;
  showOnly("welcome");
  byId("change").hidden = true;
  byId("meter").hidden = true;
  for (const id of ["who", "progress"]) byId(id).textContent = "";
  byId("name").value = localStorage.getItem(NAME_KEY) || "";
  byId("name").focus();
}

async function start() {
  byId("enter").addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = byId("name").value.trim();
    if (!name) return;
    try {
      await ask("api/next", { rater: name.normalize("NFC") });
      trouble("");
      enter(name);
    } catch (error) {
      trouble(error.message);
    }
  });
  byId("change").addEventListener("click", welcome);
  byId("choose-left").addEventListener("click", () => choose("left"));
  byId("choose-right").addEventListener("click", () => choose("right"));
  byId("choose-tie").addEventListener("click", () => choose("tie"));
  byId("skip").addEventListener("click", () => choose("skip"));
  byId("undo").addEventListener("click", undo);
  byId("rest-undo").addEventListener("click", undo);
  byId("help").addEventListener("click", () => byId("help-box").showModal());
  byId("comment-toggle").addEventListener("click", () => {
    const open = byId("comment-box").hidden;
    openComment(open);
    if (open) byId("comment").focus();
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", onVisibility);
  setInterval(() => {
    if (page.item !== null && !document.hidden) ask("api/hold", { rater: page.rater }).catch(() => {});
  }, HOLD_EVERY_MS);

  page.setup = await send("api/setup");
  byId("name").maxLength = page.setup.max_name;
  byId("comment").maxLength = page.setup.max_comment;
  if (page.setup.question) byId("ask").textContent = page.setup.question;
  if (page.setup.guidance) {
    byId("guidance").hidden = false;
    byId("guidance-text").replaceChildren(textBox(page.setup.guidance));
  }
  const known = localStorage.getItem(NAME_KEY);
  if (known) enter(known);
  else welcome();
}

start().catch((error) => trouble(error.message));
