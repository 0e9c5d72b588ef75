// Scene: what is kept of a token? Latent attention's one small row, for all heads.

function scene(data, state, el, t) {
  const part = data.latent,
    layers = Object.keys(part.kept).map(Number),
    choose = layerSlider(layers),
    say = h("div", { class: "say" }),
    map = rowsOf(part, layers, say, t);
  const whole = part.heads * (part.key + part.value),
    small = part.rank + part.position,
    title = h("h3", null),
    caption = h("p", { class: "small" });
  fill(
    el,
    h("p", { class: "lead" }, t("intro", { n: small, heads: part.heads })),
    h(
      "div",
      { class: "panel" },
      h("div", { class: "bars heads" }, [
        h("span", null, t("usual")),
        bar(1, "head"),
        h(
          "span",
          { class: "figure" },
          t("usual_text", { heads: part.heads, key: part.key, value: part.value, n: strong(whole) }),
        ),
        h("span", null, t("latent")),
        bar(small / whole, "attention"),
        h(
          "span",
          { class: "figure" },
          t("latent_text", { rank: part.rank, position: part.position, n: strong(small) }),
        ),
      ]),
    ),
    whole > small ? h("p", { class: "notice" }, t("notice", { times: num(whole / small, 1) })) : null,
    h("div", { class: "panel" }, title, choose, map, say, caption),
    h("p", { class: "small" }, t("never_made")),
  );
  return () => {
    choose.follow();
    const layer = nearest(layers, state.layer);
    fill(title, t("layer_of", { layer }));
    fill(
      caption,
      t(part.rotates ? "caption" : "caption_plain", {
        n: part.rows.length,
        rank: part.rank,
        position: part.position,
      }),
    );
    fill(say, t("point"));
    map.say(t.plain("map_label", { layer }));
    map.paint();
  };
}

function rowsOf(part, layers, say, t) {
  const high = 15,
    rows = () => arr(part.kept[nearest(layers, state.layer)]);
  const map = picture(
    t.plain("title"),
    () => part.rows.length * high,
    (context, width) => {
      const found = rows(),
        n = found.shape[1],
        left = Math.min(110, width * 0.25),
        ground = ink("panel"),
        warm = ink("warm"),
        cool = ink("cool"),
        split = part.rank / n;
      context.font = "11px sans-serif";
      context.textAlign = "right";
      part.rows.forEach((r, i) => {
        context.fillStyle = `rgb(${ink(r === state.t ? "ink" : "dim").join(" ")})`;
        context.fillText(nameAt(ROWS[r]).slice(0, 14), left - 6, i * high + 11);
        const one = row(found, i),
          most = 3 * Math.sqrt(one.reduce((sum, x) => sum + x * x, 0) / n) || 1;
        cells(context, {
          rows: 1,
          columns: n,
          x: left,
          y: i * high,
          width: width - left,
          height: high - 2,
          color: (_, c) => blend(ground, one[c] < 0 ? cool : warm, Math.min(1, Math.abs(one[c]) / most)),
        });
      });
      context.fillStyle = `rgb(${ink("accent").join(" ")})`;
      if (part.position) context.fillRect(left + (width - left) * split - 1, 0, 2, part.rows.length * high);
    },
  );
  map.addEventListener("pointermove", (event) => {
    const box = map.getBoundingClientRect(),
      found = rows(),
      left = Math.min(110, box.width * 0.25),
      i = Math.floor((event.clientY - box.top) / high),
      c = Math.floor(((event.clientX - box.left - left) / (box.width - left)) * found.shape[1]);
    if (i >= 0 && i < part.rows.length && c >= 0)
      fill(
        say,
        t(c < part.rank ? "say_content" : "say_position", {
          n: c,
          token: chipAt(ROWS[part.rows[i]]),
          value: num(row(found, i)[c], 2),
        }),
      );
  });
  return map;
}
