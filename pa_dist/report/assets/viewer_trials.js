// The other trials of a trajectory's task: how each ended, which one best-of-N takes, and two of them side by side.
const viewerTrials = (() => {
  const { make, quote, attributes, signed } = viewerText;

  function draw(index, place, other) {
    const places = viewerData.siblings(index, place);
    if (places.length < 2) return make("div");
    const column = viewerList.column();
    const rows = places.map((one) => {
      const name = index.trial[one] === null ? quote(index.id[one]) : `trial ${index.trial[one]}`;
      const link = make("a", { href: viewerLink.to(index.id[one]) }, name);
      if (one === place) link.setAttribute("aria-current", "true");
      return make("tr", { className: one === place ? "is-current" : one === other ? "is-other" : "" },
        make("th", { scope: "row" }, link, index.chosen[one] ? make("span", { className: "chosen" }, " ★ chosen") : ""),
        make("td", {}, viewerList.outcome(one)),
        make("td", { className: "number" }, signed(index.scores[column][one], 4)),
        make("td", { className: "number only-wide" }, String(index.n_steps[one])),
        make("td", {}, one === place ? "" : compareLink(index, place, one, other)));
    });
    const head = ["Trial", "Outcome", "Score", "Steps", "Compare"].map((name, i) =>
      make("th", { scope: "col", className: ["", "", "number", "number only-wide", ""][i] }, name));
    const table = make("table", {}, make("caption", { className: "unseen" }, "Trials of this task"),
      make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
    const summary = make("summary", {}, `${places.length} trials of this task`);
    const area = attributes(make("div", { className: "trials-rows", tabIndex: 0 }, table), { role: "region", "aria-label": "Trials of this task" });
    return make("details", { className: "trials", open: true }, summary, area);
  }

  function compareLink(index, place, one, other) {
    const shown = one === other;
    const link = make("a", { href: viewerLink.to(index.id[place], { other: shown ? null : index.id[one] }) }, shown ? "close" : "beside");
    attributes(link, { "aria-label": `${shown ? "close" : "show beside this one"}: ${viewerText.plain(index.id[one])}` });
    return link;
  }

  return { draw };
})();
