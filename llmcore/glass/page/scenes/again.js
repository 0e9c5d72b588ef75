function scene(data, state, el, t) {
  const d = data.again,
    run = data.run,
    n = run.prompt,
    total = IDS.length,
    layers = d.layers;
  const passes = run.steps.filter((step) => step >= 0).length;
  const keeps = layers.filter(({ kind }) => kind === "rows" || kind === "both"),
    states = layers.filter(({ kind }) => kind === "state" || kind === "both");
  const row_ = layers.reduce((sum, layer) => sum + layer.row, 0),
    state_ = layers.reduce((sum, layer) => sum + layer.state, 0);
  let at = 0;
  const buttons = h("div"),
    said = h("p"),
    notice = h("div", { class: "notice" }),
    legend = h("ul", { class: "legend" });
  const shown = [...COLUMNS, total - 1];
  const grid = picture(
    "",
    (w) => Math.min(20, Math.max(4, 300 / layers.length)) * layers.length + 74,
    (context, w, high) => {
      const left = 40,
        top = 66,
        each = Math.min(64, (w - left) / shown.length),
        tall = (high - top - 8) / layers.length;
      context.font = "12px system-ui, sans-serif";
      const color = {
        old: mix(ink("panel"), ink("attention"), 0.4),
        fresh: `rgb(${ink("attention").join(" ")})`,
        none: mix(ink("panel"), ink("line"), 0.5),
        gone: mix(ink("panel"), ink("attention"), 0.12),
        state: `rgb(${ink("state").join(" ")})`,
      };
      shown.forEach((position, i) => {
        const x = left + i * each,
          first = at === 0 ? 0 : n + at - 1,
          done = position < 0 || position <= n + at - 1;
        const fresh = position < 0 ? at === 0 : position >= first && done;
        layers.forEach((layer, j) => {
          const y = top + j * tall;
          let name = !done ? "none" : fresh ? "fresh" : "old";
          if (layer.kind === "state") name = position === n + at - 1 ? "state" : "none";
          if (layer.kind === "none") name = "none";
          if (done && layer.window && !layer.chunked && position >= 0 && n + at - position > layer.window)
            name = "gone";
          context.fillStyle = color[name];
          const pad = each > 8 ? 2 : 0.5;
          context.fillRect(x + pad / 2, y + 0.5, each - pad, Math.max(1, tall - (tall > 5 ? 1.5 : 0.5)));
        });
        context.save();
        context.translate(x + each / 2 + 4, top - 6);
        context.rotate(-0.9);
        context.fillStyle = `rgb(${ink(done ? "ink" : "dim").join(" ")})`;
        if (each > 10 || i % Math.ceil(12 / each) === 0)
          context.fillText(position < 0 ? "…" : cut(visible(run.tokens[IDS[position]]), 9), 0, 0);
        context.restore();
      });
      context.fillStyle = `rgb(${ink("dim").join(" ")})`;
      context.textAlign = "right";
      const skip = Math.ceil(14 / tall);
      layers.forEach((_, j) => {
        if (j % skip === 0) context.fillText(String(j), left - 6, top + j * tall + Math.min(tall, 12));
      });
    },
  );
  const swatch = (name, key) =>
    h("li", null, h("span", { class: "swatch", css: { background: `var(--${name})` } }), t(key));
  fill(
    legend,
    keeps.length ? swatch("attention", "fresh") : null,
    states.length ? swatch("state", "memory") : null,
    keeps.length
      ? h(
          "li",
          null,
          h("span", {
            class: "swatch",
            css: { background: "color-mix(in srgb, var(--attention) 40%, var(--panel))" },
          }),
          t("old"),
        )
      : null,
    h(
      "li",
      null,
      h("span", {
        class: "swatch",
        css: { background: "color-mix(in srgb, var(--line) 50%, var(--panel))" },
      }),
      t("empty"),
    ),
  );
  el.append(
    h("p", { class: "lead" }, keeps.length ? t("intro") : t("intro_states")),
    h("div", { class: "panel" }, buttons, grid, legend, said),
    notice,
  );
  const trained = row_ * d.context;
  fill(
    notice,
    row_
      ? h(
          "p",
          null,
          t("bytes_row", {
            row: strong(bytes(row_)),
            all: strong(bytes(row_ * (total - 1))),
            context: num(d.context),
            full: strong(bytes(trained)),
          }),
          layers.some(({ window }) => window)
            ? [" ", t("windows", { window: num(layers.find(({ window }) => window).window) })]
            : null,
        )
      : null,
    states.length ? h("p", null, t("states", { n: states.length, size: strong(bytes(state_)) })) : null,
    d.shared ? h("p", null, t("shared", { n: d.shared })) : null,
    h("p", null, t(d.ended ? "ended" : d.full ? "full" : "last", { token: chip(IDS[total - 1]) })),
  );

  return () => {
    const { step } = here();
    at = Math.max(0, step);
    fill(
      buttons,
      pills(
        t.plain("passes"),
        Array.from({ length: passes }, (_, i) => ({
          value: i,
          label: i === 0 ? t("prompt_pass") : t("pass", { token: chip(IDS[n + i - 1]) }),
        })),
        at,
        (i) => go({ t: run.steps.indexOf(i) }),
      ),
    );
    grid.say(t.plain("picture", { layers: layers.length, n: n + at }));
    grid.paint();
    fill(
      said,
      at === 0
        ? t(d.passes > 1 ? "read_chunks" : "read_all", {
            n: strong(t("tokens", { n })),
            token: chip(IDS[n]),
            passes: d.passes,
            most: d.chunk,
          })
        : t("read_one", { token: chip(IDS[n + at - 1]), n: n + at - 1, next: chip(IDS[n + at]) }),
    );
  };
}
