// Scene: who voted for it? The score as a sum over the embedding, each half layer, each head.

function scene(data, state, el, t) {
  const part = data.votes,
    chart = h("div"),
    legend = h("ul", { class: "legend" }),
    heads = h("div"),
    notice = h("p", { class: "notice" }),
    cap = h("p", { class: "cap" });
  const more = fold(t("as_table"), () =>
    state.t < part.start ? null : allOf(part, state.t - part.start, t),
  );
  const choose = layerSlider(Array.from({ length: data.run.layers }, (_, i) => i));
  const panel = h("div", { class: "panel" }, ratherSwitch(), chart, legend, choose, heads);
  fill(legend, kindsOf(part, t));
  el.append(
    h("p", { class: "lead" }, t("intro")),
    panel,
    cap,
    notice,
    more,
    h("p", { class: "small" }, t("caveat")),
  );
  return () => {
    choose.follow();
    const at = rowKept(part, panel, notice, cap, t);
    more.update();
    if (at < 0) return;
    const values = piecesAt(part, at);
    layerBars(chart, { points: part.points, values, label: t.plain("chart_label") });
    fill(heads, headsOf(data, t));
    fill(notice, noticeOf(data, values, at, t));
  };
}

function piecesAt(part, at) {
  return part.points.map((_, p) => chosenVote(row(arr(part.pieces), p, at)));
}

function kindsOf(part, t) {
  const seen = new Map();
  part.points.forEach(([piece, layer]) =>
    seen.set(
      inkOf(piece, layer),
      piece === "mixer"
        ? inkOf(piece, layer) !== "attention"
          ? "state"
          : DATA.layer.mixers[layer].length > 1
            ? "both"
            : "attention"
        : piece,
    ),
  );
  return [...seen].map(([color, key]) =>
    h("li", null, h("span", { class: "swatch", css: { background: `var(--${color})` } }), t(`kind_${key}`)),
  );
}

// The heads with most to say, for or against: [{layer, head, vote}].
function loudest(part, n) {
  const all = [];
  for (const layer of Object.keys(part.heads).map(Number))
    (headVotes(layer, state.t) || []).forEach((vote, head) => all.push({ layer, head, vote }));
  return all.sort((a, b) => Math.abs(b.vote) - Math.abs(a.vote)).slice(0, n);
}

function looksAt(data, layer, head) {
  const part = data.attention;
  if (!part || !part.layers[layer] || state.t < part.start) return null;
  const gap = data.run.between ? 1 : 0,
    width = (r) => r + 1 + (r ? gap : 0),
    flat = arr(part.layers[layer].shares);
  let start = head * flat.shape[1];
  for (let r = part.start; r < state.t; r++) start += width(r);
  const shares = flat.subarray(start, start + width(state.t)),
    c = shares.indexOf(shares.reduce((a, b) => Math.max(a, b), 0));
  return [shares[c], COLUMNS[c]];
}

function headsOf(data, t) {
  const found = loudest(data.votes, 6);
  if (!found.length) return null;
  const most = Math.abs(found[0].vote);
  return [
    h("h3", null, t("heads")),
    h(
      "div",
      { class: "bars heads" },
      found.map(({ layer, head, vote }) => {
        const look = looksAt(data, layer, head);
        return [
          h(
            "button",
            {
              type: "button",
              class: "pill",
              onclick: () => {
                go({ layer, head });
                jump("attention");
              },
            },
            t("head_of", { layer, head }),
          ),
          bar(Math.abs(vote) / most, vote < 0 ? "head" : "attention"),
          h(
            "span",
            { class: "figure" },
            strong(signed(vote)),
            look ? [" ", t("looks", { share: percent(look[0]), token: placed(look[1]) })] : null,
          ),
        ];
      }),
    ),
    h("p", { class: "small" }, t("heads_text")),
  ];
}

function noticeOf(data, values, at, t) {
  const part = data.votes,
    order = Array.from(values.keys()).sort((a, b) => values[b] - values[a]),
    out = document.createDocumentFragment();
  const told = (p) => [pieceName(...part.points[p]), ` (${signed(values[p])})`];
  if (order.length > 2) out.append(t("most", { a: told(order[0]), b: told(order[1]), c: told(order[2]) }));
  const last = order[order.length - 1];
  if (values[last] < 0) out.append(" ", t("against", { a: told(last) }));
  const bias = chosenVote(row(arr(part.bias), at)),
    sum = values.reduce((a, b) => a + b, 0) + bias,
    score = chosenVote(row(arr(part.logits), at));
  out.append(
    " ",
    t(state.rather ? "sum_rather" : "sum_for", {
      n: values.length,
      sum: strong(num(sum, 3)),
      score: strong(num(score, 3)),
    }),
  );
  if (Math.abs(bias) > 5e-4) out.append(" ", t("bias", { n: signed(bias, 3) }));
  if (part.softcap) out.append(" ", t("softcap", { n: part.softcap }));
  return out;
}

function allOf(part, at, t) {
  const both = (p) => row(arr(part.pieces), p, at),
    { target, other } = here();
  return table(
    tableName(t),
    [
      t("head_piece"),
      [t("head_for"), " ", chip(target)],
      [t("head_for"), " ", chip(other)],
      t("head_difference"),
    ],
    part.points.map(([piece, layer], p) => [
      pieceName(piece, layer),
      signed(both(p)[0], 3),
      signed(both(p)[1], 3),
      signed(both(p)[0] - both(p)[1], 3),
    ]),
  );
}

function checks(data) {
  const part = data.votes,
    [P, R] = part.pieces.s,
    pieces = arr(part.pieces),
    bias = arr(part.bias),
    logits = arr(part.logits);
  let offSum = 0,
    offScore = 0,
    offHeads = 0,
    n = 0;
  for (let at = 0; at < R; at++) {
    for (let k = 0; k < 2; k++) {
      let sum = bias[at * 2 + k],
        sizes = 1;
      for (let p = 0; p < P; p++) {
        sum += pieces[(p * R + at) * 2 + k];
        sizes += Math.abs(pieces[(p * R + at) * 2 + k]);
      }
      offSum = Math.max(offSum, Math.abs(sum - logits[at * 2 + k]) / sizes);
      const found = data.run.candidates[part.start + at],
        id = [arr(data.run.targets), arr(data.run.others)][k][part.start + at],
        c = arr(found.ids).indexOf(id);
      if (c < 0) continue;
      const said = part.softcap
        ? part.softcap * Math.tanh(logits[at * 2 + k] / part.softcap)
        : logits[at * 2 + k];
      offScore = Math.max(offScore, Math.abs(said - arr(found.logits)[c]) / (Math.abs(said) + 1));
    }
  }
  const out = [
    { name: "votes_sum", ok: offSum < 1e-5, off: offSum, values: { n: P } },
    { name: "votes_score", ok: offScore < 1e-3, off: offScore },
  ];
  for (const layer of part.heads_are_all) {
    const p = part.points.findIndex(([piece, one]) => piece === "mixer" && one === layer),
      heads = arr(part.heads[layer]),
      N = part.heads[layer].s[1];
    for (let at = 0; at < R; at++) {
      for (let k = 0; k < 2; k++, n++) {
        let sum = 0,
          sizes = 1;
        for (let head = 0; head < N; head++) {
          sum += heads[(at * N + head) * 2 + k];
          sizes += Math.abs(heads[(at * N + head) * 2 + k]);
        }
        offHeads = Math.max(offHeads, Math.abs(sum - pieces[(p * R + at) * 2 + k]) / sizes);
      }
    }
  }
  if (n) out.push({ name: "heads_sum", ok: offHeads < 1e-3, off: offHeads });
  return out;
}
