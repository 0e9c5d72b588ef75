// What the page remembers: the turns of a conversation and the settings, here in the browser alone.

const TURNS = "llmcore.turns",
  OPTIONS = "llmcore.options",
  KEY = "llmcore.key";

function load(store, name, otherwise) {
  try {
    return JSON.parse(store.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function save(store, name, value) {
  try {
    store.setItem(name, JSON.stringify(value));
  } catch {
    // A full or forbidden store: the page works without.
  }
}

export const state = {
  turns: load(localStorage, TURNS, []),
  options: { probabilities: true, ...load(localStorage, OPTIONS, {}) },
  key: load(sessionStorage, KEY, ""),
};

export function remember() {
  // Probabilities are many; they last as long as the page is open.
  save(
    localStorage,
    TURNS,
    state.turns.map(({ pieces, ...turn }) => turn),
  );
  save(localStorage, OPTIONS, state.options);
  save(sessionStorage, KEY, state.key);
}

// The numbers that a request may bring: their names, their labels, their ranges.
export const NUMBERS = [
  ["temperature", "Temperature", { min: 0, step: "any" }],
  ["max_tokens", "Most tokens", { min: 1, step: 1 }],
  ["top_p", "Top p", { min: 0, max: 1, step: "any" }],
  ["top_k", "Top k", { min: 0, step: 1 }],
  ["min_p", "Min p", { min: 0, max: 1, step: "any" }],
  ["repeat_penalty", "Repeat penalty", { min: 0, step: "any" }],
  ["seed", "Seed", { min: 0, step: 1 }],
];

// The body of a request for the next answer.
export function body(turns) {
  const { system, thinking, probabilities } = state.options;
  const numbers = NUMBERS.map(([name]) => [name, state.options[name]]).filter(
    ([, value]) => value !== undefined,
  );
  const messages = turns.map(({ role, content, reasoning }) =>
    reasoning ? { role, content, reasoning_content: reasoning } : { role, content },
  );
  return {
    messages: system?.trim() ? [{ role: "system", content: system }, ...messages] : messages,
    ...Object.fromEntries(numbers),
    ...(thinking ? { chat_template_kwargs: { enable_thinking: thinking === "true" } } : {}),
    ...(probabilities ? { logprobs: true, top_logprobs: 5 } : {}),
    stream_options: { include_usage: true },
  };
}

export function asJSON(model) {
  const { messages } = body(state.turns);
  const numbers = Object.fromEntries(NUMBERS.map(([name]) => [name, state.options[name]]));
  return JSON.stringify({ model, ...numbers, messages }, null, 2);
}

export function asMarkdown(model) {
  const names = { system: "System", user: "You", assistant: model };
  return body(state.turns)
    .messages.map(
      ({ role, content, reasoning_content: thought }) =>
        `## ${names[role]}\n\n` + (thought ? `${thought.replace(/^/gm, "> ")}\n\n` : "") + `${content}\n`,
    )
    .join("\n");
}
