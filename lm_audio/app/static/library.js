// Library: all clips of this browser, with search and stars.

import { Card } from "./card.js";
import { library } from "./clips.js";
import { byId } from "./elements.js";
import { announce, show, showError } from "./notices.js";
import * as store from "./store.js";

const PAGE = 24; // cards shown at once

/** @type {import("./clips.js").Clip[] | null} null until they are read */ let clips = null;
/** @type {Card[]} */ let cards = [];
let numShown = PAGE;
let isVisible = false;
/** @type {import("./card.js").Actions} */ let actions;

/** @param {import("./card.js").Actions} given */
export function setUpLibrary(given) {
  actions = given;
  byId("search").addEventListener("input", reset);
  byId("starred").addEventListener("change", reset);
  byId("show-more").addEventListener("click", () => {
    numShown += PAGE;
    render();
  });
  byId("clear").addEventListener("click", () => byId("confirm").showModal());
  byId("confirm").addEventListener("close", async () => {
    if (byId("confirm").returnValue !== "yes") return;
    await store.clear();
    clips = [];
    render();
    announce("Library cleared.");
  });
  library.addEventListener("saved", (event) => {
    clips?.unshift(/** @type {CustomEvent} */ (event).detail);
    if (isVisible) render();
  });
  library.addEventListener("starred", (event) => {
    const { detail } = /** @type {CustomEvent} */ (event);
    const known = clips?.find((clip) => clip.id === detail.id);
    if (known) known.starred = detail.starred;
  });
  library.addEventListener("full", () => {
    const text = "The browser has no room for this clip. Delete clips here, or download it now.";
    show(byId("service-message"), text, { kind: "error" });
    announce(text);
  });
}

/** Called when the view is shown or hidden. @param {boolean} visible */
export async function showLibrary(visible) {
  isVisible = visible;
  if (!visible) {
    removeCards();
    return;
  }
  try {
    clips ??= await store.all();
    render();
  } catch (error) {
    const reason = /** @type {any} */ (error).message;
    const message = `This browser does not keep clips (${reason}). Leave private browsing, or download them.`;
    showError(byId("library-message"), new Error(message));
  }
}

function reset() {
  numShown = PAGE;
  render();
}

function removeCards() {
  cards.forEach((card) => card.remove());
  cards = [];
}

function render() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const isStarred = byId("starred").checked;
  const found = (clips ?? []).filter((clip) => {
    const text = `${clip.title} ${clip.recipe?.seed ?? ""}`.toLowerCase();
    return (!isStarred || clip.starred) && words.every((word) => text.includes(word));
  });
  removeCards();
  cards = found.slice(0, numShown).map(makeCard);
  byId("clip-list").replaceChildren(...cards.map((card) => card.element));
  byId("show-more").hidden = found.length <= numShown;
  byId("library-empty").hidden = Boolean(clips?.length);
  byId("clear").disabled = !clips?.length;
  byId("library-count").textContent = clips?.length ? `${found.length} of ${clips.length} clips` : "";
}

/** @param {import("./clips.js").Clip} clip */
function makeCard(clip) {
  const made = new Date(clip.createdAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const seed = clip.recipe ? `seed ${clip.recipe.seed}, ` : "";
  const card = new Card({ title: clip.title, detail: `${seed}${made}`, ...actions, onRemove: remove });
  card.finish(clip);
  return card;
}

/** @param {Card} card */
async function remove(card) {
  const { id } = /** @type {import("./clips.js").Clip} */ (card.clip);
  await store.remove(id);
  clips = (clips ?? []).filter((clip) => clip.id !== id);
  render();
  announce("Clip deleted.");
}
