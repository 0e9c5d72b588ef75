// Scene: what do neighbours say? A short convolution mixes the last few tokens.

function scene(data, state, el, t) {
  const part = data.shortconv,
    layers = Object.keys(part.layers).map(Number),
    W = part.tokens_seen,
    choose = layerSlider(layers);
  const map = overview(part, layers, t),
    title = h("h3", null),
    other = h("p", { class: "small" }),
    tokens = h("div"),
    notice = h("p", { class: "notice" });
  const more = fold(t("as_table"), () =>
    table(
      tableName(t),
      [
        t("head_layer"),
        ...Array.from({ length: W }, (_, w) => t("back", { n: W - 1 - w })),
        t("head_enters"),
        t("head_leaves"),
      ],
      layers.map((one) => [
        String(one),
        ...Array.from(row(arr(part.layers[one]), state.t), (x, i) => (i < W ? signedShare(x) : num(x, 3))),
      ]),
    ),
  );
  el.append(
    h("p", { class: "lead" }, t("intro", { n: W })),
    h("p", null, t("gates")),
    h("div", { class: "panel" }, map, h("p", { class: "small" }, t("overview", { n: W }))),
    h("div", { class: "panel" }, title, choose, other, tokens, notice),
    more,
    h("p", { class: "small" }, t("kept", { n: W - 1, width: part.width })),
  );
  return () => {
    choose.follow();
    const layer = nearest(layers, state.layer),
      found = row(arr(part.layers[layer]), state.t);
    map.say(t.plain("map_label", { token: nameAt(ROWS[state.t]) }));
    map.paint();
    fill(title, t("layer_of", { layer, token: chipAt(ROWS[state.t]) }));
    fill(other, layer === state.layer ? null : t("other_layer", { layer: state.layer, nearest: layer }));
    fill(
      tokens,
      h(
        "div",
        { class: "bars" },
        Array.from({ length: W }, (_, w) => {
          const back = W - 1 - w,
            position = ROWS[state.t] - back;
          return [
            h("span", null, position < 0 ? t("before_text") : chip(IDS[position])),
            bar(Math.abs(found[w]), found[w] < 0 ? "head" : "state"),
            h("span", { class: "figure" }, signedShare(found[w])),
          ];
        }),
      ),
      h("p", { class: "small" }, t("shares")),
    );
    fill(notice, noticeOf(part, layers, found, W, t));
    more.update();
  };
}

function overview(part, layers, t) {
  const W = part.tokens_seen,
    high = 16;
  const map = picture(
    t.plain("title"),
    () => layers.length * high + 18,
    (context, width) => {
      const ground = ink("sunk"),
        full = ink("state"),
        cool = ink("head"),
        w = (width - 30) / W;
      context.font = "11px sans-serif";
      layers.forEach((layer, i) => {
        const found = row(arr(part.layers[layer]), state.t);
        context.fillStyle = `rgb(${ink(layer === nearest(layers, state.layer) ? "ink" : "dim").join(" ")})`;
        context.fillText(String(layer), 0, i * high + 12);
        for (let j = 0; j < W; j++) {
          context.fillStyle = `rgb(${blend(ground, found[j] < 0 ? cool : full, Math.min(1, Math.abs(found[j]))).join(" ")})`;
          context.fillRect(28 + j * w, i * high, w - 2, high - 2);
        }
      });
      context.fillStyle = `rgb(${ink("dim").join(" ")})`;
      for (let j = 0; j < W; j++) {
        const position = ROWS[state.t] - (W - 1 - j);
        context.fillText(
          position < 0 ? "" : nameAt(position).slice(0, Math.max(3, Math.floor(w / 8))),
          28 + j * w,
          layers.length * high + 12,
        );
      }
    },
  );
  map.addEventListener("click", (event) => {
    const layer = layers[Math.floor((event.clientY - map.getBoundingClientRect().top) / high)];
    if (layer !== undefined) go({ layer });
  });
  return map;
}

function noticeOf(part, layers, found, W, t) {
  const own = found[W - 1],
    out = document.createDocumentFragment(),
    means = layers.map((one) => row(arr(part.layers[one]), state.t)[W - 1]);
  out.append(t("notice", { own: strong(signedShare(own)), rest: strong(signedShare(1 - own)) }));
  if (layers.length > 1) {
    const least = means.indexOf(Math.min(...means));
    out.append(" ", t("most_back", { layer: layers[least], n: signedShare(1 - means[least]) }));
  }
  return out;
}

function checks(data) {
  const part = data.shortconv,
    W = part.tokens_seen;
  let worst = 0,
    n = 0;
  for (const packed of Object.values(part.layers)) {
    for (let r = 0; r < ROWS.length; r++, n++)
      worst = Math.max(
        worst,
        Math.abs(
          row(arr(packed), r)
            .subarray(0, W)
            .reduce((a, b) => a + b, 0) - 1,
        ),
      );
  }
  return [{ name: "conv_sums_to_1", ok: worst < 1e-4, off: worst, values: { n } }];
}
