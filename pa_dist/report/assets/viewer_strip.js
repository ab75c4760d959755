// The strip: each step's advantage as a bar, below it their sum so far; a click on a step goes there.
const viewerStrip = (() => {
  const { signed } = viewerText;
  const TOP = { from: 16, height: 64 };
  const SUM = { from: 92, height: 44 };
  const HEIGHT = 156;
  const LEFT = 52;

  function svg(tag, values, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(values)) element.setAttribute(name, String(value));
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // Sums over the steps that have a value, as predictors take them.
  function cumulative(steps) {
    let sum = 0;
    return steps.map((step) => (step.value === null ? null : (sum += step.value)));
  }

  // A scale from values to heights that holds zero and never is empty.
  function scale(values, { from, height }) {
    const known = values.filter((value) => value !== null);
    const high = Math.max(0, ...known), low = Math.min(0, ...known);
    const span = high - low || 1;
    return { high, low, y: (value) => from + ((high - value) / span) * height };
  }

  // marks: [{number, kind, name}], null where it is no step; numbers are counted from 0, and shown from 1.
  // onStep: told the number of a step that is clicked.
  function draw(steps, marks, width, onStep) {
    const wide = Math.max(width - LEFT - 4, 40) / Math.max(steps.length, 1);
    const x = (i) => LEFT + i * wide;
    const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img" });
    const values = steps.map((step) => step.value);
    const sums = cumulative(steps);
    root.setAttribute("aria-label", spoken(values, sums));
    const current = svg("rect", { class: "strip-current", x: 0, y: TOP.from - 14, width: Math.max(wide, 3), height: HEIGHT - 18, visibility: "hidden" });
    root.append(current);
    marks.filter((mark) => mark.number !== null).forEach((mark) => drawMark(root, mark, x, wide));
    drawBars(root, values, scale(values, TOP), x, wide);
    drawSums(root, sums, scale(sums, SUM), x, wide);
    drawNumbers(root, steps, x, wide);
    root.addEventListener("click", (event) => {
      const place = Math.floor((event.clientX - root.getBoundingClientRect().left - LEFT) / wide);
      if (place >= 0 && place < steps.length) onStep(place);
    });
    return {
      root,
      setCurrent: (place) => {
        current.setAttribute("visibility", place === null ? "hidden" : "visible");
        if (place !== null) current.setAttribute("x", String(x(place)));
      },
    };
  }

  function spoken(values, sums) {
    const known = values.filter((value) => value !== null);
    if (!known.length) return "No step has an advantage.";
    return `Advantage of ${values.length} steps, from ${signed(Math.min(...known))} to ${signed(Math.max(...known))}; ` +
      `their sum is ${signed(sums.findLast((sum) => sum !== null))}. The steps below say each.`;
  }

  function drawBars(root, values, { y, high, low }, x, wide) {
    axis(root, "step", high, low, y, x(values.length));
    const gap = wide > 6 ? 2 : 0.5;
    values.forEach((value, i) => {
      if (value === null) {
        root.append(svg("rect", { class: "strip-none", x: x(i) + gap / 2, y: y(0) - 2, width: Math.max(wide - gap, 1), height: 4 }));
        return;
      }
      const top = Math.min(y(value), y(0));
      const bar = { x: x(i) + gap / 2, y: top, width: Math.max(wide - gap, 1), height: Math.max(Math.abs(y(value) - y(0)), 1) };
      root.append(svg("rect", { class: value < 0 ? "strip-less" : "strip-more", ...bar }));
    });
  }

  function drawSums(root, sums, { y, high, low }, x, wide) {
    axis(root, "sum", high, low, y, x(sums.length));
    const points = sums.flatMap((sum, i) => (sum === null ? [] : [`${(x(i) + wide / 2).toFixed(1)},${y(sum).toFixed(1)}`]));
    root.append(svg("polyline", { class: "strip-sum", points: points.join(" ") }));
    if (points.length === 1) root.append(svg("circle", { class: "strip-sum", cx: x(0) + wide / 2, cy: y(sums[0] ?? 0), r: 2 }));
  }

  function axis(root, name, high, low, y, end) {
    root.append(svg("line", { class: "strip-zero", x1: LEFT, x2: end, y1: y(0), y2: y(0) }));
    for (const value of new Set([high, low])) {
      if (value !== 0) root.append(svg("text", { x: LEFT - 6, y: y(value) + (value > 0 ? 8 : 2), "text-anchor": "end" }, signed(value, 2)));
    }
    const middle = (y(high) + y(low)) / 2 + 4;
    root.append(svg("text", { class: "strip-name", x: 0, y: middle }, name));
  }

  function drawMark(root, { number, kind }, x, wide) {
    const middle = x(number) + wide / 2;
    root.append(svg("line", { class: `strip-mark ${kind}`, x1: middle, x2: middle, y1: 12, y2: HEIGHT - 16 }));
    const sign = kind === "label" ? "✕" : "▼";
    root.append(svg("text", { class: `strip-sign ${kind}`, x: middle + (kind === "label" ? -5 : 5), y: 11, "text-anchor": "middle" }, sign));
  }

  function drawNumbers(root, steps, x, wide) {
    const every = Math.max(1, Math.ceil(30 / wide));
    for (let i = 0; i < steps.length; i += every) {
      root.append(svg("text", { x: x(i) + wide / 2, y: HEIGHT - 3, "text-anchor": "middle" }, String(i + 1)));
    }
  }

  return { draw, cumulative };
})();
