// Scene: what does it remember? The state of a recurrent layer: what is left of each token, and what is read of it.

const GAP_M = DATA.run.between ? 1 : 0;

function scene(data, state, el, t) {
  const part = data.memory,
    layers = Object.keys(part.layers).map(Number),
    all = overview(part, layers, t),
    choose = layerSlider(layers);
  const title = h("h3", null),
    other = h("p", { class: "small" }),
    text = h("div"),
    grow = h("div"),
    notice = h("p", { class: "notice" }),
    lanes = lanesOf(part, layers, t),
    caption = h("p", { class: "small" });
  const more = fold(t("as_table"), () => asTable(part, part.layers[nearest(layers, state.layer)], t));
  const laneBox = details(t(`lanes_title_${kindOf(part)}`), lanes, caption);
  el.append(
    h("p", { class: "lead" }, t("intro")),
    h("p", null, t(`how_${part.kind}`)),
    all.el,
    h("div", { class: "panel" }, title, choose, other, text, notice),
    h(
      "div",
      { class: "panel" },
      h("h3", null, t("grow_title")),
      grow,
      h("p", { class: "small" }, t("grow_caption")),
    ),
    laneBox,
    more,
    h(
      "p",
      { class: "small" },
      t("numbers", {
        n: part.numbers,
        shape: part.shape.map((n) => num(n)).join(" × "),
        layers: layers.length,
      }),
    ),
  );
  if (data.run.between) el.append(h("p", { class: "cap" }, t("capped", { n: data.run.between })));
  return () => {
    choose.follow();
    const layer = nearest(layers, state.layer),
      one = part.layers[layer];
    all.paint();
    all.say(t.plain("all_label", { layer }));
    fill(title, t("layer_of", { layer, token: chipAt(ROWS[state.t]) }));
    fill(other, layer === state.layer ? null : t("other_layer", { layer: state.layer, nearest: layer }));
    drawTokens(text, part, one, t);
    drawGrowth(grow, one, t);
    fill(notice, noticeOf(part, one, layer, t));
    lanes.say(t.plain("lanes_label", { layer }));
    lanes.paint();
    fill(caption, laneText(part, one, t));
    more.update();
  };
}

// Heads fade as wholes, in Mamba each place of the state at its own rate.
const kindOf = (part) => (part.kind === "mamba" ? "places" : "heads");

// Of a triangle of rows, the one of row r: what is left of each token, or what is read of it, by column.
function lineOf(part, packed, r, gap) {
  if (r < part.start) return null;
  const width = (one) => one + 1 + (one ? gap : 0),
    flat = arr(packed);
  let start = 0;
  for (let one = part.start; one < r; one++) start += width(one);
  return flat.subarray(start, start + width(r));
}

const leftAt = (part, one, r) => lineOf(part, one.left, r, 0);
const readAt = (part, one, r) => lineOf(part, one.read, r, GAP_M);

function overview(part, layers, t) {
  const per = (width) => Math.max(1, Math.min(layers.length, Math.floor(width / (width < 500 ? 58 : 76))));
  const side = (width) => width / per(width);
  const canvas = picture(
    t.plain("title"),
    (width) => Math.ceil(layers.length / per(width)) * (side(width) + 14),
    (context, width) => {
      const ground = ink("sunk"),
        full = ink("state"),
        n = per(width),
        w = side(width),
        R = ROWS.length,
        first = part.start;
      context.font = "11px sans-serif";
      layers.forEach((layer, i) => {
        const x = (i % n) * w,
          y = Math.floor(i / n) * (w + 14);
        context.fillStyle = `rgb(${ink("dim").join(" ")})`;
        context.fillText(String(layer), x, y + 11);
        const rows = Array.from({ length: R - first }, (_, r) => leftAt(part, part.layers[layer], first + r));
        cells(context, {
          rows: R - first,
          columns: R,
          x,
          y: y + 14,
          width: w - 6,
          height: w - 6,
          color: (r, c) => (c < rows[r].length ? blend(ground, full, rows[r][c] ** 0.6) : null),
        });
        if (layer === nearest(layers, state.layer)) {
          context.strokeStyle = `rgb(${ink("bad").join(" ")})`;
          context.lineWidth = 2;
          context.strokeRect(x + 0.5, y + 13, w - 5, w - 5);
        }
      });
    },
  );
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(),
      w = side(box.width),
      i =
        Math.floor((event.clientY - box.top) / (w + 14)) * per(box.width) +
        Math.floor((event.clientX - box.left) / w);
    if (layers[i] !== undefined) go({ layer: layers[i] });
  });
  canvas.el = h("div", { class: "panel" }, canvas, h("p", { class: "small" }, t("overview")));
  return canvas;
}

function drawTokens(el, part, one, t) {
  const left = leftAt(part, one, state.t),
    read = readAt(part, one, state.t);
  if (!left) {
    fill(el, h("p", { class: "cap" }, t("not_kept", { n: ROWS.length - part.start })));
    return;
  }
  const position = (r) => ROWS[r];
  const kept = Array.from(left, (share, r) => ({
    position: position(r),
    value: share,
    title: `${nameAt(position(r))}: ${percent(share)}`,
  }));
  const found = Array.from(read, (share, c) => ({
    position: COLUMNS[c],
    value: share,
    title: `${nameAt(COLUMNS[c])}: ${signedShare(share)}`,
  }));
  const top = [...found].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 5),
    most = Math.abs(top[0].value) || 1;
  fill(
    el,
    h("h4", null, t("left_title")),
    shaded(kept, "state", ROWS[state.t]),
    h("p", { class: "small" }, t("left_text")),
    h("h4", null, t("read_title")),
    shaded(found, "state", ROWS[state.t]),
    bars(
      top.map(({ position: at, value }) => ({
        position: at,
        share: value / Math.max(1, most),
        text: signedShare(value),
        color: value < 0 ? "head" : "state",
      })),
    ),
    h("p", { class: "small" }, t("read_text")),
  );
}

// Bars: what each token changed; the line: how large the state is then.
function drawGrowth(el, one, t) {
  const sizes = arr(one.size),
    written = arr(one.written),
    R = ROWS.length,
    width = Math.max(240, el.clientWidth),
    height = 190,
    left = 52,
    bottom = 26,
    top = 10;
  const most = Math.max(...sizes, ...written) || 1,
    slot = (width - left - 8) / R,
    at = (x) => top + (1 - x / most) * (height - top - bottom);
  const middle = (r) => left + (r + 0.5) * slot;
  fill(
    el,
    drawing(
      {
        width,
        height,
        label: t.plain("grow_title"),
        onclick: (event) => go({ t: Math.floor((event.offsetX - left) / slot) }),
      },
      s("rect", {
        x: left + state.t * slot,
        width: slot,
        y: top,
        height: height - top - bottom,
        class: "chosen",
      }),
      [most, most / 2, 0].map((x) => [
        s("line", { x1: left, x2: width - 8, y1: at(x), y2: at(x), class: "grid" }),
        s("text", { x: left - 6, y: at(x) + 4, "text-anchor": "end" }, size(x)),
      ]),
      Array.from(written, (x, r) =>
        s(
          "rect",
          {
            x: left + r * slot + slot * 0.18,
            width: Math.max(1, slot * 0.64),
            y: at(x),
            height: Math.max(0.5, at(0) - at(x)),
            css: { fill: "var(--state)", opacity: 0.55 },
          },
          s("title", null, `${nameAt(ROWS[r])}: ${size(x)}`),
        ),
      ),
      s("polyline", {
        fill: "none",
        css: { stroke: "var(--ink)" },
        "stroke-width": 2,
        points: Array.from(sizes, (x, r) => `${middle(r)},${at(x)}`).join(" "),
      }),
      slot > 34
        ? Array.from(sizes, (_, r) =>
            s(
              "text",
              { x: middle(r), y: height - 8, "text-anchor": "middle" },
              nameAt(ROWS[r]).slice(0, Math.max(2, Math.floor(slot / 8))),
            ),
          )
        : s(
            "text",
            { x: middle(state.t), y: height - 8, "text-anchor": "middle" },
            nameAt(ROWS[state.t]).slice(0, 12),
          ),
    ),
  );
}

function lanesAt(part, one, r) {
  return r < part.lanes_from ? null : row(arr(one.lanes), r - part.lanes_from);
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

// After how many tokens half is left, if each kept so much.
function halfLife(kept) {
  return Math.log(0.5) / Math.log(Math.min(kept, 1 - 1e-6));
}

function noticeOf(part, one, layer, t) {
  const left = leftAt(part, one, state.t),
    read = readAt(part, one, state.t),
    lanes = lanesAt(part, one, state.t),
    out = document.createDocumentFragment();
  if (lanes) {
    const keeps = Array.from(lanes),
      best = Math.max(...keeps),
      worst = Math.min(...keeps);
    out.append(
      t(`keeps_${kindOf(part)}`, {
        token: chipAt(ROWS[state.t]),
        n: strong(percent(mean(keeps))),
        best: strong(percent(best)),
        worst: strong(percent(worst)),
      }),
    );
  }
  if (left && state.t > 0)
    out.append(" ", t("left_of_first", { first: chipAt(ROWS[0]), n: strong(percent(left[0])) }));
  if (read) {
    const c = Array.from(read.keys()).reduce((a, b) => (Math.abs(read[b]) > Math.abs(read[a]) ? b : a), 0);
    out.append(" ", t("reads_most", { token: placed(COLUMNS[c]), n: strong(signedShare(read[c])) }));
  }
  return out;
}

function lanesOf(part, layers, t) {
  const shown = () => part.layers[nearest(layers, state.layer)],
    n = () => arr(shown().lanes).shape[1];
  const high = () => Math.max(3, Math.min(14, 260 / n()));
  return picture(
    t.plain("title"),
    () => n() * high() + 18,
    (context, width) => {
      const one = shown(),
        R = ROWS.length - part.lanes_from,
        ground = ink("sunk"),
        full = ink("state"),
        lanes = arr(one.lanes),
        N = n();
      cells(context, {
        rows: N,
        columns: R,
        x: 0,
        y: 0,
        width,
        height: N * high(),
        color: (lane, r) => blend(ground, full, lanes[r * N + lane] ** 2),
      });
      const x = ((state.t - part.lanes_from) * width) / R;
      context.strokeStyle = `rgb(${ink("accent").join(" ")})`;
      context.lineWidth = 2;
      if (x >= 0) context.strokeRect(x + 1, 1, width / R - 2, N * high() - 2);
      context.fillStyle = `rgb(${ink("dim").join(" ")})`;
      context.font = "12px sans-serif";
      if (x >= 0) context.fillText(nameAt(ROWS[state.t]), Math.min(x, width - 90), N * high() + 14);
    },
  );
}

function laneText(part, one, t) {
  const lanes = arr(one.lanes),
    [R, N] = lanes.shape;
  const means = Array.from({ length: N }, (_, lane) =>
    mean(Array.from({ length: R }, (_, r) => lanes[r * N + lane])),
  );
  const longest = means.indexOf(Math.max(...means)),
    shortest = means.indexOf(Math.min(...means));
  const told = (lane) => {
    const n = halfLife(means[lane]);
    return n > 9999 ? t("practically_all") : num(n, n < 10 ? 1 : 0);
  };
  return [
    t(`lanes_${kindOf(part)}`, { n: N }),
    " ",
    t(`lanes_extremes_${kindOf(part)}`, {
      long: longest,
      long_tokens: told(longest),
      short: shortest,
      short_tokens: told(shortest),
    }),
  ];
}

function asTable(part, one, t) {
  const left = leftAt(part, one, state.t),
    read = readAt(part, one, state.t),
    sizes = arr(one.size),
    written = arr(one.written);
  return table(
    tableName(t),
    [t("head_token"), t("head_written"), t("head_size"), t("head_left"), t("head_read")],
    Array.from(sizes, (x, r) => [
      chipAt(ROWS[r]),
      size(written[r]),
      size(x),
      left && r < left.length ? percent(left[r]) : "",
      read && r < left.length ? signedShare(read[r + (r ? GAP_M : 0)]) : "",
    ]),
  );
}

function checks(data) {
  const part = data.memory;
  let worst = 0,
    n = 0,
    grown = 0;
  for (const one of Object.values(part.layers)) {
    const sizes = arr(one.size),
      written = arr(one.written),
      lanes = arr(one.lanes),
      N = lanes.shape[1];
    for (let r = part.start; r < ROWS.length; r++, n++) {
      const read = readAt(part, one, r),
        sum = read.reduce((a, b) => a + b, 0),
        all = read.reduce((a, b) => a + Math.abs(b), 0);
      if (all > 0) worst = Math.max(worst, Math.abs(sum - 1) / Math.max(1, all));
      if (r > 0 && ROWS[r] === ROWS[r - 1] + 1 && r >= part.lanes_from) {
        grown = Math.max(grown, (sizes[r] - sizes[r - 1] - written[r]) / (sizes[r] + 1e-9));
      }
    }
  }
  return [
    { name: "read_sums_to_1", ok: worst < 1e-3, off: worst, values: { n } },
    { name: "state_grows_by_writing", ok: grown < 1e-3, off: Math.max(0, grown) },
  ];
}
