"use strict";

const SCHEMA_VERSION = 2;
const TRIES = 4;
const SIDES = { L: "Left", R: "Right" };
const VIEWS = ["CC", "MLO", "ML", "LM", "LMO", "AT"];
// The colours of the PNG and DICOM overlays for each level of heat; the server inserts them.
const COLOURS = /* colours */[];

const $ = (id) => document.getElementById(id);
const state = { uploads: [], answer: null, selected: 0, single: false, running: null };

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

/* Requests to the server. A file's name is never sent or shown, because it may contain a patient's name. */

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

const operatingPoint = () => document.querySelector("input[name=point]:checked").value;

function stated(upload) {
  return Object.fromEntries(["laterality", "view"].filter((name) => upload[name]).map((name) => [name, upload[name]]));
}

async function askImage(upload, signal) {
  const query = new URLSearchParams({ heatmap: "true", operating_point: operatingPoint(), ...stated(upload) });
  const answer = await (await ask(`/invocations?${query}`, upload.type, "application/json", upload.file, signal)).json();
  return { ...answer, images: [{ ...answer, index: 0 }], breasts: [], exam: null };
}

async function askExam(uploads, signal) {
  const images = await Promise.all(uploads.map(async (upload) => ({ data: await base64(upload.file), ...stated(upload) })));
  const body = JSON.stringify({ images, options: { heatmap: true, operating_point: operatingPoint() } });
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

async function fetchPictures(uploads, signal) {
  for (const upload of uploads.filter((one) => !one.url)) {
    const response = await ask("/invocations?overlay=none", upload.type, "image/png", upload.file, signal);
    upload.url = URL.createObjectURL(await response.blob());
    showPicture(uploads.indexOf(upload));
  }
}

/* Remove the uploads that the server skipped, and number the breasts' images accordingly. */
function withoutSkipped(answer) {
  const kept = answer.images.map(({ index }) => index);
  state.uploads = kept.map((index) => state.uploads[index]);
  for (const breast of answer.breasts) breast.images = breast.images.map((index) => kept.indexOf(index));
  return answer;
}

async function read() {
  state.running?.abort();
  const { signal } = (state.running = new AbortController());
  const uploads = state.uploads;
  $("error").replaceChildren();
  $("buttons").hidden = false;
  state.answer = null;
  progress(uploads.length === 1 ? "Reading the image" : `Reading ${uploads.length} images`);
  try {
    for (const upload of uploads) upload.type ??= await contentType(upload.file);
    const answer = await (uploads.length === 1 ? askImage(uploads[0], signal) : askExam(uploads, signal));
    if (answer.schema_version !== SCHEMA_VERSION) {
      throw new Refusal("unknown_answer", `schema_version ${answer.schema_version}; this page reads ${SCHEMA_VERSION}`);
    }
    state.answer = withoutSkipped(answer);
    showAnswer();
    await fetchPictures(state.uploads, signal);
    progress("");
  } catch (error) {
    if (!signal.aborted) showError(error);
  }
}

function choose(files) {
  if (!files.length) return;
  clear();
  state.uploads = [...files].map((file) => ({ file, type: null, url: null, laterality: "", view: "" }));
  read();
}

function clear() {
  state.running?.abort();
  for (const upload of state.uploads) if (upload.url) URL.revokeObjectURL(upload.url);
  Object.assign(state, { uploads: [], answer: null, selected: 0, single: false, running: null });
  $("buttons").hidden = true;
  $("error").replaceChildren();
  $("answer").replaceChildren(make("p", { className: "hint" }, "No image has been read."));
  hideImages();
  progress("");
}
