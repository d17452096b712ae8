"use strict";

const SCHEMA_VERSION = 2;
const TRIES = 4;
const HEAT_SIDE = 1024;
const SVG = "http://www.w3.org/2000/svg";
const SIDES = { L: "Left", R: "Right" };
const VIEWS = ["CC", "MLO", "ML", "LM", "LMO", "AT"];
// Dark to light in one sweep, so that more evidence is brighter for every kind of colour vision.
const RAMP = [[0, 0, 0], [91, 26, 69], [184, 64, 47], [232, 149, 59], [247, 231, 176]];

const $ = (id) => document.getElementById(id);
const state = { films: [], answer: null, selected: 0, running: null };

class Refusal extends Error {
  constructor(code, message, status, index) {
    super(message);
    Object.assign(this, { code, status, index });
  }
}

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/* What is asked of the server. A file's name is never sent or shown: names of files hold names of people. */

async function contentType(file) {
  const head = new Uint8Array(await file.slice(0, 132).arrayBuffer());
  const text = String.fromCharCode(...head);
  if (text.startsWith("P5")) return "image/x-portable-graymap";
  if (text.startsWith("\x89PNG\r\n\x1a\n")) return "image/png";
  if (text.slice(128) === "DICM") return "application/dicom";
  return file.type || "application/octet-stream";
}

async function ask(path, type, accept, body, signal) {
  for (let left = TRIES - 1; ; left -= 1) {
    const headers = { "Content-Type": type, Accept: accept };
    const response = await fetch(path, { method: "POST", body, signal, headers });
    if (response.ok) return response;
    if (response.status !== 503 || !left) throw await refusal(response);
    await response.body?.cancel();
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(seconds, 5)));
    signal.throwIfAborted();
  }
}

async function refusal(response) {
  const { error } = await response.json();
  return new Refusal(error.code, error.message, response.status, error.detail?.image);
}

const point = () => document.querySelector("input[name=point]:checked").value;

function told(film) {
  return Object.fromEntries(["laterality", "view"].filter((name) => film[name]).map((name) => [name, film[name]]));
}

async function askFilm(film, signal) {
  const query = new URLSearchParams({ heatmap: "true", operating_point: point(), ...told(film) });
  const answer = await (await ask(`/invocations?${query}`, film.type, "application/json", film.file, signal)).json();
  return { ...answer, images: [{ ...answer, index: 0 }], breasts: [], exam: null };
}

async function askExam(films, signal) {
  const images = await Promise.all(films.map(async (film) => ({ data: await base64(film.file), ...told(film) })));
  const body = JSON.stringify({ images, options: { heatmap: true, operating_point: point() } });
  return (await ask("/invocations", "application/json", "application/json", body, signal)).json();
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function fetchPictures(films, signal) {
  for (const film of films.filter((one) => !one.url)) {
    const response = await ask("/invocations?overlay=none", film.type, "image/png", film.file, signal);
    film.url = URL.createObjectURL(await response.blob());
    showStrip();
    if (films[state.selected] === film) showFilm();
  }
}

async function read() {
  state.running?.abort();
  const { signal } = (state.running = new AbortController());
  const films = state.films;
  $("error").replaceChildren();
  $("buttons").hidden = false;
  state.answer = null;
  progress(films.length === 1 ? "Reading the film" : `Reading ${films.length} films`);
  try {
    for (const film of films) film.type ??= await contentType(film.file);
    const answer = await (films.length === 1 ? askFilm(films[0], signal) : askExam(films, signal));
    if (answer.schema_version !== SCHEMA_VERSION) {
      throw new Refusal("unknown_answer", `schema_version ${answer.schema_version}; this page reads ${SCHEMA_VERSION}`);
    }
    state.answer = answer;
    showAnswer();
    await fetchPictures(films, signal);
    progress("");
  } catch (error) {
    if (!signal.aborted) showError(error);
  }
}

function choose(files) {
  if (!files.length) return;
  clear();
  state.films = [...files].map((file) => ({ file, type: null, url: null, laterality: "", view: "" }));
  read();
}

function clear() {
  state.running?.abort();
  for (const film of state.films) if (film.url) URL.revokeObjectURL(film.url);
  Object.assign(state, { films: [], answer: null, selected: 0, running: null });
  $("buttons").hidden = true;
  $("error").replaceChildren();
  $("answer").replaceChildren(make("p", { className: "hint" }, "No film has been read."));
  hideFilms();
  progress("");
}

/* The viewer: the film as the server's reader shows it, heat and boxes as layers above it. */

const progress = (text) => { $("progress").textContent = text; };

function name(index) {
  const { laterality, view } = state.answer.images[index].image;
  const number = state.films.length > 1 ? `Film ${index + 1}` : "Film";
  return [number, [laterality, view].filter(Boolean).join(" ")].filter(Boolean).join(" · ");
}

function showStrip() {
  const thumb = (film, index) => make("label", {},
    make("input", { type: "radio", name: "film", checked: index === state.selected, onchange: () => select(index) }),
    make("span", { className: "thumb" }, film.url ? make("img", { src: film.url, alt: "" }) : ""), name(index));
  const focused = $("strip").contains(document.activeElement);
  $("strip").hidden = state.films.length < 2;
  $("strip").replaceChildren($("strip").firstElementChild, ...state.films.map(thumb));
  if (focused) $("strip").querySelector("input:checked").focus();
}

function select(index) {
  state.selected = index;
  if (!state.answer) return;
  showFilm();
  showReport();
}

function hideFilms() {
  for (const id of ["frame", "strip", "tools"]) $(id).hidden = true;
  $("picture").removeAttribute("src");
  $("empty").hidden = false;
}

async function showFilm() {
  const { url } = state.films[state.selected];
  const { image, heatmap } = state.answer.images[state.selected];
  $("empty").hidden = true;
  $("frame").hidden = $("tools").hidden = false;
  if (url) $("picture").src = url;
  else $("picture").removeAttribute("src");
  $("picture").alt = `${name(state.selected)}, ${image.columns} by ${image.rows} pixels`;
  $("heat").width = 0;
  showBoxes(image, heatmap?.regions ?? []);
  layout();
  if (heatmap) await paintHeat(heatmap);
}

function layout() {
  if (!state.answer) return;
  const { rows, columns } = state.answer.images[state.selected].image;
  const { clientWidth, clientHeight } = $("stage");
  const actual = $("pixels").checked;
  const scale = actual ? 1 / devicePixelRatio : Math.min((clientWidth - 24) / columns, (clientHeight - 24) / rows);
  $("frame").classList.toggle("pixels", actual);
  Object.assign($("film").style, { width: `${columns * scale}px`, height: `${rows * scale}px` });
  for (const text of $("boxes").querySelectorAll("text")) text.setAttribute("font-size", 13 / scale);
  for (const text of $("boxes").querySelectorAll("text")) text.setAttribute("stroke-width", 3 / scale);
  $("heat").hidden = !$("overlay").checked;
  $("heat").style.opacity = $("opacity").value / 100;
  $("opacity").disabled = !$("overlay").checked;
  $("boxes").style.display = $("regions").checked ? "" : "none";
}

async function paintHeat(heatmap) {
  const { png, rows, columns } = heatmap;
  const canvas = $("heat");
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const shrink = Math.min(1, HEAT_SIDE / Math.max(rows, columns));
  const [width, height] = [Math.round(columns * shrink), Math.round(rows * shrink)];
  const size = { resizeWidth: width, resizeHeight: height };
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), size);
  if (heatmap !== state.answer?.images[state.selected].heatmap) return; // another film was chosen meanwhile
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  for (let at = 0; at < pixels.data.length; at += 4) pixels.data.set(colour(pixels.data[at]), at);
  context.putImageData(pixels, 0, 0);
}

const COLOURS = Array.from({ length: 256 }, (_, level) => {
  const [step, part] = [Math.min(3, Math.floor(level / 63.75)), level / 63.75];
  const mixed = RAMP[step].map((low, band) => Math.round(low + (RAMP[step + 1][band] - low) * (part - step)));
  return [...mixed, level];
});
const colour = (level) => COLOURS[level];

function showBoxes({ rows, columns }, regions) {
  const draw = (kind, attributes, text = "") => {
    const shape = document.createElementNS(SVG, kind);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    shape.textContent = text;
    return shape;
  };
  const arm = Math.max(rows, columns) / 90;
  $("boxes").setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  $("boxes").replaceChildren(...regions.flatMap(({ left, top, right, bottom, peak_x: x, peak_y: y }, index) => [
    draw("rect", { x: left, y: top, width: right - left, height: bottom - top }),
    draw("path", { d: `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}` }),
    draw("text", { x: left, y: top, dx: "0.35em", dy: "1.1em" }, index + 1),
  ]));
}
