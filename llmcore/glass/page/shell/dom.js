// Elements. Text only ever becomes text nodes: nothing here reads HTML.

const SVG = "http://www.w3.org/2000/svg";

function put(el, props, kids) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") el.setAttribute("class", value);
    else if (name === "data") Object.assign(el.dataset, value);
    else if (name === "css") for (const [key, to] of Object.entries(value)) el.style.setProperty(key, to);
    else if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else el.setAttribute(name, value === true ? "" : value);
  }
  for (const kid of kids.flat(Infinity)) if (kid !== undefined && kid !== null && kid !== "") el.append(kid);
  return el;
}

// h("p", {class: "small", onclick: f, css: {width: "3px"}}, "text", node, [more]) makes an element.
function h(tag, props, ...kids) {
  return put(document.createElement(tag), props, kids);
}

// The same in SVG.
function s(tag, props, ...kids) {
  return put(document.createElementNS(SVG, tag), props, kids);
}

// A drawing, and what it says to who cannot see it.
function drawing({ width, height, label, onclick }, ...inside) {
  const view = { width, height, viewBox: `0 0 ${width} ${height}`, class: "chart", onclick };
  return s("svg", { ...view, role: "img", "aria-label": label }, ...inside);
}

// Empty an element and fill it anew.
function fill(el, ...kids) {
  el.replaceChildren();
  return put(el, null, kids);
}

// What cannot be seen of a text, made visible: spaces, line ends, and marks that would change what is shown.
function visible(text) {
  let out = "";
  for (const c of text) {
    const n = c.codePointAt(0);
    if (c === " ") out += "·";
    else if (c === "\n") out += "⏎";
    else if (c === "\t") out += "⇥";
    else if (
      n < 32 ||
      (n >= 127 && n < 160) ||
      n === 0xad ||
      n === 0x61c ||
      (n >= 0x200b && n <= 0x200f) ||
      (n >= 0x2028 && n <= 0x202e) ||
      (n >= 0x2060 && n <= 0x206f) ||
      n === 0xfeff ||
      (n >= 0xd800 && n <= 0xdfff)
    ) {
      out += `[U+${n.toString(16).toUpperCase().padStart(4, "0")}]`;
    } else out += c;
  }
  return out || "∅";
}

const spaced = (text) => text.replaceAll("·", " ");

function cut(text, most = 24) {
  const letters = [...text];
  return letters.length <= most ? text : letters.slice(0, most - 1).join("") + "…";
}

// A token of the vocabulary as a small box, by its id.
function chip(id, extra = "") {
  const text = DATA.run.tokens[id];
  return h(
    "bdi",
    { class: `chip ${extra}`, title: `${text === undefined ? "" : visible(text)} (id ${id})` },
    text === undefined ? `#${id}` : cut(visible(text)),
  );
}

// The token at a position of the text; the column of tokens between (-1) says how many they are.
function chipAt(position, extra = "") {
  if (position < 0)
    return h(
      "bdi",
      { class: `chip between ${extra}` },
      TEXT.page("between", { n: DATA.run.between }).textContent,
    );
  return chip(IDS[position], extra);
}

// The same as plain text, for labels.
function nameAt(position) {
  return position < 0 ? TEXT.page("between", { n: DATA.run.between }).textContent : nameOf(IDS[position]);
}

function nameOf(id) {
  const text = DATA.run.tokens[id];
  return text === undefined ? `#${id}` : cut(visible(text));
}

function details(summary, ...kids) {
  return h("details", null, h("summary", null, summary), h("div", { class: "inside" }, kids));
}

// A table of cells; numbers go to the right. Rows are arrays of text or nodes.
function table(caption, heads, rows, extra = "") {
  const number = (kid) =>
    typeof kid === "string" && /^[<>+-]?[\d.,\s\u00a0]+(%|e[+-]?\d+)?$/.test(kid) ? "n" : null;
  const cell = (kid) => h("td", { class: number(kid) }, kid);
  const right = (i) =>
    rows.length && rows.every((cells) => cells[i] === "" || number(cells[i])) ? "n" : null;
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      { class: extra },
      h("caption", { class: "unseen" }, caption),
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          heads.map((head, i) => h("th", { scope: "col", class: right(i) }, head)),
        ),
      ),
      h(
        "tbody",
        null,
        rows.map((cells) => h("tr", { class: cells.mark }, cells.map(cell))),
      ),
    ),
  );
}

// A row of pills of which one is pressed: options {value, label}.
function pills(label, options, value, choose) {
  return h(
    "div",
    { class: "pills", role: "group", "aria-label": label },
    options.map((option) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": String(option.value === value),
          onclick: () => choose(option.value),
        },
        option.label,
      ),
    ),
  );
}

function button(label, act, extra = "") {
  return h("button", { type: "button", class: extra, onclick: act }, label);
}

// A labelled slider; `show` makes the text of its value.
function slider(label, { min, max, step, value, show = String }, change) {
  const out = h("output", null, show(value));
  const input = h("input", {
    type: "range",
    min,
    max,
    step,
    value,
    "aria-label": label,
    "aria-valuetext": show(value),
  });
  input.addEventListener("input", () => {
    out.textContent = show(Number(input.value));
    input.setAttribute("aria-valuetext", out.textContent);
    change(Number(input.value));
  });
  const el = h("label", { class: "slider" }, h("span", null, label), input, out);
  el.set = (to) => {
    input.value = to;
    out.textContent = show(to);
    input.setAttribute("aria-valuetext", out.textContent);
  };
  return el;
}

// Make an element one that arrow keys move about in: move(dx, dy); it is announced as a slider from 0 to most.
function arrowsOn(el, label, most, move) {
  put(
    el,
    {
      tabindex: 0,
      role: "slider",
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": most,
      "aria-valuenow": 0,
    },
    [],
  );
  el.classList.add("arrows");
  el.addEventListener("keydown", (event) => {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
      event.key
    ] || [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    event.stopPropagation();
    move(dx, dy);
  });
  el.at = (now, text) => put(el, { "aria-valuenow": now, "aria-valuetext": text }, []);
  return el;
}
