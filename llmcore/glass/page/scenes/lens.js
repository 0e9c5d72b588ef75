// Scene: what would it say so far? Places of a few tokens after each half layer.

function scene(data, state, el, t) {
  const part = data.lens,
    chart = h("div"),
    legend = h("ul", { class: "legend" }),
    notice = h("p", { class: "notice" }),
    cap = h("p", { class: "cap" });
  const best = fold(t("five_best"), () =>
      state.t < part.start ? null : tables(part, state.t - part.start, t),
    ),
    all = fold(t("everywhere"), () => everywhere(part, t));
  const panel = h(
    "div",
    { class: "panel" },
    chart,
    legend,
    h("p", { class: "small" }, t("caption")),
    layerSlider(Array.from({ length: data.run.layers }, (_, i) => i)),
  );
  el.append(
    h("p", { class: "lead" }, t("intro", { n: data.run.vocabulary })),
    panel,
    cap,
    notice,
    best,
    all,
    h("p", { class: "small" }, t("caveat")),
  );
  const choose = panel.lastChild;
  return () => {
    choose.follow();
    const at = rowKept(part, panel, notice, cap, t);
    best.update();
    all.update();
    if (at < 0) return;
    drawRanks(chart, legend, data, at, t);
    fill(notice, noticeOf(part, at, t));
  };
}

function ranksOf(part, at, f) {
  const ranks = arr(part.ranks),
    [P, R, F] = part.ranks.s;
  return Array.from({ length: P }, (_, p) => ranks[(p * R + at) * F + f]);
}

function drawRanks(el, legend, data, at, t) {
  const part = data.lens,
    ids = row(arr(part.followed), at),
    chances = arr(part.chances),
    [P, R, F] = part.chances.s;
  const shown = Array.from(ids.keys()).filter((f) => ids[f] >= 0),
    V = data.run.vocabulary;
  const worst = Math.max(9, ...shown.flatMap((f) => ranksOf(part, at, f))) + 1;
  const y = (rank) => 1 - Math.log10(rank + 1) / Math.log10(worst),
    ticks = [];
  for (let place = 1; place <= worst; place *= 10)
    ticks.push({ value: place - 1, text: place === 1 ? t.plain("first_place") : num(place) });
  lines(el, {
    points: part.points,
    y,
    ticks,
    label: t.plain("chart_label", { token: nameOf(ids[0]) }),
    series: [...shown]
      .reverse()
      .map((f) => ({ values: ranksOf(part, at, f), color: LINE_INKS[f], thick: f === 0 })),
  });
  const end = (f) => chances[((P - 1) * R + at) * F + f];
  const leads = (f) => ranksOf(part, at, f).slice(0, -1).includes(0);
  fill(
    legend,
    shown.map((f) =>
      h(
        "li",
        null,
        h("span", { class: "swatch", css: { background: `var(--${LINE_INKS[f]})` } }),
        chip(ids[f]),
        " ",
        t(f === 0 ? "legend_came" : end(f) < 0.01 && leads(f) ? "legend_led" : "legend_end", {
          p: percent(end(f)),
        }),
      ),
    ),
  );
}

function noticeOf(part, at, t) {
  const ranks = ranksOf(part, at, 0),
    id = row(arr(part.followed), at)[0],
    out = document.createDocumentFragment(),
    last = ranks.length - 1;
  if (ranks[last] === 0) {
    let since = last;
    while (since && ranks[since - 1] === 0) since -= 1;
    out.append(t("leads", { token: chip(id), piece: pieceName(...part.points[since]) }));
  } else
    out.append(
      t("not_first", {
        token: chip(id),
        n: ranks[last] + 1,
        first: chip(arr(part.top_ids)[(last * part.top_ids.s[1] + at) * part.top_ids.s[2]]),
      }),
    );
  let best = 1;
  const leap = (p) => Math.log((ranks[p - 1] + 1) / (ranks[p] + 1));
  for (let p = 2; p <= last; p++) if (leap(p) > leap(best)) best = p;
  if (last && leap(best) > 0.7)
    out.append(
      " ",
      t("leap", {
        piece: pieceName(...part.points[best]),
        from: strong(num(ranks[best - 1] + 1)),
        to: strong(num(ranks[best] + 1)),
      }),
    );
  return out;
}

function topOf(part, p, at, k = 0) {
  const [, R, K] = part.top_ids.s,
    i = (p * R + at) * K + k;
  return [arr(part.top_ids)[i], arr(part.top)[i]];
}

function tables(part, at, t) {
  const K = part.top_ids.s[2];
  return table(
    t.plain("five_best"),
    [t("head_after"), t("head_best")],
    part.points.map(([piece, layer], p) => [
      pieceName(piece, layer),
      Array.from({ length: K }, (_, k) => [
        chip(topOf(part, p, at, k)[0]),
        ` ${percent(topOf(part, p, at, k)[1])}  `,
      ]),
    ]),
  );
}

// The likeliest token after every layer, at every token that is kept.
function everywhere(part, t) {
  const R = part.top_ids.s[1],
    ends = part.points
      .map(([, layer], p) => [layer, p])
      .filter(([layer, p]) => p + 1 === part.points.length || part.points[p + 1][1] !== layer);
  return [
    h("p", { class: "small" }, t("everywhere_text")),
    table(
      t.plain("everywhere"),
      [t("head_layer"), ...Array.from({ length: R }, (_, at) => chipAt(ROWS[part.start + at]))],
      ends.map(([layer, p]) => [
        layer < 0 ? t("before_layers") : String(layer),
        ...Array.from({ length: R }, (_, at) =>
          chip(
            topOf(part, p, at)[0],
            arr(part.followed)[at * part.followed.s[1]] === topOf(part, p, at)[0] ? "next" : "",
          ),
        ),
      ]),
      "dense",
    ),
  ];
}

function checks(data) {
  const part = data.lens,
    [P, R, K] = part.top_ids.s,
    last = arr(part.last);
  let worst = 0,
    same = true;
  for (let at = 0; at < R; at++) {
    const found = data.run.candidates[part.start + at],
      ids = arr(found.ids),
      logits = arr(found.logits),
      size = Math.abs(logits[0]) + 1;
    for (let k = 0; k < Math.min(K, ids.length); k++) {
      worst = Math.max(worst, Math.abs(last[at * K + k] - logits[k]) / size);
      const id = topOf(part, P - 1, at, k)[0];
      if (id !== ids[k]) same = same && Math.abs(logits[k] - logits[ids.indexOf(id)]) < 1e-4 * size;
    }
  }
  return [{ name: "lens_ends_in_scores", ok: same && worst < 1e-4, off: worst }];
}
