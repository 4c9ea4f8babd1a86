// Small helpers that build and find elements.

/** The element with an id, which must exist. @param {string} id @returns {any} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`There is no element #${id}.`);
  return found;
}

/**
 * Creates an element: `element("button", { class: "x", onclick: f }, "text", child)`.
 * @param {string} tag
 * @param {Record<string, any>} attributes null and false leave an attribute out.
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** An icon of the sprite in index.html. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Replaces the icon of a button. @param {Element} button @param {string} name */
export function setIcon(button, name) {
  button.querySelector("use")?.setAttribute("href", `#icon-${name}`);
}

/** A button with an icon and a name for assistive technology. */
export function iconButton(name, label, onclick, attributes = {}) {
  const shown = { type: "button", class: "icon-button", "aria-label": label, title: label };
  return element("button", { ...shown, onclick, ...attributes }, icon(name));
}

/** Seconds as 0:05.3. @param {number} seconds */
export function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const rest = (tenths % 600) / 10;
  return `${Math.floor(tenths / 600)}:${rest.toFixed(1).padStart(4, "0")}`;
}

/** The value of a CSS custom property. @param {string} name */
export function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
