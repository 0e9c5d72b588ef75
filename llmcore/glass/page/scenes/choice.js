// The filters as the engine has them, on the likeliest candidates, which are all that the page holds: {list, n, sum}
// are those candidates (largest first), how many there are in all, and the sum of e^(score - most) over them all.

const FILTER = {
  top_k: (c, { top_k }) => (top_k > 0 && top_k < c.n ? limited(c.list.slice(0, top_k), top_k) : c),
  top_p: (c, { top_p }) => {
    if (top_p >= 1) return c;
    let reached = 0,
      i = 0;
    const most = c.list[0].score;
    while (i < c.list.length && reached < top_p) reached += Math.exp(c.list[i++].score - most) / c.sum;
    return reached < top_p && c.n > c.list.length ? c : limited(c.list.slice(0, i), i);
  },
  min_p: (c, { min_p }) => {
    if (min_p <= 0) return c;
    const kept = c.list.filter(({ score }) => score >= c.list[0].score + Math.log(min_p));
    return kept.length === c.list.length && c.n > kept.length ? c : limited(kept, kept.length);
  },
  temperature: (c, { temperature }) => {
    if (temperature <= 0) return c;
    const most = c.list[0].score,
      list = c.list.map(({ id, score }) => ({ id, score: (score - most) / temperature }));
    return { ...limited(list, c.n), guess: c.n > list.length };
  },
};

function limited(list, n) {
  const most = list[0].score;
  return { list, n, sum: list.reduce((sum, { score }) => sum + Math.exp(score - most), 0) };
}

function stagesOf(row, settings, order) {
  const likely = DATA.run.candidates[row],
    logits = arr(likely.logits);
  let c = {
    list: [...arr(likely.ids)].map((id, i) => ({ id, score: logits[i] })),
    n: DATA.run.vocabulary,
    sum: Math.exp(likely.lse - logits[0]),
  };
  const stages = [],
    removed = {};
  for (const name of order) {
    const before = c;
    if (name !== "temperature" && settings.temperature <= 0) continue;
    c = FILTER[name](c, settings);
    if (c.n < before.n)
      for (const { id } of before.list) if (!c.list.some((one) => one.id === id)) removed[id] = name;
    if (c !== before && name !== "temperature") stages.push({ name, n: c.n });
  }
  return { stages, removed, last: c };
}

// The chances of what is left, in the order of ids, as the engine draws.
function line(c) {
  const most = c.list[0].score,
    sum = c.guess ? limited(c.list, c.n).sum : c.sum;
  return [...c.list]
    .sort((a, b) => a.id - b.id)
    .map(({ id, score }) => ({ id, p: Math.exp(score - most) / sum }));
}

function drawn(parts, number) {
  const total = parts.reduce((sum, { p }) => sum + p, 0);
  let sum = 0;
  for (const { id, p } of parts) {
    sum += p / total;
    if (sum > number) return id;
  }
  return parts[parts.length - 1].id;
}

function scene(data, state, el, t) {
  const d = data.choice,
    own = d.settings,
    run = data.run;
  const funnel = h("div", { class: "funnel" }),
    line_ = h("div", { class: "line" }),
    said = h("p"),
    heading = h("p", { class: "lead" });
  const list = h("div"),
    result = h("div", { class: "say", "aria-live": "polite" }),
    notice = h("div", { class: "notice" });
  let settings = { ...own },
    number = null,
    counts = null;

  const text = (name, value) => `${t.plain(`filter_${name}`)} ${short(value)}`;
  const sliders = [
    ["temperature", { min: 0, max: Math.max(2, own.temperature), step: 0.05, show: short }],
    ["top_k", { min: 0, max: Math.max(100, own.top_k), step: 1, show: (x) => (x ? num(x) : t.plain("off")) }],
    ["top_p", { min: 0.05, max: 1, step: 0.01, show: (x) => (x < 1 ? short(x) : t.plain("off")) }],
    [
      "min_p",
      { min: 0, max: Math.max(0.5, own.min_p), step: 0.01, show: (x) => (x ? short(x) : t.plain("off")) },
    ],
  ].map(([name, options]) => [
    name,
    slider(t.plain(`filter_${name}`), { ...options, value: own[name] }, (x) => {
      settings = { ...settings, [name]: x };
      number = counts = null;
      draw();
    }),
  ]);
  const again = button(
    t("draw"),
    () => {
      number = Math.random();
      counts = null;
      draw();
    },
    "pill",
  );
  const many = button(
    t("draw_100"),
    () => {
      const parts = line(stagesOf(state.t, settings, d.order).last);
      counts = {};
      for (let i = 0; i < 100; i++) {
        const id = pick(parts, Math.random());
        counts[id] = (counts[id] || 0) + 1;
      }
      draw();
    },
    "pill",
  );
  const back = button(t("back"), () => reset(true), "pill");
  const pick = (parts, x) =>
    settings.temperature > 0 ? drawn(parts, x) : likeliest(stagesOf(state.t, settings, d.order).last);

  el.append(
    heading,
    h("div", { class: "panel" }, funnel, line_, said),
    h(
      "div",
      { class: "panel beside" },
      list,
      h(
        "div",
        null,
        h("h3", null, t("try")),
        h(
          "div",
          { class: "sliders" },
          sliders.map(([, one]) => one),
        ),
        h("div", { class: "row" }, again, many, back),
        result,
        h("p", { class: "small" }, t("heat")),
      ),
    ),
    notice,
  );

  function reset(draws) {
    settings = { ...own };
    number = counts = null;
    for (const [name, one] of sliders) one.set(own[name]);
    if (draws) draw();
  }

  const asRun = () => Object.keys(own).every((name) => own[name] === settings[name]) && number === null;

  // What happened in the run, or what these settings would do.
  function shown() {
    const { step } = here();
    const { stages, removed, last } = stagesOf(state.t, settings, d.order);
    const of = {
      stages,
      removed,
      parts: line(last),
      n: last.n,
      number,
      step,
      run: false,
      some: last.n > last.list.length ? last.list.length : 0,
    };
    if (step >= 0 && asRun()) {
      const done = d.steps[step];
      of.run = true;
      of.some = 0;
      of.stages = d.names
        .map((name, i) => ({ name, n: done.left[i] }))
        .filter(({ name }) => name !== "temperature");
      of.removed = done.removed;
      of.number = done.number;
      of.taken = done.taken;
      of.n = done.left.length ? done.left[done.left.length - 1] : run.vocabulary;
      if (done.ids) of.parts = [...arr(done.ids)].map((id, i) => ({ id, p: arr(done.chances)[i] }));
      else if (settings.temperature > 0) of.parts = [];
    } else if (number !== null) of.taken = pick(of.parts, number);
    return of;
  }

  function draw() {
    const { target, step } = here(),
      of = shown(),
      greedy = settings.temperature <= 0;
    const names = Object.entries(own)
      .filter(([name]) => name !== "temperature")
      .map(([name, value]) => text(name, value));
    fill(
      heading,
      step < 0
        ? t("intro_prompt", { token: chip(target) })
        : greedy && own.temperature <= 0
          ? t("intro_greedy")
          : t("intro", {
              settings: [text("temperature", own.temperature), ...(own.temperature > 0 ? names : [])].join(
                ", ",
              ),
              seed: String(d.seed),
            }),
    );
    const stages = [{ name: "all", n: run.vocabulary }, ...of.stages];
    if (greedy) stages.push({ name: "largest", n: 1 });
    const high = (n) => 12 + (76 * Math.log(n)) / Math.log(run.vocabulary);
    fill(
      funnel,
      stages.map(({ name, n }, i) => {
        const from = high(i ? stages[i - 1].n : n),
          to = high(n),
          a = (100 - from) / 2,
          b = (100 - to) / 2;
        return h(
          "div",
          null,
          h("strong", null, num(n)),
          h("span", {
            class: "pipe",
            css: {
              "clip-path": `polygon(0 ${a}%, 34% ${b}%, 100% ${b}%, 100% ${100 - b}%, 34% ${100 - b}%, 0 ${100 - a}%)`,
            },
          }),
          h(
            "span",
            { class: "small" },
            name === "all"
              ? t("all")
              : name === "largest"
                ? t("largest")
                : name in own
                  ? text(name, settings[name])
                  : t(`filter_${name}`),
          ),
        );
      }),
    );
    const parts = of.parts.filter(({ p }) => p > 0.0005);
    line_.hidden = greedy || !parts.length;
    fill(
      line_,
      h(
        "div",
        { class: "parts" },
        parts.map(({ id, p }, i) =>
          h(
            "span",
            {
              class: `part ${i % 2 ? "odd" : ""} ${id === of.taken ? "taken" : ""}`,
              css: { "flex-grow": p },
              title: `${nameOf(id)} ${percent(p)}`,
            },
            p > 0.09 ? nameOf(id) : "",
          ),
        ),
      ),
      of.number === null
        ? null
        : h(
            "span",
            {
              class: `needle ${of.number < 0.5 ? "" : "left"}`,
              css: of.number < 0.5 ? { left: `${100 * of.number}%` } : { right: `${100 * (1 - of.number)}%` },
            },
            of.number < 0.5 ? `▲ ${num(of.number, 4)}` : `${num(of.number, 4)} ▲`,
          ),
    );
    fill(
      said,
      greedy
        ? t("greedy", { token: chip(winner(of)) })
        : !parts.length
          ? t("whole_line", { n: of.n })
          : of.number === null
            ? t("not_drawn")
            : t("fell", { number: strong(num(of.number, 4)), token: chip(of.taken) }),
    );
    tableOf(of);
    const rest = Object.entries(d.others).map(([name, value]) =>
      t("other_filter", { name: t.plain(`filter_${name}`), value: cut(visible(value), 40) }),
    );
    fill(
      notice,
      of.run && !greedy ? h("p", null, noticeOf(of)) : null,
      rest.map((one) => h("p", null, one)),
      d.simple ? null : h("p", null, t("not_here")),
    );
    notice.hidden = !notice.textContent;
    const list_ = counts && Object.entries(counts).sort((a, b) => b[1] - a[1]);
    fill(
      result,
      list_
        ? [t("counts"), " ", list_.slice(0, 12).map(([id, n]) => [chip(id), ` ${num(n)}×  `])]
        : number !== null
          ? t("drew", { number: num(number, 4), token: chip(of.taken) })
          : asRun()
            ? step < 0
              ? t("as_settings")
              : t("as_run")
            : t("changed", { n: of.n }),
      of.some ? [" ", t("of_likeliest", { n: of.some })] : null,
    );
  }

  const winner = (of) => (of.run ? of.taken : likeliest(stagesOf(state.t, settings, d.order).last));

  function noticeOf(of) {
    const likely = arr(run.candidates[state.t].ids)[0];
    return of.taken === likely
      ? t("took_first", { token: chip(of.taken) })
      : t("took_other", { token: chip(of.taken), first: chip(likely) });
  }

  function tableOf(of) {
    const likely = run.candidates[state.t],
      ids = arr(likely.ids),
      logits = arr(likely.logits),
      { step } = here();
    const rows = [...ids].slice(0, 10).map((id, i) => {
      const p =
          of.run && step >= 0 && d.steps[step].shown
            ? d.steps[step].shown[id]
            : (of.parts.find((one) => one.id === id) || {}).p,
        gone = of.removed[id];
      const cells = [
        chip(id, gone ? "gone" : ""),
        percent(Math.exp(logits[i] - likely.lse)),
        settings.temperature <= 0 ? (id === winner(of) ? "100%" : "") : p === undefined ? "" : percent(p),
        gone ? t(`filter_${gone}`) : "",
      ];
      if (counts) cells.push(counts[id] ? num(counts[id]) : "");
      if (id === of.taken) cells.mark = "mark";
      return cells;
    });
    fill(
      list,
      table(
        t.plain("table"),
        [t("token"), t("at_first"), t("in_draw"), t("removed_by"), ...(counts ? [t("of_100")] : [])],
        rows,
      ),
    );
  }

  let last = -1;
  return () => {
    if (last !== state.t) reset(false);
    last = state.t;
    draw();
  };
}

// Without a draw the largest score wins, of equal ones the smaller id.
function likeliest(c) {
  return c.list.filter(({ score }) => score === c.list[0].score).reduce((a, b) => (a.id < b.id ? a : b)).id;
}

// The page's own filters and the number drawn in the run choose the tokens that the engine chose.
function checks(data) {
  const d = data.choice;
  let right = 0;
  d.steps.forEach((done, step) => {
    const row = data.run.steps.indexOf(step),
      { last } = stagesOf(row, d.settings, d.order);
    let id = null;
    if (d.simple && last.n === last.list.length)
      id = done.number === null ? likeliest(last) : drawn(line(last), done.number);
    else if (done.number === null) id = d.simple ? likeliest(last) : done.taken;
    else if (done.ids)
      id = drawn(
        [...arr(done.ids)].map((one, i) => ({ id: one, p: arr(done.chances)[i] })),
        done.number,
      );
    else if (done.from <= done.number && done.number < done.to) id = done.taken;
    right += id === done.taken ? 1 : 0;
  });
  return [
    { name: "draws_again", ok: right === d.steps.length, off: `${num(right)} / ${num(d.steps.length)}` },
  ];
}
