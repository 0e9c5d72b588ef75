// What the reader looks at: t, the row of the token followed; layer; head; rather, whether votes count for the
// next token alone or for it rather than the runner-up. All of it stands in the URL's fragment.

const state = { t: 0, layer: 0, head: 0, rather: true };
const LISTENERS = [];

function whenChanged(update) {
  LISTENERS.push(update);
}

// Keep the token and the layer within what there is.
function within(found) {
  found.t = Math.max(0, Math.min(ROWS.length - 1, found.t));
  found.layer = Math.max(0, Math.min(DATA.run.layers - 1, found.layer));
}

// Change some of the state; all that is on the page follows.
function go(change) {
  const before = { ...state };
  Object.assign(state, change);
  within(state);
  if (Object.keys(state).every((key) => state[key] === before[key])) return;
  writeFragment();
  for (const update of LISTENERS) update(state, before);
}

function writeFragment() {
  const rather = state.rather ? 1 : 0;
  const text = `#t=${ROWS[state.t]}&layer=${state.layer}&head=${state.head}&rather=${rather}`;
  if (location.hash !== text) history.replaceState(null, "", text);
}

function readFragment() {
  const found = new URLSearchParams(location.hash.slice(1)),
    change = {};
  const whole = (name) => (/^\d{1,6}$/.test(found.get(name) || "") ? Number(found.get(name)) : null);
  const position = whole("t");
  if (position !== null && ROWS.indexOf(position) >= 0) change.t = ROWS.indexOf(position);
  for (const name of ["layer", "head"]) if (whole(name) !== null) change[name] = whole(name);
  if (whole("rather") !== null) change.rather = whole("rather") === 1;
  return change;
}

// Of the token followed: its position and id, the token that came next, its best rival, and the step (or -1).
function here() {
  const row = state.t;
  return {
    row,
    position: ROWS[row],
    id: IDS[ROWS[row]],
    target: arr(DATA.run.targets)[row],
    other: arr(DATA.run.others)[row],
    step: DATA.run.steps[row],
  };
}

// The switch between "for" and "for ... rather than ...", the same wherever it stands.
function ratherSwitch() {
  const el = h("div");
  const draw = () => {
    const { target, other } = here();
    fill(
      el,
      pills(
        TEXT.page.plain("votes_for"),
        [
          { value: false, label: TEXT.page("for", { token: chip(target) }) },
          { value: true, label: TEXT.page("rather", { token: chip(target), other: chip(other) }) },
        ],
        state.rather,
        (rather) => go({ rather }),
      ),
    );
  };
  whenChanged(draw);
  draw();
  return el;
}
