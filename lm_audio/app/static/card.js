// A clip as a card: pictures, playback, levels, and what can be done with it.

import { clock, element, iconButton, setIcon } from "./elements.js";
import { player } from "./player.js";
import { drawSpectrogram, frequencyAxis } from "./spectrogram.js";
import { drawWaveform, peaks } from "./waveform.js";
import { download, soundOf, toggleStar } from "./clips.js";
import { showCode } from "./code.js";
import { announce } from "./notices.js";

const COLUMNS = 160;

/** Decibels with a typographic minus. @param {number | null} x */
const decibels = (x) => (x === null ? "silent" : x.toFixed(1).replace("-", "−"));

/** @param {{loudness: number | null, truePeak: number | null}} clip */
export function levelsText(clip) {
  if (clip.loudness === null && clip.truePeak === null) return "silent";
  return `${decibels(clip.loudness)} LUFS\n${decibels(clip.truePeak)} dBTP`;
}

/**
 * What can be done with a clip elsewhere; `onVary` is null where the model cannot.
 * @typedef {{onOpen: (card: Card) => void, onReuse: (card: Card) => void, onVary: ((card: Card) => void) | null}} Actions
 */

export class Card {
  /** @type {import("./clips.js").Clip | null} */ clip = null;
  /** @type {import("./sound.js").Sound | null} */ sound = null;
  #pairs = new Int8Array(2 * COLUMNS);
  #numPlayed = 0; // columns
  #isDirty = false;
  isRepeated = false;
  #expected = 0; // seconds, while it grows
  #abort = new AbortController();

  /**
   * @param {Actions & {title: string, detail: string, onRemove?: (card: Card) => void}} options
   */
  constructor(options) {
    this.options = options;
    this.key = `card-${Card.#count++}`;
    this.number = element("kbd", { class: "number", hidden: true });
    this.star = iconButton("star", "Star", () => this.toggleStar(), { "aria-pressed": "false", disabled: true });
    this.repeat = iconButton("loop", "Repeat", () => this.setRepeated(!this.isRepeated), { "aria-pressed": "false", hidden: true });
    this.badge = element("span", { class: "badge", hidden: true, title: "The judge of the service finds that this take fits the prompt best." }, "Best match");
    this.detail = element("p", { class: "card-detail" }, options.detail);
    this.wave = element("canvas", { class: "wave", width: 2 * COLUMNS, height: 64 });
    this.picture = element("canvas", { class: "spectrogram" });
    this.playhead = element("div", { class: "playhead", hidden: true });
    this.screen = element("div", { class: "screen" }, this.wave, this.picture, this.playhead);
    this.playButton = iconButton("play", `Play ${options.title}`, () => this.toggle(), { class: "round", disabled: true });
    this.time = element("span", { class: "time" }, " ");
    this.state = element("span", { class: "levels" }, " ");
    this.open = element("button", { type: "button", class: "small", disabled: true, onclick: () => options.onOpen(this) }, "Edit");
    this.menu = this.#menu();
    this.element = element(
      "li",
      { class: "card", tabindex: -1 },
      element("div", { class: "card-head" }, this.number, element("h3", { title: options.title }, options.title), this.badge, this.repeat, this.star),
      this.detail,
      this.screen,
      element("div", { class: "card-foot" }, this.playButton, this.time, this.state, this.open, this.menu),
    );
    this.#listen();
    this.draw();
  }

  static #count = 0;

  #listen() {
    const { signal } = this.#abort;
    for (const name of ["play", "pause", "ended", "timeupdate", "change"]) {
      player.addEventListener(name, () => this.#follow(), { signal });
    }
    window.addEventListener("theme", () => this.draw(), { signal });
    this.screen.addEventListener("click", (event) => {
      if (!this.sound && !this.clip) return;
      const box = this.screen.getBoundingClientRect();
      this.play((event.clientX - box.left) / box.width);
    });
  }

  #menu() {
    const item = (label, run) =>
      element("button", { type: "button", class: "menu-item", onclick: () => this.#choose(run) }, label);
    const file = (format, label) => item(label, () => download(/** @type {any} */ (this.clip), format, this.sound));
    const panel = element(
      "div",
      { class: "menu-panel" },
      file("wav", "Download WAV"),
      file("flac", "Download FLAC"),
      file("mp3", "Download MP3"),
      file("json", "Download recipe"),
      item("Copy as code", () => showCode(/** @type {any} */ (this.clip))),
      item("Use these settings", () => this.options.onReuse(this)),
    );
    const { onRemove, onVary } = this.options;
    if (onVary) panel.prepend(item("Vary", () => onVary(this)));
    if (onRemove) panel.append(item("Delete", () => onRemove(this)));
    const menu = element("details", { class: "menu", hidden: true }, element("summary", { "aria-label": `More for ${this.options.title}` }, "More"), panel);
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && menu.open) {
        menu.open = false;
        menu.querySelector("summary").focus();
        event.stopPropagation();
      }
    });
    menu.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
    });
    return menu;
  }

  /** @param {() => any} run */
  async #choose(run) {
    this.menu.open = false;
    try {
      await run();
    } catch (error) {
      this.say(/** @type {any} */ (error).message);
      announce(/** @type {any} */ (error).message);
    }
  }

  /** Shows a short text in place of the levels. @param {string} text */
  say(text) {
    this.state.textContent = text;
    this.state.title = text;
  }

  /** Shows the waveform of a sound that grows. @param {import("./sound.js").Sound} sound @param {number} duration */
  grow(sound, duration) {
    this.sound = sound;
    this.#expected = duration;
    this.playButton.disabled = false;
    if (this.#isDirty) return;
    this.#isDirty = true;
    requestAnimationFrame(() => {
      this.#isDirty = false;
      if (this.clip) return;
      this.#pairs = peaks(sound, COLUMNS, Math.round(duration * sound.rate));
      if (player.key !== this.key) this.time.textContent = clock(sound.duration);
      this.draw();
    });
  }

  /** Shows a finished clip. @param {import("./clips.js").Clip} clip */
  finish(clip) {
    this.clip = clip;
    this.#pairs = clip.peaks;
    this.say(levelsText(clip));
    this.time.textContent = clock(clip.duration);
    for (const button of [this.star, this.playButton, this.open]) button.disabled = false;
    this.menu.hidden = false;
    drawSpectrogram(this.picture, clip.picture);
    this.screen.append(frequencyAxis(clip.rate, 0.25));
    this.showStar();
    this.repeat.hidden = !clip.recipe?.loop;
    this.setRepeated(Boolean(clip.recipe?.loop));
    this.draw();
  }

  /** Plays a seamless loop again and again, or once. @param {boolean} repeated */
  setRepeated(repeated) {
    this.isRepeated = repeated;
    this.repeat.setAttribute("aria-pressed", String(repeated));
    if (player.key === this.key) player.setLoop(repeated ? { start: 0, end: player.duration } : null);
  }

  /** Shows how well the take fits its prompt. @param {number} score @param {boolean} isBest among its takes. */
  showScore(score, isBest) {
    this.detail.textContent = `${this.options.detail}, match ${score.toFixed(2).replace("-", "−")}`;
    this.badge.hidden = !isBest;
  }

  /** Marks a take that was not finished. @param {string} text */
  fail(text) {
    this.say(text);
    this.element.classList.add("failed");
  }

  async toggleStar() {
    if (!this.clip) return;
    await toggleStar(this.clip);
    this.showStar();
  }

  showStar() {
    const starred = Boolean(this.clip?.starred);
    setIcon(this.star, starred ? "starred" : "star");
    this.star.setAttribute("aria-pressed", String(starred));
  }

  /** The number key that plays this take; 0 is none. @param {number} number */
  setNumber(number) {
    this.number.hidden = number === 0;
    this.number.textContent = String(number);
  }

  async toggle() {
    if (player.key === this.key) player.toggle();
    else await this.play(0);
  }

  /** Plays from a share of the duration. @param {number} share */
  async play(share) {
    if (player.key !== this.key) {
      const sound = this.sound ?? (await soundOf(/** @type {any} */ (this.clip)));
      player.open(sound, this.key);
      this.setRepeated(this.isRepeated);
    }
    if (share > 0 || player.paused) player.currentTime = share * player.duration;
    player.play();
  }

  #follow() {
    const isMine = player.key === this.key;
    const isPlaying = isMine && !player.paused;
    setIcon(this.playButton, isPlaying ? "pause" : "play");
    this.playButton.setAttribute("aria-label", `${isPlaying ? "Pause" : "Play"} ${this.options.title}`);
    this.element.classList.toggle("playing", isPlaying);
    const total = this.clip?.duration ?? this.#expected;
    const shown = isMine && (isPlaying || player.currentTime > 0) && !player.ended;
    this.playhead.hidden = !shown;
    const share = shown && total ? Math.min(1, player.currentTime / total) : 0;
    if (Math.round(share * COLUMNS) !== this.#numPlayed) {
      this.#numPlayed = Math.round(share * COLUMNS);
      this.draw();
    }
    if (shown && total) {
      this.playhead.style.transform = `translateX(${100 * share}%)`; // moves without a layout
      this.time.textContent = clock(player.currentTime);
    } else if (this.clip) {
      this.time.textContent = clock(this.clip.duration);
    }
  }

  draw() {
    drawWaveform(this.wave, this.#pairs, { done: this.#numPlayed });
  }

  /** Stops listening and takes the card off the page. */
  remove() {
    if (player.key === this.key) player.close();
    this.#abort.abort();
    this.element.remove();
    this.sound = null;
  }
}

