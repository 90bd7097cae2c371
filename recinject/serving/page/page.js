// The page over a served run, or over the lists that a file holds. Texts of others only ever become
// text nodes.
"use strict";

const at = (id) => document.getElementById(id);
const state = { run: null, liked: [], order: "usual", wording: "usual", chosen: new Set(), target: null, user: null, number: 0 };
let asked = 0; // the newest question; answers to older ones are dropped

function make(kind, text, attributes = {}) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function tell(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

// Where answers come from: the service, or what this file holds.

const live = {
  async call(path, body) {
    const headers = { "Content-Type": "application/json" };
    const token = sessionStorage.getItem("token");
    if (token) headers.Authorization = `Bearer ${token}`;
    const sent = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
    const answer = await fetch(path, sent);
    const content = await answer.json();
    if (answer.status === 401) at("login").hidden = false;
    if (!answer.ok) throw new Error(`${content.error} (${content.fix})`);
    return content;
  },
  async runs() {
    return (await this.call("v1/runs")).runs;
  },
  async search(query) {
    const words = new URLSearchParams({ query, run: state.run.name, limit: 12 });
    return (await this.call(`v1/items?${words}`)).items;
  },
  async person(number) {
    const words = new URLSearchParams({ number, run: state.run.name });
    return this.call(`v1/person?${words}`);
  },
  async list(recommender) {
    const isModel = recommender === "language_model";
    const liked = state.liked.map((item) => item.item_id);
    const wording = isModel ? state.wording : "usual";
    return this.call("v1/recommend", { run: state.run.name, recommender, liked: inOrder(liked), k: 10, explain: true, wording });
  },
};

function stored(content) {
  const items = content.items.map(([item_id, title]) => ({ item_id, title }));
  const named = (rows) => rows.map(([number, score, why], place) => ({ rank: place + 1, ...items[number], score, why: why.map(([text, value]) => ({ text, value })) }));
  return {
    people: content.people,
    async runs() {
      return [{ name: content.run, recommenders: content.recommenders, items: items.length }];
    },
    async person(number) {
      const own = content.people[number % content.people.length];
      return { ...own, number, liked: own.liked.map((n) => items[n]), target: items[own.target] };
    },
    async list(recommender) {
      const isModel = recommender === "language_model";
      const answers = content.people[state.number].lists[recommender];
      const found = answers[state.order === "shuffled" ? "shuffled" : isModel ? state.wording : "usual"];
      if (!found) throw new Error("the model has no other wording");
      return { items: named(found.items), prompt: found.prompt };
    },
  };
}

const held = at("stored");
const source = held ? stored(JSON.parse(held.textContent)) : live;

// A shuffle that is the same for the same history.
function inOrder(liked) {
  if (state.order === "usual") return liked;
  const mixed = [...liked];
  let chance = mixed.length * 2654435761 + 1;
  for (let last = mixed.length - 1; last > 0; last--) {
    chance = (Math.imul(chance, 1664525) + 1013904223) >>> 0;
    const other = chance % (last + 1);
    [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
  }
  return mixed;
}

// The history.

function showHistory() {
  const rows = state.liked.map((item, place) => {
    const row = make("li", item.title);
    row.append(" ", make("span", item.item_id, { class: "id" }));
    if (!held) {
      const away = make("button", "×", { type: "button", "aria-label": `Remove ${item.title}` });
      away.addEventListener("click", () => {
        state.liked.splice(place, 1);
        changed();
        at("search").focus();
      });
      row.append(away);
    }
    return row;
  });
  at("liked").replaceChildren(...rows);
  at("target").replaceChildren();
  if (state.target) at("target").append(`User ${state.user} chose next: `, make("strong", state.target.title));
}

function changed(person = null) {
  state.target = person ? person.target : null;
  state.user = person ? person.user : null;
  if (person) {
    state.liked = person.liked;
    state.number = person.number;
  }
  showHistory();
  ask();
}

// The lists.

function whyOf(row, isModel) {
  const details = make("details");
  details.append(make("summary", "why", { "aria-label": `Why ${row.title}` }));
  if (!row.why.length) {
    details.append(make("p", "Its place does not depend on this history.", { class: "why" }));
    return details;
  }
  const list = make("ul", undefined, { class: "why" });
  const most = Math.max(...row.why.map((own) => own.value));
  for (const { text, value } of row.why) {
    const said = isModel ? `${text}  probability ${value.toPrecision(3)}` : `${text}  gives it ${value.toPrecision(3)}`;
    const line = make("li", said);
    const bar = make("span", undefined, { class: "bar" });
    bar.style.width = `${100 * Math.max(0, isModel ? value : value / most)}%`;
    line.append(bar);
    list.append(line);
  }
  details.append(make("p", isModel ? "The pieces of its name, each after those before it:" : "The items of the history that speak most for it:", { class: "why" }), list);
  return details;
}

function listOf(recommender, answer) {
  const isModel = recommender === "language_model";
  const column = make("article", undefined, { class: "list" });
  column.append(make("h3", recommender));
  if (answer instanceof Error) {
    column.append(make("p", answer.message, { class: "error" }));
    return column;
  }
  const list = make("ol");
  for (const row of answer.items) {
    const line = make("li", row.title);
    line.append(" ", make("span", row.score.toPrecision(4), { class: "score" }));
    if (state.target && row.item_id === state.target.item_id) {
      line.classList.add("hit");
      line.append(make("span", "✓ chosen next", { class: "mark" }));
    }
    line.append(whyOf(row, isModel));
    list.append(line);
  }
  column.append(list);
  return column;
}

function showPrompt(prompt) {
  at("prompt").hidden = !prompt;
  if (!prompt) return;
  at("prompt-text").textContent = prompt.text;
  at("tokens-title").textContent = `Its ${prompt.tokens.length} tokens`;
  at("tokens").replaceChildren(...prompt.tokens.map((token) => make("span", token, { class: "token" })));
}

async function ask() {
  const own = ++asked;
  if (!state.liked.length) {
    at("lists").replaceChildren();
    showPrompt(null);
    tell(held ? "" : "Pick an item, or draw a test user.");
    return;
  }
  tell("Asking ...");
  const names = state.run.recommenders.filter((name) => state.chosen.has(name));
  const answers = await Promise.all(names.map((name) => source.list(name).catch((error) => error)));
  if (own !== asked) return;
  at("lists").replaceChildren(...names.map((name, place) => listOf(name, answers[place])));
  showPrompt(answers.map((answer) => answer.prompt).find(Boolean));
  const ranks = answers.map((answer) => (answer.items || []).findIndex((row) => state.target && row.item_id === state.target.item_id));
  const hits = names.filter((_, place) => ranks[place] >= 0);
  const about = state.target ? (hits.length ? ` Hit by ${hits.join(", ")}.` : " No hit.") : "";
  tell(`${names.length} lists.${about}`);
}

// Type-ahead, by the pattern of a combobox with a list.

let options = [];
let active = -1;

function showFound(found) {
  options = found;
  active = -1;
  const rows = found.map((item, place) => {
    const row = make("li", item.title, { role: "option", id: `found-${place}`, "aria-selected": "false" });
    row.append(" ", make("span", item.item_id, { class: "id" }));
    row.addEventListener("mousedown", (event) => {
      event.preventDefault();
      take(place);
    });
    return row;
  });
  at("found").replaceChildren(...rows);
  at("found").hidden = !rows.length;
  at("search").setAttribute("aria-expanded", String(rows.length > 0));
  at("search").removeAttribute("aria-activedescendant");
}

function move(step) {
  if (!options.length) return;
  active = (active + step + options.length) % options.length;
  [...at("found").children].forEach((row, place) => row.setAttribute("aria-selected", String(place === active)));
  at("search").setAttribute("aria-activedescendant", `found-${active}`);
  at("found").children[active].scrollIntoView({ block: "nearest" });
}

function take(place) {
  state.liked = [...state.liked, options[place]];
  at("search").value = "";
  showFound([]);
  changed();
}

let typed = 0;
at("search").addEventListener("input", async () => {
  const own = ++typed;
  const query = at("search").value.trim();
  if (!query) return showFound([]);
  try {
    const found = await source.search(query);
    if (own === typed) showFound(found);
  } catch (error) {
    tell(error.message, true);
  }
});
at("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") move(event.key === "ArrowDown" ? 1 : -1);
  else if (event.key === "Enter" && options.length) take(Math.max(active, 0));
  else if (event.key === "Escape") showFound([]);
  else return;
  event.preventDefault();
});
at("search").addEventListener("blur", () => showFound([]));

// Everything else that can be clicked.

async function draw(number) {
  try {
    changed(await source.person(number));
  } catch (error) {
    tell(error.message, true);
  }
}

at("draw").addEventListener("click", () => {
  const number = held ? (at("people").selectedIndex + 1) % source.people.length : Math.floor(Math.random() * 2 ** 31);
  if (held) at("people").selectedIndex = number;
  draw(number);
});
at("clear").addEventListener("click", () => {
  state.liked = [];
  changed();
});
at("people").addEventListener("change", () => draw(at("people").selectedIndex));
at("run").addEventListener("change", () => choose(runs[at("run").selectedIndex]));
at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value);
  at("login").hidden = true;
  begin();
});
for (const name of ["order", "wording"])
  for (const radio of document.getElementsByName(name))
    radio.addEventListener("change", () => {
      state[name] = radio.value;
      ask();
    });

function choose(run) {
  state.run = run;
  state.chosen = new Set(run.recommenders.slice(0, 3));
  const boxes = run.recommenders.map((name) => {
    const label = make("label");
    const box = make("input", undefined, { type: "checkbox", value: name });
    box.checked = state.chosen.has(name);
    box.addEventListener("change", () => {
      if (box.checked) state.chosen.add(name);
      else state.chosen.delete(name);
      ask();
    });
    label.append(box, ` ${name}`);
    return label;
  });
  at("who").replaceChildren(make("legend", "Recommenders"), ...boxes);
  const count = run.items.toLocaleString("en");
  at("about").textContent = held ? `${run.name}: ${source.people.length} users of the test, ${count} items. This file needs no service.` : `${run.name}: ${count} items.`;
  state.liked = [];
  if (held) draw(0);
  else changed();
}

let runs = [];
async function begin() {
  try {
    runs = await source.runs();
  } catch (error) {
    tell(error.message, true);
    return;
  }
  at("run").replaceChildren(...runs.map((run) => make("option", run.name)));
  at("run-label").hidden = runs.length < 2;
  if (held) {
    at("picker").hidden = at("clear").hidden = true;
    at("people-label").hidden = false;
    at("people").replaceChildren(...source.people.map((own) => make("option", own.user)));
    at("draw").textContent = "Next user";
  }
  choose(runs[0]);
}

begin();
