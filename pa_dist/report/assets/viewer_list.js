// The list of trajectories: filters, columns that sort, a page of rows at a time.
const viewerList = (() => {
  const { make, quote, attributes, plain, signed } = viewerText;
  const ROWS = 100;
  const at = (id) => document.getElementById(id);
  const names = new Intl.Collator("en", { numeric: true });
  // It opens with the lowest scores first, as `top` lists them.
  const state = { sort: "score", descending: false, page: 0, column: null };
  let index = null;
  let order = [];
  const ranks = new Map();

  // Places of texts in alphabetical order, found once a column: comparing numbers is what keeps sorting quick.
  function rank(key, texts) {
    if (!ranks.has(key)) {
      const distinct = [...new Set(texts.filter((text) => text !== null))].sort(names.compare);
      const places = new Map(distinct.map((text, place) => [text, place]));
      ranks.set(key, texts.map((text) => (text === null ? null : places.get(text))));
    }
    return ranks.get(key);
  }

  // Of each column: its head, what it sorts by, and its cell.
  const columns = new Map(Object.entries({
    id: {
      head: "Trajectory",
      values: () => rank("id", index.id),
      cell: (place) => {
        const link = make("a", { href: viewerLink.to(index.id[place]) }, quote(index.id[place]));
        return [link, make("div", { className: "about" }, quote(index.abouts[index.about[place]])),
          make("div", { className: "narrow facts-line" }, ...line(place))];
      },
    },
    domain: {
      head: "Domain",
      wide: true,
      values: () => rank("domain", index.group.map((group) => index.names[group] || null)),
      cell: (place) => [quote(index.names[index.group[place]])],
    },
    task: { head: "Task", wide: true, values: () => rank("task", index.task), cell: (place) => [quote(index.task[place])] },
    trial: { head: "Trial", wide: true, values: () => index.trial, cell: trialCell },
    outcome: {
      head: "Outcome",
      values: () => index.success.map((success, place) => (success === null ? null : success + (index.reward[place] ?? 0))),
      cell: (place) => [outcome(place)],
    },
    score: {
      head: "Score",
      number: true,
      values: () => index.scores[state.column],
      cell: (place) => [signed(index.scores[state.column][place])],
    },
    steps: { head: "Steps", wide: true, number: true, values: () => index.n_steps, cell: (place) => [steps(place)] },
    suspicious: { head: "Most suspicious step", wide: true, values: () => index.suspicious, cell: suspiciousCell },
  }));

  function trialCell(place) {
    const trial = index.trial[place] === null ? "" : String(index.trial[place]);
    return index.chosen[place] ? [trial, " ", make("span", { className: "chosen", title: "chosen by best-of-N" }, "★ chosen")] : [trial];
  }

  function line(place) {
    const trial = index.trial[place] === null ? [] : [`trial ${index.trial[place]}`];
    const domain = index.names[index.group[place]];
    const suspicious = index.suspicious[place] === null ? [] : [`most suspicious: step ${index.suspicious[place]}`];
    const parts = [...(domain ? [quote(domain)] : []), ...(index.task[place] === null ? [] : [quote(index.task[place])]),
      ...trial, `steps: ${steps(place)}`, ...suspicious, ...(index.chosen[place] ? ["★ chosen"] : [])];
    return parts.flatMap((part, i) => (i ? [" · ", part] : [part]));
  }

  function outcome(place) {
    const name = viewerData.outcome(index, place);
    const badge = make("span", { className: `outcome ${name}` }, { success: "✓ ", failure: "✗ ", unknown: "? " }[name] + name);
    const reward = index.reward[place];
    if (reward === null || reward === 0 || reward === 1) return badge;
    return make("span", {}, badge, ` ${Number(reward.toPrecision(4))}`);
  }

  // All of them, and how many have an advantage where that is not all.
  function steps(place) {
    const [all, scored] = [index.n_steps[place], index.n_scored_steps[place]];
    return scored === all ? String(all) : `${all}, ${scored} scored`;
  }

  // Empty where no step is below zero; a label stands there in any case.
  function suspiciousCell(place) {
    const [step, label, message] = [index.suspicious[place], index.labelled[place], index.mistake_step[place]];
    const parts = step === null ? [] : [`${step} of ${index.n_steps[place]}`];
    if (label !== null) parts.push(`labelled: ${label}${step === null ? "" : label === step ? " ✓" : " ✗"}`);
    else if (message !== null) parts.push(`labelled: message ${message}, no step`);
    return [parts.join("; ")];
  }

  function open(loaded) {
    index = loaded;
    for (const [code, name] of index.names.entries()) at("filter-domain").append(new Option(plain(name || "none"), String(code)));
    const scores = Object.keys(index.scores);
    for (const name of scores) at("filter-column").append(new Option(name.replaceAll("__", ", ").replaceAll("_", " "), name));
    state.column = scores[0];
    for (const [key, column] of columns) {
      const button = make("button", { type: "button" }, column.head, attributes(make("span", { className: "arrow" }), { "aria-hidden": "true" }));
      button.addEventListener("click", () => sortBy(key, state.sort === key && !state.descending));
      const head = make("th", { scope: "col", className: column.wide ? "only-wide" : "" }, button);
      head.dataset.key = key;
      at("list-head").append(head);
      at("filter-sort").append(new Option(column.head, key), new Option(`${column.head}, descending`, `${key} descending`));
    }
    at("list-note").textContent = note();
    listen();
    update();
  }

  function note() {
    const left = index.total - index.size;
    const parts = [];
    if (left) {
      parts.push(`This page holds ${index.size.toLocaleString("en")} of ${index.total.toLocaleString("en")} trajectories: ` +
        `whole tasks drawn at random, ${index.tasks_left_out.toLocaleString("en")} tasks are left out.`);
    }
    if (index.run.rejected) parts.push(`${index.run.rejected.toLocaleString("en")} more were rejected; the table rejects says why.`);
    if (index.run.truncated) parts.push(`Of the run, ${index.run.truncated}.`);
    parts.push("The most suspicious step is the one of lowest advantage (predictor sharpest_drop); empty where none is below zero. " +
      "Steps are a trajectory's actions, counted from 1.");
    return parts.join(" ");
  }

  function listen() {
    const form = at("filters");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      if (event.target === at("filter-sort")) {
        const [key, descending] = at("filter-sort").value.split(" ");
        sortBy(key, Boolean(descending));
      } else {
        state.column = at("filter-column").value;
        state.page = 0;
        update();
      }
    });
    form.addEventListener("reset", () => setTimeout(() => {
      Object.assign(state, { column: at("filter-column").value, sort: "score", descending: false, page: 0 });
      update();
    }));
    at("page-before").addEventListener("click", () => turn(-1));
    at("page-after").addEventListener("click", () => turn(1));
  }

  function sortBy(key, descending) {
    Object.assign(state, { sort: key, descending, page: 0 });
    update();
  }

  function turn(pages) {
    state.page += pages;
    render();
    at("list-heading").focus();
    scrollTo(0, 0);
  }

  // Filter and sort, then show the page.
  function update() {
    const words = at("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = { "": undefined, success: true, failure: false, unknown: null }[at("filter-outcome").value];
    const group = at("filter-domain").value === "" ? null : Number(at("filter-domain").value);
    const [low, high] = ["filter-low", "filter-high"].map((id) => (at(id).value === "" ? null : Number(at(id).value)));
    const scores = index.scores[state.column];
    order = [];
    for (let place = 0; place < index.size; place++) {
      if (wanted !== undefined && index.success[place] !== wanted) continue;
      if (group !== null && index.group[place] !== group) continue;
      if (low !== null && !(scores[place] !== null && scores[place] >= low)) continue;
      if (high !== null && !(scores[place] !== null && scores[place] <= high)) continue;
      if (words.length && !words.every((word) => index.words[place].includes(word))) continue;
      order.push(place);
    }
    const values = columns.get(state.sort).values();
    const sign = state.descending ? -1 : 1;
    order.sort((a, b) => {
      const x = values[a], y = values[b];
      if (x === y) return a - b;
      if (x === null || y === null) return x === null ? 1 : -1;
      return sign * (x - y);
    });
    at("list-count").textContent = order.length === index.size
      ? `${index.size.toLocaleString("en")} trajectories`
      : `${order.length.toLocaleString("en")} of ${index.size.toLocaleString("en")} trajectories`;
    render();
  }

  function render() {
    for (const head of at("list-head").children) {
      const sorted = head.dataset.key === state.sort;
      if (sorted) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.querySelector(".arrow").textContent = sorted ? (state.descending ? " ▼" : " ▲") : "";
    }
    at("filter-sort").value = state.descending ? `${state.sort} descending` : state.sort;
    const from = state.page * ROWS;
    at("list-rows").replaceChildren(...order.slice(from, from + ROWS).map(tableRow));
    const last = Math.min(from + ROWS, order.length);
    at("page-now").textContent = order.length ? `${(from + 1).toLocaleString("en")} to ${last.toLocaleString("en")}` : "none";
    at("page-before").disabled = from === 0;
    at("page-after").disabled = last >= order.length;
  }

  function tableRow(place) {
    const cells = [...columns].map(([key, column]) => {
      const classes = `${column.wide ? "only-wide " : ""}${column.number ? "number" : ""}`;
      const cell = key === "id" ? make("th", { scope: "row" }) : make("td", { className: classes });
      cell.append(...column.cell(place));
      return cell;
    });
    return make("tr", {}, ...cells);
  }

  // The trajectory that is so many rows away in the list as it is filtered and sorted; undefined beyond its ends.
  function neighbour(place, distance) {
    const row = order.indexOf(place);
    return row < 0 ? (place + distance in index.id ? place + distance : undefined) : order[row + distance];
  }

  function position(place) {
    const row = order.indexOf(place);
    return row < 0 ? "not in the list as it is filtered" : `${(row + 1).toLocaleString("en")} of ${order.length.toLocaleString("en")}`;
  }

  // Show the list; at the trajectory that was open, where there was one.
  function show(place = null) {
    const row = place === null ? -1 : order.indexOf(place);
    if (row >= 0 && Math.floor(row / ROWS) !== state.page) {
      state.page = Math.floor(row / ROWS);
      render();
    }
    const link = row < 0 ? null : at("list-rows").children[row % ROWS]?.querySelector("a");
    (link ?? at("list-heading")).focus();
  }

  return { open, show, neighbour, position, outcome, column: () => state.column };
})();
