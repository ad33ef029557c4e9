// The gallery. All that a manifest says goes into the page as text, never as markup, and the grid
// holds only the tiles that are in sight, so that ten thousand rows scroll like ten.
(() => {
"use strict";

const $ = (id) => document.getElementById(id);
const MISSING = ""; // instead of the thumbnail of a picture that could not be read
const UNKNOWN = 2; // a label that a row does not have
const WORDS = { 1: "present", 0: "absent", "-1": "uncertain" };
const CASES = 100; // refusals listed of one reason
// Words of the manifest in the order in which one thinks of them; others follow by the alphabet.
const ORDER = ["train", "dev", "test", "ok", "refused", "failed", "PA", "AP", "LL", "RL", "rendered", "real"];

// ---------------------------------------------------------------- data

const blocks = (kind) => [...document.querySelectorAll(`script[data-holds="${kind}"]`)];
const parse = (block) => JSON.parse(block.textContent);
const about = parse(blocks("about")[0]);
const thumbnailBlocks = blocks("thumbnails");
const parsedThumbnails = [];
const columns = Object.fromEntries(Object.keys(about.columns).concat("whole").map((k) => [k, []]));
const chunkOf = [];
const placeInChunk = [];

blocks("rows").forEach((block, chunk) => {
  const part = parse(block);
  for (const [name, column] of Object.entries(columns)) {
    const packed = part.columns[name];
    for (let i = 0; i < part.n; i++) {
      column.push(packed === undefined ? null : packed.each ? packed.each[i] : packed.same);
    }
  }
  for (let i = 0; i < part.n; i++) {
    chunkOf.push(chunk);
    placeInChunk.push(i);
  }
  block.remove();
});

const N = chunkOf.length;
const isGood = (row) => columns.status[row] === "ok";

function thumbnail(row) {
  const chunk = chunkOf[row];
  if (!parsedThumbnails[chunk]) {
    parsedThumbnails[chunk] = parse(thumbnailBlocks[chunk]);
    thumbnailBlocks[chunk].remove();
  }
  const data = parsedThumbnails[chunk][placeInChunk[row]];
  return data ? `data:image/webp;base64,${data}` : MISSING;
}

const pictureFile = (row) =>
  "../" + columns.cxr_path[row].split("/").map(encodeURIComponent).join("/");

// ---------------------------------------------------------------- small makers

function make(tag, set = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(set)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function draw(tag, set = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(set)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
// A code may be broken after its underscores.
const breakable = (code) => code.split(/(?<=_)/).flatMap((piece) => [piece, make("wbr")]);
const heading = (text) => make("h3", { className: "heading", textContent: text });

function tell(value) {
  if (Array.isArray(value)) return value.map(tell).join(" × ");
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number" && !Number.isInteger(value)) return String(+value.toFixed(3));
  return String(value);
}

// ---------------------------------------------------------------- filters

// A group is a question with a few answers; answers of one group are alternatives.
const groups = [
  makeGroup("split", "Split", columns.split, 2),
  makeGroup("status", "Status", columns.status, 2),
  makeGroup("reason", "Reason", columns.reason, 1),
  makeGroup("view", "View", columns.view, 2),
  makeGroup("cxr_kind", "Kind", columns.cxr_kind, 2),
  makeGroup("dataset", "Data set", columns.dataset, 2),
].filter((group) => group !== null);
const labelGroups = makeLabelGroups();
const allGroups = [...groups, ...labelGroups];
let words = [];
let haystack = null;
let shown = [];

function inOrder(a, b) {
  const [i, j] = [a, b].map((word) => (ORDER.indexOf(word) + ORDER.length + 1) % (ORDER.length + 1));
  return i - j || a.localeCompare(b);
}

function makeGroup(key, title, column, fewest) {
  const answers = [...new Set(column)].filter((value) => value !== null).sort(inOrder);
  if (answers.length < fewest) return null;
  return { key, title, answers, column, chosen: new Set(), counts: new Map(), boxes: new Map() };
}

function makeLabelGroups() {
  const found = new Map();
  columns.labels.forEach((labels, row) => {
    for (const { name, value } of labels ?? []) {
      if (!found.has(name)) found.set(name, new Int8Array(N).fill(UNKNOWN));
      found.get(name)[row] = value;
    }
  });
  return [...found].sort(([a], [b]) => a.localeCompare(b)).map(([name, column]) => ({
    key: `label ${name}`, title: name, answers: [1, 0, -1], column,
    chosen: new Set(), counts: new Map(), boxes: new Map(),
  }));
}

function hasWords(row) {
  haystack ??= columns.sample_id.map((id, i) => [
    id, columns.detail[i], columns.report_findings[i], columns.report_impression[i],
  ].filter(Boolean).join("\n").toLowerCase());
  return words.every((word) => haystack[row].includes(word));
}

// Counts say what a further click would find: a group is counted without its own choice.
function filter() {
  for (const group of allGroups) group.counts.clear();
  const active = allGroups.filter((group) => group.chosen.size);
  shown = [];
  for (let row = 0; row < N; row++) {
    if (words.length && !hasWords(row)) continue;
    const failing = active.filter((group) => !group.chosen.has(group.column[row]));
    if (failing.length === 0) {
      shown.push(row);
      for (const group of allGroups) count(group, row);
    } else if (failing.length === 1) {
      count(failing[0], row);
    }
  }
}

function count(group, row) {
  const value = group.column[row];
  group.counts.set(value, (group.counts.get(value) ?? 0) + 1);
}

function choose(group, value, on) {
  if (on) group.chosen.add(value);
  else group.chosen.delete(value);
  refresh();
}

function clearFilters() {
  for (const group of allGroups) group.chosen.clear();
  $("search").value = "";
  words = [];
  refresh();
}

function buildFilters() {
  for (const group of groups) {
    const set = make("fieldset", {}, make("legend", { textContent: group.title }));
    for (const value of group.answers) set.append(makeChoice(group, value));
    $("groups").append(set);
  }
  if (!labelGroups.length) return;
  const set = make("fieldset", {}, make("legend", { textContent: "Labels" }));
  const key = ["", "yes", "no", "unsure"].map((textContent) => make("span", { textContent }));
  set.append(make("div", { className: "label-key", ariaHidden: "true" }, ...key));
  for (const group of labelGroups) {
    const name = make("span", { className: "word", textContent: group.title, title: group.title });
    const marks = group.answers.map((value) => makeMark(group, value));
    set.append(make("div", { className: "label-line" }, name, ...marks));
  }
  $("groups").append(set);
}

function makeBox(group, value, words) {
  const box = make("input", { type: "checkbox" });
  box.setAttribute("aria-label", words);
  box.dataset.group = group.key;
  box.dataset.value = value;
  box.addEventListener("change", () => choose(group, value, box.checked));
  return box;
}

function makeChoice(group, value) {
  const box = makeBox(group, value, `${group.title}: ${value}`);
  const n = make("span", { className: "n" });
  const word = make("span", { className: "word", textContent: value, title: value });
  const line = make("label", { className: "choice" }, box, word, n);
  group.boxes.set(value, { box, line, n });
  return line;
}

function makeMark(group, value) {
  const box = makeBox(group, value, `${group.title} ${WORDS[value]}`);
  const n = make("span");
  const title = `${group.title}: ${WORDS[value]}`;
  const line = make("label", { className: `mark ${WORDS[value]}`, title }, box, n);
  group.boxes.set(value, { box, line, n });
  return line;
}

function showFilters() {
  let chosen = 0;
  for (const group of allGroups) {
    chosen += group.chosen.size;
    for (const [value, { box, line, n }] of group.boxes) {
      const found = group.counts.get(value) ?? 0;
      n.textContent = found.toLocaleString("en");
      box.checked = group.chosen.has(value);
      line.classList.toggle("none", found === 0);
    }
  }
  $("n-filters").textContent = chosen || "";
  $("clear").hidden = !chosen && !words.length;
  const all = plural(N, "row") + (N < about.total ? `, the first of ${about.total.toLocaleString("en")}` : "");
  $("total").textContent = shown.length === N ? all : `${shown.length.toLocaleString("en")} of ${all}`;
}

function openFilters(open) {
  $("filters").classList.toggle("open", open);
  $("show-filters").setAttribute("aria-expanded", open);
  (open ? $("hide-filters") : $("show-filters")).focus();
}

// ---------------------------------------------------------------- grid

const CAPTION_PX = 46;
const tiles = new Map(); // place in the grid -> element
let layout = { across: 1, side: 160, left: 16, gap: 12 };
let here = 0;

function measure() {
  const room = $("grid").clientWidth;
  const small = room < 560;
  const [gap, left, least] = small ? [8, 12, 100] : [14, 20, 172];
  const across = Math.max(1, Math.floor((room - 2 * left + gap) / (least + gap)));
  const side = Math.floor((room - 2 * left + gap) / across - gap);
  layout = { across, side, left, gap };
  $("runway").style.height = `${Math.ceil(shown.length / across) * pace() + 2 * left}px`;
}

const pace = () => layout.side + CAPTION_PX + layout.gap;

function layOut() {
  measure();
  for (const tile of tiles.values()) tile.remove();
  tiles.clear();
  renderTiles();
}

function renderTiles() {
  const grid = $("grid");
  const first = Math.max(0, Math.floor((grid.scrollTop - layout.left) / pace()) - 1);
  const last = Math.ceil((grid.scrollTop + grid.clientHeight) / pace()) + 1;
  const [from, to] = [first * layout.across, Math.min(shown.length, last * layout.across)];
  for (const [place, tile] of tiles) {
    if (place < from || place >= to) {
      tile.remove();
      tiles.delete(place);
    }
  }
  for (let place = from; place < to; place++) {
    if (tiles.has(place)) continue;
    const tile = makeTile(place);
    tiles.set(place, tile);
    $("runway").append(tile);
  }
  markHere();
}

function makeTile(place) {
  const row = shown[place];
  const tile = make("div", { className: "tile", id: `tile-${place}` });
  tile.setAttribute("role", "option");
  tile.setAttribute("aria-setsize", shown.length);
  tile.setAttribute("aria-posinset", place + 1);
  tile.setAttribute("aria-label", nameRow(row));
  const { across, side, left, gap } = layout;
  const x = left + (place % across) * (side + gap);
  const y = left + Math.floor(place / across) * pace();
  Object.assign(tile.style, {
    width: `${side}px`, height: `${side + CAPTION_PX}px`, transform: `translate(${x}px, ${y}px)`,
  });
  tile.append(makeFilm(row, tile), ...makeCaption(row));
  return tile;
}

function makeFilm(row, tile) {
  const film = make("div", { className: "film" });
  const source = isGood(row) ? thumbnail(row) : MISSING;
  if (source) {
    film.append(make("img", { src: source, alt: "", decoding: "async", draggable: false }));
    if (columns.cxr_kind[row] === "real") {
      film.append(make("span", { className: "badge", textContent: "real" }));
    }
    return film;
  }
  tile.classList.add("off");
  const why = make("p", { className: "why" }, ...breakable(columns.reason[row] ?? "picture missing"));
  why.append(make("small", { textContent: isGood(row) ? "the file cannot be read" : columns.status[row] }));
  film.append(why);
  return film;
}

function makeCaption(row) {
  const present = listLabels(row, 1);
  const top = make("p", { className: "line" },
    make("b", { textContent: columns.view[row] ?? "—" }),
    make("span", { className: "end", textContent: columns.split[row] ?? "" }));
  const text = present.length ? present.join(", ") : columns.sample_id[row].slice(0, 12);
  const second = make("p", { className: "second", textContent: text });
  second.classList.toggle("has-present", present.length > 0);
  return [top, second];
}

const listLabels = (row, value) =>
  (columns.labels[row] ?? []).filter((label) => label.value === value).map((label) => label.name);

function nameRow(row) {
  const parts = [columns.view[row] ?? columns.reason[row], columns.split[row],
    `sample ${columns.sample_id[row]}`, ...listLabels(row, 1)];
  return parts.filter(Boolean).join(", ");
}

function markHere() {
  for (const [place, tile] of tiles) {
    tile.classList.toggle("here", place === here);
    tile.setAttribute("aria-selected", place === here);
  }
  if (tiles.has(here)) $("grid").setAttribute("aria-activedescendant", `tile-${here}`);
  else $("grid").removeAttribute("aria-activedescendant");
}

function goTo(place) {
  here = Math.min(Math.max(place, 0), Math.max(shown.length - 1, 0));
  const grid = $("grid");
  const top = layout.left + Math.floor(here / layout.across) * pace();
  const bottom = top + pace();
  if (top - layout.left < grid.scrollTop) grid.scrollTop = top - layout.left;
  else if (bottom > grid.scrollTop + grid.clientHeight) grid.scrollTop = bottom - grid.clientHeight;
  renderTiles();
}

function onGridKey(event) {
  const page = layout.across * Math.max(1, Math.floor($("grid").clientHeight / pace()));
  const steps = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -layout.across, ArrowDown: layout.across,
    PageUp: -page, PageDown: page, Home: -shown.length, End: shown.length,
  };
  if (event.key in steps) goTo(here + steps[event.key]);
  else if ((event.key === "Enter" || event.key === " ") && shown.length) openDetail(shown, here);
  else return;
  event.preventDefault();
}

function onGridClick(event) {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  goTo(Number(tile.id.slice("tile-".length)));
  openDetail(shown, here);
}

// ---------------------------------------------------------------- detail

const SECTIONS = [
  ["Picture", ["view", "cxr_kind", "draw", "width", "height", "exposed_xywh", "cxr_path", "cxr_sha256"]],
  ["Geometry", ["pitch_mm", "sid_mm", "sod_mm", "isocenter_mm", "rotation_deg"]],
  ["Settings", ["acquisition", "display", "kvp", "dose_ugy", "seed", "engine", "device",
    "render_fingerprint", "render_version", "drrgen_version"]],
  ["CT", ["ct_format", "shape_zyx", "spacing_zyx_mm", "orientation", "slice_thickness_mm", "kernel",
    "hu_source", "hu_p01", "hu_p50", "hu_p99", "coverage_top", "coverage_bottom",
    "fov_truncated_fraction", "tilt_deg", "table_removed_ml", "metal_voxels", "ct_bytes", "ct_ref",
    "ct_sha256"]],
];
const TOLD_ELSEWHERE = ["schema_version", "status", "reason", "detail", "warnings", "labels",
  "report_findings", "report_impression"];
const rest = Object.keys(about.columns).filter(
  (name) => !SECTIONS.some(([, names]) => names.includes(name)) && !TOLD_ELSEWHERE.includes(name));
SECTIONS.push(["Identity and files", rest]);

const LONG = /_(sha256|path|ref|id)$|fingerprint/;
let open = { list: [], at: 0 };

function openDetail(list, at) {
  open = { list, at };
  showDetail();
  if (!$("detail").open) $("detail").showModal();
  fit(); // the stage has its size only now
  $("stage").focus();
}

function step(by) {
  const at = open.at + by;
  if (at < 0 || at >= open.list.length) return;
  open.at = at;
  showDetail();
  fit();
}

function showDetail() {
  const row = open.list[open.at];
  $("detail-title").textContent = columns.view[row]
    ? `${columns.view[row]}, ${columns.cxr_kind[row] ?? "radiograph"}` : `No picture: ${columns.status[row]}`;
  $("place").textContent =
    `${(open.at + 1).toLocaleString("en")} of ${open.list.length.toLocaleString("en")} · ${columns.sample_id[row]}`;
  $("previous").disabled = open.at === 0;
  $("next").disabled = open.at === open.list.length - 1;
  $("facts").replaceChildren(...makeFacts(row));
  $("facts").scrollTop = 0;
  showPicture(row);
}

function showPicture(row) {
  const small = isGood(row) ? thumbnail(row) : MISSING;
  $("picture").hidden = !small;
  $("no-picture").hidden = Boolean(small);
  $("stage").classList.toggle("empty", !small);
  $("source").textContent = "";
  if (!small) {
    $("picture").removeAttribute("src");
    $("no-picture").textContent = columns.reason[row] ?? "The picture file cannot be read.";
    return;
  }
  $("picture").src = small;
  if (columns.whole[row]) loadWhole(row);
  else $("source").textContent = `thumbnail: browsers show no ${columns.cxr_path[row].split(".").pop()} files`;
}

function loadWhole(row) {
  const whole = new Image();
  const isStill = () => open.list[open.at] === row;
  whole.onload = () => {
    if (!isStill()) return;
    $("picture").src = whole.src;
    $("source").textContent = `${whole.naturalWidth} × ${whole.naturalHeight} pixels`;
  };
  whole.onerror = () => {
    if (isStill()) $("source").textContent = "thumbnail: the picture is not beside this page";
  };
  whole.src = pictureFile(row);
}

function makeFacts(row) {
  const parts = [makeTrouble(row), makeReport(row), makeLabels(row)];
  for (const [title, names] of SECTIONS) parts.push(makeTable(title, names, row));
  return parts.filter((part) => part !== null);
}

function makeTrouble(row) {
  const detail = columns.detail[row];
  const warnings = columns.warnings[row] ?? [];
  if (!detail && !warnings.length) return null;
  const title = columns.reason[row] ? `${columns.status[row]}: ${columns.reason[row]}` : "Warnings";
  return make("section", {}, heading(title),
    detail && make("p", { className: "notice bad" }, ...highlight(detail)),
    ...warnings.map((textContent) => make("p", { className: "notice", textContent })));
}

function makeReport(row) {
  const parts = [["Findings", columns.report_findings[row]], ["Impression", columns.report_impression[row]]];
  const there = parts.filter(([, text]) => text);
  if (!there.length) return null;
  const lang = columns.report_lang[row] ?? "";
  return make("section", {}, ...there.flatMap(([title, text]) =>
    [heading(title), make("p", { className: "report", lang }, ...highlight(text))]));
}

function highlight(text) {
  if (!words.length) return [text];
  const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return text.split(new RegExp(`(${escaped.join("|")})`, "gi")).map((piece, i) =>
    i % 2 ? make("mark", { textContent: piece }) : piece);
}

function makeLabels(row) {
  const labels = columns.labels[row] ?? [];
  if (!labels.length) return null;
  const list = make("ul", { className: "labels" });
  for (const value of [1, -1, 0]) {
    for (const name of listLabels(row, value)) {
      const textContent = value === 1 ? name : `${name}: ${WORDS[value]}`;
      list.append(make("li", { className: WORDS[value], textContent }));
    }
  }
  return make("section", {}, heading("Labels"), list);
}

function makeTable(title, names, row) {
  const table = make("dl", { className: "table" });
  for (const name of names) {
    const value = columns[name][row];
    if (value === null) continue;
    const { unit, description } = about.columns[name];
    const shownName = name.replace(/_(mm|ml|deg|ugy)$/, "").replace(/_/g, " ");
    const dd = make("dd", { textContent: unit ? `${tell(value)} ${unit}` : tell(value) });
    dd.classList.toggle("long", LONG.test(name));
    table.append(make("dt", { textContent: shownName, title: description }), dd);
  }
  return table.childElementCount ? make("section", {}, heading(title), table) : null;
}

// ---------------------------------------------------------------- zoom

const MOST = 16;
let zoom = { scale: 1, x: 0, y: 0 };
const fingers = new Map();

function place(scale, x, y) {
  const { clientWidth: w, clientHeight: h } = $("stage");
  const s = Math.min(Math.max(scale, 1), MOST);
  zoom = { scale: s, x: Math.min(0, Math.max(w - w * s, x)), y: Math.min(0, Math.max(h - h * s, y)) };
  $("picture").style.transform = `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
  $("stage").classList.toggle("zoomed", s > 1);
  $("zoom").textContent = `${Math.round(zoom.scale * 100)}%`;
}

const fit = () => place(1, 0, 0);

// Keeps the point under the pointer where it is.
function zoomBy(factor, x, y) {
  const s = Math.min(Math.max(zoom.scale * factor, 1), MOST);
  const change = s / zoom.scale;
  place(s, x - (x - zoom.x) * change, y - (y - zoom.y) * change);
}

const zoomMiddle = (factor) =>
  zoomBy(factor, $("stage").clientWidth / 2, $("stage").clientHeight / 2);

function pointIn(event) {
  const box = $("stage").getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

function onWheel(event) {
  event.preventDefault();
  const { x, y } = pointIn(event);
  // A trackpad tells pinching as a wheel with Ctrl, in small steps.
  const speed = event.ctrlKey ? 0.01 : event.deltaMode ? 0.05 : 0.0016;
  zoomBy(Math.exp(-event.deltaY * speed), x, y);
}

function onMove(event) {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = pointIn(event);
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const spread = (p) => Math.hypot(p.x - other.x, p.y - other.y) || 1;
    zoomBy(spread(now) / spread(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
  } else {
    place(zoom.scale, zoom.x + now.x - before.x, zoom.y + now.y - before.y);
  }
  fingers.set(event.pointerId, now);
}

function invert() {
  const on = $("stage").classList.toggle("inverted");
  $("invert").setAttribute("aria-pressed", on);
}

function onDetailKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const acts = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1), i: invert, 0: fit,
    "+": () => zoomMiddle(1.4), "=": () => zoomMiddle(1.4), "-": () => zoomMiddle(1 / 1.4),
  };
  const act = acts[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function onDetailClosed() {
  $("picture").removeAttribute("src");
  const current = tabs.find((tab) => tab.getAttribute("aria-selected") === "true");
  if (current.id !== "tab-pictures") return current.focus();
  if (open.list === shown) goTo(open.at);
  $("grid").focus();
}

// ---------------------------------------------------------------- refusals

// A refused study has no view, kind or labels: only what it can have keeps it out of this page.
function findRefusals() {
  const split = groups.find((group) => group.key === "split");
  const found = new Map();
  for (let row = 0; row < N; row++) {
    if (isGood(row) || (words.length && !hasWords(row))) continue;
    if (split?.chosen.size && !split.chosen.has(columns.split[row])) continue;
    const reason = columns.reason[row] ?? "unknown";
    if (!found.has(reason)) found.set(reason, []);
    found.get(reason).push(row);
  }
  return [...found].sort(([, a], [, b]) => b.length - a.length);
}

function showRefusals() {
  const found = findRefusals();
  const total = found.reduce((sum, [, rows]) => sum + rows.length, 0);
  const lead = total
    ? `${total.toLocaleString("en")} CT without a picture, by reason. A refused CT cannot be trusted; a failed one is tried again by the next run. The split filter and the search apply here.`
    : "No CT without a picture here.";
  $("page-refusals").replaceChildren(
    make("h2", { textContent: "Refusals" }), make("p", { className: "lead", textContent: lead }),
    ...found.map(([reason, rows]) => makeReason(reason, rows, found[0][1].length)));
}

function makeReason(reason, rows, most) {
  const bar = make("i");
  bar.style.width = `${(100 * rows.length) / most}%`;
  const meter = make("span", { className: `meter ${columns.status[rows[0]]}` }, bar);
  const summary = make("summary", {}, make("span", { className: "reason", textContent: reason }), meter,
    make("span", { className: "n", textContent: rows.length.toLocaleString("en") }));
  const details = make("details", {}, summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(makeCases(rows));
  });
  return details;
}

function makeCases(rows) {
  const list = make("ul", { className: "cases" });
  rows.slice(0, CASES).forEach((row, at) => {
    const button = make("button", { type: "button" },
      make("code", { textContent: columns.sample_id[row] }),
      make("span", {}, ...highlight(columns.detail[row] ?? "")));
    button.addEventListener("click", () => openDetail(rows, at));
    list.append(make("li", {}, button));
  });
  if (rows.length > CASES) {
    const button = make("button", { type: "button", className: "more", textContent: `All ${rows.length.toLocaleString("en")} in the grid` });
    button.addEventListener("click", () => showReason(columns.reason[rows[0]]));
    list.append(make("li", {}, button));
  }
  return list;
}

function showReason(reason) {
  for (const group of allGroups) group.chosen.clear();
  groups.find((group) => group.key === "reason").chosen.add(reason);
  refresh();
  selectTab($("tab-pictures"));
  $("grid").focus();
}

// ---------------------------------------------------------------- distributions

const HISTOGRAMS = [
  ["hu_p01", "HU, 1st percentile"], ["hu_p50", "HU, median"], ["hu_p99", "HU, 99th percentile"],
  ["fov_truncated_fraction", "Skin cut by the field of view"],
];

function showNumbers() {
  const seen = new Set();
  const cts = shown.filter((row) => !seen.has(columns.sample_id[row]) && seen.add(columns.sample_id[row]));
  const lead = `${cts.length.toLocaleString("en")} CT among the rows that the filters leave. Each CT counts once, however many pictures it has.`;
  const charts = HISTOGRAMS.map(([name, title]) => makeHistogram(name, title, cts)).concat([
    makeStacks("Lung apices inside the CT", columns.coverage_top, cts),
    makeStacks("Costophrenic angles inside the CT", columns.coverage_bottom, cts)]);
  $("page-numbers").replaceChildren(
    make("h2", { textContent: "Distributions" }), make("p", { className: "lead", textContent: lead }),
    make("div", { className: "charts" }, ...charts),
    make("h2", { textContent: "Labels by split" }), makeLabelTable(cts));
}

const BINS = 36, WIDE = 320, HIGH = 96;

function makeHistogram(name, title, rows) {
  const values = rows.map((row) => columns[name][row]).filter((value) => value !== null).sort((a, b) => a - b);
  const figure = make("figure", { className: "chart" });
  const unit = about.columns[name].unit;
  figure.append(make("figcaption", {}, title,
    make("span", { textContent: values.length ? `${values.length.toLocaleString("en")} CT` : "not known" })));
  if (!values.length) return figure;
  const [low, high] = [values[0], values[values.length - 1]];
  const middle = values[Math.floor(values.length / 2)];
  const span = high - low || 1;
  const bins = new Array(BINS).fill(0);
  for (const value of values) bins[Math.min(BINS - 1, Math.floor(((value - low) / span) * BINS))]++;
  const say = (value) => String(+value.toFixed(span > 20 ? 0 : 3));
  const told = `${title}: ${say(low)} to ${say(high)}, median ${say(middle)} ${unit}`;
  const svg = draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH + 20}`, role: "img", "aria-label": told });
  const most = Math.max(...bins);
  bins.forEach((n, i) => {
    const height = n ? Math.max(1.5, (n / most) * (HIGH - 8)) : 0;
    const bar = draw("rect", { x: (i * WIDE) / BINS, y: HIGH - height, width: WIDE / BINS - 1.2, height, rx: 1 });
    bar.append(draw("title", {}, `${say(low + (i * span) / BINS)} to ${say(low + ((i + 1) * span) / BINS)} ${unit}: ${n}`));
    svg.append(bar);
  });
  const x = ((middle - low) / span) * WIDE;
  const anchor = x < 90 || x > WIDE - 90 ? null : "middle";
  svg.append(draw("line", { x1: 0, x2: WIDE, y1: HIGH + 0.5, y2: HIGH + 0.5 }),
    draw("line", { class: "middle", x1: x, x2: x, y1: 0, y2: HIGH }),
    draw("text", { x: 0, y: HIGH + 16 }, say(low)),
    draw("text", { x: WIDE, y: HIGH + 16, "text-anchor": "end" }, `${say(high)} ${unit}`),
    draw("text", { x: anchor ? x : WIDE / 2, y: HIGH + 16, "text-anchor": "middle" }, `median ${say(middle)}`));
  figure.append(svg);
  return figure;
}

const splitsOf = (rows) => [...new Set(rows.map((row) => columns.split[row] ?? "no split"))]
  .sort(inOrder);

function makeStack(parts) {
  const total = parts.reduce((sum, [, n]) => sum + n, 0);
  const stack = make("div", { className: "stack" });
  for (const [kind, n] of parts) {
    if (!n || kind === "unknown") continue;
    const bar = make("i", { className: kind, title: `${kind}: ${n}` });
    bar.style.width = `${(100 * n) / total}%`;
    stack.append(bar);
  }
  return stack;
}

function makeStacks(title, column, rows) {
  const figure = make("figure", { className: "chart" }, make("figcaption", {}, title));
  for (const split of splitsOf(rows)) {
    const values = rows.filter((row) => (columns.split[row] ?? "no split") === split).map((row) => column[row]);
    const tally = (wanted) => values.filter((value) => value === wanted).length;
    const parts = [["yes", tally(true)], ["no", tally(false)], ["unknown", tally(null)]];
    const stack = makeStack(parts);
    stack.setAttribute("role", "img");
    stack.setAttribute("aria-label", `${split}: ${parts.map(([k, n]) => `${n} ${k}`).join(", ")}`);
    for (const bar of stack.children) {
      if (parseFloat(bar.style.width) > 6) bar.textContent = bar.title.split(": ")[1];
    }
    figure.append(make("div", { className: "stack-line" }, make("span", { textContent: split }), stack));
  }
  figure.append(makeKey(["yes", "no", "unknown"]));
  return figure;
}

const makeKey = (kinds) => make("p", { className: "key" },
  ...kinds.map((kind) => make("span", { className: kind, textContent: kind })));

function makeLabelTable(rows) {
  if (!labelGroups.length) return make("p", { className: "lead", textContent: "No row has labels." });
  const splits = splitsOf(rows);
  const bySplit = splits.map((split) => rows.filter((row) => (columns.split[row] ?? "no split") === split));
  const body = make("tbody");
  for (const group of labelGroups) {
    const cells = bySplit.map((inside) => makeLabelCell(group.column, inside));
    body.append(make("tr", {}, make("th", { scope: "row", textContent: group.title }), ...cells));
  }
  const head = ["Label", ...splits].map((textContent) => make("th", { scope: "col", textContent }));
  const table = make("table", { className: "by-split" }, make("thead", {}, make("tr", {}, ...head)), body);
  const scroll = make("div", { className: "scroll", tabIndex: 0 }, table);
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Labels by split");
  return make("div", {}, makeKey(["present", "uncertain", "absent", "unknown"]), scroll);
}

function makeLabelCell(column, rows) {
  const tally = (wanted) => rows.filter((row) => column[row] === wanted).length;
  const [present, uncertain, absent] = [1, -1, 0].map(tally);
  const known = present + uncertain + absent;
  const stack = makeStack([["present", present], ["uncertain", uncertain], ["absent", absent],
    ["unknown", rows.length - known]]);
  stack.setAttribute("aria-hidden", "true");
  const share = known ? `, ${((100 * present) / known).toFixed(1)}\u00a0%` : "";
  return make("td", {}, stack, make("small", { textContent: `${present} of ${known}${share}` }));
}

// ---------------------------------------------------------------- page

const tabs = [$("tab-pictures"), $("tab-refusals"), $("tab-numbers")];

function selectTab(chosen) {
  for (const tab of tabs) {
    const on = tab === chosen;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !on;
  }
  showPage();
}

function onTabKey(event) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return;
  const next = tabs[(tabs.indexOf(event.target.closest("[role=tab]")) + by + tabs.length) % tabs.length];
  next.focus();
  selectTab(next);
}

function showPage() {
  if (!$("page-pictures").hidden) layOut();
  else if (!$("page-refusals").hidden) showRefusals();
  else showNumbers();
}

function refresh() {
  filter();
  showFilters();
  here = 0;
  $("grid").scrollTop = 0;
  $("nothing").hidden = shown.length > 0;
  showPage();
}

let waiting = 0;
function onSearch() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    refresh();
  }, 80);
}

function onSearchKey(event) {
  if (event.key === "Escape" && $("search").value) {
    $("search").value = "";
    onSearch();
  } else if (["Escape", "Enter", "ArrowDown"].includes(event.key)) {
    selectTab(tabs.find((tab) => tab.getAttribute("aria-selected") === "true"));
    $("grid").focus();
  } else return;
  event.preventDefault();
}

function onKey(event) {
  if ($("detail").open) return;
  const typing = event.target.matches("input[type=search]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    $("search").focus();
    $("search").select();
  } else if (event.key === "Escape" && $("filters").classList.contains("open")) {
    openFilters(false);
  }
}

function listen() {
  document.addEventListener("keydown", onKey);
  $("search").addEventListener("input", onSearch);
  $("search").addEventListener("keydown", onSearchKey);
  $("clear").addEventListener("click", clearFilters);
  $("show-filters").addEventListener("click", () => openFilters(true));
  $("hide-filters").addEventListener("click", () => openFilters(false));
  $("grid").addEventListener("scroll", () => requestAnimationFrame(renderTiles), { passive: true });
  $("grid").addEventListener("keydown", onGridKey);
  $("grid").addEventListener("click", onGridClick);
  for (const tab of tabs) {
    tab.addEventListener("click", () => selectTab(tab));
    tab.addEventListener("keydown", onTabKey);
  }
  new ResizeObserver(() => { if ($("grid").clientWidth) layOut(); }).observe($("grid"));
  listenInDetail();
}

function listenInDetail() {
  const stage = $("stage");
  $("detail").addEventListener("keydown", onDetailKey);
  $("detail").addEventListener("close", onDetailClosed);
  $("close").addEventListener("click", () => $("detail").close());
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("zoom-in").addEventListener("click", () => zoomMiddle(1.4));
  $("zoom-out").addEventListener("click", () => zoomMiddle(1 / 1.4));
  $("zoom-fit").addEventListener("click", fit);
  $("invert").addEventListener("click", invert);
  stage.addEventListener("wheel", onWheel, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button")) return;
    fingers.set(event.pointerId, pointIn(event));
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", onMove);
  for (const kind of ["pointerup", "pointercancel"]) {
    stage.addEventListener(kind, (event) => fingers.delete(event.pointerId));
  }
  stage.addEventListener("dblclick", (event) => {
    const { x, y } = pointIn(event);
    if (zoom.scale > 1) fit();
    else zoomBy(3, x, y);
  });
  new ResizeObserver(() => place(zoom.scale, zoom.x, zoom.y)).observe(stage);
}

document.title = `${about.name} · drrgen gallery`;
$("name").textContent = about.name;
$("n-refusals").textContent = columns.status.filter((status) => status !== "ok").length || "";
buildFilters();
listen();
refresh();
if (!matchMedia("(pointer: coarse)").matches) $("grid").focus();
})();
