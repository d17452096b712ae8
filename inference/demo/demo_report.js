/* The report: the result in words, then the numbers. */

const percent = (share) => `${Math.round(100 * share)} %`;
const score = (value) => value.toFixed(1);
const POINT_NAMES = { sensitivity: "sensitivity-first", specificity: "specificity-first" };
const RULES = { mean: "mean", max: "highest", "noisy-or": "noisy-or", attention: "attention-weighted mean" };
const FINDINGS = { suspicious: "Suspicious", not_suspicious: "Not suspicious" };

function verdict({ decision, referral }) {
  if (referral.refer) return ["Refer to reader", "refer"];
  return decision ? [FINDINGS[decision.finding], decision.finding] : ["No decision", ""];
}

function card(title, ...children) {
  return make("section", { className: "card", ariaLabel: title }, make("h2", {}, title), ...children);
}

function scale(value, decision) {
  const bar = make("b");
  bar.style.width = `${value}%`;
  const tick = decision ? make("i") : null;
  if (tick) tick.style.left = `${Math.min(100, 100 * decision.threshold)}%`;
  return make("div", { className: "scale", ariaHidden: "true" }, bar, tick);
}

function explanation({ decision, referral }) {
  if (referral.refer) return "The model does not judge this. A reader must, whatever the score says.";
  if (!decision) return "The model has no such operating point: it gives a score, but no decision.";
  const where = decision.finding === "suspicious" ? "reaches" : "stays below";
  const point = POINT_NAMES[decision.operating_point];
  return `The score ${where} ${score(100 * decision.threshold)}, the ${point} threshold.`;
}

const chance = (share) => `${(100 * share).toPrecision(2)} %`;

/* A probability holds for the share of malignant cases among those it was calibrated on, and for no other. Scores of
   breasts and women rank; a model may give a calibrated probability beside them. */
function holdsFor({ prevalence, rule, probability }) {
  if (prevalence?.value == null) return null;
  const calibrated = prevalence.level === "image" || rule === "attention";
  const whose = prevalence.of === "deployment" ? "this deployment" : "the validation cases";
  if (probability != null) {
    return make("p", { className: "small" }, make("span", { id: "exam-probability" },
      `Calibrated probability of cancer: ${chance(probability)}`),
    `, where ${percent(prevalence.value)} are malignant, as in ${whose}. The score ranks cases and decides.`);
  }
  return make("p", { className: "small" }, calibrated
    ? `The score holds where ${percent(prevalence.value)} are malignant, as in ${whose}.`
    : `The score ranks cases and is not a calibrated probability. It assumes that ${percent(prevalence.value)} are malignant, as in ${whose}.`);
}

/* Return the threshold's results in validation: each rate with its 95 % interval, and the number of cases. */
function validated({ decision }) {
  const rate = (title, key) => {
    if (decision?.[key] == null) return null;
    const interval = decision[`${key}_interval`];
    const between = interval ? ` (${percent(interval[0])} to ${percent(interval[1])})` : "";
    return [title, `${percent(decision[key])}${between}`];
  };
  const of = decision?.positives == null ? "" : `, ${decision.positives} of them malignant`;
  const cases = decision?.n == null ? null : ["Cases", `${decision.n}${of}`];
  const known = [rate("Sensitivity", "sensitivity"), rate("Specificity", "specificity"),
    rate("Recall rate", "recall_rate"), cases].filter(Boolean);
  if (!known.length) return null;
  return make("div", { className: "validated" }, make("h3", {}, "This threshold in validation"), facts(known));
}

/* Replace "image N", which counts from 0, by the label that the page shows for that image. */
function labelled(message) {
  if (!state.answer.exam) return message;
  const label = (number) => {
    const place = state.answer.images.findIndex(({ index }) => index === Number(number));
    return place < 0 ? `Image ${Number(number) + 1}` : name(place);
  };
  return message.replace(/\bimage (\d+(?:, \d+)*)\b/g, (_, numbers) => numbers.split(", ").map(label).join(", "));
}

function reasons(list) {
  const line = ({ code, message }) => make("li", {}, labelled(message), make("code", {}, code));
  return list.length ? make("ul", { className: "reasons" }, ...list.map(line)) : null;
}

function standing(decile) {
  if (decile == null) return "Not known: the model has no reference data.";
  const rest = decile === 1 ? "among the lowest tenth" : `above about ${10 * (decile - 1)} %`;
  return `${decile} of 10: ${rest} of the validation scores`;
}

function judgement(title, level, id) {
  const [words, kind] = verdict(level);
  return card(title,
    make("div", { className: "headline" },
      make("p", { className: `verdict ${kind}`, id: `${id}-verdict` }, words),
      make("p", { className: "score" }, make("span", { id: `${id}-score` }, score(level.malignancy_score)),
        make("small", {}, " of 100"))),
    reasons(level.referral.reasons),
    make("p", {}, explanation(level)), holdsFor(level), scale(level.malignancy_score, level.decision), validated(level));
}

function examTable({ breasts, images, warnings }) {
  const cells = (level) => {
    const [words, kind] = verdict(level);
    return [make("td", { className: "number" }, score(level.malignancy_score)), make("td", { className: kind }, words)];
  };
  const row = (className, head, decile, level) => make("tr", { className }, make("th", { scope: "row" }, head),
    make("td", { className: "number" }, decile ?? ""), ...cells(level));
  const rows = breasts.flatMap((breast) => [
    row("breast", SIDES[breast.laterality] ? `${SIDES[breast.laterality]} breast` : "Side not known", null, breast),
    ...breast.images.map((index) => row("view", name(index), images[index].decile, images[index])),
  ]);
  const heads = ["", "Decile", "Score", "Decision"].map((head, at) =>
    make("th", { scope: "col", className: at === 1 || at === 2 ? "number" : "" }, head));
  const rules = [...new Set(breasts.map(({ rule }) => RULES[rule] ?? rule))].join(", ");
  const table = make("table", { id: "levels" }, make("thead", {}, make("tr", {}, ...heads)),
    make("tbody", {}, ...rows));
  const beside = breasts.some(({ compared }) => compared) ? ", each beside the other breast" : "";
  const rule = make("p", { className: "small" }, `A breast's score is the ${rules} of its views${beside}.`);
  const known = breasts.filter(({ probability }) => probability != null).map(({ laterality, probability }) =>
    `${SIDES[laterality] ? `${SIDES[laterality].toLowerCase()} breast` : "side not known"} ${chance(probability)}`);
  const chances = known.length
    ? make("p", { className: "small", id: "breast-probabilities" }, `Calibrated probability of cancer: ${known.join(", ")}.`)
    : null;
  return card("Breasts and images", table, rule, chances, reasons(warnings));
}

function facts(pairs) {
  return make("dl", {}, ...pairs.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, String(value))]));
}

function statedControls(upload, image) {
  const choice = (name, label, values) => {
    const options = [["", image[name] && !upload[name] ? `${image[name]} (from the file)` : "not stated"], ...values];
    const change = (event) => { upload[name] = event.target.value; read(); };
    return make("label", {}, label, make("select", { onchange: change, id: `stated-${name}` },
      ...options.map(([value, text]) => make("option", { value, selected: value === upload[name] }, text))));
  };
  return make("div", { className: "stated" }, choice("laterality", "Side", Object.entries(SIDES)),
    choice("view", "View", VIEWS.map((view) => [view, view])));
}

/* Return the list of an image's regions: a focused button marks its box, a pressed one centres it. */
function regionList(index, regions) {
  const button = (region, at) => make("button", {
    type: "button", id: `region-${at}`, onclick: () => goTo(index, at), onfocus: () => point(index, at),
    onmouseenter: () => point(index, at),
  }, make("b", {}, at + 1), `strength ${region.strength.toFixed(2)}`,
  make("small", {}, `at ${region.peak_x}, ${region.peak_y}`));
  const list = make("ol", { id: "region-list" }, ...regions.map((region, at) => make("li", {}, button(region, at))));
  const note = regions.length ? "Where the evidence lies; not outlines of lesions." : "The heatmap has none.";
  return card("Regions", regions.length ? list : null, make("p", { className: "small" }, note));
}

function imageDetails(index) {
  const { image, probabilities, decile, entropy, heatmap, warnings, exclusions } = state.answer.images[index];
  return [
    regionList(index, heatmap?.regions ?? []),
    card("Numbers of this image", facts([
      ["Decile", standing(decile)],
      ...Object.entries(probabilities).map(([label, share]) => [`Probability ${label}`, share.toFixed(3)]),
      ["Entropy", entropy == null ? "not known" : `${entropy.toFixed(3)} nats`],
    ]), statedControls(state.uploads[index], image)),
    ...(exclusions?.length ? [card("The model is not intended for this image", reasons(exclusions.map(
      ({ flag, message }) => ({ code: flag, message }))))] : []),
    card("Warnings", warnings.length ? reasons(warnings) : make("p", { className: "small" }, "None.")),
  ];
}

function provenance({ model, request_id: request, timings_ms: timings }) {
  const spent = Object.entries(timings).map(([work, ms]) => `${work} ${Math.round(ms)} ms`).join(", ");
  return card("Model", facts([["Id", model.id], ["Architecture", model.architecture], ["Time", spent]]),
    make("details", {}, make("summary", {}, "Digests and request"), facts([
      ["Weights", model.weights_sha256], ["Preprocessing", model.preprocess_digest], ["Request", request]])));
}

function showReport() {
  const { answer, selected } = state;
  const open = $("answer").querySelector("details")?.open ?? false;
  const focused = $("answer").contains(document.activeElement) ? document.activeElement.id : "";
  $("answer").replaceChildren(
    ...(answer.exam ? [judgement("Exam", answer.exam, "exam"), examTable(answer)] : []),
    judgement(name(selected), answer.images[selected], "image"), ...imageDetails(selected), provenance(answer));
  $("answer").firstElementChild.classList.add("first");
  $("answer").querySelector("details").open = open;
  if (focused) $(focused)?.focus();
}

function showAnswer() {
  $("notice").textContent = state.answer.notice;
  state.selected = hung()[0];
  showImages();
  showReport();
  progress("Loading the picture");
}

function showError(error) {
  progress("");
  const known = error instanceof Refusal;
  const prefix = known && error.index != null ? `Image ${error.index + 1} of ${state.uploads.length}: ` : "";
  const titles = { 4: "The server refused this", 5: "The server could not answer" };
  const title = (known && titles[Math.floor(error.status / 100)]) || "No answer could be shown";
  const code = known ? [error.status, error.code].filter(Boolean).join(" ") : "no_answer";
  // fetch() throws a TypeError if the connection fails (Fetch Standard, 5.6).
  const unexpected = error instanceof TypeError ? "The server cannot be reached." : `The answer cannot be read (${error.name}).`;
  const message = known ? error.message : unexpected;
  $("error").replaceChildren(make("div", { className: "failure" }, make("h2", {}, title),
    make("p", {}, prefix + message), make("p", {}, make("code", { id: "error-code" }, code)),
    make("button", { type: "button", onclick: read }, "Try again")));
  if (state.answer) return; // keep the scores: only a picture is missing
  $("answer").replaceChildren();
  hideImages();
}

for (const button of document.querySelectorAll("[data-choose]")) button.onclick = () => $("files").click();
$("files").onchange = ({ target }) => { choose(target.files); target.value = ""; };
$("clear").onclick = () => { clear(); $("empty").querySelector("button").focus(); };
for (const id of ["overlay", "opacity", "regions"]) $(id).oninput = layout;
$("pixels").oninput = () => { Object.assign(view, { x: 0, y: 0 }); layout(); };
$("all").oninput = ({ target }) => { state.single = !target.checked; showImages(); };
for (const id of ["center", "width"]) {
  $(id).oninput = () => { setWindow($("center").value / 100, $("width").value / 100); layout(); };
}
$("closer").onclick = () => zoomAt($("frame").querySelector(".selected"), null, 1.25);
$("farther").onclick = () => zoomAt($("frame").querySelector(".selected"), null, 0.8);
$("fit").onclick = () => { $("pixels").checked = false; resetView(); layout(); };
for (const button of document.querySelectorAll("input[name=point]")) {
  button.onchange = () => { if (state.uploads.length) read(); };
}
addEventListener("resize", layout);
addEventListener("dragover", (event) => { event.preventDefault(); $("stage").classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("stage").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  choose(event.dataTransfer.files);
});
