// The book's interactive figures: counts by closed form, W0 + alpha A B C to scale, and the error of a difference over
// its step. Plain JavaScript on elements of the pages; without it a page shows its fallback.
"use strict";

// --- small helpers --------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children (nodes, or text). */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The same for a part of a picture. */
function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A picture of that size, which a reader who cannot see it hears as ``words``. */
function picture(width, height, words, ...children) {
  return drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words }, ...children);
}

const grouped = (number) => number.toLocaleString("en-US");

let labels = 0;

/** A labelled slider over ``values``; ``changed`` hears of every move. */
function slider(name, values, start, changed, spelled = grouped) {
  const id = `slider-${++labels}`;
  const input = element("input", { type: "range", id, min: 0, max: values.length - 1, step: 1, value: values.indexOf(start) });
  const output = element("output", { for: id });
  const value = () => values[Number(input.value)];
  const show = () => {
    output.textContent = spelled(value());
    input.setAttribute("aria-valuetext", spelled(value()));
  };
  input.addEventListener("input", () => { show(); changed(); });
  show();
  return { label: element("label", { for: id }, `${name}: `, output, input), value };
}

const range = (low, high) => Array.from({ length: high - low + 1 }, (_, i) => low + i);

// --- counts ---------------------------------------------------------------------------------------

/** Sizes of all letters for square matrices of width D (counts.closed_forms says which follow from which). */
function sizes(forms, { width, rank, layers, matrices }) {
  const [X, Y, Z] = forms.factors[width];
  const D = width, R = rank;
  return { I: D, O: D, D, M: D, R, S: R, H: D / 64, K: 64, L: layers, P: matrices, Q: (R * (R + 1)) / 2, X, Y, Z };
}

/** How many numbers a method trains: the products of its arrays' letters, a shared array once. */
function trained(forms, method, setting) {
  const { arrays, blocks } = forms.methods[method];
  const size = sizes(forms, setting);
  const times = setting.layers * (blocks || setting.matrices);
  return arrays.reduce(
    (sum, { letters, shared }) => sum + (shared ? 1 : times) * [...letters].reduce((n, letter) => n * size[letter], 1),
    0,
  );
}

/** The table of counts under its four sliders. */
function countsInto(place, forms) {
  const widths = Object.keys(forms.factors).map(Number);
  const controls = {
    width: slider("width", widths, 1024, show),
    rank: slider("rank R", range(1, 64), 32, show),
    layers: slider("layers", range(1, 96), 24, show),
    matrices: slider("matrices a layer", range(1, 4), 2, show),
  };
  const body = element("tbody");
  const head = element("tr", {}, ...["method", "trained", "beside full fine-tuning of them"].map((text) => element("th", { scope: "col" }, text)));
  const table = element("table", { "aria-label": "Trained numbers of every method" }, element("thead", {}, head), body);
  place.replaceChildren(
    element("div", { class: "controls" }, ...Object.values(controls).map((control) => control.label)),
    element("div", { class: "table-wrapper" }, table),
  );
  function show() {
    const setting = Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control.value()]));
    const full = setting.layers * setting.matrices * setting.width ** 2;
    const rows = Object.keys(forms.methods).map((method) => [method, trained(forms, method, setting)]);
    rows.sort((a, b) => a[1] - b[1]);
    body.replaceChildren(...rows.map(([method, count]) => {
      const share = count / full;
      const bar = element("i");
      // three decades and more lie between the methods: a bar is as long as the logarithm
      bar.style.width = `${Math.max(1, (60 * Math.log10(count)) / Math.log10(Math.max(full, count)))}%`;
      return element("tr", {},
        element("th", { scope: "row" }, forms.methods[method].label),
        element("td", {}, grouped(count)),
        element("td", { class: "bar" }, element("div", {}, bar, `${(100 * share).toPrecision(2)} %`)));
    }));
  }
  show();
}

// --- to scale -------------------------------------------------------------------------------------

/** W0 + alpha A B C with areas as the numbers of entries. */
function scaleInto(place) {
  const caption = place.querySelector("figcaption");
  const frame = element("div");
  const side = 190;
  const rank = slider("rank R", range(1, 128), 32, show);
  const widths = [64, 128, 256, 512, 768, 1024, 2048, 4096];
  const wide = slider("width", widths, 1024, show);
  const controls = element("div", { class: "controls" }, ...(place.dataset.sliders ? [wide.label] : []), rank.label);
  place.replaceChildren(frame, controls, ...(caption ? [caption] : []));
  function box(x, y, w, h, fill, name) {
    const rectangle = drawn("rect", { x, y, width: Math.max(w, 0.75), height: Math.max(h, 0.75), fill: `var(--${fill})`, stroke: "var(--edge)", "stroke-width": 0.75 });
    return [rectangle, drawn("text", { x: x + w / 2, y: 228, "text-anchor": "middle" }, name)];
  }
  const sign = (x, text) => drawn("text", { x, y: 112, "text-anchor": "middle" }, text);
  function show() {
    const D = wide.value(), R = Math.min(rank.value(), D), r = (side * R) / D;
    const parts = [...box(10, 15, side, side, "frozen", `W0  ${D} × ${D}`), sign(246, "+ alpha")];
    let x = 295;
    for (const [w, h, fill, name] of [[r, side, "frozen", "A"], [r, r, "trained", "B"], [side, r, "frozen", "C"]]) {
      parts.push(...box(x, 15, w, h, fill, name));
      x += w + 32;
    }
    const share = (100 * (R * R + 1)) / (D * D);
    frame.replaceChildren(
      picture(Math.max(620, x), 266, `W0 of ${D} by ${D}, frozen, plus alpha times A of ${D} by ${R}, frozen, B of ${R} by ${R}, trained, and C of ${R} by ${D}, frozen`, ...parts,
        drawn("text", { x: 10, y: 258 }, `trained: ${R}² + 1 = ${grouped(R * R + 1)}, ${share.toPrecision(2)} % of W0`)),
    );
  }
  show();
}

// --- the U-curve ----------------------------------------------------------------------------------

const POINT = 1;
const f = (x) => Math.exp(x) * Math.sin(x);
const SLOPE = Math.exp(POINT) * (Math.sin(POINT) + Math.cos(POINT));
const ESTIMATES = {
  forward: ["forward difference", "--second", "6 4", (h) => (f(POINT + h) - f(POINT)) / h],
  central: ["central difference", "--trained", "", (h) => (f(POINT + h) - f(POINT - h)) / (2 * h)],
  complex: ["complex step", "--third", "2 3", (h) => {
    // the imaginary part of exp(x + ih) sin(x + ih), over h
    const imaginary = Math.cos(h) * Math.cos(POINT) * Math.sinh(h) + Math.sin(h) * Math.sin(POINT) * Math.cosh(h);
    return (Math.exp(POINT) * imaginary) / h;
  }],
};

/** The relative error of an estimate of the derivative at step 10^-exponent. */
function differenceError(estimate, exponent) {
  return Math.abs(ESTIMATES[estimate][3](10 ** -exponent) - SLOPE) / Math.abs(SLOPE);
}

/** The curves, and what the chosen h gives. */
function curveInto(place) {
  const frame = element("div"), told = element("p", { "aria-live": "polite" });
  const step = slider("step h", range(0, 64).map((n) => n / 4), 5, show, (e) => `10^-${e}`);
  place.replaceChildren(frame, element("div", { class: "controls" }, step.label), told);
  const X = (exponent) => 590 - (510 * exponent) / 16;
  const Y = (error) => 20 + (250 * -Math.log10(Math.max(error, 1e-17))) / 17;
  const curves = Object.entries(ESTIMATES).map(([name, [, colour, dash]]) => drawn("polyline", {
    points: range(0, 160).map((n) => `${X(n / 10).toFixed(1)},${Y(differenceError(name, n / 10)).toFixed(1)}`).join(" "),
    fill: "none", stroke: `var(${colour})`, "stroke-width": 2, "stroke-dasharray": dash }));
  const axes = [0, 4, 8, 12, 16].flatMap((n) => [
    drawn("text", { x: X(n), y: 298, "text-anchor": "middle" }, n ? `1e-${n}` : "1"),
    drawn("text", { x: 70, y: Y(10 ** -n) + 4, "text-anchor": "end" }, n ? `1e-${n}` : "1"),
    drawn("line", { x1: 80, x2: 590, y1: Y(10 ** -n), y2: Y(10 ** -n), stroke: "var(--frozen)" })]);
  const legend = Object.values(ESTIMATES).flatMap(([label, colour, dash], i) => [
    drawn("line", { x1: 80, x2: 120, y1: 326 + 24 * i, y2: 326 + 24 * i, stroke: `var(${colour})`, "stroke-width": 2, "stroke-dasharray": dash }),
    drawn("text", { x: 130, y: 331 + 24 * i }, label)]);
  function show() {
    const exponent = step.value();
    const errors = Object.keys(ESTIMATES).map((name) => [name, differenceError(name, exponent)]);
    const marker = drawn("line", { x1: X(exponent), x2: X(exponent), y1: 15, y2: 280, stroke: "var(--edge)" });
    const dots = errors.map(([name, error]) => drawn("circle", { cx: X(exponent), cy: Y(error), r: 5, fill: `var(${ESTIMATES[name][1]})` }));
    frame.replaceChildren(picture(620, 390, "Relative error of three estimates of a derivative over the step h, both logarithmic: the differences make a U, the complex step falls and stays low.",
      ...axes, ...curves, marker, ...dots, ...legend));
    told.textContent = `At h = 10^-${exponent} the relative error is ` +
      errors.map(([name, error]) => `${error.toExponential(1)} by the ${ESTIMATES[name][0]}`).join(", ") + ".";
  }
  show();
}

// --- every page -----------------------------------------------------------------------------------

/** What is wider than its box can be scrolled from the keyboard. */
function reachable() {
  for (const formula of document.querySelectorAll("mjx-container")) {
    if (formula.getBoundingClientRect().right > innerWidth) formula.classList.add("wide");
  }
  for (const box of document.querySelectorAll("article pre, .table-wrapper, .cell_output > div, mjx-container")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}

const data = document.getElementById("closed-forms");
const forms = data && JSON.parse(data.textContent);
document.querySelectorAll(".counts").forEach((place) => countsInto(place, forms));
document.querySelectorAll("figure.scale").forEach(scaleInto);
document.querySelectorAll(".ucurve").forEach(curveInto);
addEventListener("load", () => { reachable(); window.MathJax?.startup?.promise?.then(reachable); });
addEventListener("resize", reachable);
