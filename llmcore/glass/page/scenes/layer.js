// Scene: what happens in a layer. The block with the sizes of this run, the stream's size, its numbers.

function scene(data, state, el, t) {
  const part = data.layer,
    points = part.points;
  const block = h("div", { class: "panel" }),
    chart = h("div"),
    words = fold(t("as_table"), () => sizesTable(data, t)),
    notice = h("p", { class: "notice" }),
    strip = h("div", { class: "panel" });
  const choose = layerSlider(Array.from({ length: data.run.layers }, (_, i) => i));
  const say = h("div", { class: "say" }),
    map = heatMap(part, t, say),
    caption = h("p", { class: "small" });
  el.append(
    h("p", { class: "lead" }, introOf(data, t)),
    block,
    h("div", { class: "panel" }, chart, h("p", { class: "small" }, t("sizes")), choose),
    notice,
    strip,
    words,
  );
  return () => {
    choose.follow();
    drawBlock(block, data, t);
    drawSizes(chart, data, t);
    fill(notice, noticeOf(data, t));
    const kept = part.strip_rows.indexOf(state.t);
    if (kept < 0) fill(strip, h("p", { class: "small" }, t("not_kept")));
    else {
      fill(caption, t("strip", { token: chipAt(ROWS[state.t]), width: data.run.width }));
      if (!map.isConnected) fill(strip, map, say, caption);
      map.say(t.plain("strip", { token: nameAt(ROWS[state.t]), width: data.run.width }));
      map.paint();
    }
    words.update();
  };
}

function introOf(data, t) {
  const part = data.layer,
    kinds = [...new Set(part.mixers.map((names) => names.join("_")).filter(Boolean))];
  const mixer = document.createDocumentFragment();
  kinds.forEach((kind, i) => mixer.append(i ? t("or") : "", t(`mixer_${kind}`)));
  const halves = part.points.filter(([piece, layer]) => layer === 0 && piece !== "layer_embedding").length;
  const mixed = part.mixers.some((names) => !names.length);
  const key = kinds.includes("rwkv7")
    ? "intro_block"
    : mixed
      ? "intro_one"
      : halves < 2
        ? "intro_mixer"
        : part.parallel
          ? "intro_parallel"
          : "intro";
  const out = document.createDocumentFragment();
  out.append(
    t(key, { n: data.run.layers, width: data.run.width, mixer }),
    " ",
    t(part.scales ? "only_added_scaled" : "only_added"),
  );
  if (part.points.some(([piece]) => piece === "layer_embedding")) out.append(" ", t("layer_embeddings"));
  return out;
}

// The points of the layer chosen: [{piece, p}].
function halvesOf(part) {
  return part.points
    .map(([piece, layer], p) => ({ piece, layer, p }))
    .filter((one) => one.layer === state.layer);
}

function boxName(part, half, t) {
  if (half.piece === "layer_embedding") return t.plain("box_layer_embedding");
  if (half.piece === "ffn") return t.plain(`ffn_${part.ffns[half.layer]}`);
  return t.plain(`mixer_${part.mixers[half.layer].join("_")}`);
}

function drawBlock(el, data, t) {
  const part = data.layer,
    halves = halvesOf(part),
    row_ = state.t;
  const sizes = arr(part.sizes),
    added = arr(part.added);
  const at = (p) => row(sizes, p)[row_];
  const wide = el.clientWidth > 620;
  const label = t.plain("block_label", { layer: state.layer });
  const make = wide ? blockWide : blockTall;
  const boxes = halves.map((half) => ({
    ...half,
    name: boxName(part, half, t),
    color: inkOf(half.piece, half.layer),
    note: t.plain(half.piece === "mixer" ? "box_mixer" : "box_alone"),
    added: t.plain("adds", { n: size(row(added, half.p)[row_]) }),
    after: size(at(half.p)),
  }));
  fill(
    el,
    h("h3", null, t("block_of", { layer: state.layer, token: chipAt(ROWS[row_]) })),
    make(el.clientWidth - 34, boxes, size(at(halves[0].p - 1)), part.parallel, label, t),
    h(
      "p",
      { class: "small" },
      t("block_caption"),
      part.scales ? [" ", t("block_scaled", { n: num(part.scales[state.layer], 3) })] : null,
    ),
  );
}

function blockWide(width, boxes, before, parallel, label, t) {
  const n = boxes.length,
    y = 150,
    slot = (width - 130) / n,
    parts = [];
  boxes.forEach((box, i) => {
    const x = 80 + i * slot,
      from = parallel && box.piece === "ffn" ? 92 + 8 * i : x + 12,
      plus = x + slot - 26,
      w = Math.min(230, slot - 96),
      bx = x + (slot - w) / 2 - 8;
    parts.push(
      s("path", { d: `M${from} ${y} V${parallel && i ? 14 : 62} H${bx}`, class: "wire" }),
      s("path", { d: `M${bx + w} 62 H${plus} V${y - 13}`, class: "wire" }),
      parallel && i ? s("path", { d: `M${bx - 10} 14 V62 H${bx}`, class: "wire" }) : null,
      s("rect", {
        x: bx,
        y: 30,
        width: w,
        height: 64,
        rx: 9,
        class: "box",
        css: {
          stroke: `var(--${box.color})`,
          fill: `color-mix(in srgb, var(--${box.color}) 14%, var(--panel))`,
        },
      }),
      s("text", { x: bx + w / 2, y: 56, "text-anchor": "middle", class: "strong" }, box.name),
      s("text", { x: bx + w / 2, y: 78, "text-anchor": "middle" }, box.note),
      s("circle", { cx: plus, cy: y, r: 12, class: "plus" }),
      s("path", { d: `M${plus - 6} ${y}h12M${plus} ${y - 6}v12`, class: "sign" }),
      s("text", { x: plus + 6, y: y - 30, class: "strong", "text-anchor": "end", dx: -14 }, box.added),
      s("text", { x: plus, y: y + 34, "text-anchor": "middle" }, box.after),
    );
  });
  return drawing(
    { width, height: 200, label },
    s("path", { d: `M10 ${y}H${width - 26}`, class: "stream" }),
    s("path", { d: `M${width - 30} ${y - 11}l22 11l-22 11z`, class: "tip" }),
    s("text", { x: 10, y: y + 34 }, t.plain("size_before", { n: before })),
    parts,
  );
}

function blockTall(width, boxes, before, parallel, label, t) {
  const step = 132,
    x = 26,
    parts = [],
    height = 46 + boxes.length * step;
  boxes.forEach((box, i) => {
    const y = 34 + i * step,
      from = parallel && box.piece === "ffn" ? 22 : y,
      plus = y + 92,
      w = width - 78;
    parts.push(
      s("path", {
        d: `M${x} ${from}H${from === y ? 120 : 44}V${y + 14}${from === y ? "" : "H90"}`,
        class: "wire",
      }),
      s("path", { d: `M120 ${y + 72}V${plus}H${x + 12}`, class: "wire" }),
      s("rect", {
        x: 68,
        y: y + 12,
        width: w,
        height: 60,
        rx: 9,
        class: "box",
        css: {
          stroke: `var(--${box.color})`,
          fill: `color-mix(in srgb, var(--${box.color}) 14%, var(--panel))`,
        },
      }),
      s("text", { x: 68 + w / 2, y: y + 37, "text-anchor": "middle", class: "strong" }, box.name),
      s("text", { x: 68 + w / 2, y: y + 58, "text-anchor": "middle" }, box.note),
      s("circle", { cx: x, cy: plus, r: 12, class: "plus" }),
      s("path", { d: `M${x - 6} ${plus}h12M${x} ${plus - 6}v12`, class: "sign" }),
      s("text", { x: 130, y: plus + 5, class: "strong" }, box.added),
      s("text", { x: width - 6, y: plus + 5, "text-anchor": "end" }, `= ${box.after}`),
    );
  });
  return drawing(
    { width, height, label },
    s("path", { d: `M${x} 4V${height - 16}`, class: "stream" }),
    s("path", { d: `M${x - 11} ${height - 18}h22l-11 18z`, class: "tip" }),
    s("text", { x: 46, y: 16 }, t.plain("size_before", { n: before })),
    parts,
  );
}

function drawSizes(el, data, t) {
  const part = data.layer,
    sizes = arr(part.sizes),
    R = ROWS.length,
    P = part.points.length;
  const all = Array.from(sizes).filter((x) => x > 0),
    least = Math.log10(Math.min(...all)),
    most = Math.log10(Math.max(...all));
  const y = (v) => (Math.log10(Math.max(v, 1e-30)) - least) / (most - least || 1),
    ticks = [];
  const steps = most - least > 1.5 ? [1] : [1, 2, 5];
  for (let power = Math.floor(least); power <= most; power++) {
    for (const value of steps.map((n) => n * 10 ** power))
      if (y(value) >= 0 && y(value) <= 1) ticks.push({ value, text: num(value, Math.max(0, -power)) });
  }
  const of = (r) => Array.from({ length: P }, (_, p) => sizes[p * R + r]);
  const others = Array.from({ length: R }, (_, r) => r).filter((r) => r !== state.t);
  lines(el, {
    points: part.points,
    y,
    ticks,
    label: t.plain("sizes_label"),
    series: [
      ...others.map((r) => ({ values: of(r), color: "head" })),
      { values: of(state.t), color: "accent", thick: true },
    ],
  });
}

// The token that grows most beyond the others, if one does, and where it leaps; else how the stream grows.
function noticeOf(data, t) {
  const part = data.layer,
    sizes = arr(part.sizes),
    R = ROWS.length,
    typical = part.points.map(
      (_, p) => Array.from(row(sizes, p)).sort((a, b) => a - b)[Math.floor(R / 2)] || 1,
    );
  const ratio = (p, r) => sizes[p * R + r] / typical[p];
  let best = { leap: 0 };
  for (let p = 1; p < part.points.length; p++) {
    for (let r = 0; r < R; r++)
      if (ratio(p, r) / ratio(p - 1, r) > best.leap) best = { leap: ratio(p, r) / ratio(p - 1, r), p, r };
  }
  if (best.leap < 4 || ratio(best.p, best.r) < 8 || R < 4) {
    const first = sizes[state.t],
      last = sizes[(part.points.length - 1) * R + state.t];
    return t(last > first ? "grows" : "shrinks", {
      token: chipAt(ROWS[state.t]),
      from: strong(size(first)),
      to: strong(size(last)),
    });
  }
  const out = document.createDocumentFragment();
  out.append(
    t("swells", {
      token: chipAt(ROWS[best.r]),
      n: strong(size(sizes[best.p * R + best.r])),
      piece: pieceName(...part.points[best.p]),
      times: num(ratio(best.p, best.r)),
    }),
  );
  if (best.r === 0) out.append(" ", t(data.attention ? "sink" : "first"));
  return out;
}

function heatMap(part, t, say) {
  const L = part.strips.s[1],
    D = part.strips.s[2];
  const strips = () => row(arr(part.strips), part.strip_rows.indexOf(state.t));
  const shown = (layer) => row(Object.assign(strips(), { shape: [L, D] }), layer);
  const map = picture(
    t.plain("sizes_label"),
    () => Math.max(150, Math.min(320, L * 8)),
    (context, width, height) => {
      if (part.strip_rows.indexOf(state.t) < 0) return;
      const ground = ink("panel"),
        cool = ink("cool"),
        warm = ink("warm");
      const rows = Array.from({ length: L }, (_, layer) => shown(layer));
      const scale = rows.map((one) => 3 * Math.sqrt(one.reduce((sum, x) => sum + x * x, 0) / D) || 1);
      cells(context, {
        rows: L,
        columns: D,
        width,
        height,
        color: (r, c) => {
          const x = rows[r][c] / scale[r];
          return blend(ground, x < 0 ? cool : warm, Math.min(1, Math.abs(x)));
        },
      });
    },
  );
  const point = (event) => {
    const box = map.getBoundingClientRect(),
      r = Math.floor(((event.clientY - box.top) / box.height) * L),
      c = Math.floor(((event.clientX - box.left) / box.width) * D);
    if (r < 0 || r >= L || c < 0 || c >= D || part.strip_rows.indexOf(state.t) < 0) return;
    fill(say, t(r ? "say_number" : "say_first", { n: c, layer: r - 1, value: size(shown(r)[c]) }));
  };
  fill(say, t("point"));
  map.addEventListener("pointermove", point);
  map.addEventListener("click", point);
  return map;
}

function sizesTable(data, t) {
  const part = data.layer,
    sizes = arr(part.sizes),
    added = arr(part.added);
  return table(
    tableName(t),
    [t("piece_head"), t("added_head"), t("size_head")],
    part.points.map(([piece, layer], p) => [
      pieceName(piece, layer),
      size(row(added, p)[state.t]),
      size(row(sizes, p)[state.t]),
    ]),
  );
}
