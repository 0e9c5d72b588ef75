function scene(data, state, el, t) {
  el.append(h("p", null, "game"));
}
