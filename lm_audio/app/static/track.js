// The track of the timeline: ruler, waveform, spectrogram, selection, and the end to continue into.

import { byId, clock, cssColour, element } from "./elements.js";
import { Player } from "./player.js";
import { zeroCrossing } from "./sound.js";
import { drawSpectrogram, frequencyAxis, spectrogram } from "./spectrogram.js";
import Hover from "./vendor/hover.esm.js";
import Regions from "./vendor/regions.esm.js";
import WaveSurfer from "./vendor/wavesurfer.esm.js";
import { drawWaveform, peaks } from "./waveform.js";

const COLUMNS = 1200;
const MARGIN = 1.1; // the track shows this much more than the clip and its continuation
const SHORTEST = 0.05; // seconds of a selection
const LONGEST_TAIL = 30;
const RULER_STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30]; // seconds
const MOST_LABELS = 12;

/** @typedef {{start: number, end: number}} Span in seconds */

export class Track extends EventTarget {
  /** @type {import("./sound.js").Sound | null} */ #sound = null;
  /** @type {Span | null} */ #selection = null;
  /** @type {any} */ #region = null;
  #isSetting = false;
  #extension = 5;
  snap = true;
  isLooped = false;

  constructor() {
    super();
    this.player = new Player();
    this.regions = Regions.create();
    const { content } = /** @type {HTMLMetaElement} */ (document.querySelector("meta[name=csp-nonce]"));
    this.wave = WaveSurfer.create({
      container: byId("waveform"),
      height: 128,
      barWidth: 2,
      barGap: 1,
      barRadius: 1,
      cursorWidth: 2,
      hideScrollbar: true,
      autoScroll: false,
      cspNonce: content,
      media: /** @type {any} */ (this.player),
      ...colours(),
      plugins: [
        this.regions,
        Hover.create({ ...hoverColours(), labelSize: 12, formatTimeCallback: clock }),
      ],
    });
    this.regions.enableDragSelection({ color: cssColour("--selection") });
    for (const name of ["region-created", "region-updated"]) {
      this.regions.on(name, (region) => this.#take(region));
    }
    window.addEventListener("theme", () => this.#recolour());
    this.#setUpPosition();
    this.#setUpGrip();
  }

  get sound() {
    return this.#sound;
  }

  get selection() {
    return this.#selection;
  }

  /** Seconds to continue by. */
  get extension() {
    return this.#extension;
  }

  /** @param {number} seconds */
  setExtension(seconds) {
    this.#extension = Math.max(0.5, Math.min(LONGEST_TAIL, Math.round(seconds * 2) / 2));
    this.#layOut();
    this.dispatchEvent(new Event("extension"));
  }

  /** Shows a sound; playback goes on if it is the one that plays. @param {import("./sound.js").Sound} sound */
  open(sound) {
    this.#sound = sound;
    this.player.open(sound, "timeline");
    const pairs = peaks(sound, COLUMNS);
    const side = (offset, sign) => Float32Array.from({ length: COLUMNS }, (_, i) => (sign * pairs[2 * i + offset]) / 128);
    this.#layOut();
    this.setSelection(null);
    const loading = this.wave.load("", [side(1, 1), side(0, -1)], sound.duration);
    loading.then(
      () => this.dispatchEvent(new Event("shown")),
      () => {}, // another sound was opened meanwhile
    );
    const canvas = byId("track-spectrogram");
    drawSpectrogram(canvas, spectrogram(sound, { columns: 600, bands: 80 }));
    canvas.parentElement.querySelector(".frequencies")?.remove();
    canvas.parentElement.append(frequencyAxis(sound.rate, 0.16));
    this.#clearTail();
  }

  /** Draws the new part of a continuation while it is made. @param {import("./sound.js").Sound} sound @param {number} first frame */
  grow(sound, first) {
    const part = { samples: sound.samples.subarray(first * sound.channels), channels: sound.channels, numFrames: 0 };
    const total = Math.round(this.#extension * sound.rate);
    drawWaveform(byId("tail-wave"), peaks(/** @type {any} */ (part), 200, total));
  }

  #clearTail() {
    const canvas = byId("tail-wave");
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  }

  /** @param {Span | null} span @param {{snap?: boolean}} options */
  setSelection(span, { snap = false } = {}) {
    const chosen = span && this.#fitted(span, snap);
    this.#selection = chosen;
    this.#isSetting = true;
    if (!chosen) {
      this.regions.clearRegions();
      this.#region = null;
    } else if (this.#region) {
      this.#region.setOptions(chosen);
    } else {
      this.#region = this.regions.addRegion({ ...chosen, color: cssColour("--selection"), minLength: SHORTEST });
    }
    this.#isSetting = false;
    this.#applyLoop();
    this.dispatchEvent(new Event("selection"));
  }

  /** @param {boolean} looped */
  setLooped(looped) {
    this.isLooped = looped;
    this.#applyLoop();
  }

  #applyLoop() {
    const whole = { start: 0, end: this.#sound?.duration ?? 0 };
    this.player.setLoop(this.isLooped ? (this.#selection ?? whole) : null);
  }

  /** @param {Span} span @param {boolean} snap @returns {Span | null} */
  #fitted(span, snap) {
    const sound = this.#sound;
    if (!sound || !Number.isFinite(span.start) || !Number.isFinite(span.end)) return null;
    const frames = [span.start, span.end].map((seconds) => {
      const frame = Math.max(0, Math.min(Math.round(seconds * sound.rate), sound.numFrames));
      const isInside = frame > 0 && frame < sound.numFrames;
      return snap && isInside ? zeroCrossing(sound, frame) : frame;
    });
    const [start, end] = frames.sort((a, b) => a - b);
    if (end - start < SHORTEST * sound.rate * 0.5) return null;
    return { start: start / sound.rate, end: end / sound.rate };
  }

  /** Takes over what was dragged. */
  #take(region) {
    if (this.#isSetting) return;
    if (region !== this.#region) this.#region?.remove();
    this.#region = region;
    this.setSelection({ start: region.start, end: region.end }, { snap: this.snap });
    if (!this.#selection) this.setSelection(null);
  }

  /** Divides the width between the clip, its continuation and a margin. */
  #layOut() {
    const duration = this.#sound?.duration ?? 1;
    const total = (duration + this.#extension) * MARGIN;
    byId("track-lane").style.setProperty("--clip", String((100 * duration) / total));
    byId("track-lane").style.setProperty("--tail", String((100 * this.#extension) / total));
    byId("tail-label").textContent = `+${this.#extension} s`;
    byId("tail-grip").setAttribute("aria-valuenow", String(this.#extension));
    drawRuler(total);
  }

  /** The waveform as a slider of the position. */
  #setUpPosition() {
    const slider = byId("waveform");
    this.player.addEventListener("timeupdate", () => {
      slider.setAttribute("aria-valuemax", this.player.duration.toFixed(1));
      slider.setAttribute("aria-valuenow", this.player.currentTime.toFixed(1));
      slider.setAttribute("aria-valuetext", `${this.player.currentTime.toFixed(1)} seconds`);
    });
    slider.addEventListener("keydown", (event) => {
      const small = event.shiftKey ? 1 : 0.1;
      const moves = { ArrowLeft: -small, ArrowDown: -small, ArrowRight: small, ArrowUp: small, Home: -Infinity, End: Infinity };
      if (!(event.key in moves)) return;
      event.preventDefault();
      const target = this.player.currentTime + moves[event.key];
      this.player.currentTime = Math.max(0, Math.min(this.player.duration, target));
    });
  }

  /** The grip at the end sets how far to continue. */
  #setUpGrip() {
    const grip = byId("tail-grip");
    grip.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.5, ArrowDown: -0.5, ArrowRight: 0.5, ArrowUp: 0.5, PageDown: -5, PageUp: 5 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.setExtension(this.#extension + step);
    });
    grip.addEventListener("pointerdown", (event) => {
      const [from, seconds] = [event.clientX, this.#extension];
      const perPixel = seconds / byId("tail").getBoundingClientRect().width;
      grip.setPointerCapture(event.pointerId);
      const move = (moved) => this.setExtension(seconds + (moved.clientX - from) * perPixel);
      grip.addEventListener("pointermove", move);
      grip.addEventListener("lostpointercapture", () => grip.removeEventListener("pointermove", move), { once: true });
    });
  }

  #recolour() {
    this.wave.setOptions(colours());
    this.#region?.setOptions({ color: cssColour("--selection") });
  }
}

/** Seconds along the track. @param {number} total seconds that the track shows. */
function drawRuler(total) {
  const step = RULER_STEPS.find((seconds) => total / seconds <= MOST_LABELS) ?? 60;
  const labels = [];
  for (let i = 0; i * step < total; i++) {
    const label = element("span", {}, `${+(i * step).toFixed(1)} s`);
    label.style.left = `${(100 * i * step) / total}%`;
    labels.push(label);
  }
  byId("track-ruler").replaceChildren(...labels);
}

function colours() {
  return {
    waveColor: cssColour("--wave"),
    progressColor: cssColour("--wave-done"),
    cursorColor: cssColour("--cursor"),
  };
}

function hoverColours() {
  return { lineColor: cssColour("--muted"), labelColor: cssColour("--surface"), labelBackground: cssColour("--ink") };
}
