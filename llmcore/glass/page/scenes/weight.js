const ROLES = { q: "accent", scale: "ffn", scale_step: "ffn", offset: "embedding", offset_step: "embedding" };

function scene(data, state, el, t) {
  const blocks = data.weight.blocks;
  const lead = h("p", { class: "lead" }),
    choice = h("div"),
    body = h("div");
  el.append(lead, choice, body);
  let shown = 0;
  const draw = () => {
    if (blocks.length > 1) {
      fill(
        choice,
        pills(
          t.plain("types"),
          blocks.map((block, i) => ({
            value: i,
            label: [block.type, h("span", { class: "share" }, ` ${percent(block.share)}`)],
          })),
          shown,
          (i) => {
            shown = i;
            draw();
            choice.querySelectorAll("button")[i].focus({ preventScroll: true });
          },
        ),
      );
    }
    fill(body, blocks[shown].bytes ? packed(blocks[shown]) : plain(blocks[shown]));
  };

  // A block whose weights share scales.
  function packed(block) {
    const values = arr(block.values),
      n = values.length,
      groups = n / block.group,
      bits = [],
      wide = n > 64;
    const formula = h("p", { class: "formula", "aria-live": "polite" }),
      unitLine = h("p", { class: "small" });
    let chosen = 0;
    const fields = block.fields.map(([name, at, size]) =>
      h(
        "div",
        { class: "field" },
        h("div", { class: "small" }, `${name}, `, t("n_bytes", { n: size })),
        h(
          "div",
          { class: `bits ${wide ? "tiny" : ""}`, "aria-hidden": "true" },
          block.bytes.slice(at, at + size).map((byte, i) =>
            h(
              "span",
              null,
              [...byte.toString(2).padStart(8, "0")].map((bit, j) => {
                bits[8 * (at + i) + j] = h("i", null, wide ? "" : bit);
                if (wide && bit === "1") bits[8 * (at + i) + j].classList.add("one");
                return bits[8 * (at + i) + j];
              }),
            ),
          ),
        ),
      ),
    );
    const most = values.reduce((big, x) => Math.max(big, Math.abs(x)), 0) || 1;
    const cells = [...values].map((value, i) =>
      h(
        "span",
        { class: "cell", onpointerenter: () => point(i), onclick: () => point(i) },
        wide ? "" : num(value, 4),
      ),
    );
    const grid = h("div", { class: wide ? "cells wide" : "cells" }, cells);
    arrowsOn(grid, t.plain("weights_of", { n }), n - 1, (dx, dy) =>
      point(Math.max(0, Math.min(n - 1, chosen + dx + dy * (wide ? 32 : 8)))),
    );
    const shade = () =>
      wide &&
      cells.forEach((cell, i) => {
        cell.style.background = tint(values[i] / most);
      });

    function point(i) {
      cells[chosen].classList.remove("on");
      chosen = i;
      cells[i].classList.add("on");
      const group = Math.floor(i / block.group);
      bits.forEach((bit, at) => {
        const found = block.bits[at].find(
          ([name, ...where]) => where.length === 0 || where.includes(name === "q" ? i : group),
        );
        bit.style.background = found ? `var(--${ROLES[found[0]]})` : "";
        bit.classList.toggle("lit", Boolean(found));
      });
      const colored = (name, kid) => h("b", { css: { color: `var(--${ROLES[name]})` } }, kid);
      const part = (name) => {
        const unit = arr(block[name].unit)[0],
          steps = block[name].steps;
        const size = number(name === "offset" ? Math.abs(unit) : unit);
        return colored(name, steps ? `(${size} × ${arr(steps)[group]})` : size);
      };
      const offset = block.offset ? [arr(block.offset.unit)[0] < 0 ? " - " : " + ", part("offset")] : null;
      fill(
        formula,
        t("weight", { i: strong(i) }),
        " = ",
        colored("q", String(block.q[i])),
        " × ",
        part("scale"),
        offset,
        " = ",
        strong(number(values[i])),
      );
      grid.at(i, `${i}: ${number(values[i])}`);
    }
    const stepped = block.scale.steps;
    fill(
      unitLine,
      stepped
        ? t("steps", { groups, group: block.group })
        : block.offset
          ? t("shared_both", { n })
          : t("shared", { n }),
    );
    point(0);
    requestAnimationFrame(shade);
    grid.shade = shade;
    PICTURES.add(Object.defineProperty(grid, "paint", { value: shade }));
    fill(lead, t("packed", { bytes: strong(block.bytes.length), n, bits: strong(short(block.bits_each)) }));
    return [
      h(
        "div",
        { class: "panel" },
        h("div", { class: "fields" }, fields),
        formula,
        unitLine,
        grid,
        h(
          "p",
          { class: "small" },
          t("where", {
            tensor: h("code", null, visible(block.tensor)),
            type: block.type,
            from: num(block.start),
            to: num(block.start + block.bytes.length - 1),
          }),
          " ",
          t("turned"),
        ),
      ),
    ];
  }

  // Numbers that stand for themselves: sign, exponent, fraction.
  function plain(block) {
    const first = block.values[0];
    const rows = block.values.map((one) => {
      const e = one.bits.length - 1 - one.width;
      const part = (from, to, role) =>
        [...one.bits.slice(from, to)].map((bit) =>
          h("i", { class: "lit", css: { background: `var(--${role})` } }, bit),
        );
      const special = one.exponent === 0 || one.exponent === 2 ** e - 1;
      const power = one.exponent - one.bias;
      return h(
        "li",
        null,
        h(
          "div",
          { class: "bits", "aria-hidden": "true" },
          h("span", null, part(0, 1, "bad")),
          h("span", null, part(1, 1 + e, "ffn")),
          h("span", null, part(1 + e, one.bits.length, "accent")),
        ),
        h(
          "div",
          { class: "formula" },
          one.sign ? "-" : "+",
          special
            ? null
            : [" 2", h("sup", null, String(power)), ` × ${num(1 + one.fraction / 2 ** one.width, 6)}`],
          special ? " " : " = ",
          strong(one.value),
        ),
      );
    });
    fill(lead, t("plain", { type: block.type, bits: strong(first.bits.length) }));
    return [
      h(
        "div",
        { class: "panel" },
        h(
          "ul",
          { class: "legend" },
          ["bad", "ffn", "accent"].map((role, i) =>
            h(
              "li",
              null,
              h("span", { class: "swatch", css: { background: `var(--${role})` } }),
              t(["sign", "exponent", "fraction"][i]),
            ),
          ),
        ),
        h("ul", { class: "floats" }, rows),
        h(
          "p",
          { class: "small" },
          t("floats", { tensor: h("code", null, visible(block.tensor)), bias: String(first.bias) }),
        ),
      ),
    ];
  }

  const number = (x) =>
    x === 0 ? "0" : Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5 ? x.toExponential(3) : num(x, 6);
  draw();
}

// q x scale + offset in float32, as the engine does it, is each weight to the last bit.
function checks(data) {
  let n = 0,
    wrong = 0;
  for (const block of data.weight.blocks) {
    if (!block.bytes) continue;
    const product = (scales, group) =>
      scales.steps ? Math.fround(arr(scales.unit)[0] * arr(scales.steps)[group]) : arr(scales.unit)[0];
    arr(block.values).forEach((value, i) => {
      const group = Math.floor(i / block.group);
      let weight = Math.fround(block.q[i] * product(block.scale, group));
      if (block.offset) weight = Math.fround(weight + product(block.offset, group));
      n += 1;
      wrong += weight === value ? 0 : 1;
    });
  }
  return n ? [{ name: "blocks_to_the_last_bit", ok: wrong === 0, off: null, values: { n } }] : [];
}
