// The page: what a user does, and what follows.

import { card, events } from "./api.js";
import { asJSON, asMarkdown, body, NUMBERS, remember, state } from "./state.js";
import { element, TurnView } from "./view.js";

const $ = (id) => document.getElementById(id);
const talk = $("talk"),
  say = $("say"),
  settings = $("settings");
const COARSE = matchMedia("(pointer: coarse)");
const WIDE = matchMedia("(min-width: 56.01rem)");
let model = { id: "the model", chat: true, sampling: {} };
let running = null; // what ends the answer that is being written
let views = [];

// The conversation

function button(text, action) {
  return element("button", { type: "button", textContent: text, onclick: action });
}

function viewOf(turn) {
  const copy = button("Copy", async () => {
    await navigator.clipboard.writeText(turn.content);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  const own =
    turn.role === "user"
      ? [button("Edit", () => edit(turn)), copy]
      : [button("Regenerate", regenerate), copy];
  return new TurnView(turn, turn.role === "user" ? "You" : model.id, own);
}

function show(turn) {
  const view = viewOf(turn);
  views.push(view);
  talk.append(view.root);
  $("welcome").hidden = true;
  markLast();
  return view;
}

// Only the last answer can be written anew.
function markLast() {
  const last = views.at(-1);
  for (const { turn, buttons } of views) {
    if (turn.role === "assistant") buttons.firstChild.hidden = turn !== last.turn;
  }
}

function dropFrom(turn) {
  const at = state.turns.indexOf(turn);
  state.turns.length = at;
  for (const view of views.splice(at)) view.root.remove();
  $("welcome").hidden = state.turns.length > 0;
  remember();
}

function edit(turn) {
  stop();
  dropFrom(turn);
  say.value = turn.content;
  say.focus();
}

function regenerate() {
  if (running) return;
  dropFrom(state.turns.at(-1));
  answer();
}

function stop() {
  running?.abort();
}

const following = () => talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;

function request() {
  const { messages, ...options } = body(state.turns);
  if (model.chat) return ["/v1/chat/completions", { messages, ...options }];
  const { logprobs, top_logprobs: top, ...rest } = options;
  return ["/v1/completions", { max_tokens: 256, ...rest, prompt: messages.at(-1).content }];
}

async function answer() {
  const turn = { role: "assistant", content: "", reasoning: "", pieces: [] };
  const messages = request();
  state.turns.push(turn);
  const view = show(turn),
    clock = { begin: performance.now(), n: 0 };
  view.busy(true);
  busy(true);
  running = new AbortController();
  talk.scrollTop = talk.scrollHeight;
  try {
    await write(turn, view, clock, messages);
    view.tell((turn.note = cost(clock)));
  } catch (error) {
    failed(turn, view, error);
  } finally {
    running = null;
    view.busy(false);
    busy(false);
    remember();
  }
}

async function write(turn, view, clock, [path, request]) {
  let pending = [];
  for await (const event of events(path, request, state.key, running.signal)) {
    clock.usage = event.usage ?? clock.usage;
    const choice = event.choices[0];
    if (!choice) continue;
    clock.reason = choice.finish_reason ?? clock.reason;
    const delta = choice.delta ?? { content: choice.text };
    const follow = following();
    if (delta.content || delta.reasoning_content) clock.first ??= performance.now();
    if (delta.reasoning_content) {
      turn.reasoning += delta.reasoning_content;
      view.think(delta.reasoning_content);
    }
    pending.push(...(choice.logprobs?.content ?? []));
    if (delta.content) {
      const piece = { text: delta.content, entries: pending };
      turn.content += piece.text;
      turn.pieces.push(piece);
      view.add(piece);
      pending = [];
    }
    if (follow) talk.scrollTop = talk.scrollHeight;
  }
}

function failed(turn, view, error) {
  if (error.name === "AbortError") {
    view.tell((turn.note = "stopped"));
    return;
  }
  if (error.status === 401) askForKey();
  const unreachable = error instanceof TypeError ? "the server cannot be reached" : error.message;
  view.tell((turn.note = unreachable), true);
}

function cost({ begin, first, usage, reason }) {
  if (!usage) return "";
  const n = usage.completion_tokens,
    seconds = (performance.now() - (first ?? begin)) / 1000;
  const cached = usage.prompt_tokens_details.cached_tokens;
  return [
    `${n} tokens`,
    n > 1 && first ? `${((n - 1) / seconds).toFixed(0)} tokens/s` : "",
    first ? `first after ${((first - begin) / 1000).toFixed(2)} s` : "",
    `prompt ${usage.prompt_tokens}${cached ? `, ${cached} of them cached` : ""}`,
    reason === "length" ? "cut: no more tokens were allowed" : "",
  ]
    .filter(Boolean)
    .join(" · ");
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
}

function send() {
  const content = say.value.trim();
  if (!content || running) return;
  const turn = { role: "user", content };
  state.turns.push(turn);
  show(turn);
  say.value = "";
  answer();
}

// Settings

function openSettings(is, focus = true) {
  settings.hidden = !is;
  $("open-settings").setAttribute("aria-expanded", is);
  if (focus) (is ? $("system") : $("open-settings")).focus();
}

function askForKey() {
  $("key-field").hidden = false;
  openSettings(true, false);
  $("key").focus();
}

function makeNumbers() {
  for (const [name, label, range] of NUMBERS) {
    const input = element("input", {
      type: "number",
      id: name,
      name,
      ...range,
      value: state.options[name] ?? "",
    });
    input.addEventListener("input", () => {
      if (input.validity.valid) state.options[name] = input.value === "" ? undefined : Number(input.value);
      remember();
    });
    $("numbers").append(element("div", {}, element("label", { htmlFor: name, textContent: label }), input));
  }
}

function bind(id, property, read) {
  const field = $(id);
  if (state.options[id] !== undefined) field[property] = state.options[id];
  field.addEventListener("input", () => {
    state.options[id] = read ? read(field[property]) : field[property];
    remember();
  });
}

function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function connect() {
  try {
    model = await card(state.key);
  } catch (error) {
    $("model").textContent = error.status === 401 ? "asks for an API key" : "cannot be reached";
    if (error.status === 401) askForKey();
    return;
  }
  $("model").textContent =
    `${model.id} · ${model.max_model_len} tokens of context · ${model.weights.split(",")[0]}`;
  document.title = model.id;
  $("welcome").querySelector(".lead").textContent = model.chat
    ? `${model.id} runs on this machine. What you say stays on it.`
    : `${model.id} has no chat template: it continues the text that you write.`;
  for (const [name] of NUMBERS)
    $(name).placeholder = model.sampling[name] ?? { seed: "random", max_tokens: "what fits" }[name];
  for (const { turn, root } of views) if (turn.role === "assistant") root.firstChild.textContent = model.id;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
say.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || COARSE.matches) return;
  event.preventDefault();
  send();
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) stop();
  else if (!settings.hidden && !WIDE.matches) openSettings(false);
});
$("stop").addEventListener("click", () => {
  stop();
  say.focus();
});
$("new").addEventListener("click", () => {
  stop();
  if (state.turns.length) dropFrom(state.turns[0]);
  say.focus();
});
$("open-settings").addEventListener("click", () => openSettings(settings.hidden));
$("close-settings").addEventListener("click", () => openSettings(false));
$("options").addEventListener("submit", (event) => event.preventDefault());
$("key").addEventListener("change", () => {
  state.key = $("key").value;
  remember();
  connect();
});
$("export-json").addEventListener("click", () =>
  download("conversation.json", asJSON(model.id), "application/json"),
);
$("export-markdown").addEventListener("click", () =>
  download("conversation.md", asMarkdown(model.id), "text/markdown"),
);

makeNumbers();
bind("system", "value");
bind("thinking", "value");
bind("probabilities", "checked");
$("key").value = state.key;
$("base").textContent = `${location.origin}/v1`;
openSettings(WIDE.matches, false);
for (const turn of state.turns) show(turn);
$("welcome").hidden = state.turns.length > 0;
if (!COARSE.matches) say.focus();
await connect();
