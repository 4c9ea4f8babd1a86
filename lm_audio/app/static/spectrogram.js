// Mel spectrograms in decibels, drawn with a perceptually uniform colour map and an axis in Hz.

import { element } from "./elements.js";

const RANGE = 80; // dB below the loudest point
const SILENCE = -40; // dB; softer sounds are drawn as silence
const TICKS = [100, 300, 1000, 3000, 10000]; // Hz
// magma, of matplotlib
const COLOURS =
  "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 fec488 fde2a3 fcfdbf";

/**
 * @typedef {Object} Picture
 * @property {number} columns
 * @property {number} bands from low to high frequencies.
 * @property {Uint8Array} levels by column, 255 being the loudest.
 */

/**
 * @param {import("./sound.js").Sound} sound
 * @param {{columns: number, bands: number}} size
 * @returns {Picture}
 */
export function spectrogram(sound, { columns, bands }) {
  const length = sound.rate > 30000 ? 2048 : 1024;
  const samples = sound.mono();
  const weights = bandWeights(bands, length, sound.rate);
  const window = Float32Array.from({ length }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / length));
  const transform = fourier(length);
  const decibels = new Float32Array(columns * bands);
  const real = new Float32Array(length);
  const imaginary = new Float32Array(length);
  let peak = SILENCE;
  for (let column = 0; column < columns; column++) {
    const centre = Math.floor(((column + 0.5) * samples.length) / columns);
    const first = centre - length / 2;
    for (let i = 0; i < length; i++) real[i] = (samples[first + i] ?? 0) * window[i];
    imaginary.fill(0);
    transform(real, imaginary);
    for (let band = 0; band < bands; band++) {
      let power = 1e-20;
      for (const [bin, weight] of weights[band]) {
        power += weight * (real[bin] * real[bin] + imaginary[bin] * imaginary[bin]);
      }
      const level = 10 * Math.log10(power);
      decibels[column * bands + band] = level;
      peak = Math.max(peak, level);
    }
  }
  const levels = Uint8Array.from(decibels, (x) => Math.max(0, 255 * (1 + (x - peak) / RANGE)));
  return { columns, bands, levels };
}

const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const hertz = (mels) => 700 * (10 ** (mels / 2595) - 1);

/** Where a frequency is, from 0 at the bottom to 1 at the top. */
export function height(frequency, rate) {
  return mel(frequency) / mel(rate / 2);
}

/** For each band: pairs of a bin and its weight, a triangle around the centre of the band. */
function bandWeights(bands, length, rate) {
  const width = rate / length;
  const edges = Array.from({ length: bands + 2 }, (_, i) =>
    hertz((mel(rate / 2) * i) / (bands + 1)),
  );
  return Array.from({ length: bands }, (_, band) => {
    const [low, centre, high] = edges.slice(band, band + 3);
    const found = [];
    for (let bin = Math.ceil(low / width); bin * width < high && bin < length / 2; bin++) {
      const at = bin * width;
      const weight = at < centre ? (at - low) / (centre - low) : (high - at) / (high - centre);
      if (weight > 0) found.push([bin, weight]);
    }
    return found.length ? found : [[Math.min(Math.round(centre / width), length / 2 - 1), 1]];
  });
}

/** A Fourier transform in place, for a length that is a power of two. @param {number} length */
function fourier(length) {
  const bits = Math.log2(length);
  const cosines = Float32Array.from({ length: length / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / length));
  const sines = Float32Array.from({ length: length / 2 }, (_, i) => -Math.sin((2 * Math.PI * i) / length));
  const order = Uint32Array.from({ length }, (_, i) => {
    let reversed = 0;
    for (let bit = 0; bit < bits; bit++) reversed |= ((i >> bit) & 1) << (bits - 1 - bit);
    return reversed;
  });
  return (real, imaginary) => {
    for (let i = 0; i < length; i++) {
      const j = order[i];
      if (j > i) {
        [real[i], real[j]] = [real[j], real[i]];
        [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
      }
    }
    for (let size = 2; size <= length; size *= 2) {
      const half = size / 2;
      const step = length / size;
      for (let start = 0; start < length; start += size) {
        for (let k = 0; k < half; k++) {
          const [c, s] = [cosines[k * step], sines[k * step]];
          const [a, b] = [start + k, start + k + half];
          const x = real[b] * c - imaginary[b] * s;
          const y = real[b] * s + imaginary[b] * c;
          real[b] = real[a] - x;
          imaginary[b] = imaginary[a] - y;
          real[a] += x;
          imaginary[a] += y;
        }
      }
    }
  };
}

const MAP = colourMap();

function colourMap() {
  const stops = COLOURS.split(" ").map((text) => [0, 2, 4].map((i) => parseInt(text.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, level) => {
    const at = (level / 255) * (stops.length - 1);
    const [low, high] = [stops[Math.floor(at)], stops[Math.ceil(at)]];
    return low.map((x, i) => Math.round(x + (high[i] - x) * (at % 1)));
  });
}

/** @param {HTMLCanvasElement} canvas @param {Picture} picture */
export function drawSpectrogram(canvas, picture) {
  canvas.width = picture.columns;
  canvas.height = picture.bands;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(picture.columns, picture.bands);
  for (let y = 0; y < picture.bands; y++) {
    for (let x = 0; x < picture.columns; x++) {
      const colour = MAP[picture.levels[x * picture.bands + picture.bands - 1 - y]];
      image.data.set([...colour, 255], 4 * (y * picture.columns + x));
    }
  }
  context.putImageData(image, 0, 0);
}

/**
 * Labels of frequencies over a spectrogram.
 * @param {number} rate
 * @param {number} gap the least distance between labels, as a share of the height.
 */
export function frequencyAxis(rate, gap) {
  const axis = element("div", { class: "frequencies", "aria-hidden": true });
  let last = 0.03;
  for (const tick of TICKS.filter((hertz) => hertz < 0.45 * rate)) {
    const at = height(tick, rate);
    if (at - last < gap) continue;
    last = at;
    const label = element("span", {}, tick < 1000 ? `${tick} Hz` : `${tick / 1000} kHz`);
    label.style.bottom = `${100 * at}%`;
    axis.append(label);
  }
  return axis;
}
