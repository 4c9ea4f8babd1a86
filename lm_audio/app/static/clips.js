// Clips: what is kept of a finished sound, and how the library learns of changes.

import { Sound, wavFile } from "./sound.js";
import { spectrogram } from "./spectrogram.js";
import { peaks } from "./waveform.js";
import { asComment, fileName } from "./recipe.js";
import { convert } from "./api.js";
import * as store from "./store.js";

const THUMBNAIL = { columns: 160, bands: 40 };

/**
 * @typedef {Object} Clip
 * @property {string} id
 * @property {string} title
 * @property {any} recipe how it was made; null for a file of the user.
 * @property {number} rate
 * @property {number} channels
 * @property {number} duration seconds.
 * @property {number | null} loudness LUFS.
 * @property {number | null} truePeak dBTP.
 * @property {boolean} starred
 * @property {number} createdAt
 * @property {Int8Array} peaks
 * @property {import("./spectrogram.js").Picture} picture
 */

/** Tells of changes: `saved` with a clip, `removed`. */
export const library = new EventTarget();

let version = "";
/** @param {string} found of the service, for the metadata of files. */
export function setVersion(found) {
  version = found;
}

/**
 * Keeps a finished sound in the library.
 * @param {Sound} sound
 * @param {{title: string, recipe: any, loudness: number | null, truePeak: number | null}} facts
 * @returns {Clip}
 */
export function keep(sound, facts) {
  /** @type {Clip} */
  const clip = {
    id: newId(),
    ...facts,
    rate: sound.rate,
    channels: sound.channels,
    duration: sound.duration,
    starred: false,
    createdAt: performance.timeOrigin + performance.now(),
    peaks: peaks(sound, THUMBNAIL.columns),
    picture: spectrogram(sound, THUMBNAIL),
  };
  const saved = store.save(clip, sound.samples);
  saved.then(
    () => library.dispatchEvent(new CustomEvent("saved", { detail: clip })),
    () => library.dispatchEvent(new Event("full")),
  );
  return clip;
}

/** crypto.randomUUID exists on secure pages only. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Clip} clip */
export async function soundOf(clip) {
  const found = await store.samples(clip.id);
  if (!found) throw new Error("This clip is no longer in the library.");
  return Sound.of(clip.rate, clip.channels, found);
}

/** @param {Clip} clip */
export async function toggleStar(clip) {
  clip.starred = !clip.starred;
  await store.update(clip);
  library.dispatchEvent(new CustomEvent("starred", { detail: clip }));
}

/** A WAV file with the recipe in its metadata. @param {Clip} clip @param {Sound} sound */
export function wavOf(clip, sound) {
  return wavFile(sound, clip.recipe ? asComment(clip.recipe, version) : "");
}

/**
 * Downloads a clip, converted by the service where needed.
 * @param {Clip} clip
 * @param {string} format
 * @param {Sound | null} [sound] if it is at hand.
 */
export async function download(clip, format, sound = null) {
  if (format === "json") {
    const text = JSON.stringify({ "lm-audio": version, ...clip.recipe }, null, 2);
    offer(new Blob([text], { type: "application/json" }), `${fileName(clip)}.json`);
    return;
  }
  const wav = wavOf(clip, sound ?? (await soundOf(clip)));
  const blob = format === "wav" ? wav : (await convert(wav, format)).blob;
  offer(blob, `${fileName(clip)}.${format}`);
}

/** @param {Blob} blob @param {string} name */
function offer(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
