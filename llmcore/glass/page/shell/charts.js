// What several scenes draw alike: choices of a layer and a head, lines and bars over the layers, tokens shaded.

const MIXER_INKS = { attention: "attention", latent: "attention" };
const LINE_INKS = ["accent", "ffn", "embedding", "scores", "state", "head"];

// Details that are made when they are open, anew at each change: make() gives what stands in them.
function fold(summary, make) {
  const body = h("div"),
    el = details(summary, body);
  el.update = () => {
    if (el.open) fill(body, make());
  };
  el.addEventListener("toggle", el.update);
  return el;
}

// The row of the chosen token where a scene is kept of the last tokens alone, else -1 and a line that says so.
function rowKept(part, panel, notice, cap, t) {
  const at = state.t - part.start;
  panel.hidden = notice.hidden = at < 0;
  cap.hidden = at >= 0;
  fill(cap, t("not_kept", { n: ROWS.length - part.start }));
  return Math.max(-1, at);
}

// What a scene's table is called: each of a page has a name of its own.
const tableName = (t, key = "as_table") => `${t.plain("title")} ${t.plain(key)}`;

// The colour of a piece of the stream: of what kind it is, always the same.
function inkOf(piece, layer) {
  if (piece === "ffn") return "ffn";
  if (piece !== "mixer") return "embedding";
  return MIXER_INKS[DATA.layer.mixers[layer][0]] || "state";
}

// What a piece is called: "the attention of layer 3".
function pieceName(piece, layer) {
  const t = textsOf("layer");
  if (layer < 0) return t("piece_embedding");
  if (piece === "layer_embedding") return t("piece_layer_embedding", { layer });
  const kind =
    piece === "ffn" ? `ffn_${DATA.layer.ffns[layer]}` : `mixer_${DATA.layer.mixers[layer].join("_")}`;
  return t("piece", { kind: t(`of_${kind}`), layer });
}

// The nearest of some layers.
function nearest(layers, wanted) {
  return layers.reduce(
    (best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best),
    layers[0],
  );
}

// A slider over the layers that have something to show; all scenes follow it.
function layerSlider(layers) {
  const t = textsOf("layer");
  const el = slider(
    t.plain("choose_layer"),
    { min: 0, max: Math.max(0, layers.length - 1), step: 1, value: 0, show: (i) => String(layers[i]) },
    (i) => go({ layer: layers[i] }),
  );
  el.follow = () => el.set(layers.indexOf(nearest(layers, state.layer)));
  if (layers.length < 2) el.hidden = true;
  return el;
}

// A number as large as it is: 24,393 or 312 or 4.7 or 0.031.
function size(x) {
  const a = Math.abs(x);
  return num(x, a >= 100 || a === 0 ? 0 : a >= 10 ? 1 : a >= 0.1 ? 2 : a >= 0.001 ? 4 : 6);
}

// Black or white, whichever can be read on a colour [r, g, b].
function readable(rgb) {
  const [r, g, b] = rgb.map((c) =>
    c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

function blend(from, to, share) {
  return from.map((c, i) => Math.round(c + (to[i] - c) * share));
}

// The token at a position; one that stands more than once has its place in the text beside it.
function placed(position) {
  const again = position >= 0 && COLUMNS.filter((one) => one >= 0 && IDS[one] === IDS[position]).length > 1;
  return again ? [chipAt(position), h("sub", { class: "place" }, String(position))] : chipAt(position);
}

// Tokens one after another, each shaded by a number between -1 and 1: [{position, value, title}].
function shaded(tokens, color, outlined) {
  const ground = ink("panel"),
    warm = ink(color),
    cool = ink("head");
  return h(
    "p",
    { class: "shaded" },
    tokens.map(({ position, value, title }) => {
      const rgb = blend(ground, value < 0 ? cool : warm, Math.min(1, Math.abs(value)) ** 0.7);
      const el = chipAt(position, position === outlined ? "outlined" : "");
      el.style.background = `rgb(${rgb.join(" ")})`;
      el.style.color = readable(rgb);
      el.title = title;
      return el;
    }),
  );
}

// Bars with a token before and a figure behind: [{position or label, share, text, color}].
function bars(items) {
  return h(
    "div",
    { class: "bars" },
    items.map(({ position, label, share, text, color }) => [
      h("span", null, label === undefined ? placed(position) : label),
      bar(Math.abs(share), color),
      h("span", { class: "figure" }, text),
    ]),
  );
}

// Where layers end among the points of the stream, as many as there is room for.
function layerTicks(points, width) {
  const ends = [];
  points.forEach(([, layer], p) => {
    if (layer >= 0 && (p + 1 === points.length || points[p + 1][1] !== layer)) ends.push([layer, p]);
  });
  const every = [1, 2, 5, 10, 20, 50].find((n) => (ends.length / n) * 34 < width) || 100;
  return ends.filter(([layer]) => layer % every === 0);
}

// Which of the points of the stream belong to the chosen layer.
const chosenPoints = (points) => points.flatMap(([, layer], p) => (layer === state.layer ? [p] : []));

// Choose the layer of a point of the stream; the embedding has none.
function goToPoint(points, p) {
  const layer = (points[p] || [])[1];
  if (layer >= 0) go({ layer });
}

// Lines over the points of the stream. series: [{values, color, thick}]; y(value) is 0 at the bottom, 1 on top.
function lines(el, { points, series, y, ticks, height = 250, label }) {
  const width = Math.max(240, el.clientWidth),
    left = 52,
    right = 10,
    top = 10,
    bottom = 36;
  const x = (p) => left + (p / Math.max(1, points.length - 1)) * (width - left - right);
  const at = (value) => top + (1 - y(value)) * (height - top - bottom);
  const inLayer = chosenPoints(points);
  const from = inLayer.length ? x(Math.max(0, inLayer[0] - 1)) : 0,
    to = inLayer.length ? x(inLayer[inLayer.length - 1]) : 0;
  const onclick = (event) => {
    const p = Math.round(((event.offsetX - left) / (width - left - right)) * (points.length - 1));
    goToPoint(points, Math.max(0, Math.min(points.length - 1, p)));
  };
  fill(
    el,
    drawing(
      { width, height, label, onclick },
      s("rect", {
        x: from,
        y: top,
        width: Math.max(3, to - from),
        height: height - top - bottom,
        class: "chosen",
      }),
      ticks.map(({ value, text }) => [
        s("line", { x1: left, x2: width - right, y1: at(value), y2: at(value), class: "grid" }),
        s("text", { x: left - 6, y: at(value) + 4, "text-anchor": "end" }, text),
      ]),
      layerTicks(points, width - left).map(([layer, p]) =>
        s("text", { x: x(p), y: height - bottom + 16, "text-anchor": "middle" }, String(layer)),
      ),
      s(
        "text",
        { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" },
        textsOf("layer").plain("after_layer"),
      ),
      series.map(({ values, color, thick }) =>
        s("polyline", {
          fill: "none",
          css: { stroke: `var(--${color})` },
          "stroke-width": thick ? 3 : 1.2,
          opacity: thick ? 1 : 0.75,
          "stroke-linejoin": "round",
          points: Array.from(values, (v, p) => `${x(p).toFixed(1)},${at(v).toFixed(1)}`).join(" "),
        }),
      ),
    ),
  );
}

// Bars up and down over the points of the stream, a layer's side by side; a click chooses the layer.
function layerBars(el, { points, values, height = 230, label }) {
  const width = Math.max(240, el.clientWidth),
    left = 52,
    right = 6,
    top = 10,
    bottom = 36;
  const most = Math.max(0, ...values),
    least = Math.min(0, ...values),
    span = most - least || 1;
  const at = (value) => top + ((most - value) / span) * (height - top - bottom);
  const slot = (width - left - right) / points.length;
  const chosen = chosenPoints(points);
  const axis = [most, least].filter((value) => value !== 0);
  fill(
    el,
    drawing(
      {
        width,
        height,
        label,
        onclick: (event) => goToPoint(points, Math.floor((event.offsetX - left) / slot)),
      },
      chosen.length
        ? s("rect", {
            x: left + chosen[0] * slot,
            y: top,
            width: chosen.length * slot,
            height: height - top - bottom,
            class: "chosen",
          })
        : null,
      axis.map((value) =>
        s("text", { x: left - 6, y: at(value) + 4, "text-anchor": "end" }, signed(value, 1)),
      ),
      s("text", { x: left - 6, y: at(0) + 4, "text-anchor": "end" }, "0"),
      s("line", { x1: left, x2: width - right, y1: at(0), y2: at(0), class: "axis" }),
      points.map(([piece, layer], p) =>
        s(
          "rect",
          {
            x: left + p * slot + slot * 0.1,
            width: Math.max(1, slot * 0.8),
            css: { fill: `var(--${inkOf(piece, layer)})` },
            y: Math.min(at(0), at(values[p])),
            height: Math.max(0.5, Math.abs(at(values[p]) - at(0))),
          },
          s("title", null, `${pieceName(piece, layer).textContent}: ${signed(values[p])}`),
        ),
      ),
      layerTicks(points, width - left).map(([layer, p]) =>
        s(
          "text",
          {
            x: left + (p + 0.5) * slot - (slot * (chosenWidth(points, layer) - 1)) / 2,
            y: height - bottom + 16,
            "text-anchor": "middle",
          },
          String(layer),
        ),
      ),
      s(
        "text",
        { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" },
        textsOf("layer").plain("layer_axis"),
      ),
    ),
  );
}

function chosenWidth(points, layer) {
  return points.filter(([, one]) => one === layer).length;
}

// A canvas of numbers as coloured cells: color(r, c) is [r, g, b] or null for none; no lines between many.
function cells(context, { rows, columns, x = 0, y = 0, width, height, color }) {
  const image = new ImageData(columns, rows);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const rgb = color(r, c);
      if (rgb) image.data.set([rgb[0], rgb[1], rgb[2], 255], 4 * (r * columns + c));
    }
  }
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = columns > 3 * width;
  context.drawImage(small, x, y, width, height);
}

// Votes of a piece or a head for the next token, or for it rather than its rival, as the reader has chosen.
function chosenVote(pair) {
  return state.rather ? pair[0] - pair[1] : pair[0];
}

// The votes of all heads of a layer at a row; null where they are not kept.
function headVotes(layer, at) {
  const packed = DATA.votes.heads[layer],
    first = DATA.votes.start;
  if (packed === undefined || at < first) return null;
  const found = arr(packed),
    n = packed.s[1];
  return Array.from({ length: n }, (_, head) => chosenVote(row(found, at - first, head)));
}

// The token that came next and its rival, for texts.
function forWhom() {
  const { target, other } = here();
  return { token: chip(target), other: chip(other) };
}

// A share that may be below 0: "-12%".
const signedShare = (x) => (Math.abs(x) < 5e-4 ? percent(0) : x < 0 ? `-${percent(-x)}` : percent(x));
