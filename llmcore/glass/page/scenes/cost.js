// A column for each layer, as high as its milliseconds.
function layersOf(ms, t) {
  const most = Math.max(...ms),
    slowest = ms.indexOf(most);
  return h(
    "div",
    { class: "panel" },
    h("h3", null, t("layers")),
    h(
      "div",
      {
        class: "columns",
        role: "img",
        "aria-label": t.plain("layers_label", { layer: slowest, ms: num(most, 2) }),
      },
      ms.map((x, i) => h("i", { title: `${i}: ${num(x, 2)} ms`, css: { height: `${(100 * x) / most}%` } })),
    ),
    h("p", { class: "small" }, t("layers_said", { layer: slowest, ms: num(most, 2), n: ms.length })),
    details(
      t("layers_table"),
      table(
        t.plain("layers"),
        [t("layer"), t("ms_head")],
        ms.map((x, i) => [String(i), num(x, 2)]),
      ),
    ),
  );
}

function scene(data, state, el, t) {
  const d = data.cost,
    run = data.run,
    most = Math.max(...d.ms);
  const rows = d.ms.map((ms, i) => [
    h(
      "span",
      null,
      i === 0
        ? t("prompt", { n: run.prompt })
        : t("step", { i: num(i + 1), token: chip(IDS[run.prompt + i - 1]) }),
    ),
    bar(ms / most, i ? "accent" : "embedding"),
    h("span", null, t("ms", { ms: num(ms, ms < 10 ? 1 : 0) })),
  ]);
  const later = d.ms.slice(1),
    middle = [...later].sort((a, b) => a - b)[Math.floor(later.length / 2)];
  const scatter = later.length > 1 && Math.max(...later) > 2 * Math.min(...later);
  el.append(
    h(
      "p",
      { class: "lead" },
      d.idle
        ? t("intro_experts", { n: strong(large(d.weights)), idle: strong(large(d.idle)) })
        : t("intro", { n: strong(large(d.weights)) }),
    ),
    h(
      "div",
      { class: "panel" },
      h("div", { class: "bars" }, rows),
      h("p", { class: "small" }, t("measured"), scatter ? [" ", t("scatter")] : null),
    ),
    d.layers_ms ? layersOf(d.layers_ms, t) : null,
    h(
      "div",
      { class: "notice" },
      later.length
        ? h(
            "p",
            null,
            t(d.passes > 1 ? "shared_many" : "shared", {
              n: run.prompt,
              passes: d.passes,
              prompt: num(d.ms[0] / run.prompt, d.ms[0] < 10 * run.prompt ? 1 : 0),
              each: num(middle, middle < 10 ? 1 : 0),
            }),
          )
        : null,
      d.way ? h("p", null, t(`way_${d.way}`)) : null,
    ),
  );
}
