// Scene: where does it look? All heads, one head, and how its shares come about.

const GAP = DATA.run.between ? 1 : 0;
const STRIP = 10;
const widthOf = (r) => r + 1 + (r ? GAP : 0);

function scene(data, state, el, t) {
  const part = data.attention,
    layers = Object.keys(part.layers).map(Number);
  const all = overview(part, layers, t),
    choose = chooser(part, layers, t);
  const head = h("div", { class: "two" }),
    matrix = matrixOf(part, layers, t),
    notice = h("p", { class: "notice" });
  const more = [
    fold(t("how_shares"), () => howShares(part, t)),
    fold(t("how_order"), () => howOrder(part, t)),
    fold(t("as_table"), () => asTable(part, layers, t)),
  ];
  const text = h("div", { class: "wide" });
  fill(head, text, h("div", null, matrix));
  const n = layers.reduce((sum, layer) => sum + part.layers[layer].heads, 0);
  el.append(
    h("p", { class: "lead" }, t("intro", { n: strong(n) })),
    all.el,
    h("div", { class: "panel" }, choose.el, head, notice, more),
    h("p", { class: "small" }, t("caveat", { votes: linkTo("votes", t("votes_title")) })),
  );
  if (data.run.between)
    el.append(
      h(
        "p",
        { class: "cap" },
        t("capped", {
          n: data.run.prompt,
          last: COLUMNS.length - GAP - 1 - (ROWS.length - firstWritten()) + 1,
          between: data.run.between,
        }),
      ),
    );
  return () => {
    choose.follow();
    all.canvas.paint();
    all.canvas.say(
      t.plain("all_label", { n, layer: chosen(part, layers).layer, head: chosen(part, layers).head }),
    );
    drawText(text, part, layers, t);
    matrix.paint();
    matrix.say(t.plain("matrix_label", chosen(part, layers)));
    fill(notice, noticeOf(part, layers, t));
    for (const one of more) one.update();
  };
}

const firstWritten = () => ROWS.findIndex((position) => position + 1 >= DATA.run.prompt);

// The layer and head chosen, or the nearest that there are.
function chosen(part, layers) {
  const layer = nearest(layers, state.layer);
  return { layer, head: Math.min(state.head, part.layers[layer].heads - 1) };
}

// The shares of a row, by column up to its own; null where they are not kept.
function sharesAt(part, layer, head, r) {
  if (r < part.start) return null;
  const flat = arr(part.layers[layer].shares),
    K = flat.shape[1];
  let start = head * K;
  for (let one = part.start; one < r; one++) start += widthOf(one);
  return flat.subarray(start, start + widthOf(r));
}

const columnOf = (r) => r + (r ? GAP : 0);

function overview(part, layers, t) {
  const most = Math.max(...layers.map((layer) => part.layers[layer].heads)),
    L = layers.length;
  let kept = {}; // the picture without the frame around the head chosen: it takes long to paint
  const whole = () => innerWidth > 700 && most <= 24 && part.start === 0 && L <= 60;
  const canvas = picture(
    t.plain("all_heads"),
    (width) => (whole() ? 18 + most * Math.min(44, (width - 30) / L) : 18 + L * STRIP),
    (context, width) => {
      const place = placer(width),
        { layer, head } = chosen(part, layers);
      const key = [width, devicePixelRatio, ink("attention"), ink("sunk"), whole() ? "all" : state.t].join();
      if (kept.key !== key)
        kept = {
          key,
          image: drawn(canvas, width, (to) => paintAll(to, part, layers, most, whole(), place, width)),
        };
      context.drawImage(kept.image, 0, 0, width, kept.image.height / (kept.image.width / width));
      const [x, y, w, high] = place(layers.indexOf(layer), head);
      context.strokeStyle = `rgb(${ink("bad").join(" ")})`;
      context.lineWidth = 2;
      context.strokeRect(x - 1.5, y - 1.5, w + 3, high + 3);
    },
  );
  const placer = (width) => {
    if (whole()) {
      const cell = Math.min(44, (width - 30) / L);
      return (i, head) => [26 + i * cell, 16 + head * cell, cell - 3, cell - 3];
    }
    return (i, head) => [
      26 + (head * (width - 26)) / most,
      16 + i * STRIP,
      (width - 26) / most - 2,
      STRIP - 1,
    ];
  };
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(),
      place = placer(box.width),
      x = event.clientX - box.left,
      y = event.clientY - box.top;
    layers.forEach((layer, i) => {
      for (let head = 0; head < part.layers[layer].heads; head++) {
        const [a, b, w, h_] = place(i, head);
        if (x >= a && x < a + w + 3 && y >= b && y < b + h_ + 3) go({ layer, head });
      }
    });
  });
  const caption = h("p", { class: "small" }, t(whole() ? "all_whole" : "all_strips"));
  whenChanged(() => fill(caption, t(whole() ? "all_whole" : "all_strips"))); // the width may have changed
  const el = h("div", { class: "panel" }, canvas, caption);
  return { el, canvas };
}

// A copy of a canvas's size, painted.
function drawn(canvas, width, paint) {
  const image = document.createElement("canvas");
  image.width = canvas.width;
  image.height = canvas.height;
  const context = image.getContext("2d");
  context.scale(canvas.width / width, canvas.width / width);
  paint(context);
  return image;
}

function paintAll(context, part, layers, most, whole, place, width) {
  const ground = ink("sunk"),
    strongest = ink("attention"),
    R = ROWS.length,
    C = COLUMNS.length;
  const shade = (x) => blend(ground, strongest, x ** 0.6);
  context.font = "11px sans-serif";
  context.fillStyle = `rgb(${ink("dim").join(" ")})`;
  for (let head = 0; !whole && head < most; head += most > 16 && width < 700 ? 4 : 1)
    context.fillText(String(head), place(0, head)[0], 11);
  const every = whole ? (width / layers.length < 20 ? 5 : 1) : layers.length > 12 ? 5 : 1;
  layers.forEach((layer, i) => {
    const [x, y] = place(i, 0);
    if (i % every === 0) context.fillText(String(layer), whole ? x : 2, whole ? 11 : y + 9);
    for (let head = 0; head < part.layers[layer].heads; head++) {
      const [a, b, w, high] = place(i, head);
      if (whole) {
        const rows = Array.from({ length: R }, (_, r) => sharesAt(part, layer, head, r));
        cells(context, {
          rows: R,
          columns: C,
          x: a,
          y: b,
          width: w,
          height: high,
          color: (r, c) => (c < rows[r].length ? shade(rows[r][c]) : null),
        });
      } else {
        const found = sharesAt(part, layer, head, state.t);
        if (found)
          cells(context, {
            rows: 1,
            columns: found.length,
            x: a,
            y: b,
            width: w,
            height: high,
            color: (_, c) => shade(found[c]),
          });
      }
    }
  });
}

function chooser(part, layers, t) {
  const slide = layerSlider(layers),
    title = h("h3", null),
    other = h("p", { class: "small" });
  const heads = h("div"),
    find = h("div", { class: "pills", role: "group", "aria-label": t.plain("find") }),
    rather = ratherSwitch();
  const el = h("div", null, title, h("div", { class: "row" }, slide, heads), other, find, rather);
  return {
    el,
    follow: () => {
      slide.follow();
      const { layer, head } = chosen(part, layers),
        one = part.layers[layer];
      fill(title, t("head_of", { layer, head }));
      const choose = slider(
        t.plain("choose_head"),
        { min: 0, max: one.heads - 1, step: 1, value: head },
        (to) => go({ layer, head: to }),
      );
      if (!heads.contains(document.activeElement)) fill(heads, choose);
      else heads.firstChild.set(head);
      fill(
        other,
        layer !== state.layer ? t("other_layer", { layer: state.layer, nearest: layer }) : null,
        one.window ? [" ", t("window", { n: one.window })] : null,
        one.rows_of !== null ? [" ", t("rows_of", { layer: one.rows_of })] : null,
        one.keys && one.keys < one.heads ? [" ", t("grouped", { heads: one.heads, n: one.keys })] : null,
        one.sinks ? [" ", t("sinks")] : null,
      );
      fill(
        find,
        found(part, layers).map(({ key, at }) =>
          h(
            "button",
            {
              type: "button",
              "aria-pressed": String(at.layer === layer && at.head === head),
              onclick: () => go(at),
            },
            t(key),
          ),
        ),
      );
    },
  };
}

// Heads worth a look, found by search: {key, at: {layer, head}}.
function found(part, layers) {
  const out = [],
    most = best(layers, part, (layer, head) => (headVotes(layer, state.t) || [])[head]);
  if (most) out.push({ key: "find_votes", at: most });
  for (const [key, at] of Object.entries(searched(part, layers))) if (at) out.push({ key, at });
  return out;
}

function best(layers, part, score) {
  let top = -Infinity,
    at = null;
  for (const layer of layers) {
    for (let head = 0; head < part.layers[layer].heads; head++) {
      const x = score(layer, head);
      if (x !== undefined && x > top) [top, at] = [x, { layer, head }];
    }
  }
  return at;
}

let SEARCHED = null;

// Over all rows: who looks one back, at the first, and at what followed the last time that this token stood there.
function searched(part, layers) {
  if (SEARCHED) return SEARCHED;
  const rows = ROWS.length,
    from = Math.max(part.start, 2),
    earlier = new Map(),
    again = [];
  for (let r = 0; r < rows; r++) {
    if (earlier.has(IDS[ROWS[r]]) && r >= part.start)
      again.push([r, columnOf(earlier.get(IDS[ROWS[r]]) + 1)]);
    if (r || !GAP) earlier.set(IDS[ROWS[r]], r);
  }
  const mean = (pairs) => (layer, head) =>
    pairs.reduce((sum, [r, c]) => sum + sharesAt(part, layer, head, r)[c], 0) / pairs.length;
  const each = Array.from({ length: Math.max(0, rows - from) }, (_, i) => from + i);
  const enough = (pairs, least) => {
    const at = pairs.length ? best(layers, part, mean(pairs)) : null;
    return at && mean(pairs)(at.layer, at.head) > least ? at : null;
  };
  SEARCHED = {
    find_back: enough(
      each.map((r) => [r, columnOf(r) - 1]),
      0.4,
    ),
    find_first: enough(
      each.map((r) => [r, 0]),
      0.4,
    ),
    find_again: enough(
      again.filter(([r, c]) => c < columnOf(r)),
      0.3,
    ),
  };
  return SEARCHED;
}

function drawText(el, part, layers, t) {
  const { layer, head } = chosen(part, layers),
    found_ = sharesAt(part, layer, head, state.t);
  if (!found_) {
    fill(el, h("p", { class: "cap" }, t("not_kept", { n: ROWS.length - part.start })));
    return;
  }
  const tokens = Array.from(found_, (share, c) => ({
    position: COLUMNS[c],
    value: share,
    title: `${nameAt(COLUMNS[c])}: ${percent(share)}`,
  }));
  const top = [...tokens]
    .sort((a, b) => b.value - a.value)
    .slice(0, 5)
    .filter((one) => one.value > 0);
  fill(
    el,
    shaded(tokens, "attention", ROWS[state.t]),
    h("p", { class: "small" }, t("shading"), " ", t("places")),
    bars(
      top.map(({ position, value }) => ({
        position,
        share: value,
        text: percent(value),
        color: "attention",
      })),
    ),
  );
}

// The head's matrix: the first two columns and the last 24.
function matrixOf(part, layers, t) {
  const shownRows = () => {
    const rows = Array.from({ length: state.t + 1 }, (_, r) => r).filter((r) => r >= part.start);
    return rows.length > 26 ? [...rows.filter((r) => r < 2), ...rows.slice(-24)] : rows;
  };
  const shownColumns = () => {
    const all = Array.from({ length: widthOf(state.t) }, (_, c) => c);
    return all.length > 26 ? [0, 1, ...all.slice(-24)] : all;
  };
  const cell = (width) => Math.max(7, Math.min(26, (width - 92) / shownColumns().length));
  const canvas = picture(
    t.plain("matrix"),
    (width) => shownRows().length * cell(width) + 78,
    (context, width) => {
      const rows = shownRows(),
        columns = shownColumns(),
        side = cell(width),
        { layer, head } = chosen(part, layers);
      const ground = ink("sunk"),
        full = ink("attention");
      context.font = `${Math.min(12, side + 2)}px sans-serif`;
      const name = (position, most) => {
        const text = position < 0 ? "…" : nameAt(position);
        return text.length > most ? `${text.slice(0, most - 1)}…` : text;
      };
      rows.forEach((r, i) => {
        const shares = sharesAt(part, layer, head, r),
          mine = r === state.t;
        context.fillStyle = `rgb(${ink(mine ? "ink" : "dim").join(" ")})`;
        context.textAlign = "right";
        if (side > 8 || mine) context.fillText(name(ROWS[r], 12), 84, i * side + side / 2 + 4);
        columns.forEach((c, j) => {
          if (c >= shares.length) return;
          context.fillStyle = `rgb(${blend(ground, full, shares[c] ** 0.6).join(" ")})`;
          context.fillRect(90 + j * side, i * side, side - 1, side - 1);
        });
        if (mine) {
          context.strokeStyle = `rgb(${ink("accent").join(" ")})`;
          context.lineWidth = 2;
          context.strokeRect(89, i * side - 1, columns.length * side + 1, side + 1);
        }
      });
      context.fillStyle = `rgb(${ink("dim").join(" ")})`;
      context.textAlign = "left";
      if (side > 8)
        columns.forEach((c, j) => {
          context.save();
          context.translate(90 + j * side + side / 2 - 3, rows.length * side + 10);
          context.rotate(Math.PI / 4);
          context.fillText(name(COLUMNS[c], 10), 0, 0);
          context.restore();
        });
    },
  );
  return canvas;
}

function noticeOf(part, layers, t) {
  const { layer, head } = chosen(part, layers),
    shares = sharesAt(part, layer, head, state.t);
  if (!shares) return null;
  const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a]);
  const out = document.createDocumentFragment(),
    sum = shares.reduce((a, b) => a + b, 0);
  const from = (c) => [strong(percent(shares[c])), placed(COLUMNS[c])];
  const [share, token] = from(order[0]);
  if (order.length > 1 && shares[order[1]] >= 0.05) {
    const [share2, token2] = from(order[1]);
    out.append(t("takes_two", { here: chipAt(ROWS[state.t]), share, token, share2, token2 }));
  } else out.append(t("takes_one", { here: chipAt(ROWS[state.t]), share, token }));
  if (part.layers[layer].sinks && sum < 0.995)
    out.append(" ", t("nowhere", { share: strong(percent(1 - sum)) }));
  const votes = headVotes(layer, state.t);
  if (votes)
    out.append(
      " ",
      t(state.rather ? "gave_rather" : "gave_for", { ...forWhom(), n: strong(signed(votes[head])) }),
    );
  if (order[0] === 0 && state.t > 0 && shares[0] > 0.5) out.append(" ", t("rests"));
  return out;
}

// For the head with most to say: q x k, scaled; e to it; shares. And the single products.
function howShares(part, t) {
  const one = part.single.find((single) => single.row === state.t);
  if (!one) return h("p", { class: "small" }, t("no_single"));
  const { scores, products } = scoresOf(one),
    shares = sharesAt(part, one.layer, one.head, one.row);
  const order = Array.from(scores.keys())
      .sort((a, b) => shares[columnOf(b)] - shares[columnOf(a)])
      .slice(0, 6),
    largest = Math.max(...scores.filter((_, r) => shares[columnOf(r)] > 0));
  const best = order[0],
    H = products[best].length;
  const rows = order.map((r) => [
    placed(ROWS[r]),
    num(
      products[r].reduce((a, b) => a + b, 0),
      2,
    ),
    num(scores[r], 3),
    num(scores[r] - largest, 3),
    num(Math.exp(scores[r] - largest), 4),
    percent(shares[columnOf(r)]),
  ]);
  const most = Math.max(...products[best].map(Math.abs)),
    heads = ["token", "product", "score", "less", "e", "share"].map((key) => t(`head_${key}`));
  const squares = h(
    "div",
    { class: "squares", role: "img", "aria-label": t.plain("products_label", { n: H }) },
    Array.from(products[best], (x, i) =>
      h("i", { title: `${i}: ${signed(x, 2)}`, css: { background: tint(x / most) } }),
    ),
  );
  return [
    h(
      "p",
      null,
      t("shares_text", {
        layer: one.layer,
        head: one.head,
        here: chipAt(ROWS[one.row]),
        sum: num(1 / shares[columnOf(scores.indexOf(largest))], 4),
      }),
    ),
    table(t.plain("how_shares"), heads, rows),
    one.softcap ? h("p", { class: "small" }, t("softcap", { n: one.softcap })) : null,
    h(
      "p",
      null,
      t("products", {
        n: H,
        token: chipAt(ROWS[best]),
        sum: strong(
          num(
            products[best].reduce((a, b) => a + b, 0),
            2,
          ),
        ),
        scale: num(one.scale, 4),
      }),
    ),
    squares,
  ];
}

// Products of the query with each key, and the scores that come of them.
function scoresOf(one) {
  const q = arr(one.query),
    keys = arr(one.keys);
  const products = Array.from({ length: keys.shape[0] }, (_, r) =>
    Array.from(row(keys, r), (k, i) => k * q[i]),
  );
  const scores = products.map((line) => {
    const score = one.scale * line.reduce((a, b) => a + b, 0);
    return one.softcap ? one.softcap * Math.tanh(score / one.softcap) : score;
  });
  return { scores, products };
}

function howOrder(part, t) {
  const one = part.single[0];
  if (!one || !one.pairs || !arr(one.angles).length) return h("p", null, t("no_rope"));
  const angles = arr(one.angles),
    Z = angles.length,
    shown = [...new Set([0, 1, 2, 3, 4, 5].map((i) => Math.round((i * (Z - 1)) / 5)))];
  const degrees = (x) => `${num((x * 180) / Math.PI, x > 0.05 ? 1 : 4)}°`;
  const back = Math.min(4, state.t),
    positions = [ROWS[state.t], ROWS[state.t - back]];
  const dial = (angle) =>
    s(
      "svg",
      { width: 46, height: 46, viewBox: "-23 -23 46 46", class: "chart", "aria-hidden": "true" },
      s("circle", { r: 21, class: "dial" }),
      s("line", { x1: 0, y1: 0, x2: 19 * Math.cos(angle), y2: -19 * Math.sin(angle), class: "hand" }),
    );
  const rows = shown.map((z) => [
    String(z),
    degrees(angles[z]),
    ...positions.map((p) => dial(p * angles[z])),
    degrees(((((positions[0] - positions[1]) * angles[z]) % (2 * Math.PI)) + 2 * Math.PI) % (2 * Math.PI)),
  ]);
  return [
    h(
      "p",
      null,
      t("rope", { n: Z, first: strong(degrees(angles[0])), last: strong(degrees(angles[Z - 1])) }),
    ),
    table(
      t.plain("how_order"),
      [t("rope_pair"), t("rope_step"), ...positions.map((p) => [chipAt(p), ` ${p}`]), t("rope_difference")],
      rows,
    ),
    h("p", { class: "small" }, t("rope_after")),
  ];
}

function asTable(part, layers, t) {
  const { layer, head } = chosen(part, layers),
    shares = sharesAt(part, layer, head, state.t);
  if (!shares) return h("p", { class: "small" }, t("not_kept", { n: ROWS.length - part.start }));
  return table(
    tableName(t),
    [t("head_position"), t("head_token"), t("head_share")],
    Array.from(shares, (share, c) => [
      COLUMNS[c] < 0 ? "…" : String(COLUMNS[c]),
      chipAt(COLUMNS[c]),
      percent(share),
    ]),
  );
}

function checks(data) {
  const part = data.attention,
    layers = Object.keys(part.layers).map(Number),
    out = [];
  let worst = 0,
    n = 0;
  for (const layer of layers) {
    if (part.layers[layer].sinks) continue;
    for (let head = 0; head < part.layers[layer].heads; head++) {
      for (let r = part.start; r < ROWS.length; r++, n++)
        worst = Math.max(worst, Math.abs(sharesAt(part, layer, head, r).reduce((a, b) => a + b, 0) - 1));
    }
  }
  if (n)
    out.push({
      name: "rows_sum_to_1",
      ok: worst <= (COLUMNS.length * 0.5) / 65535 + 1e-5,
      off: worst,
      values: { n },
    });
  let offShares = 0,
    offValues = 0,
    sums = 0;
  for (const one of part.single) {
    const shares = sharesAt(part, one.layer, one.head, one.row),
      { scores } = scoresOf(one);
    const seen = scores.map((_, r) => r).filter((r) => shares[columnOf(r)] > 0),
      top = seen.reduce((a, r) => (scores[r] > scores[a] ? r : a), seen[0]);
    for (const r of seen)
      offShares = Math.max(
        offShares,
        Math.abs(shares[columnOf(r)] - shares[columnOf(top)] * Math.exp(scores[r] - scores[top])),
      );
    if (one.values === undefined || GAP) continue;
    const values = arr(one.values),
      found_ = arr(one.found),
      largest = Math.max(...Array.from(values, Math.abs));
    for (let v = 0; v < found_.length; v++, sums++) {
      let sum = 0;
      for (let r = 0; r < values.shape[0]; r++) sum += shares[columnOf(r)] * values[r * found_.length + v];
      offValues = Math.max(offValues, Math.abs(sum - found_[v]) / largest);
    }
  }
  if (part.single.length) out.push({ name: "scores_give_shares", ok: offShares < 1e-4, off: offShares });
  if (sums)
    out.push({
      name: "shares_times_values",
      ok: offValues < (COLUMNS.length * 0.5) / 65535 + 1e-4,
      off: offValues,
    });
  return out;
}
