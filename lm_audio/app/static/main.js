// The page: views, the connection to the service, and keyboard shortcuts.

import { getModel, getVersion, isReady, setKey } from "./api.js";
import { setVersion, soundOf } from "./clips.js";
import { setModel } from "./code.js";
import { byId } from "./elements.js";
import { setUpLibrary, showLibrary } from "./library.js";
import { reuse, setUpMake, setUpModel, stop, take } from "./make.js";
import { announce, clear, show } from "./notices.js";
import { player } from "./player.js";
import * as timeline from "./timeline.js";

const VIEWS = ["make", "timeline", "library"];
const RETRY = 1500; // milliseconds between looks at a service that is gone
const KEYS = "lm-audio-single-keys";

let current = "make";

/** The view that the address names; other anchors stay on the view. */
function view() {
  const name = location.hash.slice(1);
  if (VIEWS.includes(name)) current = name;
  return current;
}

function showView() {
  const before = current;
  view();
  if (current !== before) scrollTo(0, 0);
  for (const name of VIEWS) byId(name).hidden = name !== current;
  for (const link of document.querySelectorAll(".bar nav a")) {
    if (link.getAttribute("href") === `#${current}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${current[0].toUpperCase()}${current.slice(1)} · lm-audio`;
  showLibrary(current === "library");
  timeline.showTimeline(current === "timeline");
}

/** What cards do. @type {import("./card.js").Actions} */
const actions = { onOpen: openInTimeline, onReuse: reuse, onVary: null };

/** Opens the clip of a card in the timeline. @param {import("./card.js").Card} card */
async function openInTimeline(card) {
  const clip = /** @type {import("./clips.js").Clip} */ (card.clip);
  player.pause();
  const sound = card.sound?.complete ? card.sound : await soundOf(clip);
  timeline.openClip(clip, sound);
  location.hash = "#timeline";
}

/** @param {import("./card.js").Card} card */
async function varyInTimeline(card) {
  await openInTimeline(card);
  showView();
  byId("strength").focus();
}

let shown = ""; // the facts of the model for which the controls were made

async function connect() {
  try {
    const [{ created: _, ...model }, version] = [await getModel(), await getVersion()];
    const channels = { 1: "mono", 2: "stereo" }[model.num_channels] ?? `${model.num_channels} channels`;
    const facts = [model.id, `${model.sample_rate / 1000} kHz ${channels}`, model.licence];
    byId("model-facts").textContent = facts.filter(Boolean).join(" · ");
    byId("connection").classList.add("on");
    clear(byId("service-message"));
    setVersion(version);
    if (JSON.stringify(model) !== shown) {
      shown = JSON.stringify(model);
      setModel(model);
      setUpModel(model);
      timeline.setUpModel(model);
      actions.onVary = model.abilities.includes("vary") ? varyInTimeline : null;
    }
    document.documentElement.dataset.ready = "yes";
  } catch (error) {
    // A service that is gone is looked for; a missing key is asked for.
    if (/** @type {any} */ (error).status) show(byId("service-message"), /** @type {any} */ (error).message, { kind: "error" });
  }
}

let isGone = false;

async function waitForService() {
  if (isGone) return;
  isGone = true;
  byId("connection").classList.remove("on");
  show(byId("service-message"), "The service does not answer. Waiting for it …", { kind: "error" });
  while (!(await isReady())) await new Promise((resolve) => setTimeout(resolve, RETRY));
  isGone = false;
  await connect(); // it may serve another model now
  announce("The service is back.");
}

function setUpKey() {
  window.addEventListener("key-needed", () => {
    if (!byId("key-dialog").open) byId("key-dialog").showModal();
  });
  byId("key-form").addEventListener("submit", () => {
    setKey(byId("key").value.trim());
    connect();
  });
}

function setUpShortcuts() {
  const box = byId("single-keys");
  box.checked = localStorage.getItem(KEYS) !== "no";
  box.addEventListener("change", () => localStorage.setItem(KEYS, box.checked ? "yes" : "no"));
  byId("open-shortcuts").addEventListener("click", () => byId("shortcuts").showModal());
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape" && (stop() || timeline.stop())) return;
    const isField = target.matches("input:not([type=range], [type=checkbox]), textarea, select");
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !isField && view() === "timeline") {
      event.preventDefault();
      timeline.step(event.shiftKey ? 1 : -1);
      return;
    }
    if (isField || event.ctrlKey || event.metaKey || event.altKey || !box.checked) return;
    const pressesButton = event.key === " " && target.closest("button, summary, a, input, [role=slider]");
    if (!pressesButton && press(event.key)) event.preventDefault();
  });
}

/** Runs the shortcut of a key; tells whether there is one. @param {string} key */
function press(key) {
  const views = { g: "make", t: "timeline", b: "library" };
  const name = views[key.toLowerCase()];
  if (name) {
    location.hash = `#${name}`;
    return true;
  }
  if (view() === "timeline") return timeline.press(key);
  if (key === " ") {
    player.toggle();
    return true;
  }
  if (key.toLowerCase() === "s") {
    take()?.toggleStar();
    return true;
  }
  if (/^[1-9]$/.test(key) && view() === "make") {
    const card = take(Number(key));
    if (card?.sound) card.play(0);
    return Boolean(card);
  }
  return false;
}

setUpMake(actions);
setUpLibrary(actions);
timeline.setUpTimeline();
setUpKey();
setUpShortcuts();
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll(".menu[open]")) {
    if (!menu.contains(/** @type {Node} */ (event.target))) menu.removeAttribute("open");
  }
});
window.addEventListener("hashchange", showView);
window.addEventListener("service-gone", waitForService);
showView();
connect();
