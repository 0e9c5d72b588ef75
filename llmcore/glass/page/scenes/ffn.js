// Scene: what does it add by itself? All hidden numbers of a feed-forward, and the strongest one by one.

function scene(data, state, el, t) {
  const part = data.ffn,
    layers = Object.keys(part.layers).map(Number),
    choose = layerSlider(layers);
  const title = h("h3", null),
    say = h("div", { class: "say" }),
    map = squares(part, layers, say, t),
    notice = h("p", { class: "notice" }),
    caption = h("p", { class: "small" }),
    cap = h("p", { class: "cap" });
  const more = fold(t("strongest"), () => {
    const w = part.rows.indexOf(state.t);
    return w < 0
      ? h("p", { class: "small" }, t("not_kept"))
      : strongest(part.layers[nearest(layers, state.layer)], w, t);
  });
  const widths = layers.map((layer) => part.layers[layer].width);
  el.append(
    h("p", { class: "lead" }, t("intro", { n: Math.max(...widths), width: data.run.width })),
    h("p", null, t(Object.values(part.layers)[0].gated ? "intro_gate" : "intro_plain")),
    h("div", { class: "panel" }, title, choose, map, say, caption),
    cap,
    notice,
    more,
  );
  return () => {
    choose.follow();
    const layer = nearest(layers, state.layer),
      one = part.layers[layer],
      w = part.rows.indexOf(state.t);
    fill(title, t(one.shared ? "title_shared" : "title_of", { layer, token: chipAt(ROWS[state.t]) }));
    map.hidden = say.hidden = w < 0;
    notice.hidden = w < 0;
    cap.hidden = w >= 0;
    fill(cap, t("not_kept"));
    fill(
      caption,
      w < 0
        ? null
        : t(one.together > 1 ? "caption_together" : "caption", { n: one.width, together: one.together }),
    );
    more.update();
    if (w < 0) return;
    map.say(t.plain("map_label", { n: one.width, layer }));
    fill(say, t("point"));
    map.paint();
    fill(notice, noticeOf(part, layers, layer, w, t));
  };
}

function columnsFor(width, n) {
  return Math.max(16, Math.min(n, Math.round(Math.sqrt((n * width) / 190))));
}

function squares(part, layers, say, t) {
  const shown = () => {
    const one = part.layers[nearest(layers, state.layer)],
      w = part.rows.indexOf(state.t);
    return w < 0 ? new Float32Array(1) : row(arr(one.squares), w);
  };
  const sideFor = (width) => width / columnsFor(width, shown().length);
  const map = picture(
    t.plain("title"),
    (width) => Math.ceil(shown().length / columnsFor(width, shown().length)) * sideFor(width),
    (context, width) => {
      const values = shown(),
        columns = columnsFor(width, values.length),
        side = sideFor(width),
        ground = ink("sunk"),
        warm = ink("warm"),
        cool = ink("cool");
      const most = values.reduce((top, x) => Math.max(top, Math.abs(x)), 0) || 1;
      values.forEach((x, i) => {
        context.fillStyle = `rgb(${blend(ground, x < 0 ? cool : warm, Math.abs(x / most)).join(" ")})`;
        context.fillRect(
          (i % columns) * side,
          Math.floor(i / columns) * side,
          side - (side > 4 ? 1 : 0.3),
          side - (side > 4 ? 1 : 0.3),
        );
      });
    },
  );
  const point = (event) => {
    const box = map.getBoundingClientRect(),
      values = shown(),
      columns = columnsFor(box.width, values.length),
      side = sideFor(box.width);
    const i =
      Math.floor((event.clientY - box.top) / side) * columns + Math.floor((event.clientX - box.left) / side);
    const one = part.layers[nearest(layers, state.layer)];
    if (i >= 0 && i < values.length)
      fill(
        say,
        t(one.together > 1 ? "say_together" : "say_one", {
          i: i * one.together,
          last: Math.min(one.width, (i + 1) * one.together) - 1,
          n: signed(values[i]),
        }),
      );
  };
  map.addEventListener("pointermove", point);
  map.addEventListener("click", point);
  return map;
}

function strongest(one, w, t) {
  const ids = row(arr(one.best), w),
    values = row(arr(one.values), w),
    gated = one.gate !== undefined;
  const cell = (name, i) => num(row(arr(one[name]), w)[i], 3);
  const heads = gated ? ["number", "gate", "through", "up", "value"] : ["number", "value"];
  const rows = Array.from(ids, (id, i) =>
    gated
      ? [String(id), cell("gate", i), cell("through", i), cell("up", i), num(values[i], 3)]
      : [String(id), num(values[i], 3)],
  );
  return [
    h("p", null, t(gated ? `about_${one.activation}` : "about_plain")),
    table(
      t.plain("strongest"),
      heads.map((key) => t(`head_${key}`)),
      rows,
    ),
  ];
}

function noticeOf(part, layers, layer, w, t) {
  const half = (one) => arr(part.layers[one].half)[w],
    F = part.layers[layer].width,
    out = document.createDocumentFragment();
  out.append(t("half", { n: half(layer), all: F, share: percent(half(layer) / F) }));
  const few = layers.reduce(
    (a, b) => (half(b) / part.layers[b].width < half(a) / part.layers[a].width ? b : a),
    layers[0],
  );
  if (layers.length > 1 && few !== layer) out.append(" ", t("fewest", { layer: few, n: half(few) }));
  const vote = votesOf(layer);
  if (vote !== null)
    out.append(
      " ",
      t(state.rather ? "gave_rather" : "gave_for", { ...forWhom(), n: strong(signed(vote)), layer }),
    );
  return out;
}

function votesOf(layer) {
  const p = DATA.votes.points.findIndex(([piece, one]) => piece === "ffn" && one === layer),
    at = state.t - DATA.votes.start;
  return p < 0 || at < 0 ? null : chosenVote(row(arr(DATA.votes.pieces), p, at));
}

function checks(data) {
  let worst = 0,
    n = 0;
  for (const one of Object.values(data.ffn.layers)) {
    if (one.gate === undefined) continue;
    const [through, up, values] = [arr(one.through), arr(one.up), arr(one.values)];
    values.forEach((x, i) => {
      worst = Math.max(worst, Math.abs(through[i] * up[i] - x) / (Math.abs(x) + 1e-9));
      n += 1;
    });
  }
  return n ? [{ name: "gate_times_up", ok: worst < 1e-4, off: worst, values: { n } }] : [];
}
