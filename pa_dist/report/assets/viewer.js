// What the viewer shows follows the address; keys and links change the address.
(() => {
  const { make, show, plain, attributes, signed } = viewerText;
  const at = (id) => document.getElementById(id);
  const title = document.title;
  let index = null;
  let open = null; // {place, other, columns: [conversation, perhaps a second]}
  let asked = 0;
  let zoom = 1;

  async function follow() {
    const link = viewerLink.read(location.hash);
    const turn = ++asked;
    if (link.view === null) {
      document.title = title;
      return;
    }
    try {
      const loaded = await viewerData.load();
      if (index === null) viewerList.open((index = loaded));
      if (turn === asked) await (link.view === "list" ? showList() : showTrajectory(link, turn));
    } catch (error) {
      if (turn === asked) trouble(error.message);
    }
  }

  function trouble(text) {
    at("viewer-trouble").hidden = text === null;
    at("viewer-trouble").replaceChildren();
    if (text !== null) show(at("viewer-trouble"), text);
  }

  function swap(view) {
    trouble(null);
    at("viewer-list").hidden = view !== "list";
    at("viewer-trajectory").hidden = view !== "trajectory";
  }

  function showList() {
    swap("list");
    document.title = `Trajectories – ${title}`;
    viewerList.show(open?.place ?? null);
    close();
  }

  function close() {
    open?.columns.forEach((column) => column.close());
    open = null;
    at("viewer-trajectory").replaceChildren();
  }

  async function showTrajectory(link, turn) {
    const places = [link.id, link.other].filter((id) => id !== null).map((id) => index.places.get(id));
    if (places.includes(undefined)) {
      close();
      swap(null);
      const missing = places[0] === undefined ? link.id : link.other;
      throw new Error(`This page holds no trajectory ${JSON.stringify(missing)}` +
        (index.total > index.size ? "; it has some of the run's tasks only." : "."));
    }
    if (open?.place === places[0] && open.other === (places[1] ?? null)) return arrive(link);
    const rows = await Promise.all(places.map((place) => viewerData.trajectory(index, place)));
    if (turn !== asked) return undefined;
    close();
    swap("trajectory");
    draw(places, rows);
    document.title = `${plain(link.id)} – ${title}`;
    return arrive(link);
  }

  // Go to what a link asks for, a step or a message, or else to the most suspicious step, or to the top.
  function arrive({ step, message }) {
    trouble(null);
    const [column] = open.columns;
    const { steps, messages } = column.row;
    const number = step !== null ? step - 1 : steps.findIndex((one) => one.at === message);
    if (steps[number]) return goTo(number);
    if (message !== null && messages[message]) return column.goToMessage(message);
    const suspicious = step === null && message === null && open.other === null ? index.suspicious[open.place] : null;
    if (suspicious !== null) return goTo(suspicious - 1);
    scrollTo(0, 0);
    column.heading.focus({ preventScroll: true });
    if (step !== null) trouble(`There is no step ${step} here, of ${steps.length}. Links made before steps were counted from 1 name a message instead.`);
    else if (message !== null) trouble(`There is no message ${message} here, of ${messages.length}.`);
    return undefined;
  }

  function draw(places, rows) {
    const [place, other = null] = places;
    const root = at("viewer-trajectory");
    const details = detailsLine();
    const columns = rows.map((row, i) => viewerConversation.draw({
      index, row, place: places[i], details: details.tell, heading: rows.length > 1 ? "h3" : "h2",
      scale: () => index.run.scale * zoom,
      onStep: (number) => (i ? columns[i].goTo(number) : goTo(number)),
      linkTo: (where) => viewerLink.to(index.id[places[i]], { ...where, other: i ? null : idOf(other) }),
    }));
    open = { place, other, columns };
    const heading = rows.length > 1 ? make("h2", {}, "Two trials side by side") : columns[0].heading;
    root.replaceChildren(bar(place), heading, viewerTrials.draw(index, place, other), legend(columns),
      make("div", { className: `columns of-${columns.length}` }, ...columns.map((column) => column.element)), details.element);
  }

  function idOf(place) {
    return place === null ? null : index.id[place];
  }

  function bar(place) {
    const to = (text, distance) => {
      const next = viewerList.neighbour(place, distance);
      if (next === undefined) return make("span", { className: "off" }, text);
      return make("a", { href: viewerLink.to(index.id[next]) }, text);
    };
    const nav = make("nav", { className: "bar" }, make("a", { href: viewerLink.LIST }, "‹ All trajectories"),
      to("Before", -1), to("Next ›", 1), make("span", { className: "note" }, viewerList.position(place)));
    return attributes(nav, { "aria-label": "Trajectories before and after" });
  }

  function legend(columns) {
    const swatches = make("span", { className: "swatches" });
    for (let level = -viewerTokens.LEVELS; level <= viewerTokens.LEVELS; level++) {
      swatches.append(make("span", { className: level ? `${level < 0 ? "less" : "more"}-${Math.abs(level)}` : "" }));
    }
    const least = make("span"), most = make("span");
    const choice = make("select");
    for (const factor of [0.25, 0.5, 1, 2, 4, 10]) {
      const option = new Option(`±${Number((index.run.scale * factor).toPrecision(3))}`, String(factor));
      option.selected = factor === zoom;
      choice.append(option);
    }
    const name = () => {
      least.textContent = `${signed(-index.run.scale * zoom, 2)} or less`;
      most.textContent = `${signed(index.run.scale * zoom, 2)} or more`;
    };
    choice.addEventListener("change", () => {
      zoom = Number(choice.value);
      name();
      columns.forEach((column) => column.recolour());
    });
    name();
    const beta = index.run.beta === 1 ? "" : `${index.run.beta} × `;
    return make("div", { className: "legend" },
      make("span", {}, `Advantage: ${beta}(policy − reference) log-prob, nats. `),
      make("span", { className: "scale" }, least, swatches, most), make("label", {}, "Colours reach ", choice));
  }

  // The line that has a token's exact values, whether it was pointed at, tapped or reached by keys.
  function detailsLine() {
    const text = make("span", { className: "details-text", dir: "auto" }), numbers = make("span");
    const element = attributes(make("div", { className: "details", hidden: true }, text, numbers), { role: "status" });
    return {
      element,
      tell: (token, told) => {
        element.hidden = false;
        text.replaceChildren();
        const cut = token.length > 80 ? `${token.slice(0, 80)}…` : token;
        show(text, cut.replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(nothing)");
        numbers.textContent = told;
      },
    };
  }

  // Go to a step, and put it into the address without a new entry of the history.
  function goTo(number) {
    const [column] = open.columns;
    column.goTo(number);
    history.replaceState(history.state, "", viewerLink.to(index.id[open.place], { step: number + 1, other: idOf(open.other) }));
  }

  function byStep(distance) {
    const [column] = open.columns;
    const now = column.current();
    const next = now === null ? (distance > 0 ? 0 : -1) : now + distance;
    if (column.row.steps[next]) goTo(next);
  }

  function byTrajectory(distance) {
    const next = viewerList.neighbour(open.place, distance);
    if (next !== undefined) location.hash = viewerLink.to(index.id[next]);
  }

  function search() {
    if (location.hash !== viewerLink.LIST) {
      history.pushState(null, "", viewerLink.LIST);
      dispatchEvent(new HashChangeEvent("hashchange"));
    }
    at("filter-text").focus();
  }

  function escape() {
    const tokens = document.activeElement?.closest(".tokens");
    if (tokens) tokens.closest("article").focus({ preventScroll: true });
    else location.hash = viewerLink.LIST;
  }

  const inTrajectory = {
    j: () => byStep(1), ArrowRight: () => byStep(1), k: () => byStep(-1), ArrowLeft: () => byStep(-1),
    n: () => byTrajectory(1), p: () => byTrajectory(-1), t: () => open.columns[0].tokens()?.focus(),
  };
  const anywhere = { Escape: escape, "/": search, "?": () => at("keys").showModal() };

  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (typing && event.key === "Escape") typing.blur();
    if (typing || at("viewer").hidden || at("keys").open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow") && event.target.closest?.("summary, [role=region]")) return; // which it scrolls
    const act = (open && inTrajectory[event.key]) || (index && anywhere[event.key]);
    if (!act) return;
    event.preventDefault();
    act();
  });
  at("keys-show").addEventListener("click", () => at("keys").showModal());
  addEventListener("hashchange", follow);
  follow();
})();
