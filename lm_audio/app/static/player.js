// Plays a sound, also while it grows, and loops a part of it to the sample. One player plays at a time.

import { Sound } from "./sound.js";

const LEAD = 0.03; // seconds from a start to the first sample
const REBUFFER = 0.3; // seconds of sound to wait for after a gap
const AHEAD = 1.5; // seconds that are scheduled; timers of hidden pages run once a second
const BLOCK = 1; // seconds per buffer
const TICK = 60; // milliseconds

/** @type {AudioContext | null} the output of all players */
let context = null;
/** @type {Player | null} */
let playing = null;

/** Prepares the output; call it in the handler of a click or key. @param {number} rate */
export function wake(rate) {
  if (context?.sampleRate !== rate) {
    playing?.pause();
    context?.close();
    context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
  }
  if (context.state !== "running") context.resume();
}

/**
 * A player with the interface of an HTMLMediaElement, as far as wavesurfer.js uses it.
 *
 * Events: play, pause, ended, timeupdate, seeking, seeked, durationchange, change (another sound).
 */
export class Player extends EventTarget {
  /** @type {Sound | null} */ #sound = null;
  /** @type {{source: AudioBufferSourceNode, when: number, frame: number, count: number}[]} */
  #blocks = [];
  /** @type {{start: number, end: number} | null} in frames */ #loop = null;
  #position = 0; // frames, while paused
  #next = 0; // the frame to schedule next
  #when = 0; // its time
  #starved = false;
  #timer = 0;
  /** Names what is playing. @type {string | null} */ key = null;
  paused = true;
  ended = false;
  seeking = false;
  readyState = 4;
  volume = 1;
  muted = false;
  playbackRate = 1;
  src = "";
  currentSrc = "";

  get sound() {
    return this.#sound;
  }

  get duration() {
    return this.#sound?.duration ?? 0;
  }

  /** Chooses the sound. @param {Sound} sound @param {string | null} key */
  open(sound, key = null) {
    if (this.#sound === sound) return;
    this.pause();
    this.#sound = sound;
    this.#loop = null;
    this.#position = 0;
    this.key = key;
    this.ended = false;
    this.#tell("change", "durationchange", "timeupdate");
  }

  /** Forgets the sound. */
  close() {
    this.pause();
    this.#sound = null;
    this.key = null;
    this.#position = 0;
    this.#tell("change", "timeupdate");
  }

  /** Loops a part in seconds, or nothing. @param {{start: number, end: number} | null} part */
  setLoop(part) {
    const rate = this.#sound?.rate ?? 1;
    const frames = part && { start: Math.round(part.start * rate), end: Math.round(part.end * rate) };
    const loop = frames && frames.end > frames.start ? frames : null;
    if (loop?.start === this.#loop?.start && loop?.end === this.#loop?.end) return;
    this.#loop = loop;
    if (!this.paused) this.#restart(this.#frame());
  }

  async play() {
    const sound = this.#sound;
    if (!sound || !this.paused) return;
    wake(sound.rate);
    playing?.pause();
    playing = this;
    if (this.ended || (sound.complete && this.#position >= sound.numFrames)) this.#position = 0;
    this.paused = false;
    this.ended = false;
    this.#restart(this.#position);
    this.#timer = window.setInterval(() => this.#tick(), TICK);
    this.#tell("play");
  }

  pause() {
    if (this.paused) return;
    this.#position = this.#frame();
    this.#halt();
    this.#tell("pause", "timeupdate");
  }

  toggle() {
    if (this.paused) this.play();
    else this.pause();
  }

  get currentTime() {
    return this.#frame() / (this.#sound?.rate ?? 1);
  }

  set currentTime(seconds) {
    const rate = this.#sound?.rate ?? 1;
    const frame = Math.max(0, Math.min(Math.round(seconds * rate), this.#sound?.numFrames ?? 0));
    this.ended = false;
    this.#tell("seeking");
    if (this.paused) this.#position = frame;
    else this.#restart(frame);
    this.#tell("seeked", "timeupdate");
  }

  // What else a media element has, and wavesurfer.js calls.
  load() {}
  canPlayType() {
    return "";
  }
  removeAttribute() {}
  remove() {}

  #halt() {
    this.paused = true;
    if (playing === this) playing = null;
    window.clearInterval(this.#timer);
    this.#silence();
  }

  #silence() {
    for (const block of this.#blocks) {
      block.source.onended = null;
      block.source.stop();
      block.source.disconnect();
    }
    this.#blocks = [];
  }

  /** @param {number} frame */
  #restart(frame) {
    this.#silence();
    this.#position = frame;
    this.#next = frame;
    this.#when = 0;
    this.#starved = false;
    this.#fill();
  }

  #tick() {
    const sound = /** @type {Sound} */ (this.#sound);
    this.#fill();
    const isOver = sound.complete && !this.#loop && this.#next >= sound.numFrames;
    if (isOver && context.currentTime >= this.#when) {
      this.#position = sound.numFrames;
      this.ended = true;
      this.#halt();
      this.#tell("timeupdate", "ended");
    } else {
      this.#tell("timeupdate");
    }
  }

  /** Schedules what is there, up to `AHEAD` seconds. */
  #fill() {
    const sound = /** @type {Sound} */ (this.#sound);
    if (context?.state !== "running") return; // starts as soon as the browser allows it
    this.#blocks = this.#blocks.filter((b) => b.when + b.count / sound.rate > context.currentTime - 1);
    while (this.#when < context.currentTime + AHEAD) {
      if (this.#loop && this.#next >= this.#loop.end) this.#next = this.#loop.start;
      const limit = Math.min(this.#loop?.end ?? Infinity, sound.numFrames);
      const count = Math.min(limit - this.#next, BLOCK * sound.rate);
      if (count <= 0) {
        this.#starved = !sound.complete && this.#when < context.currentTime;
        return;
      }
      if (this.#starved && !sound.complete && count < REBUFFER * sound.rate) return;
      this.#starved = false;
      this.#when = Math.max(this.#when, context.currentTime + LEAD);
      this.#schedule(this.#next, count);
      this.#next += count;
      this.#when += count / sound.rate;
    }
  }

  /** @param {number} frame @param {number} count */
  #schedule(frame, count) {
    const sound = /** @type {Sound} */ (this.#sound);
    const buffer = context.createBuffer(sound.channels, count, sound.rate);
    for (let c = 0; c < sound.channels; c++) {
      buffer.copyToChannel(sound.channel(c, frame, frame + count), c);
    }
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    source.onended = () => source.disconnect();
    source.start(this.#when);
    if (!this.#blocks.length && frame === 0) this.#reportFirstSound();
    this.#blocks.push({ source, when: this.#when, frame, count });
  }

  #reportFirstSound() {
    const wait = this.#when - context.currentTime + context.baseLatency;
    const detail = { at: performance.now() + wait * 1000, key: this.key };
    this.dispatchEvent(new CustomEvent("firstsound", { detail }));
  }

  /** The frame that is heard now. */
  #frame() {
    if (this.paused || !this.#blocks.length || !context || !this.#sound) return this.#position;
    const now = context.currentTime;
    const heard = this.#blocks.filter((block) => block.when <= now).at(-1);
    if (!heard) return this.#position;
    return heard.frame + Math.min(Math.floor((now - heard.when) * this.#sound.rate), heard.count);
  }

  /** @param {...string} names */
  #tell(...names) {
    for (const name of names) this.dispatchEvent(new Event(name));
  }
}

/** The player of takes and of the library; the timeline has its own. */
export const player = new Player();
