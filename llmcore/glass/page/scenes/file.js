function scene(data, state, el, t) {
  el.append(h("p", null, t("intro", {n: data.file.tensors})));
}
