// The page around the scenes: the bar with the ribbon of tokens, the sections, the keys, and the checks.

const RESULTS = [];
const BROKEN = new Set();

// Do a scene's work; if it fails, the rest of the page goes on without it, and the checks say so.
function safely(name, work) {
  try {
    return work();
  } catch (error) {
    console.error(error);
    BROKEN.add(name);
    document.documentElement.dataset.checks = "failed";
    return null;
  }
}

function ribbon() {
  const el = h("div", { id: "ribbon", role: "toolbar", "aria-label": TEXT.page.plain("follow") });
  const buttons = [];
  COLUMNS.forEach((position) => {
    if (position < 0) {
      el.append(chipAt(-1));
      return;
    }
    const rowIndex = ROWS.indexOf(position);
    const written = position >= DATA.run.prompt ? "written" : "";
    buttons.push(
      h(
        "button",
        {
          type: "button",
          class: `chip ${written}`,
          title: `${position}: ${nameAt(position)}`,
          onclick: () => go({ t: rowIndex }),
        },
        cut(visible(DATA.run.tokens[IDS[position]])),
      ),
    );
    el.append(buttons[buttons.length - 1]);
  });
  const last = chipAt(IDS.length - 1, "written last");
  el.append(last);
  const update = () => {
    buttons.forEach((one, i) => {
      one.setAttribute("aria-pressed", String(i === state.t));
      one.tabIndex = i === state.t ? 0 : -1;
      one.classList.toggle("next", ROWS[i] === ROWS[state.t] + 1);
    });
    last.classList.toggle("next", ROWS[state.t] + 2 === IDS.length);
    const chosen = buttons[state.t];
    const hidden = chosen.offsetLeft - el.offsetLeft - el.scrollLeft;
    if (hidden < 40 || hidden > el.clientWidth - 140) el.scrollLeft += hidden - el.clientWidth / 2;
    document.getElementById("live").textContent = TEXT.page.plain("following", {
      token: nameAt(ROWS[state.t]),
    });
    if (el.contains(document.activeElement)) chosen.focus({ preventScroll: true });
  };
  whenChanged(update);
  requestAnimationFrame(update);
  return el;
}

// All that is drawn, anew: the colours or the width have changed.
function redraw() {
  repaint();
  for (const update of LISTENERS) update(state, state);
}

function schemeButton() {
  const root = document.documentElement;
  return h(
    "button",
    {
      type: "button",
      id: "scheme",
      "aria-label": TEXT.page.plain("scheme"),
      title: TEXT.page.plain("scheme"),
      onclick: () => {
        const dark =
          getComputedStyle(root).colorScheme === "light dark"
            ? matchMedia("(prefers-color-scheme: dark)").matches
            : root.dataset.scheme === "dark";
        root.dataset.scheme = dark ? "light" : "dark";
        redraw();
      },
    },
    "◐",
  );
}

function jump(name) {
  const section = document.getElementById(name);
  section.scrollIntoView({
    behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
  });
  section.querySelector("h2, h1").focus({ preventScroll: true });
}

// A button that leads to a scene.
function linkTo(name, ...kids) {
  return h("button", { type: "button", class: "link", onclick: () => jump(name) }, kids);
}

function codeOf(name) {
  const found = DATA.code[name] || [];
  if (!found.length) return null;
  return details(
    TEXT.page("code"),
    found.map((one) =>
      h(
        "figure",
        { class: "code" },
        h("figcaption", null, h("code", null, `${one.file}:${one.line}`)),
        h("pre", { tabindex: 0, "aria-label": `${one.file}:${one.line}` }, one.text),
      ),
    ),
  );
}

function build() {
  const names = Object.keys(SCENES).filter((name) => DATA[name] !== undefined);
  const main = document.getElementById("main"),
    nav = h("nav", { "aria-label": TEXT.page.plain("scenes") });
  const updates = [];
  main.append(
    h(
      "div",
      { class: "hero" },
      h("h1", null, TEXT.page("page_title", { model: spaced(cut(visible(DATA.run.model), 60)) })),
      h("p", { class: "lead" }, TEXT.page("hero")),
    ),
  );
  let number = 0;
  for (const name of names) {
    const t = textsOf(name),
      el = h("div", { class: "body" }),
      counted = t.has("nav");
    const section = h("section", { id: name, "aria-labelledby": `${name}-title` });
    if (t.has("title")) {
      section.append(
        h(
          "h2",
          { id: `${name}-title`, tabindex: -1 },
          counted ? h("span", { class: "number" }, String(++number)) : null,
          t("title"),
        ),
      );
    }
    section.append(el);
    main.append(section);
    if (counted)
      nav.append(h("button", { type: "button", data: { scene: name }, onclick: () => jump(name) }, t("nav")));
    const update = safely(name, () => SCENES[name].scene(DATA, state, el, t));
    if (update) updates.push(() => safely(name, () => update(state)));
    const code = codeOf(name);
    if (code) section.append(code);
  }
  fill(
    document.getElementById("bar"),
    h("div", { class: "top" }, nav, schemeButton()),
    h("div", { class: "follow" }, h("span", { class: "label" }, TEXT.page("follow")), ribbon()),
  );
  return updates;
}

function keys(event) {
  const target = event.target;
  if (event.key === "Escape") hideTip();
  if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
  if (target.matches("input, select, textarea, pre, .scroll, .arrows, .arrows *")) return;
  if (event.key === "ArrowLeft") go({ t: state.t - 1 });
  else if (event.key === "ArrowRight") go({ t: state.t + 1 });
  else return;
  event.preventDefault();
}

function glossary() {
  return details(
    TEXT.page("glossary"),
    h(
      "dl",
      null,
      Object.entries(TEXTS.glossary).map(([word, meaning]) => [
        h("dt", null, TEXTS.words[word] || word),
        h("dd", null, meaning),
      ]),
    ),
  );
}

// Let every scene's checks run, one after another; {name: true or false} goes into the page's summary.
function check() {
  const found = { same_as_unwatched: DATA.run.same };
  RESULTS.push({ scene: "page", name: "same_as_unwatched", ok: DATA.run.same, off: null });
  for (const [name, { checks }] of Object.entries(SCENES)) {
    if (!checks || DATA[name] === undefined) continue;
    for (const one of safely(name, () => checks(DATA)) || []) {
      RESULTS.push({ scene: name, ...one });
      found[one.name] = one.ok;
    }
  }
  for (const name of BROKEN) found[`scene_${name}`] = false;
  const element = document.getElementById("summary"),
    summary = JSON.parse(element.textContent);
  summary.checks = found;
  element.textContent = JSON.stringify(summary).replaceAll("<", "\\u003c");
  document.documentElement.dataset.checks = Object.values(found).every((ok) => ok) ? "ok" : "failed";
}

// The scene in view is marked in the bar.
function markScenes() {
  const buttons = document.querySelectorAll("nav button");
  const inView = new Set();
  const watcher = new IntersectionObserver(
    (seen) => {
      for (const { target, isIntersecting } of seen) inView[isIntersecting ? "add" : "delete"](target.id);
      buttons.forEach((one) =>
        inView.has(one.dataset.scene)
          ? one.setAttribute("aria-current", "true")
          : one.removeAttribute("aria-current"),
      );
    },
    { rootMargin: "-40% 0px -55% 0px" },
  );
  document.querySelectorAll("section").forEach((section) => watcher.observe(section));
}

function begin() {
  document.title = TEXT.page.plain("page_title", { model: spaced(visible(DATA.run.model)) });
  document.getElementById("skip").textContent = TEXT.page.plain("skip");
  for (const part of Object.values(DATA)) Object.assign(DATA.run.tokens, part.tokens);
  const first = (DATA.votes || {}).first || { layer: Math.floor(DATA.run.layers / 2), head: 0 };
  Object.assign(state, { t: DATA.run.steps.indexOf(0), layer: first.layer, head: first.head });
  Object.assign(state, readFragment());
  within(state);
  const updates = build(),
    follow = () => updates.forEach((update) => update());
  whenChanged(follow);
  check();
  follow();
  fill(document.getElementById("foot"), glossary(), h("p", null, TEXT.page("made")));
  markScenes();
  document.addEventListener("keydown", keys);
  window.addEventListener("hashchange", () => go(readFragment()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = innerWidth;
  window.addEventListener("resize", () => {
    if (width === innerWidth) return;
    width = innerWidth;
    redraw();
  });
  document.addEventListener("toggle", repaint, true);
  window.addEventListener("beforeprint", () =>
    document.querySelectorAll("details").forEach((one) => {
      one.open = true;
    }),
  );
  window.addEventListener("scroll", placeTip, { passive: true });
}

begin();
