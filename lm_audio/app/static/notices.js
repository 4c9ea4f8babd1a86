// Messages: inline beside what they concern, and spoken by assistive technology.

import { byId, element } from "./elements.js";

/** Announces progress politely to screen readers. @param {string} text */
export function announce(text) {
  byId("announcer").textContent = text;
}

/**
 * Shows a message in a place that is reserved for it.
 * @param {HTMLElement} place
 * @param {string} text
 * @param {{kind?: "error" | "note" | "done", action?: {label: string, run: () => void}}} options
 */
export function show(place, text, { kind = "note", action } = {}) {
  place.className = `message ${kind}`;
  place.replaceChildren(element("span", {}, text));
  if (action) {
    const button = element("button", { type: "button", class: "small" }, action.label);
    button.addEventListener("click", () => {
      clear(place);
      action.run();
    });
    place.append(button);
  }
}

/** @param {HTMLElement} place */
export function clear(place) {
  place.className = "message";
  place.replaceChildren();
}

/**
 * Shows what went wrong, and a button that tries again where that may help.
 * @param {HTMLElement} place
 * @param {any} error
 * @param {() => void} [retry]
 */
export function showError(place, error, retry) {
  const action = error.canRetry && retry ? { label: "Try again", run: retry } : undefined;
  show(place, error.message, { kind: "error", action });
}
