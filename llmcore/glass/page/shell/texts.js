// Texts, in the language of the page. {name} is a place to fill in, [[shown|term]] a word of the glossary; a text
// that is a table of plural forms is chosen by its {n}.

const LANGUAGE = document.documentElement.lang;
const TEXTS = JSON.parse(document.getElementById("texts").textContent);
const PLURAL = new Intl.PluralRules(LANGUAGE);
const DATA = JSON.parse(document.getElementById("data").textContent);
const IDS = arr(DATA.run.ids),
  ROWS = arr(DATA.run.rows),
  COLUMNS = arr(DATA.run.columns);

// A number with grouped thousands; with `digits` so many after the point.
function num(x, digits = 0) {
  const text = new Intl.NumberFormat(LANGUAGE, {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    useGrouping: Math.abs(x) >= 10000 || LANGUAGE === "en",
  }).format(x === 0 ? 0 : x);
  return text.replace("−", "-");
}

// A setting as people write it: 0.8, not 0.80.
function short(x) {
  return new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 3 }).format(x);
}

// The same with its sign.
function signed(x, digits = 2) {
  return (x >= 0 ? "+" : "") + num(x, digits);
}

// A share of 1 as a percentage, with as many digits as say something.
function percent(p) {
  const x = 100 * p;
  if (x > 99.5 && x < 100) return x < 99.95 ? `${num(x, 1)}%` : `>${num(99.9, 1)}%`;
  if (x === 0 || x >= 9.95) return `${num(x)}%`;
  if (x < 0.05) return `<${num(0.1, 1)}%`;
  return `${num(x, 1)}%`;
}

// A large count as people say it: 135 million.
function large(n) {
  const compactDisplay = LANGUAGE === "en" ? "long" : "short"; // a word would have to be inflected
  return new Intl.NumberFormat(LANGUAGE, {
    notation: "compact",
    compactDisplay,
    maximumSignificantDigits: 3,
  }).format(n);
}

function bytes(n) {
  for (const [unit, name] of [
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
  ])
    if (n >= unit) return `${num(n / unit, 1)} ${name}`;
  return TEXT.page("bytes", { n }).textContent;
}

// The texts of a scene (and behind them the page's): t(key, {place: text or node}) is a fragment to append.
function textsOf(scene) {
  const t = (key, values = {}) => said(find(scene, key), values);
  t.has = (key) => (TEXTS[scene] || {})[key] !== undefined;
  t.plain = (key, values) => t(key, values).textContent;
  return t;
}

function find(scene, key) {
  const text = (TEXTS[scene] || {})[key] ?? TEXTS.page[key];
  if (text === undefined) throw new Error(`no text ${scene}.${key}`);
  return text;
}

function said(text, values) {
  if (typeof text === "object") text = text[PLURAL.select(values.n)] ?? text.other;
  const out = document.createDocumentFragment();
  for (const part of text.split(/(\{\w+\}|\[\[[^\]]+\]\])/)) {
    if (part.startsWith("{")) {
      const value = values[part.slice(1, -1)];
      if (value === undefined) throw new Error(`no value for ${part} in: ${text}`);
      out.append(...[value].flat().map((one) => (typeof one === "number" ? num(one) : one)));
    } else if (part.startsWith("[[")) {
      const [shown, name] = part.slice(2, -2).split("|");
      out.append(term(shown, name || shown));
    } else if (/^[.,;:!?)]/.test(part) && out.lastElementChild && out.lastChild === out.lastElementChild) {
      out.append(h("span", { class: "glued" }, out.lastChild, part[0]), part.slice(1)); // no line ends between them
    } else if (part) out.append(part);
  }
  return out;
}

// A word that the glossary explains, on hover, focus and touch.
function term(shown, name) {
  if (TEXTS.glossary[name] === undefined) throw new Error(`no word ${name} in the glossary`);
  return h(
    "button",
    {
      type: "button",
      class: "term",
      "aria-describedby": "tip",
      data: { term: name },
      onmouseenter: showTip,
      onfocus: showTip,
      onclick: showTip,
      onmouseleave: hideTip,
      onblur: hideTip,
    },
    shown,
  );
}

let tipOf = null;

function showTip(event) {
  tipOf = event.currentTarget;
  placeTip();
}

function placeTip() {
  if (!tipOf) return;
  const tip = document.getElementById("tip"),
    word = tipOf.getBoundingClientRect();
  tip.textContent = TEXTS.glossary[tipOf.dataset.term];
  tip.hidden = false;
  const left = Math.min(word.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = word.top > tip.offsetHeight + 120;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above ? word.top - tip.offsetHeight - 6 : word.bottom + 6}px`;
}

function hideTip() {
  tipOf = null;
  document.getElementById("tip").hidden = true;
}

const TEXT = { page: textsOf("page") };
const strong = (kid) => h("strong", null, typeof kid === "number" ? num(kid) : kid);
