const TOP = 10;

function scene(data, state, el, t) {
  const d = data.scores,
    curves = arr(d.curves),
    V = data.run.vocabulary;
  const lead = h("p", { class: "lead" }),
    panel = h("div", { class: "panel scroll-in" }),
    notice = h("div", { class: "notice" });
  let points = [],
    marked = -1;
  const curve = picture(
    "",
    (w) => Math.min(300, 0.5 * w + 60),
    (context, w, high) => {
      if (!points.length) return;
      const left = 46,
        right = 12,
        top = 14,
        bottom = 34,
        dim = `rgb(${ink("dim").join(" ")})`;
      const most = points[0],
        least = points[points.length - 1],
        span = most - least || 1;
      const x = (place) => left + (Math.log(place + 1) / Math.log(V)) * (w - left - right);
      const y = (score) => top + ((most - score) / span) * (high - top - bottom);
      context.font = "12px system-ui, sans-serif";
      context.strokeStyle = `rgb(${ink("line").join(" ")})`;
      context.fillStyle = dim;
      context.textAlign = "right";
      const step = [1, 2, 5, 10, 20, 50, 100].find((one) => span / one <= 6) || 200;
      for (let s = Math.ceil(least / step) * step; s <= most; s += step) {
        context.beginPath();
        context.moveTo(left, y(s));
        context.lineTo(w - right, y(s));
        context.stroke();
        context.fillText(num(s), left - 6, y(s) + 4);
      }
      context.textAlign = "center";
      for (let place = 1; place <= V; place *= 10)
        context.fillText(num(place), Math.min(x(place - 1), w - 24), high - bottom + 16);
      context.fillText(t.plain("place"), left + (w - left - right) / 2, high - 3);
      context.strokeStyle = `rgb(${ink("scores").join(" ")})`;
      context.lineWidth = 2.5;
      context.beginPath();
      points.forEach((score, i) => context.lineTo(x(d.places[i]), y(score)));
      context.stroke();
      if (marked >= 0) {
        context.fillStyle = `rgb(${ink("next-line").join(" ")})`;
        context.beginPath();
        context.arc(x(marked), y(markedScore), 6, 0, 7);
        context.fill();
      }
    },
  );
  let markedScore = 0;
  el.append(
    lead,
    panel,
    h("div", { class: "panel" }, curve, h("p", { class: "small" }, t("curve", { n: V }))),
    notice,
  );
  if (d.softcap) el.append(h("p", { class: "small" }, t("softcap", { cap: num(d.softcap) })));

  return () => {
    const { target, step, id } = here(),
      likely = data.run.candidates[state.t];
    const ids = arr(likely.ids),
      logits = arr(likely.logits),
      most = logits[0],
      n = Math.min(TOP, ids.length);
    points = [...row(curves, state.t)];
    marked = [...ids].indexOf(target);
    markedScore = marked >= 0 ? logits[marked] : 0;
    curve.say(t.plain("curve_label", { first: num(most, 3), last: num(points[points.length - 1], 3) }));
    curve.paint();
    fill(lead, t("intro", { n: strong(V), token: chip(id) }));
    const sum = Math.exp(likely.lse - most),
      power = (x) => (x < 0.00005 ? x.toExponential(1) : num(x, 4));
    const rows = [];
    let rest = sum;
    for (let i = 0; i < n; i++) {
      const e = Math.exp(logits[i] - most);
      rest -= e;
      const cells = [
        chip(ids[i], ids[i] === target ? "next" : ""),
        num(logits[i], 3),
        power(e),
        [percent(e / sum)].join(),
        bar(e / sum, "scores"),
      ];
      if (ids[i] === target) cells.mark = "mark";
      rows.push(cells);
    }
    rest = Math.max(0, rest);
    if (V > n)
      rows.push([t("others", { n: V - n }), "", power(rest), percent(rest / sum), bar(rest / sum, "scores")]);
    rows.push([strong(t("all")), "", num(sum, 4), "100%", ""]);
    fill(
      panel,
      table(
        t.plain("table"),
        [t("token"), t("score"), t("power"), t("chance"), h("span", { class: "unseen" }, t("chance"))],
        rows,
        "stretch",
      ),
    );
    const where =
      marked < 0
        ? t("came_far", { token: chip(target), n: ids.length })
        : marked === 0
          ? t("came_first", { token: chip(target), chance: percent(Math.exp(markedScore - likely.lse)) })
          : t("came", {
              token: chip(target),
              place: num(marked + 1),
              chance: percent(Math.exp(markedScore - likely.lse)),
            });
    fill(
      notice,
      h("p", null, where, " ", step < 0 ? t("of_prompt") : null),
      h("p", null, t("step", { score: num(1, 0), times: num(Math.E, 1) })),
    );
  };
}

// e^(score - log of the sum) is the chance that Python's softmax over all tokens gave.
function checks(data) {
  const summary = JSON.parse(document.getElementById("summary").textContent);
  let worst = 0;
  summary.steps.forEach((step, i) => {
    const likely = data.run.candidates[data.run.steps.indexOf(i)],
      ids = [...arr(likely.ids)],
      logits = arr(likely.logits);
    for (const [id, , p] of step.top)
      worst = Math.max(worst, Math.abs(Math.exp(logits[ids.indexOf(id)] - likely.lse) - p));
  });
  return [{ name: "chances_are_softmax", ok: worst < 1e-6, off: worst }];
}
