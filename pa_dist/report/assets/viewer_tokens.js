// An action's tokens coloured by their advantage, and the line below the page that has the exact values of one.
const viewerTokens = (() => {
  const { make, show, plain, attributes, signed } = viewerText;
  const LEVELS = 7;
  // Tokens of a step that are put on the page at once: more wait for a button.
  const MOST = 4000;

  // The class that colours a value; a scale's worth or more is the strongest.
  function level(value, scale) {
    if (value === null) return "";
    const strength = Math.min(LEVELS, Math.round((Math.abs(value) / scale) * LEVELS));
    return strength === 0 ? "" : `${value < 0 ? "less" : "more"}-${strength}`;
  }

  // Each piece with its tokens: [{text, ids, first, policy: [...], reference: [...], value}], in nats.
  function piecesOf(step, beta) {
    const joined = new Map(step.joined);
    let first = 0;
    return step.pieces.map((text, place) => {
      const ids = joined.get(place) ?? null;
      const end = first + (ids?.length ?? 1);
      const [policy, reference] = [step.policy, step.reference].map((all) => all?.slice(first, end) ?? null);
      const values = policy?.map((p, i) => advantage(beta, p, reference?.[i] ?? null)).filter((v) => v !== null) ?? [];
      const value = values.length ? values.reduce((a, b) => a + b) / values.length : null;
      const piece = { text, ids, first, policy, reference, value };
      first = end;
      return piece;
    });
  }

  function advantage(beta, policy, reference) {
    return policy === null || reference === null ? null : (beta * (policy - reference)) / 1000;
  }

  // What is known of a piece, as words; of several tokens that share a character, of each.
  function told(step, piece, beta) {
    const each = (i) => {
      const [policy, reference] = [piece.policy?.[i] ?? null, piece.reference?.[i] ?? null];
      const numbers = [`policy ${signed(policy === null ? null : policy / 1000)}`];
      if (step.reference !== null) {
        numbers.unshift(`advantage ${signed(advantage(beta, policy, reference))}`);
        numbers.push(`reference ${signed(reference === null ? null : reference / 1000)}`);
      }
      return numbers.join(", ");
    };
    const total = step.policy?.length ?? 0;
    if (piece.ids === null) return `${each(0)} · token ${piece.first + 1} of ${total}, step ${step.number + 1}`;
    const tokens = piece.ids.map((id, i) => `${id}: ${each(i)}`).join("; ");
    return `${piece.ids.length} tokens that share characters: ${tokens} · from token ${piece.first + 1} of ${total}, step ${step.number + 1}`;
  }

  // The element that shows a step's tokens. `details` is told of the piece that is looked at.
  function draw(step, { beta, scale, details }) {
    const pieces = piecesOf(step, beta);
    const element = make("div", { className: "tokens", tabIndex: 0, dir: "auto" });
    attributes(element, { role: "group", "aria-label": `Tokens of step ${step.number + 1}; the arrow keys go from one to the next` });
    let shown = 0, chosen = -1;

    function more() {
      const next = pieces.slice(shown, shown + MOST);
      element.querySelector(":scope > .more-text")?.remove();
      element.append(...next.map((piece, i) => token(piece, shown + i)));
      shown += next.length;
      if (shown < pieces.length) {
        const button = make("button", { type: "button", className: "more-text" }, `… ${(pieces.length - shown).toLocaleString("en")} more`);
        button.addEventListener("click", more);
        element.append(button);
      }
    }

    function token(piece, place) {
      // The line break that sets an action off from what came before it is a token too, but no line to show.
      const text = place ? piece.text : piece.text.replace(/^\n/, "⏎");
      const span = show(make("span", { className: `token ${step.reference === null ? "" : level(piece.value, scale())}` }), text);
      if (piece.text === "") span.append(make("span", { className: "unseen-mark" }, "∅"));
      span.dataset.place = place;
      return span;
    }

    function look(place) {
      element.querySelector(".looked-at")?.classList.remove("looked-at");
      element.querySelector(`[data-place="${place}"]`)?.classList.add("looked-at");
      details(pieces[place].text, told(step, pieces[place], beta));
    }

    function placeOf(event) {
      const found = event.target.closest?.("[data-place]");
      return found ? Number(found.dataset.place) : null;
    }

    element.addEventListener("pointerover", (event) => {
      const place = placeOf(event);
      if (place === null) return;
      const span = event.target.closest("[data-place]");
      span.title ||= `${plain(pieces[place].text)}\n${told(step, pieces[place], beta)}`;
      look(place);
    });
    element.addEventListener("click", (event) => {
      const place = placeOf(event);
      if (place !== null) look((chosen = place));
    });
    element.addEventListener("focus", () => pieces.length && look((chosen = Math.max(chosen, 0))));
    element.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move || event.target !== element) return;
      event.preventDefault();
      event.stopPropagation();
      chosen = Math.max(0, Math.min(shown - 1, chosen + move));
      look(chosen);
      element.querySelector(".looked-at").scrollIntoView({ block: "nearest" });
    });
    more();
    // Another scale: only the colours change.
    element.recolour = () => {
      for (const span of element.querySelectorAll("[data-place]")) {
        const seen = span.classList.contains("looked-at") ? " looked-at" : "";
        span.className = `token ${step.reference === null ? "" : level(pieces[span.dataset.place].value, scale())}${seen}`;
      }
    };
    return element;
  }

  return { draw, level, LEVELS };
})();
