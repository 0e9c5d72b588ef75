function scene(data, state, el, t) {
  const d = data.token,
    width = data.run.width,
    strips = arr(d.strips),
    first = arr(d.first);
  let chosen = 0;
  const strip = picture("", 48, (context, w, high) => stripe(context, row(strips, chosen), 0, w, high));
  const heading = h("h3"),
    numbers = h("div", { class: "numbers" }),
    near = h("div", { class: "bars" }),
    notice = h("div", { class: "notice" });
  const all = picture(
    t.plain("all", { n: d.ids.length }),
    () => Math.min(420, Math.max(120, 14 * d.ids.length)),
    (context, w, high) => {
      d.ids.forEach((_, i) =>
        stripe(
          context,
          row(strips, i),
          (i * high) / d.ids.length,
          w,
          high / d.ids.length - (d.ids.length < 60 ? 1 : 0),
        ),
      );
    },
  );

  function stripe(context, values, y, w, high) {
    const panel = ink("panel"),
      cool = ink("cool"),
      warm = ink("warm");
    const most = [...values].map(Math.abs).sort((a, b) => b - a)[Math.floor(values.length / 50)] || 1;
    values.forEach((x, i) => {
      context.fillStyle = mix(panel, x < 0 ? cool : warm, Math.min(1, Math.abs(x) / most));
      context.fillRect((i * w) / width, y, w / width + 0.6, high);
    });
  }

  const links = d.telling.map((at) => button(chipAt(ROWS[at]), () => go({ t: at }), "pill"));
  el.append(
    h("p", { class: "lead" }, t("intro", { n: strong(width) })),
    h(
      "div",
      { class: "panel" },
      heading,
      strip,
      h("p", { class: "small" }, t("strip", { n: width })),
      numbers,
    ),
    h(
      "div",
      { class: "panel" },
      h("h3", null, t("near")),
      near,
      h("p", { class: "small" }, t("cosine")),
      links.length ? h("div", { class: "row" }, h("span", { class: "small" }, t("see")), links) : null,
    ),
    notice,
    details(
      t("all_rows", { n: d.ids.length }),
      all,
      h(
        "p",
        { class: "small" },
        t("all_said"),
        " ",
        d.ids.map((id) => [chip(id), " "]),
      ),
    ),
  );

  return () => {
    const { id, position } = here();
    chosen = d.ids.indexOf(id);
    strip.say(t.plain("row_of", { token: nameOf(id) }));
    strip.paint();
    fill(heading, t("row_of", { token: chip(id) }));
    const values = row(first, chosen),
      most = Math.max(...values.map(Math.abs)) || 1;
    fill(
      numbers,
      [...values].map((x) =>
        h(
          "div",
          null,
          h("span", { class: "value" }, num(x, 3)),
          h(
            "span",
            { class: "updown", "aria-hidden": "true" },
            h("span", {
              css: {
                width: `${(50 * Math.abs(x)) / most}%`,
                [x < 0 ? "right" : "left"]: "50%",
                background: `var(--${x < 0 ? "cool" : "warm"})`,
              },
            }),
          ),
        ),
      ),
      h(
        "div",
        null,
        h("span", { class: "value" }, "…"),
        h("span", { class: "small" }, t("more", { n: width - values.length })),
      ),
    );
    const cosines = row(arr(d.cosines), chosen),
      ids = row(arr(d.near), chosen);
    fill(
      near,
      [...ids].map((other, i) => [
        chip(other),
        bar(Math.max(0, cosines[i]), "embedding"),
        h("span", null, num(cosines[i], 2)),
      ]),
    );
    const again = [...ROWS].filter((p) => IDS[p] === id);
    fill(
      notice,
      h(
        "p",
        null,
        again.length > 1
          ? t("same_row", {
              token: chip(id),
              n: again.length,
              first: num(again[0] + 1),
              last: num(again[again.length - 1] + 1),
            })
          : t("no_context"),
      ),
      d.scale ? h("p", null, t("scaled", { scale: num(d.scale, 1) })) : null,
      d.positions ? h("p", null, t("positions")) : null,
    );
  };
}
