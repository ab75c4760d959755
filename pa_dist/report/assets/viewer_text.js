// What trajectories say reaches the page through this file alone, and only ever as text nodes and attributes of text.
const viewerText = (() => {
  // Control characters, halves of characters, marks that change the direction of what follows, and invisible ones.
  const unseen =
    /(?![\t\n])[\p{Cc}\p{Cs}\p{Bidi_Control}\u00ad\u200b\u2028\u2029\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

  function mark(character) {
    const code = character.codePointAt(0);
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return code === 0x7f ? "\u2421" : `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  }

  // A text for an attribute or an option, where marks cannot be styled.
  function plain(text) {
    return text.replace(unseen, mark);
  }

  // Append a text to an element, with what could not be seen as marks.
  function show(element, text) {
    let from = 0;
    for (const found of text.matchAll(unseen)) {
      if (found.index > from) element.append(text.slice(from, found.index));
      element.append(make("span", { className: "unseen-mark" }, mark(found[0])));
      from = found.index + found[0].length;
    }
    if (from < text.length) element.append(from ? text.slice(from) : text);
    return element;
  }

  // An element; children that are strings become text nodes.
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  // Somebody's words within a line of ours: they keep their own direction.
  function quote(text) {
    return show(make("bdi"), text ?? "");
  }

  function attributes(element, values) {
    for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
    return element;
  }

  // A long text by its beginning, and a button for all of it.
  function folded(element, text, most) {
    if (text.length <= most * 1.2) return show(element, text);
    let end = most;
    if (/[\ud800-\udbff]/.test(text[end - 1])) end -= 1;
    show(element, text.slice(0, end));
    const more = make("button", { type: "button", className: "more-text" });
    more.textContent = `\u2026 show all ${text.length.toLocaleString("en")} characters`;
    more.addEventListener("click", () => {
      element.replaceChildren();
      show(element, text);
      if (!element.hasAttribute("tabindex")) element.tabIndex = -1;
      element.focus({ preventScroll: true });
    });
    element.append(more);
    return element;
  }

  // JSON laid out without reading it: numbers stay as they were written, and keys that occur twice stay twice.
  function laidOut(json) {
    let depth = 0, inString = false, out = "";
    const line = () => `\n${"  ".repeat(Math.max(0, Math.min(depth, 40)))}`;
    for (let i = 0; i < json.length; i++) {
      const c = json[i];
      if (inString) {
        out += c;
        if (c === "\\") out += json[++i] ?? "";
        else if (c === '"') inString = false;
      } else if (c === '"') {
        inString = true;
        out += c;
      } else if (c === "{" || c === "[") {
        const rest = /\S/.exec(json.slice(i + 1, i + 100));
        if (rest && "}]".includes(rest[0])) {
          out += c + rest[0];
          i += rest.index + 1;
          continue;
        }
        depth += 1;
        out += c + line();
      } else if (c === "}" || c === "]") {
        depth -= 1;
        out += line() + c;
      } else if (c === ",") out += c + line();
      else if (c === ":") out += ": ";
      else if (!/\s/.test(c)) out += c;
    }
    return out;
  }

  // A number with its sign and three decimals; null is a dash.
  function signed(value, digits = 3) {
    if (value === null || value === undefined) return "\u2013";
    const text = Math.abs(value).toFixed(digits);
    return (value < 0 ? "\u2212" : "+") + text;
  }

  return { plain, show, make, quote, attributes, folded, laidOut, signed };
})();
