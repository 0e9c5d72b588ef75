function scene(data, state, el, t) {
  const d = data.text,
    run = data.run;
  const list = h("div", { class: "numbered" }),
    panel = h("div", { class: "panel" });
  el.append(
    h("p", { class: "lead" }, d.pieces ? t("intro_pieces") : t("intro")),
    h("div", { class: "panel" }, list, h("p", { class: "small" }, t("numbers", { n: run.vocabulary }))),
    panel,
    h(
      "div",
      { class: "notice" },
      h(
        "p",
        null,
        t(d.special ? "counted_special" : "counted", {
          n: d.characters,
          tokens: t("tokens", { n: run.prompt }),
        }),
      ),
    ),
  );

  const buttons = [...COLUMNS].map((position) =>
    position < 0
      ? h("span", null, chipAt(-1))
      : h(
          "button",
          { type: "button", class: "plain", onclick: () => go({ t: ROWS.indexOf(position) }) },
          chipAt(position, position >= run.prompt ? "written" : ""),
          h("span", { class: "id" }, String(IDS[position])),
        ),
  );
  fill(list, buttons);

  function wordOf(position) {
    let found = null;
    for (const word of d.words)
      if (word.start <= position && position < word.start + word.ids.length) found = word;
    return found;
  }

  function merges(word) {
    const rows = word.steps.map(([symbols, at, rank], i) =>
      h(
        "li",
        null,
        h(
          "span",
          { class: "symbols" },
          symbols.map((symbol, j) =>
            h("bdi", { class: `chip ${j === at || j === at + 1 ? "pair" : ""}` }, visible(symbol)),
          ),
        ),
        h(
          "span",
          { class: "rank" },
          d.pieces ? t("rank_piece", { n: num(rank) }) : t("rank", { n: num(rank + 1), of: num(d.list) }),
        ),
      ),
    );
    const last = h(
      "li",
      null,
      h(
        "span",
        { class: "symbols" },
        word.ids.map((id) =>
          h(
            "span",
            { class: "numbered" },
            h("span", null, chip(id, "on"), h("span", { class: "id" }, String(id))),
          ),
        ),
      ),
      h("span", { class: "rank" }, t("no_more")),
    );
    return h("ol", { class: "merges" }, rows, last);
  }

  return () => {
    const { row, position } = here(),
      column = [...COLUMNS].indexOf(position);
    buttons.forEach((one, i) => one.firstChild.classList.toggle("on", i === column));
    const word = wordOf(position);
    if (position >= run.prompt) fill(panel, h("p", null, t("written", { token: chip(IDS[position]) })));
    else if (!word || word.how === "whole")
      fill(panel, h("p", null, t("whole", { token: chip(IDS[position]) })));
    else if (word.how === "special") fill(panel, h("p", null, t("special", { token: chip(IDS[position]) })));
    else if (word.how === "bytes") fill(panel, h("p", null, t("byte", { token: chip(IDS[position]) })));
    else if (!word.steps.length) fill(panel, h("p", null, t("single", { token: chip(IDS[position]) })));
    else
      fill(
        panel,
        h("h3", null, t("word", { token: word.ids.map((id) => chip(id)), n: word.steps.length })),
        merges(word),
      );
  };
}

// A plain loop over the merges leads from letters to the tokens.
function checks(data) {
  let n = 0,
    wrong = 0;
  for (const word of data.text.words) {
    if (word.how !== "merged") continue;
    let symbols = word.steps.length ? word.steps[0][0] : word.last;
    let good = true;
    word.steps.forEach(([before, at], i) => {
      good =
        good &&
        before.length === symbols.length &&
        before.length === word.steps.length - i + word.last.length;
      symbols = [...symbols.slice(0, at), before[at] + before[at + 1], ...symbols.slice(at + 2)];
    });
    good = good && symbols.length === word.ids.length;
    n += 1;
    wrong += good ? 0 : 1;
  }
  return n ? [{ name: "merges_end_in_the_tokens", ok: wrong === 0, off: null, values: { n } }] : [];
}
