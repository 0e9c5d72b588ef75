function scene(data, state, el, t) {
  const run = data.run,
    d = data.start;
  const line = h("p", { class: "sofar" }),
    lead = h("p", { class: "lead" }),
    boxes = h("ol", { class: "boxes" });
  el.append(line, lead, h("p", null, t("choose"), run.chat ? [" ", t("chat")] : null));
  if (run.between) {
    el.append(
      h(
        "p",
        { class: "cap" },
        t("capped", {
          n: strong(run.prompt),
          last: COLUMNS.filter((p) => p > 0 && p < run.prompt).length,
          between: strong(run.between),
        }),
      ),
    );
  }
  el.append(boxes);

  const kinds = [
    ...d.mixers.map((name) => t.plain(`mixer_${name}`)),
    d.experts ? t.plain("experts") : d.ffn ? t.plain("ffn") : null,
  ];
  const box = (color, to, big, small) =>
    h(
      "li",
      null,
      h(
        "button",
        {
          type: "button",
          css: { "border-top-color": `var(--${color})` },
          disabled: data[to] === undefined,
          onclick: () => jump(to),
        },
        h("strong", null, big),
        h("span", null, small),
      ),
    );

  function left(step) {
    if (step < 0) return [t("none_drawn"), t("prompt_goes_on")];
    if (d.filters.length && data.choice.settings.temperature > 0) {
      const counts = data.choice.steps[step].left;
      const n = counts[counts.length - 1];
      return [t("left", { n }), n === 1 ? t("only") : t("drawn")];
    }
    return data.choice.settings.temperature > 0
      ? [t("left", { n: run.vocabulary }), t("drawn")]
      : [t("left", { n: 1 }), t("likeliest")];
  }

  return () => {
    const { row, position, target, step } = here();
    const before = [...COLUMNS].filter((p) => p <= position);
    fill(
      line,
      before.length > 40 ? "… " : null,
      before.slice(-40).map((p) => [
        h(
          "button",
          {
            type: "button",
            class: "plain",
            disabled: p < 0,
            "aria-label": nameAt(p),
            onclick: () => go({ t: ROWS.indexOf(p) }),
          },
          chipAt(p, p === position ? "on" : ""),
        ),
        " ",
      ]),
      h("span", { class: "arrow", "aria-hidden": "true" }, "→ "),
      chip(target, "next"),
    );
    fill(
      lead,
      step < 0
        ? t("does_prompt", { n: strong(t("tokens", { n: position + 1 })), token: chip(target) })
        : t("does", { n: strong(t("tokens", { n: position + 1 })), token: chip(target) }),
    );
    fill(
      boxes,
      box("head", "file", bytes(d.bytes), t("box_file", { n: large(d.weights) })),
      box("embedding", "text", t("tokens", { n: position + 1 }), t("box_tokens")),
      box("embedding", "token", `${num(position + 1)} × ${num(run.width)}`, t("box_numbers")),
      box("attention", "layer", t("layers", { n: run.layers }), kinds.filter(Boolean).join(", ")),
      box("scores", "scores", num(run.vocabulary), t("box_scores")),
      box("scores", "choice", ...left(step)),
      box("next-line", "again", chip(target), step < 0 ? t("box_came") : t("box_again")),
    );
  };
}
