// Scene: which experts work on it? Layers by experts, and the router's scores in one layer.

function scene(data, state, el, t) {
  const part = data.experts,
    layers = Object.keys(part.layers).map(Number),
    choose = layerSlider(layers);
  const say = h("div", { class: "say" }),
    map = grid(part, layers, say, t),
    notice = h("p", { class: "notice" }),
    title = h("h3", null),
    router = h("div");
  const more = fold(t("as_table"), () =>
    table(
      tableName(t),
      [t("head_layer"), t("head_experts")],
      layers.map((i) => [String(i), chosenText(part.layers[i])]),
    ),
  );
  const first = part.layers[layers[0]];
  fill(
    el,
    h("p", { class: "lead" }, t("intro", { n: first.count, used: first.used })),
    first.shared ? h("p", null, t("shared")) : null,
    h("div", { class: "panel" }, map, say, h("p", { class: "small" }, t("caption"))),
    notice,
    h("div", { class: "panel" }, title, choose, router),
    more,
  );
  return () => {
    choose.follow();
    const layer = nearest(layers, state.layer),
      one = part.layers[layer];
    map.say(t.plain("map_label", { token: nameAt(ROWS[state.t]) }));
    map.paint();
    fill(say, t("point"));
    fill(notice, noticeOf(part, layers, t));
    fill(title, t("router_of", { layer, token: chipAt(ROWS[state.t]) }));
    fill(router, routerOf(one, t));
    more.update();
  };
}

function chosenText(one) {
  const ids = row(arr(one.ids), state.t),
    weights = row(arr(one.weights), state.t);
  return Array.from(ids, (id, u) => `${id} (${num(weights[u], 2)})`).join(", ");
}

function grid(part, layers, say, t) {
  const E = Math.max(...layers.map((layer) => part.layers[layer].count)),
    L = layers.length;
  const high = (width) => Math.max(7, Math.min(16, (width - 30) / E));
  const map = picture(
    t.plain("title"),
    (width) => L * high(width) + 16,
    (context, width) => {
      const w = (width - 30) / E,
        side = high(width),
        ground = ink("sunk"),
        full = ink("ffn");
      context.font = "11px sans-serif";
      layers.forEach((layer, i) => {
        const one = part.layers[layer],
          ids = row(arr(one.ids), state.t),
          weights = row(arr(one.weights), state.t),
          most = Math.max(...weights);
        context.fillStyle = `rgb(${ink(layer === nearest(layers, state.layer) ? "ink" : "dim").join(" ")})`;
        if (side >= 11 || i % 2 === 0) context.fillText(String(layer), 0, i * side + side - 1);
        context.fillStyle = `rgb(${ground.join(" ")})`;
        context.fillRect(28, i * side, w * one.count, side - 1);
        ids.forEach((id, u) => {
          context.fillStyle = `rgb(${blend(ground, full, 0.25 + 0.75 * (weights[u] / most)).join(" ")})`;
          context.fillRect(28 + id * w, i * side, Math.max(2, w - (w > 4 ? 1 : 0)), side - 1);
        });
      });
      context.fillStyle = `rgb(${ink("dim").join(" ")})`;
      context.fillText(t.plain("axis", { n: E - 1 }), 28, L * side + 12);
    },
  );
  const at = (event) => {
    const box = map.getBoundingClientRect(),
      i = Math.floor((event.clientY - box.top) / high(box.width)),
      e = Math.floor((event.clientX - box.left - 28) / ((box.width - 30) / E));
    return i >= 0 && i < L && e >= 0 && e < part.layers[layers[i]].count ? [layers[i], e] : null;
  };
  map.addEventListener("pointermove", (event) => {
    const found = at(event);
    if (!found) return;
    const [layer, e] = found,
      one = part.layers[layer],
      u = row(arr(one.ids), state.t).indexOf(e),
      R = ROWS.length;
    let tokens = 0;
    for (let r = 0; r < R; r++) if (row(arr(one.ids), r).indexOf(e) >= 0) tokens += 1;
    fill(
      say,
      t(u < 0 ? "say_not" : "say_used", {
        e,
        layer,
        weight: u < 0 ? "" : num(row(arr(one.weights), state.t)[u], 3),
        n: tokens,
      }),
    );
  });
  map.addEventListener("click", (event) => at(event) && go({ layer: at(event)[0] }));
  return map;
}

function noticeOf(part, layers, t) {
  let all = 0,
    mine = 0,
    together = 0;
  for (const layer of layers) {
    const one = part.layers[layer];
    all += one.count;
    mine += one.used;
    together += new Set(arr(one.ids)).size;
  }
  return t("notice", {
    all,
    layers: layers.length,
    mine,
    together,
    share: percent(together / all),
    rest: percent(1 - together / all),
  });
}

// The experts chosen, most heeded first, and the best scores of the others.
function routerOf(one, t) {
  const at = state.t,
    ids = row(arr(one.ids), at),
    weights = row(arr(one.weights), at),
    scores = row(arr(one.chosen_scores), at),
    best = row(arr(one.best), at),
    all = row(arr(one.scores), at);
  const order = Array.from(ids.keys()).sort((a, b) => weights[b] - weights[a]),
    most = Math.max(...weights);
  const rows = order.map((u) =>
    Object.assign([String(ids[u]), num(scores[u], 3), num(weights[u], 3), bar(weights[u] / most, "ffn")], {
      mark: "mark",
    }),
  );
  const others = Array.from(best.keys())
    .filter((i) => ids.indexOf(best[i]) < 0)
    .slice(0, 6)
    .map((i) => [String(best[i]), num(all[i], 3), t("not_chosen"), ""]);
  return [
    table(
      t.plain("router"),
      [t("head_expert"), t("head_score"), t("head_weight"), t("head_heeded")],
      [...rows, ...others],
      "router",
    ),
    h(
      "p",
      { class: "small" },
      t("router_text", { n: one.count, used: one.used }),
      one.biased ? [" ", t("biased")] : null,
      one.groups > 1 ? [" ", t("groups", { n: one.groups })] : null,
    ),
  ];
}

function checks(data) {
  let worst = 0,
    n = 0,
    order = true,
    asked = 0;
  for (const one of Object.values(data.experts.layers)) {
    const ids = arr(one.ids),
      weights = arr(one.weights),
      best = arr(one.best);
    for (let r = 0; r < ids.shape[0]; r++) {
      if (one.sum !== null) {
        worst = Math.max(worst, Math.abs(row(weights, r).reduce((a, b) => a + b, 0) / one.sum - 1));
        n += 1;
      }
      if (!one.biased && one.groups === 1 && one.used <= best.shape[1]) {
        const top = new Set(row(best, r).subarray(0, one.used));
        order = order && row(ids, r).every((id) => top.has(id));
        asked += 1;
      }
    }
  }
  return [
    ...(n ? [{ name: "experts_sum", ok: worst < 1e-4, off: worst }] : []),
    ...(asked ? [{ name: "experts_best", ok: order, off: null, values: { n: asked } }] : []),
  ];
}
