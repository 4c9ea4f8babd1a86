// Sounds as 16-bit samples: they grow while they are made, and become WAV files.

/** Samples of one sound, channels interleaved; it may still grow. */
export class Sound {
  #samples = new Int16Array(0);

  /** @param {number} rate @param {number} channels */
  constructor(rate, channels) {
    this.rate = rate;
    this.channels = channels;
    this.numFrames = 0;
    this.complete = false;
  }

  /** @param {number} rate @param {number} channels @param {Int16Array} samples */
  static of(rate, channels, samples) {
    const sound = new Sound(rate, channels);
    sound.append(samples);
    sound.complete = true;
    return sound;
  }

  get duration() {
    return this.numFrames / this.rate;
  }

  /** All samples so far, interleaved. */
  get samples() {
    return this.#samples.subarray(0, this.numFrames * this.channels);
  }

  /** @param {Int16Array} more interleaved samples. */
  append(more) {
    const used = this.numFrames * this.channels;
    if (used + more.length > this.#samples.length) {
      const grown = new Int16Array(this.numFrames ? 2 * (used + more.length) : more.length);
      grown.set(this.samples);
      this.#samples = grown;
    }
    this.#samples.set(more, used);
    this.numFrames += more.length / this.channels;
  }

  /** The samples of one channel from -1 to 1. */
  channel(number, start = 0, stop = this.numFrames) {
    const values = new Float32Array(Math.max(0, stop - start));
    for (let i = 0; i < values.length; i++) {
      values[i] = this.#samples[(start + i) * this.channels + number] / 32768;
    }
    return values;
  }

  /** The mean of all channels from -1 to 1. */
  mono(start = 0, stop = this.numFrames) {
    const sum = this.channel(0, start, stop);
    for (let c = 1; c < this.channels; c++) {
      this.channel(c, start, stop).forEach((x, i) => (sum[i] += x));
    }
    return this.channels === 1 ? sum : sum.map((x) => x / this.channels);
  }
}

/** 16-bit samples in base64, as the API sends them. @param {string} text */
export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Int16Array(bytes.buffer);
}

/**
 * The frame near a given one where the sound crosses zero upwards, or else is quietest.
 * @param {Sound} sound
 * @param {number} frame
 * @param {number} [reach] frames to search on each side; 10 ms by default.
 */
export function zeroCrossing(sound, frame, reach = Math.round(sound.rate / 100)) {
  const first = Math.max(0, frame - reach);
  const values = sound.mono(first, Math.min(sound.numFrames, frame + reach + 1));
  if (values.length < 2) return frame;
  let best = -1;
  let quietest = 0;
  for (let i = 0; i < values.length; i++) {
    if (Math.abs(values[i]) < Math.abs(values[quietest])) quietest = i;
    const isCrossing = i > 0 && values[i - 1] < 0 && values[i] >= 0;
    const isNearer = best < 0 || Math.abs(first + i - frame) < Math.abs(first + best - frame);
    if (isCrossing && isNearer) best = i;
  }
  return first + (best < 0 ? quietest : best);
}

/**
 * A sound as a 16-bit WAV file.
 * @param {Sound} sound
 * @param {string} [comment] ASCII text for the metadata.
 */
export function wavFile(sound, comment = "") {
  const data = sound.samples;
  const words = comment ? infoChunk(comment) : new Uint8Array(0);
  const header = new DataView(new ArrayBuffer(44));
  const text = (offset, letters) =>
    [...letters].forEach((c, i) => header.setUint8(offset + i, c.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + data.byteLength + words.length, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, sound.channels, true);
  header.setUint32(24, sound.rate, true);
  header.setUint32(28, sound.rate * sound.channels * 2, true);
  header.setUint16(32, sound.channels * 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, data.byteLength, true);
  return new Blob([header, data.slice(), words], { type: "audio/wav" });
}

/** A LIST chunk with the comment. @param {string} comment */
function infoChunk(comment) {
  const size = comment.length + 1 + ((comment.length + 1) % 2); // ends with 0, even
  const view = new DataView(new ArrayBuffer(20 + size));
  const text = (offset, letters) =>
    [...letters].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  text(0, "LIST");
  view.setUint32(4, 12 + size, true);
  text(8, "INFOICMT");
  view.setUint32(16, size, true);
  text(20, comment);
  return new Uint8Array(view.buffer);
}

/** A 16-bit WAV file of the service as a sound. @param {ArrayBuffer} file */
export function readWav(file) {
  const view = new DataView(file);
  const name = (offset) => String.fromCharCode(...new Uint8Array(file, offset, 4));
  let rate = 0;
  let channels = 0;
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    if (name(at) === "fmt ") {
      channels = view.getUint16(at + 10, true);
      rate = view.getUint32(at + 12, true);
    } else if (name(at) === "data") {
      const bytes = Math.min(size, view.byteLength - at - 8);
      return Sound.of(rate, channels, new Int16Array(file.slice(at + 8, at + 8 + bytes - (bytes % 2))));
    }
    at += 8 + size + (size % 2);
  }
  throw new Error("The service sent a WAV file without samples.");
}
