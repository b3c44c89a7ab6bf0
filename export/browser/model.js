// An artifact folder's model in the browser: the TFLite file with LiteRT.js, the ONNX file with
// onnxruntime-web. Either runtime is fetched once it is needed.

const OPENERS = { tflite: openTFLite, onnx: openONNX };

// Threads share memory, which a browser allows only to pages that are cross-origin isolated.
const THREADS = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

/** The manifest of an artifact folder, its artifacts only those that a browser can run. */
export async function readManifest(folder) {
  const manifest = await (await get(new URL("manifest.json", folder))).json();
  const artifacts = manifest.artifacts.filter(({ format }) => format in OPENERS);
  if (!artifacts.length) throw new Error(`${folder} holds neither a TFLite nor an ONNX file`);
  if (manifest.input.note) console.warn(`${folder}: ${manifest.input.note}`);
  return { ...manifest, artifacts };
}

/**
 * Open one file of an artifact folder.
 *
 * @returns {{predict, close}} `predict` takes the bytes of one image, height × width × channels, to
 *   {probabilities, milliseconds}; one call at a time.
 */
export async function openModel(folder, manifest, record) {
  const file = await get(new URL(record.file, folder));
  const bytes = new Uint8Array(await file.arrayBuffer());
  const { run, close } = await OPENERS[record.format](bytes, manifest.input.shape, record);
  const predict = async (pixels) => {
    const start = performance.now();
    const probabilities = await run(pixels);
    return { probabilities, milliseconds: performance.now() - start };
  };
  // The first run sets up what later ones use.
  await predict(new Uint8ClampedArray(manifest.input.shape.reduce((a, b) => a * b)));
  return { predict, close };
}

let litert;

async function openTFLite(bytes, shape, record) {
  const { loadLiteRt, loadAndCompile, Tensor } = await import("@litertjs/core");
  const place = new URL("node_modules/@litertjs/core/wasm/", import.meta.url).href;
  await (litert ??= loadLiteRt(place, { threads: THREADS > 1 }));
  const model = await loadAndCompile(bytes, {
    accelerator: "wasm",
    cpuOptions: { numThreads: THREADS },
  });
  const numbers = record.input_dtype === "uint8" ? Uint8Array : Float32Array;
  const run = async (pixels) => {
    const image = new Tensor(numbers.from(pixels), [1, ...shape]);
    const [output] = await model.run(image);
    const scores = Float32Array.from(await output.data());
    image.delete();
    output.delete();
    return record.outputs.includes("probabilities") ? scores : softmax(scores);
  };
  return { run, close: () => model.delete() };
}

async function openONNX(bytes, [height, width, channels], { layout }) {
  const { default: ort } = await import("onnxruntime-web");
  ort.env.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", import.meta.url).href;
  ort.env.wasm.numThreads = THREADS;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const planar = layout === "NCHW";
  const shape = planar ? [1, channels, height, width] : [1, height, width, channels];
  const run = async (pixels) => {
    const numbers = Float32Array.from(planar ? planes(pixels, channels) : pixels);
    const image = new ort.Tensor("float32", numbers, shape);
    const { probabilities } = await session.run({ image }, ["probabilities"]);
    return probabilities.data;
  };
  return { run, close: () => session.release() };
}

function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((x) => Math.exp(x - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

function planes(pixels, channels) {
  const area = pixels.length / channels;
  return pixels.map((_, i) => pixels[(i % area) * channels + Math.floor(i / area)]);
}

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} was answered with ${response.status}`);
  return response;
}
