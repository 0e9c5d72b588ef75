// The screen: turns of a conversation, their tokens, and the tip that tells of a token. Text goes in as text alone.

const tip = document.getElementById("tip");

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// A turn on the screen, and what changes in it while it is written.
export class TurnView {
  constructor(turn, name, buttons) {
    this.turn = turn;
    this.text = element("div", { className: "text" });
    this.cost = element("p", { className: "cost" });
    this.buttons = element("div", { className: "buttons" }, ...buttons, this.cost);
    this.root = element(
      "article",
      { className: `turn ${turn.role}` },
      element("h2", { textContent: name }),
      this.text,
      this.buttons,
    );
    if (turn.reasoning) this.think(turn.reasoning, false);
    if (turn.role === "assistant") makeTokensReachable(this.text);
    for (const piece of turn.pieces ?? [{ text: turn.content, entries: [] }]) this.add(piece);
    this.tell(turn.note ?? "");
  }

  busy(is) {
    this.root.setAttribute("aria-busy", is);
    this.buttons.hidden = is;
    if (this.thought) this.summary.textContent = is && !this.turn.content ? "Thinking…" : "Thought";
  }

  // A piece of the answer: {text, entries}, the tokens that it consists of.
  add({ text, entries }) {
    if (!text) return;
    if (!entries.length) {
      this.text.append(text);
      return;
    }
    const token = element("span", { className: "token", textContent: text });
    token.entries = entries;
    token.style.setProperty("--surprise", surprise(entries));
    this.text.append(token);
  }

  // What the model thought, folded.
  think(text, more = true) {
    if (!this.thought) {
      this.summary = element("summary", { textContent: more ? "Thinking…" : "Thought" });
      this.thoughtText = element("div");
      this.thought = element("details", { className: "thought" }, this.summary, this.thoughtText);
      this.text.before(this.thought);
    }
    this.thoughtText.append(text);
  }

  tell(note, alarm = false) {
    this.cost.textContent = note;
    this.cost.classList.toggle("alarm", alarm);
  }
}

// 0 for a token of a probability of a half or more, 1 for one of two percent or less.
function surprise(entries) {
  const least = Math.min(...entries.map(({ logprob }) => logprob));
  return Math.max(0, Math.min(1, (-least - Math.log(2)) / Math.log(25))).toFixed(3);
}

const percent = (logprob) => {
  const p = 100 * Math.exp(logprob);
  return `${p >= 99.95 ? "100" : p < 0.05 ? "<0.1" : p.toFixed(1)}%`;
};

const visible = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ | $/g, "␣");

function row({ token, logprob }, chosen) {
  return element(
    "div",
    { className: chosen ? "row chosen" : "row" },
    element("span", { textContent: percent(logprob) }),
    element("span", { textContent: visible(token) }),
  );
}

function showTip(token) {
  if (!token?.entries) {
    tip.hidden = true;
    return;
  }
  const rows = token.entries.flatMap((entry) => {
    const others = entry.top_logprobs.filter((other) => other.token !== entry.token);
    return [row(entry, true), ...others.slice(0, 4).map((other) => row(other, false))];
  });
  tip.replaceChildren(...rows);
  tip.hidden = false;
  const at = token.getClientRects()[0],
    size = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8));
  const below = at.bottom + 6,
    fits = below + size.height < window.innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${fits ? below : Math.max(8, at.top - size.height - 6)}px`;
}

// Tokens answer to the pointer, and to the arrow keys once their text has the focus.
function makeTokensReachable(text) {
  let here = null;
  const go = (token) => {
    here?.classList.remove("here");
    here = token;
    here?.classList.add("here");
    here?.scrollIntoView({ block: "nearest" });
    showTip(here);
  };
  text.tabIndex = 0;
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", "Answer. The arrow keys go from token to token.");
  text.addEventListener("pointerover", (event) => showTip(event.target.closest(".token")));
  text.addEventListener("pointerleave", () => showTip(here));
  text.addEventListener("blur", () => go(null));
  text.addEventListener("keydown", (event) => {
    const tokens = [...text.querySelectorAll(".token")];
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !tokens.length) return;
    event.preventDefault();
    const at = here ? tokens.indexOf(here) : -1;
    go(tokens[Math.max(0, Math.min(tokens.length - 1, at + steps[event.key]))]);
  });
}

addEventListener("scroll", () => showTip(null), true);
addEventListener("keydown", (event) => {
  if (event.key === "Escape") tip.hidden = true;
});
