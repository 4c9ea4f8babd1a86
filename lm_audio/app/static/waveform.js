// Small waveforms of takes and of the library, drawn on a canvas while the sound grows.

import { cssColour } from "./elements.js";

/**
 * The lowest and highest sample of each column.
 * @param {import("./sound.js").Sound} sound
 * @param {number} columns
 * @param {number} numFrames of the whole picture; more than the sound has so far leaves room.
 * @returns {Int8Array} pairs.
 */
export function peaks(sound, columns, numFrames = sound.numFrames) {
  const found = new Int8Array(2 * columns);
  const samples = sound.samples;
  for (let column = 0; column < columns; column++) {
    const first = Math.floor((column * numFrames) / columns) * sound.channels;
    const last = Math.min(Math.floor(((column + 1) * numFrames) / columns) * sound.channels, samples.length);
    let low = 0;
    let high = 0;
    for (let i = first; i < last; i++) {
      if (samples[i] < low) low = samples[i];
      else if (samples[i] > high) high = samples[i];
    }
    found[2 * column] = low >> 8;
    found[2 * column + 1] = high >> 8;
  }
  return found;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Int8Array} pairs of `peaks`.
 * @param {{done?: number}} options the part until `done` columns is drawn in the colour of what has been played.
 */
export function drawWaveform(canvas, pairs, { done = 0 } = {}) {
  const columns = pairs.length / 2;
  const middle = canvas.height / 2;
  const width = canvas.width / columns;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.clearRect(0, 0, canvas.width, canvas.height);
  const colours = [cssColour("--wave-done"), cssColour("--wave")];
  for (const [i, colour] of colours.entries()) {
    context.fillStyle = colour;
    for (let column = i ? done : 0; column < (i ? columns : done); column++) {
      const top = middle - (pairs[2 * column + 1] / 128) * middle;
      const bottom = middle - (pairs[2 * column] / 128) * middle;
      context.fillRect(column * width, top - 0.5, Math.max(width - 1, 1), bottom - top + 1);
    }
  }
}
