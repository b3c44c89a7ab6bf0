// A photo as the pixels that a network gets: what the manifest says of its input, in code.

const MAX_PIXELS = 64e6;

/** The pixels of a file or a video frame, upright, as ImageData: bytes of red, green, blue, alpha. */
export async function decode(source) {
  const bitmap = await createImageBitmap(source, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const { width, height } = bitmap;
  try {
    if (width * height > MAX_PIXELS) throw new Error(`${width}×${height} pixels are too many`);
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } finally {
    bitmap.close();
  }
}

/**
 * An image at a network's size: the short side resized to fit, the centre cut out.
 *
 * Bilinear with antialiasing, as PIL and TensorFlow do it, which no canvas promises.
 *
 * @param {ImageData} image
 * @param {number[]} shape height, width and channels: 1 is grey, 3 is RGB, 4 is RGBA
 * @returns {Uint8ClampedArray} height × width × channels bytes
 */
export function fit({ data, width, height }, [rows, columns, channels]) {
  const pixels = withChannels(data, channels);
  if (width === columns && height === rows) return pixels;
  const scale = Math.max(rows / height, columns / width);
  const across = taps(width, scale, columns);
  const down = taps(height, scale, rows);
  // Only the rows that the cut looks at are resized.
  const first = down[0].start;
  const last = down.at(-1).start + down.at(-1).weights.length;
  const line = columns * channels;
  const narrow = new Float32Array((last - first) * line);
  for (let y = first, to = 0; y < last; y++) {
    for (const { start, weights } of across) {
      for (let c = 0; c < channels; c++, to++) {
        let from = (y * width + start) * channels + c;
        let sum = 0;
        for (let i = 0; i < weights.length; i++, from += channels) sum += weights[i] * pixels[from];
        narrow[to] = sum;
      }
    }
  }
  // Clamped bytes are rounded to the nearest, and halves to even, as TensorFlow's are.
  const result = new Uint8ClampedArray(rows * line);
  down.forEach(({ start, weights }, y) => {
    for (let x = 0; x < line; x++) {
      let from = (start - first) * line + x;
      let sum = 0;
      for (let i = 0; i < weights.length; i++, from += line) sum += weights[i] * narrow[from];
      result[y * line + x] = sum;
    }
  });
  return result;
}

/** Pixels of a network as ImageData again, to be looked at. */
export function shown(pixels, [rows, columns, channels]) {
  const image = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    for (let c = 0; c < 3; c++) {
      image.data[4 * i + c] = pixels[i * channels + (channels < 3 ? 0 : c)];
    }
    image.data[4 * i + 3] = channels === 4 ? pixels[4 * i + 3] : 255;
  }
  return image;
}

function withChannels(rgba, channels) {
  const pixels = new Uint8ClampedArray((rgba.length / 4) * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    if (channels === 1) {
      pixels[to++] = 0.299 * rgba[from] + 0.587 * rgba[from + 1] + 0.114 * rgba[from + 2];
    } else {
      for (let c = 0; c < channels; c++) pixels[to++] = rgba[from + c];
    }
  }
  return pixels;
}

/** For each pixel in the middle of a resized side: the first pixel it is made of, and the weights. */
function taps(side, scale, wanted) {
  const whole = Math.max(roundHalfToEven(side * scale), wanted);
  const cut = Math.floor((whole - wanted) / 2);
  const step = side / whole;
  const reach = Math.max(step, 1);
  return Array.from({ length: wanted }, (_, i) => {
    const centre = (cut + i + 0.5) * step;
    const start = Math.max(0, Math.floor(centre - reach));
    const end = Math.min(side, Math.ceil(centre + reach));
    const weights = Float32Array.from({ length: end - start }, (_, j) =>
      Math.max(0, 1 - Math.abs(start + j + 0.5 - centre) / reach),
    );
    const sum = weights.reduce((a, b) => a + b);
    return { start, weights: weights.map((weight) => weight / sum) };
  });
}

function roundHalfToEven(x) {
  const nearest = Math.round(x);
  return nearest - x === 0.5 && nearest % 2 ? nearest - 1 : nearest;
}
