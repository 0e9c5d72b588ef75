const COLORS = {
  head: "head",
  embedding: "embedding",
  attention: "attention",
  ffn: "ffn",
  state: "state",
  norm: "norm",
  scores: "scores",
  other: "dim",
};

function scene(data, state, el, t) {
  const d = data.file,
    head = { name: "HEAD", type: "", shape: [], start: 0, bytes: d.body, kind: "head", layer: -1 };
  const items = [
    head,
    ...d.tensors.map(([name, type, shape, start, bytes, kind, layer]) => ({
      name,
      type,
      shape,
      start,
      bytes,
      kind,
      layer,
    })),
  ];
  let chosen = -1;

  const say = h("div", { class: "say" });
  const canvas = picture("", (width) => (width < 500 ? 420 : 480), paint);
  arrowsOn(canvas, t.plain("picture"), items.length - 1, (dx, dy) =>
    point(Math.max(0, Math.min(items.length - 1, chosen + dx + 10 * dy))),
  );
  canvas.addEventListener("pointermove", (event) => point(itemAt(event)));
  canvas.addEventListener("click", (event) => point(itemAt(event)));
  canvas.addEventListener("pointerleave", () => point(-1));

  const rows = (height) => Math.floor(height / 20);
  function paint(context, width, height) {
    const n = rows(height),
      each = d.size / n,
      high = height / n,
      gap = 2;
    const layer = chosen < 0 ? null : items[chosen].layer;
    items.forEach((item, i) => {
      context.fillStyle = `rgb(${ink(COLORS[item.kind]).join(" ")})`;
      context.globalAlpha = layer === null || i === chosen || (layer >= 0 && item.layer === layer) ? 1 : 0.28;
      let from = item.start;
      const to = item.start + item.bytes;
      while (from < to) {
        const r = Math.min(n - 1, Math.floor(from / each)),
          end = Math.min(to, (r + 1) * each);
        const x = ((from - r * each) / each) * width,
          w = ((end - from) / each) * width;
        if (w > 0.3) context.fillRect(x, r * high, Math.max(w - (w > 3 ? 1 : 0), 0.5), high - gap);
        from = end > from ? end : to;
      }
    });
    context.globalAlpha = 1;
  }

  function itemAt(event) {
    const box = canvas.getBoundingClientRect(),
      n = rows(box.height);
    const r = Math.floor(((event.clientY - box.top) / box.height) * n);
    const at = ((r + (event.clientX - box.left) / box.width) * d.size) / n;
    let found = 0;
    items.forEach((item, i) => {
      if (item.start <= at) found = i;
    });
    return found;
  }

  function point(i) {
    if (i === chosen) return;
    chosen = i;
    canvas.paint();
    if (i < 0) return fill(say, t("point"));
    const item = items[i];
    canvas.at(i, `${item.name}, ${bytes(item.bytes)}`);
    if (i === 0) return fill(say, strong("HEAD"), ` · ${bytes(item.bytes)} · `, t("purpose_head"));
    return fill(
      say,
      h("code", null, visible(item.name)),
      ` · ${item.shape.map((n) => num(n)).join(" × ")} · ${item.type} · ${bytes(item.bytes)} · `,
      purpose(item),
    );
  }

  function purpose(item) {
    const base = item.name.replace(/^blk\.\d+\./, "").replace(/\.(weight|bias)$/, "");
    const key = item.name.endsWith(".bias")
      ? "purpose_bias"
      : t.has(`purpose_${base}`)
        ? `purpose_${base}`
        : `kind_${item.kind}`;
    return [t(key), item.layer >= 0 ? [", ", t("of_layer", { layer: item.layer })] : null];
  }

  const sums = {};
  for (const item of items) sums[item.kind] = (sums[item.kind] || 0) + item.bytes;
  const legend = h(
    "ul",
    { class: "legend" },
    Object.entries(sums)
      .sort((a, b) => b[1] - a[1])
      .filter(([, n]) => n / d.size >= 0.0005)
      .map(([kind, n]) =>
        h(
          "li",
          null,
          h("span", { class: "swatch", css: { background: `var(--${COLORS[kind]})` } }),
          t(`kind_${kind}`),
          ` ${percent(n / d.size)}`,
        ),
      ),
  );

  el.append(
    h("p", { class: "lead" }, t("intro", { weights: strong(num(d.weights)) })),
    h(
      "div",
      { class: "panel" },
      canvas,
      say,
      legend,
      h(
        "p",
        { class: "small" },
        t("scale", { size: bytes(d.size) }),
        d.parts > 1 ? [" ", t("parts", { n: d.parts })] : null,
      ),
    ),
    h(
      "div",
      { class: "notice" },
      d.lists / d.head > 0.5 ? h("p", null, t("lists", { share: percent(d.lists / d.head) })) : null,
      h("p", null, d.template ? t("template") : t("no_program")),
    ),
    details(t("first", { n: d.first.length }), firstBytes()),
    details(
      t("keys", { n: d.keys.length }),
      table(
        t.plain("keys", { n: d.keys.length }),
        [t("key"), t("type"), t("value"), t("size")],
        d.keys.map(([key, type, value, size]) => [
          h("code", null, visible(key)),
          type,
          h("bdi", null, visible(value).replaceAll("·", " ")),
          num(size),
        ]),
      ),
    ),
    details(
      t("tensors", { n: d.tensors.length }),
      table(
        t.plain("tensors", { n: d.tensors.length }),
        [t("name"), t("type"), t("shape"), t("start"), t("size")],
        d.tensors.map(([name, type, shape, start, size]) => [
          h("code", null, visible(name)),
          type,
          shape.join(" × "),
          num(start),
          num(size),
        ]),
      ),
    ),
  );
  point(0);
  point(-1);

  function firstBytes() {
    const parts = [
      [0, 4, "magic"],
      [4, 8, "version"],
      [8, 16, "n_tensors"],
      [16, 24, "n_keys"],
    ];
    return h(
      "ul",
      { class: "bytes" },
      parts.map(([from, to, name]) => {
        const some = d.first.slice(from, to),
          order = d.big_endian ? some : [...some].reverse();
        const value =
          name === "magic"
            ? String.fromCharCode(...some)
            : num(order.reduce((sum, byte) => sum * 256 + byte, 0));
        return h(
          "li",
          null,
          h("code", null, some.map((byte) => byte.toString(16).padStart(2, "0").toUpperCase()).join(" ")),
          h("span", null, t(name)),
          strong(value),
        );
      }),
    );
  }
}

// HEAD is as long as its keys, its list of tensors and the first 24 bytes, up to where BODY begins.
function checks(data) {
  const d = data.file;
  const sum = 24 + d.keys.reduce((total, key) => total + key[3], 0) + d.entries;
  const end = Math.ceil(sum / d.alignment) * d.alignment;
  return [{ name: "head_adds_up", ok: end === d.body || d.tensors.length === 0, off: bytes(d.body) }];
}
