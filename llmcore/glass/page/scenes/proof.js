function scene(data, state, el, t) {
  const list = h("ul", { class: "checks" });
  el.append(
    h("p", { class: "lead" }, t("intro")),
    h("div", { class: "panel" }, list),
    data.proof.version ? h("p", { class: "small" }, t("made", { version: data.proof.version })) : null,
  );
  return () =>
    fill(
      list,
      RESULTS.map(({ scene, name, ok, off, values }) =>
        h(
          "li",
          { class: ok ? "ok" : "failed" },
          h(
            "span",
            { class: "tick", role: "img", "aria-label": t.plain(ok ? "holds" : "fails") },
            ok ? "✓" : "✗",
          ),
          h("span", null, textsOf(scene)(`check_${name}`, values || {})),
          h(
            "span",
            { class: "off" },
            off === null || off === undefined
              ? t(name === "same_as_unwatched" ? "when_made" : "to_the_bit")
              : typeof off === "number"
                ? t("off", { off: off.toExponential(1) })
                : off,
          ),
        ),
      ),
    );
}
