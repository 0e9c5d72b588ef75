function scene(data, state, el, t) {
  const rounds = data.game.rounds,
    chosen = rounds.map(() => null);
  const text = h("p", { class: "sofar" }),
    options = h("div", { class: "pills", role: "group", "aria-label": t.plain("options") });
  const told = h("div", { "aria-live": "polite" }),
    steps = h("div", { class: "row" });
  let at = 0;
  el.append(h("p", { class: "lead" }, t("intro")), h("div", { class: "panel" }, text, options, told, steps));

  function answer(id) {
    chosen[at] = id;
    draw();
    steps.querySelector("button:last-of-type").focus({ preventScroll: true });
  }

  function draw() {
    const round = rounds[at],
      likely = data.run.candidates[round.row];
    const ids = [...arr(likely.ids)],
      logits = arr(likely.logits),
      came = arr(data.run.targets)[round.row];
    const chance = (id) => (ids.indexOf(id) < 0 ? null : Math.exp(logits[ids.indexOf(id)] - likely.lse));
    const before = [...COLUMNS].filter((p) => p <= ROWS[round.row]);
    fill(
      text,
      before.slice(-24).map((p) => [chipAt(p), " "]),
      h("span", { class: "chip next" }, "?"),
    );
    fill(
      options,
      round.ids.map((id) =>
        h(
          "button",
          {
            type: "button",
            disabled: chosen[at] !== null,
            "aria-pressed": String(chosen[at] === id),
            onclick: () => answer(id),
          },
          chip(id),
        ),
      ),
    );
    if (chosen[at] === null) fill(told, h("p", { class: "small" }, t("ask")));
    else {
      const ranked = [...round.ids].sort((a, b) => (chance(b) ?? 0) - (chance(a) ?? 0)),
        most = chance(round.best);
      fill(
        told,
        h(
          "p",
          null,
          chosen[at] === round.best
            ? t("agreed", { token: chip(round.best), chance: percent(most) })
            : t("differed", { token: chip(round.best), chance: percent(most), yours: chip(chosen[at]) }),
          " ",
          came === round.best
            ? t("came_too")
            : t("came", {
                token: chip(came),
                place: num(ids.indexOf(came) + 1),
                where:
                  ids.indexOf(came) < 0
                    ? t("far", { n: ids.length })
                    : t("place", { place: num(ids.indexOf(came) + 1) }),
              }),
        ),
        h(
          "div",
          { class: "bars" },
          ranked.map((id) => [
            chip(id, id === came ? "next" : ""),
            bar((chance(id) ?? 0) / most, "scores"),
            h(
              "span",
              null,
              chance(id) === null
                ? t("below", { p: percent(chance(ids[ids.length - 1])) })
                : percent(chance(id)),
            ),
          ]),
        ),
      );
    }
    const done = chosen.filter((id) => id !== null).length,
      agreed = chosen.filter((id, i) => id === rounds[i].best).length;
    fill(
      steps,
      h(
        "span",
        { class: "small" },
        t("round", { i: num(at + 1), of: num(rounds.length) }),
        done ? [" ", t("tally", { agreed: num(agreed), n: done })] : null,
      ),
      at > 0
        ? button(
            t("before"),
            () => {
              at -= 1;
              draw();
            },
            "pill",
          )
        : null,
      at + 1 < rounds.length
        ? button(
            t("next"),
            () => {
              at += 1;
              draw();
            },
            "pill",
          )
        : button(t("down"), () => jump("start"), "pill"),
    );
  }
  draw();
}
