// Prompts over time: the first field holds the first prompt, and markers on a lane start later ones.

import { element, iconButton } from "./elements.js";
import { announce } from "./notices.js";

const STEP = 0.1; // seconds; also the least distance of two prompts
const MOST = 100; // prompts

/** @typedef {{at: number, text: any, time: any, marker: any, row: any, title: any}} Part */

/** @param {number} seconds */
const rounded = (seconds) => Math.round(seconds * 10) / 10;

export class Story {
  /** @type {Part[]} the later prompts in the order of time */ #parts = [];
  #first;
  #seconds;
  /** The field of a prompt that was used last. @type {any} */ field;

  /**
   * @param {HTMLElement} host where the controls are built.
   * @param {{first: any, seconds: () => number, hint: string}} options the field of the first prompt,
   *   the duration, and what later prompts are for.
   */
  constructor(host, { first, seconds, hint }) {
    this.#first = this.field = first;
    this.#seconds = seconds;
    this.host = host;
    this.opening = element("span", { class: "story-part" });
    this.lane = element("div", { class: "story-lane", hidden: true }, this.opening);
    this.list = element("ol", { class: "story-list", "aria-label": "Later prompts" });
    this.list.hidden = true;
    this.button = element("button", { type: "button", class: "small" }, "Add a later prompt");
    this.button.addEventListener("click", () => this.#add());
    const adding = element("div", { class: "row story-add" }, this.button, element("small", {}, hint));
    host.append(this.lane, this.list, adding);
    first.addEventListener("input", () => this.layOut());
    first.addEventListener("focus", () => (this.field = first));
    this.lane.addEventListener("click", (event) => {
      if (!event.target.closest(".story-marker")) this.#add(this.#timeAt(event.clientX));
    });
  }

  /** The story for the service, or nothing if there is one prompt only. */
  read() {
    if (!this.#parts.length || this.host.hidden) return undefined;
    const fields = [this.#first, ...this.#parts.map((part) => part.text)];
    const starts = [0, ...this.#parts.map((part) => part.at)];
    for (const [i, field] of fields.entries()) {
      const problem = this.#problem(i, field, starts);
      if (problem) {
        field.focus();
        throw new Error(problem);
      }
    }
    return fields.map((field, i) => [starts[i], field.value.trim()]);
  }

  #problem(i, field, starts) {
    const end = this.#seconds();
    if (!field.value.trim()) return `Prompt ${i + 1} is empty. Write it, or remove the later prompts.`;
    if (i && starts[i] >= end) return `Prompt ${i + 1} starts at ${starts[i]} s, but the sound ends at ${end} s. Move it, or remove it.`;
    if (i && starts[i] <= starts[i - 1]) return `Prompts ${i} and ${i + 1} start at ${starts[i]} s. Move one of them.`;
    return "";
  }

  /** Shows a story: seconds and prompts; without one, the first prompt is left alone. @param {[number, string][]} parts */
  write(parts) {
    for (const part of this.#parts.splice(0)) takeAway(part);
    if (parts.length) this.#first.value = parts[0][1];
    for (const [at, text] of parts.slice(1)) this.#insert(at).text.value = text;
    this.layOut();
  }

  /** A new prompt at a time, or in the middle of what follows the last one. @param {number} [at] */
  #add(at) {
    const last = this.#parts.at(-1)?.at ?? 0;
    const part = this.#insert(at ?? this.#fitted((last + this.#seconds()) / 2));
    this.layOut();
    part.text.focus();
    announce(`Prompt ${this.#parts.indexOf(part) + 2} starts at ${part.at} s.`);
  }

  /** @param {number} at */
  #insert(at) {
    /** @type {any} */ const part = { at };
    part.time = element("input", { type: "number", min: STEP, step: STEP, inputmode: "decimal" });
    part.text = element("input", { maxlength: 1000, placeholder: "thunder" });
    part.remove = iconButton("remove", "", () => this.#remove(part));
    part.number = element("span", { class: "story-number", "aria-hidden": "true" });
    const unit = element("small", { "aria-hidden": "true" }, "s");
    part.row = element("li", {}, part.number, part.time, unit, part.text, part.remove);
    part.handle = element("span", { class: "story-number" });
    part.marker = element("div", { class: "story-marker", role: "slider", tabindex: 0 }, part.handle);
    part.title = element("span", { class: "story-part" });
    part.time.addEventListener("change", () => {
      part.at = this.#fitted(part.time.valueAsNumber || part.at);
      this.layOut();
    });
    part.text.addEventListener("input", () => this.layOut());
    part.text.addEventListener("focus", () => (this.field = part.text));
    this.#listenToMarker(part);
    this.#parts.push(part);
    return part;
  }

  #remove(part) {
    const i = this.#parts.indexOf(part);
    this.#parts.splice(i, 1);
    takeAway(part);
    if (this.field === part.text) this.field = this.#first;
    this.layOut();
    (this.#parts[i]?.text ?? this.#parts[i - 1]?.text ?? this.button).focus();
    announce(`Prompt ${i + 2} removed.`);
  }

  #listenToMarker(part) {
    const { marker } = part;
    marker.addEventListener("keydown", (event) => {
      const small = event.shiftKey ? 1 : STEP;
      const steps = { ArrowLeft: -small, ArrowDown: -small, ArrowRight: small, ArrowUp: small, PageDown: -1, PageUp: 1, Home: -Infinity, End: Infinity };
      if (event.key in steps) this.#move(part, part.at + steps[event.key]);
      else if (event.key === "Enter") part.text.focus();
      else if (event.key === "Delete" || event.key === "Backspace") this.#remove(part);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    marker.addEventListener("pointerdown", (event) => {
      marker.setPointerCapture(event.pointerId);
      const move = (moved) => this.#move(part, this.#timeAt(moved.clientX));
      marker.addEventListener("pointermove", move);
      marker.addEventListener("lostpointercapture", () => marker.removeEventListener("pointermove", move), { once: true });
    });
  }

  /** Moves a prompt between its neighbours. @param {number} to seconds */
  #move(part, to) {
    const i = this.#parts.indexOf(part);
    const [before, after] = [this.#parts[i - 1]?.at ?? 0, this.#parts[i + 1]?.at ?? Infinity];
    part.at = this.#fitted(Math.max(before + STEP, Math.min(to, after - STEP)));
    this.layOut();
  }

  /** A time within the sound. @param {number} seconds */
  #fitted(seconds) {
    return Math.max(STEP, Math.min(rounded(seconds), rounded(this.#seconds() - STEP)));
  }

  /** The time under a place of the page. @param {number} x */
  #timeAt(x) {
    const box = this.lane.getBoundingClientRect();
    return this.#fitted(((x - box.left) / box.width) * this.#seconds());
  }

  /** Shows the prompts in the order of time; call it when the duration changes. */
  layOut() {
    this.#parts.sort((a, b) => a.at - b.at);
    const end = this.#seconds();
    const share = (seconds) => Math.min(100, (100 * seconds) / end);
    const starts = [0, ...this.#parts.map((part) => part.at), end];
    const titles = [this.opening, ...this.#parts.map((part) => part.title)];
    for (const [i, title] of titles.entries()) {
      title.style.left = `${share(starts[i])}%`;
      title.style.width = `${Math.max(0, share(starts[i + 1]) - share(starts[i]))}%`;
    }
    this.opening.textContent = this.#first.value;
    for (const [i, part] of this.#parts.entries()) this.#show(part, i + 2, share(part.at), end);
    this.lane.hidden = this.list.hidden = !this.#parts.length;
    this.button.disabled = this.#parts.length + 1 >= MOST;
  }

  #show(part, number, share, end) {
    part.number.textContent = part.handle.textContent = String(number);
    part.title.textContent = part.text.value;
    part.marker.style.left = `${share}%`;
    part.time.value = String(part.at);
    part.time.max = String(end);
    part.time.setAttribute("aria-invalid", String(part.at >= end));
    part.time.setAttribute("aria-label", `Start of prompt ${number} in seconds`);
    part.text.setAttribute("aria-label", `Prompt ${number}`);
    part.remove.setAttribute("aria-label", `Remove prompt ${number}`);
    part.remove.title = `Remove prompt ${number}`;
    const facts = { label: `Start of prompt ${number}`, valuemin: STEP, valuemax: end, valuenow: part.at, valuetext: `${part.at} seconds` };
    for (const [name, value] of Object.entries(facts)) part.marker.setAttribute(`aria-${name}`, String(value));
    if (this.list.children[number - 2] === part.row) return; // moving an element takes its focus
    this.list.insertBefore(part.row, this.list.children[number - 2] ?? null);
    this.lane.append(...this.#parts.flatMap(({ title, marker }) => [title, marker]));
  }
}

/** @param {Part} part */
function takeAway({ row, marker, title }) {
  for (const one of [row, marker, title]) one.remove();
}
