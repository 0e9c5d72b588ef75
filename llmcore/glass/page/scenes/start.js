function scene(data, state, el, t) {
  const text = h("p", {class: "lead"}), line = h("p");
  el.append(h("h1", {id: "start-title", tabindex: -1}, t("heading", {model: visible(data.run.model)})), line, text);
  return () => {
    const {target} = here();
    fill(text, t("does", {n: strong(data.run.prompt), token: chip(target)}));
  };
}
