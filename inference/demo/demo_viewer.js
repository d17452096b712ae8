/* The viewer: the images as the server reads them, in the hanging order of radiologists, under heat and region boxes. */

const HEAT_SIDE = 1024;
const SVG = "http://www.w3.org/2000/svg";
const MARGIN = 10;
const LARGEST_ZOOM = 40;
// Right breasts left, left breasts right, so that the chest walls meet in the middle; CC above MLO.
const HANGING = { rows: ["CC", "MLO", "ML", "LM", "LMO", "AT"], sides: ["R", "L"] };

const progress = (text) => { $("progress").textContent = text; };
const view = { zoom: 1, x: 0, y: 0, center: 0.5, width: 1 };
const resetView = () => Object.assign(view, { zoom: 1, x: 0, y: 0, center: 0.5, width: 1 });

/* Return an image's label. Its number counts all chosen files from 1, including those that were not judged. */
function name(index) {
  const { index: chosen, image: { laterality, view: projection } } = state.answer.images[index];
  const number = state.answer.exam ? `Image ${chosen + 1}` : "Image";
  return [number, [laterality, projection].filter(Boolean).join(" ")].filter(Boolean).join(" · ");
}

/* Return the positions of the images in hanging order; images without laterality or view come last. */
function hung() {
  const rank = (list, value) => (list.includes(value) ? list.indexOf(value) : list.length);
  const key = ({ image: { laterality, view: projection } }) =>
    10 * rank(HANGING.rows, projection) + rank(HANGING.sides, laterality);
  return state.answer.images.map((_, at) => at).sort((a, b) => key(state.answer.images[a]) - key(state.answer.images[b]));
}

/* Put right breasts left, left breasts right, and each view in its own row; the place of a missing view stays empty. */
function placeInGrid(order) {
  const sideOf = (index) => HANGING.sides.indexOf(state.answer.images[index].image.laterality);
  const rowOf = (index) => state.answer.images[index].image.view ?? "";
  if (!HANGING.sides.every((_, side) => order.some((index) => sideOf(index) === side))) return;
  let row = 1;
  for (const projection of new Set(order.map(rowOf))) {
    const beside = HANGING.sides.map((_, side) =>
      order.filter((index) => rowOf(index) === projection && sideOf(index) === side));
    beside.forEach((images, column) => images.forEach((index, at) => {
      Object.assign(paneOf(index).style, { gridColumn: column + 1, gridRow: row + at });
    }));
    row += Math.max(...beside.map(({ length }) => length));
  }
}

function hideImages() {
  for (const id of ["frame", "tools"]) $(id).hidden = true;
  $("frame").replaceChildren();
  $("empty").hidden = false;
}

function showImages() {
  resetView();
  $("empty").hidden = true;
  $("frame").hidden = $("tools").hidden = false;
  const order = hung();
  const shown = state.single ? [state.selected] : order;
  $("all").disabled = state.uploads.length < 2;
  $("all").checked = state.uploads.length > 1 && !state.single;
  $("frame").className = shown.length > 1 ? "frame grid" : "frame";
  $("frame").replaceChildren(...shown.map(pane));
  if (shown.length > 1) placeInGrid(shown);
  mark();
  layout();
  for (const index of shown) if (state.answer.images[index].heatmap) paintHeat(index);
}

function pane(index) {
  const { image } = state.answer.images[index];
  const side = image.laterality === "R" ? "right" : image.laterality === "L" ? "left" : "";
  const picture = make("img", { className: "picture", alt: `${name(index)}, ${image.columns} by ${image.rows} pixels` });
  picture.draggable = false;
  if (state.uploads[index].url) picture.src = state.uploads[index].url;
  const boxes = document.createElementNS(SVG, "svg");
  boxes.setAttribute("class", "boxes");
  const layers = make("div", { className: "layers" }, picture, make("canvas", { className: "heat" }), boxes);
  const one = make("div", { className: `pane ${side}`, tabIndex: 0, role: "group" }, layers,
    make("span", { className: "label" }, name(index)));
  one.setAttribute("aria-label", name(index));
  one.dataset.index = index;
  one.onpointerdown = (event) => drag(event, index);
  one.onwheel = (event) => { event.preventDefault(); zoomAt(one, event, event.deltaY < 0 ? 1.2 : 1 / 1.2); };
  one.ondblclick = () => { state.single = !state.single && state.uploads.length > 1; select(index); showImages(); };
  one.oncontextmenu = (event) => event.preventDefault();
  one.onkeydown = (event) => key(event, one, index);
  one.onfocus = () => select(index);
  drawBoxes(boxes, index);
  return one;
}

const paneOf = (index) => $("frame").querySelector(`.pane[data-index="${index}"]`);

function select(index) {
  if (!state.answer || state.selected === index) return;
  state.selected = index;
  mark();
  showReport();
}

function mark() {
  for (const one of $("frame").children) one.classList.toggle("selected", Number(one.dataset.index) === state.selected);
}

function showPicture(index) {
  const one = paneOf(index);
  if (one) one.querySelector(".picture").src = state.uploads[index].url;
}

/* All images share zoom, pan and window, so that they can be compared. Left breasts move as mirror images. */

const mirrored = (one) => (one.classList.contains("left") ? -1 : 1);

/* Return the point of a pane's width, 0 to 1, that zooming keeps in place: the chest wall in the grid, else the middle. */
function anchor(one) {
  if (!$("frame").classList.contains("grid")) return 0.5;
  return one.classList.contains("right") ? 1 : one.classList.contains("left") ? 0 : 0.5;
}

function drag(event, index) {
  const one = event.currentTarget;
  select(index);
  if (event.target.closest(".region")) return; // the box handles its own clicks
  const windowing = event.button === 2 || event.shiftKey;
  let [x, y] = [event.clientX, event.clientY];
  one.setPointerCapture(event.pointerId);
  one.onpointermove = (moved) => {
    const [dx, dy] = [moved.clientX - x, moved.clientY - y];
    [x, y] = [moved.clientX, moved.clientY];
    if (windowing) setWindow(view.center - dy / 400, view.width + dx / 400);
    else { view.x += mirrored(one) * dx; view.y += dy; }
    layout();
  };
  one.onpointerup = one.onpointercancel = () => { one.onpointermove = null; };
}

function zoomAt(one, event, factor) {
  const zoom = Math.min(LARGEST_ZOOM, Math.max(1, view.zoom * factor));
  const { left, top, width, height } = one.getBoundingClientRect();
  const [across, down] = event ? [event.clientX - left, event.clientY - top] : [width / 2, height / 2];
  const [x, y] = [mirrored(one) * (across - anchor(one) * width), down - height / 2];
  const ratio = zoom / view.zoom;
  Object.assign(view, { zoom, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio });
  if (zoom === 1) Object.assign(view, { x: 0, y: 0 });
  layout();
}

function setWindow(center, width) {
  view.center = Math.min(1, Math.max(0, center));
  view.width = Math.min(2, Math.max(0.02, width));
}

function key(event, one, index) {
  const steps = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
  if (event.key === "+" || event.key === "=") zoomAt(one, null, 1.25);
  else if (event.key === "-") zoomAt(one, null, 0.8);
  else if (event.key === "0") { resetView(); layout(); }
  else if (event.key === "Enter") one.ondblclick();
  else if (event.key in steps) {
    view.x += mirrored(one) * steps[event.key][0];
    view.y += steps[event.key][1];
    layout();
  }
  else return;
  event.preventDefault();
  paneOf(index)?.focus();
}

function layout() {
  if (!state.answer) return;
  const actual = $("pixels").checked;
  for (const one of $("frame").children) {
    const { rows, columns } = state.answer.images[one.dataset.index].image;
    const { clientWidth, clientHeight } = one;
    const fit = Math.min((clientWidth - MARGIN) / columns, (clientHeight - MARGIN) / rows);
    const scale = actual ? 1 / devicePixelRatio : fit * view.zoom;
    const [width, height] = [columns * scale, rows * scale];
    const left = actual ? 0 : anchor(one) * (clientWidth - width);
    const top = actual ? 0 : (clientHeight - height) / 2;
    const place = { left: `${Math.round(left + mirrored(one) * view.x)}px`, top: `${Math.round(top + view.y)}px` };
    Object.assign(one.querySelector(".layers").style, place, { width: `${width}px`, height: `${height}px` });
    for (const text of one.querySelectorAll("text")) {
      text.setAttribute("font-size", 13 / scale);
      text.setAttribute("stroke-width", 3 / scale);
    }
    one.querySelector(".picture").style.filter = view.center === 0.5 && view.width === 1 ? "" : "url(#window)";
    one.querySelector(".heat").hidden = !$("overlay").checked;
    one.querySelector(".heat").style.opacity = $("opacity").value / 100;
    one.querySelector(".boxes").style.display = $("regions").checked ? "" : "none";
  }
  for (const band of document.querySelectorAll("#window > *> *")) {
    band.setAttribute("slope", 1 / view.width);
    band.setAttribute("intercept", 0.5 - view.center / view.width);
  }
  $("opacity").disabled = !$("overlay").checked;
  $("center").value = Math.round(100 * view.center);
  $("width").value = Math.round(100 * view.width);
  $("zoom").textContent = actual ? "1:1" : `${Math.round(100 * view.zoom)} %`;
}

async function paintHeat(index) {
  const { heatmap } = state.answer.images[index];
  const bytes = Uint8Array.from(atob(heatmap.png), (letter) => letter.charCodeAt(0));
  const shrink = Math.min(1, HEAT_SIDE / Math.max(heatmap.rows, heatmap.columns));
  const [width, height] = [Math.round(heatmap.columns * shrink), Math.round(heatmap.rows * shrink)];
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }),
    { resizeWidth: width, resizeHeight: height });
  const canvas = paneOf(index)?.querySelector(".heat");
  if (!canvas || heatmap !== state.answer?.images[index].heatmap) return; // another exam was chosen meanwhile
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const level = pixels.data[at];
    pixels.data.set([...COLOURS[level], level], at);
  }
  context.putImageData(pixels, 0, 0);
}

function drawBoxes(svg, index) {
  const { image: { rows, columns }, heatmap } = state.answer.images[index];
  const draw = (kind, attributes, text = "") => {
    const shape = document.createElementNS(SVG, kind);
    for (const [attribute, value] of Object.entries(attributes)) shape.setAttribute(attribute, value);
    shape.textContent = text;
    return shape;
  };
  const arm = Math.max(rows, columns) / 90;
  svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  svg.replaceChildren(...(heatmap?.regions ?? []).map(({ left, top, right, bottom, peak_x: x, peak_y: y }, at) => {
    const group = draw("g", { class: "region", "data-region": at });
    group.append(
      draw("rect", { x: left, y: top, width: right - left, height: bottom - top }),
      draw("path", { d: `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}` }),
      draw("text", { x: left, y: top, dx: "0.35em", dy: "1.1em" }, at + 1));
    group.onclick = () => { select(index); point(index, at); $(`region-${at}`)?.focus(); };
    return group;
  }));
}

/* Mark a region on its image and in the list. */
function point(index, at) {
  for (const one of document.querySelectorAll(".region.pointed")) one.classList.remove("pointed");
  paneOf(index)?.querySelector(`.region[data-region="${at}"]`)?.classList.add("pointed");
  for (const one of document.querySelectorAll("#region-list button")) {
    one.setAttribute("aria-pressed", String(one.id === `region-${at}`));
  }
}

/* Bring a region to the middle of its pane, enlarged. */
function goTo(index, at) {
  const { image: { rows, columns }, heatmap } = state.answer.images[index];
  const { peak_x: x, peak_y: y } = heatmap.regions[at];
  const one = paneOf(index);
  if (!one) return;
  $("pixels").checked = false;
  view.zoom = Math.max(view.zoom, 2);
  const fit = Math.min((one.clientWidth - MARGIN) / columns, (one.clientHeight - MARGIN) / rows);
  const held = anchor(one);
  view.x = mirrored(one) * ((0.5 - held) * one.clientWidth - (x - held * columns) * fit * view.zoom);
  view.y = -(y - rows / 2) * fit * view.zoom;
  layout();
  point(index, at);
}
