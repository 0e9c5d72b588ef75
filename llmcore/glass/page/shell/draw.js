// Pictures on canvas, drawn again when their width or the colours of the page change.

const PICTURES = new Set();
const INKS = new Map(); // to ask the browser for a colour costs more than to draw with it

// A colour of page.css by name, as rgb numbers.
function ink(name) {
  if (!INKS.has(name)) INKS.set(name, computed(name));
  return INKS.get(name);
}

function computed(name) {
  const probe = document.getElementById("live");
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe)
    .color.match(/[\d.]+/g)
    .slice(0, 3)
    .map(Number);
  probe.style.color = "";
  return found;
}

// Between two colours, `share` of the way.
function mix(from, to, share) {
  return `rgb(${from.map((c, i) => Math.round(c + (to[i] - c) * share)).join(" ")})`;
}

// The colour of a number between -1 and 1: cool below 0, warm above; the stronger, the larger.
function tint(x) {
  return mix(ink("panel"), ink(x < 0 ? "cool" : "warm"), Math.min(1, Math.abs(x)));
}

// A canvas as wide as its place and `height` high (a number, or of its width); `paint(context, width, height)`.
function picture(label, height, paint) {
  const canvas = h("canvas", { class: "picture", role: "img", "aria-label": label });
  canvas.paint = () => {
    const width = canvas.clientWidth,
      high = typeof height === "function" ? height(width) : height;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${high}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(high * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    paint(context, width, high);
  };
  canvas.say = (text) => canvas.setAttribute("aria-label", text);
  PICTURES.add(canvas);
  requestAnimationFrame(canvas.paint);
  return canvas;
}

function repaint() {
  INKS.clear();
  for (const canvas of PICTURES) {
    if (canvas.isConnected) canvas.paint();
    else PICTURES.delete(canvas);
  }
}

// A horizontal bar: a share of the whole width, in a colour of page.css.
function bar(share, color = "accent") {
  return h(
    "span",
    { class: "bar", "aria-hidden": "true" },
    h("span", { css: { width: `${100 * Math.max(0, Math.min(1, share))}%`, background: `var(--${color})` } }),
  );
}
