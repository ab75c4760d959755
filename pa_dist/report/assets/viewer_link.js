// The part of the address after #: a trajectory's id, encoded, and perhaps &with= (a second one beside it), and &step=
// (the number of an action, from 1) or &message= (of any message, from 0, as tables have it).
// Encoded ids hold neither / nor & nor =, so that #/trajectories and what follows an id cannot be taken for one.
const viewerLink = (() => {
  const LIST = "#/trajectories";

  function encoded(id) {
    const text = encodeURIComponent(id);
    return text.startsWith("section-") ? `%73${text.slice(1)}` : text;
  }

  function to(id, { step = null, message = null, other = null } = {}) {
    const beside = other === null ? "" : `&with=${encoded(other)}`;
    const place = step !== null ? `&step=${step}` : message !== null ? `&message=${message}` : "";
    return `#${encoded(id) || "&"}${beside}${place}`;
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  }

  // What an address asks for: nothing of the viewer's, the list, or a trajectory.
  function read(hash) {
    if (hash.length < 2 || hash.startsWith("#section-")) return { view: null };
    if (hash.startsWith("#/")) return { view: "list" };
    const [id, ...rest] = hash.slice(1).split("&");
    const given = new Map(rest.map((part) => [part.split("=")[0], part.slice(part.indexOf("=") + 1)]));
    const [step, message] = ["step", "message"].map((key) => (/^\d{1,9}$/.test(given.get(key) ?? "") ? Number(given.get(key)) : null));
    const other = given.has("with") ? decoded(given.get("with")) : null;
    return { view: "trajectory", id: decoded(id), step, message, other };
  }

  return { LIST, to, read };
})();
