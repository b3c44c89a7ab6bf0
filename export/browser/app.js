// The page: a photo or the camera in, the five most likely classes out.

import { openModel, readManifest } from "./model.js";
import { decode, fit, shown } from "./pixels.js";

const TOP = 5;
const $ = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat(undefined, {
  style: "percent",
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
});

const folder = new URL(
  `${(new URLSearchParams(location.search).get("artifact") ?? "artifacts").replace(/\/$/, "")}/`,
  location.href,
);
let manifest;
let model;
let image;

// A model runs one image at a time, and is not closed under one.
let turn = Promise.resolve();
const inTurn = (work) => (turn = turn.then(work).then(() => complain(""), complain));

function complain(why) {
  $("problem").textContent = why && `${why.message ?? why}`;
  if (why) $("status").textContent = "";
}

async function start() {
  manifest = await readManifest(folder);
  const [height, width] = manifest.input.shape;
  document.title = manifest.name;
  $("name").textContent = manifest.name;
  $("about").textContent =
    `${manifest.labels.length} classes, from ${width}×${height} pixels of ${manifest.input.colour}`;
  for (const { file, quantization, bytes } of manifest.artifacts) {
    const size = (bytes / 1e6).toPrecision(2);
    $("file").add(new Option(`${file}: ${quantization}, ${size} MB`, file));
  }
  await open();
  for (const control of document.querySelectorAll("[disabled]")) control.disabled = false;
}

async function open() {
  const record = manifest.artifacts.find(({ file }) => file === $("file").value);
  $("status").textContent = `Loading ${record.file}`;
  const before = model;
  model = await openModel(folder, manifest, record);
  before?.close();
  $("status").textContent = "Ready";
  if (image) await classify();
}

async function look(source, name) {
  try {
    image = await decode(source);
  } catch (error) {
    throw new Error(`${name} is not an image that this browser can read (${error.message})`);
  }
  await classify();
}

async function classify() {
  const pixels = fit(image, manifest.input.shape);
  const { probabilities, milliseconds } = await model.predict(pixels);
  draw($("photo"), image);
  draw($("seen"), shown(pixels, manifest.input.shape));
  $("images").hidden = false;
  const ranked = Array.from(probabilities.keys())
    .sort((a, b) => probabilities[b] - probabilities[a])
    .slice(0, TOP);
  $("answers").replaceChildren(...ranked.map((i) => row(manifest.labels[i], probabilities[i])));
  $("time").textContent = `${milliseconds.toFixed(1)} ms`;
  // Set only when it changes: a screen reader says it each time, and a camera gives 30 a second.
  const said = `Most likely: ${manifest.labels[ranked[0]]}`;
  if ($("status").textContent !== said) $("status").textContent = said;
}

function draw(canvas, pixels) {
  Object.assign(canvas, { width: pixels.width, height: pixels.height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function row(label, probability) {
  const item = document.createElement("li");
  const [name, share] = [document.createElement("span"), document.createElement("data")];
  name.textContent = label;
  share.value = probability;
  share.textContent = percent.format(probability);
  item.style.setProperty("--share", probability);
  item.append(name, share);
  return item;
}

async function toggleCamera() {
  if (stopCamera()) return;
  const video = $("video");
  video.srcObject = await navigator.mediaDevices.getUserMedia({
    video: { facingMode: "environment" },
  });
  await video.play();
  $("camera").textContent = "Stop the camera";
  watch(video);
}

function stopCamera() {
  const stream = $("video").srcObject;
  stream?.getTracks().forEach((track) => track.stop());
  $("video").srcObject = null;
  $("camera").textContent = "Use the camera";
  return stream !== null;
}

async function watch(video) {
  while (video.srcObject) {
    await inTurn(() => video.srcObject && look(video, "the camera's picture"));
    await new Promise(requestAnimationFrame);
  }
}

function take(files) {
  const file = [...(files ?? [])][0];
  if (!file || !model) return;
  stopCamera();
  inTurn(() => look(file, file.name));
}

$("input").addEventListener("change", ({ target }) => {
  take(target.files);
  // The same file may be chosen again.
  target.value = "";
});
addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
$("file").addEventListener("change", () => inTurn(open));
$("camera").addEventListener("click", () => toggleCamera().catch(complain));
$("camera").hidden = !navigator.mediaDevices;

inTurn(start);
