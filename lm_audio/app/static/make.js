// Make: a prompt becomes takes, which play while they are made.

import { make } from "./api.js";
import { Card } from "./card.js";
import { keep } from "./clips.js";
import { byId, element, setIcon } from "./elements.js";
import { announce, clear, show, showError } from "./notices.js";
import { player, wake } from "./player.js";
import { requestFields, storyParts } from "./recipe.js";
import { setUpSettings } from "./settings.js";
import { fromBase64, Sound } from "./sound.js";
import { Story } from "./story.js";

const MOST_CARDS = 12;
const MOST_TAKES = 9;
const FEW_CHIPS = 7;
const LONGEST = 60; // seconds on the slider

/** @type {any} the served model */ let model = null;
/** @type {ReturnType<typeof setUpSettings> | null} */ let settings = null;
/** @type {AbortController | null} */ let running = null;
/** @type {Card[]} the newest first */ let cards = [];
let isSeedLocked = false;
/** @type {Story} */ let story;
/** @type {File | null} */ let melody = null;
/** @type {import("./card.js").Actions} */ let actions;

/** Prepares what does not depend on the model. @param {import("./card.js").Actions} given */
export function setUpMake(given) {
  actions = given;
  story = new Story(byId("story"), { first: byId("prompt"), seconds: () => Number(byId("duration").value), hint: "for sound that changes" });
  const takes = byId("takes");
  for (let n = 1; n <= MOST_TAKES; n++) takes.append(element("option", { value: n }, String(n)));
  takes.value = "2";
  byId("duration").addEventListener("input", showDuration);
  byId("seed-lock").addEventListener("click", () => lockSeed(!isSeedLocked));
  byId("seed").addEventListener("input", () => lockSeed(byId("seed").value.trim() !== ""));
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("make-form").requestSubmit();
    }
  });
  byId("make-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) stop();
    else generate();
  });
  byId("choose-melody").addEventListener("click", () => byId("melody").click());
  byId("melody").addEventListener("change", () => setMelody(byId("melody").files[0] ?? null));
  byId("remove-melody").addEventListener("click", () => {
    setMelody(null);
    byId("choose-melody").focus();
  });
  player.addEventListener("firstsound", (event) => reportFirstSound(/** @type {CustomEvent} */ (event)));
}

/** Shows the controls that the model has. @param {any} found */
export function setUpModel(found) {
  model = found;
  settings = setUpSettings(model);
  const duration = byId("duration");
  duration.max = String(Math.min(LONGEST, model.limits.max_duration));
  showDuration();
  byId("prompt").disabled = !model.abilities.includes("text");
  byId("story").hidden = !model.abilities.includes("story");
  byId("seamless-field").hidden = !model.abilities.includes("loop");
  byId("melody-field").hidden = !model.abilities.includes("melody");
  const prompts = Object.values(model.prompts).map((examples) => examples[0]);
  byId("known").hidden = prompts.length === 0;
  showChips(prompts, FEW_CHIPS);
}

/** @param {string[]} prompts @param {number} count */
function showChips(prompts, count) {
  const chips = prompts.slice(0, count).map((prompt) =>
    element("button", { type: "button", class: "chip", onclick: () => setPrompt(prompt) }, prompt),
  );
  byId("chips").replaceChildren(...chips);
  if (prompts.length <= FEW_CHIPS) return;
  const isShort = count < prompts.length;
  const toggle = element(
    "button",
    { type: "button", class: "chip more", "aria-expanded": String(!isShort) },
    isShort ? `Show all ${prompts.length}` : "Show fewer",
  );
  toggle.addEventListener("click", () => {
    showChips(prompts, isShort ? prompts.length : FEW_CHIPS);
    byId("chips").querySelector(".more").focus();
  });
  byId("chips").append(toggle);
}

/** Fills the field of a prompt that was used last. @param {string} prompt */
function setPrompt(prompt) {
  story.field.value = prompt;
  story.layOut();
  story.field.focus();
}

function showDuration() {
  byId("duration-value").textContent = `${Number(byId("duration").value)} s`;
  story.layOut();
}

/** @param {File | null} file */
function setMelody(file) {
  melody = file;
  byId("melody").value = "";
  byId("melody-name").textContent = file?.name ?? "No file";
  byId("remove-melody").hidden = !file;
}

/** @param {boolean} locked */
function lockSeed(locked) {
  isSeedLocked = locked;
  const button = byId("seed-lock");
  button.setAttribute("aria-pressed", String(locked));
  setIcon(button, locked ? "locked" : "unlocked");
}

/** The seed of the field if it is locked, or a new one. */
function chooseSeed() {
  const field = byId("seed");
  const text = field.value.trim();
  if (!isSeedLocked || text === "") {
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    field.value = String(seed);
    return seed;
  }
  if (!/^\d+$/.test(text) || Number(text) > Number.MAX_SAFE_INTEGER) {
    field.focus();
    throw new Error(`The seed must be a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, got “${text}”.`);
  }
  return Number(text);
}

/** The recipe of the first take, from the form. */
function readRecipe() {
  const prompt = byId("prompt").value.trim();
  const parts = story.read();
  const told = parts ? { story: parts } : prompt ? { prompt } : {};
  const isLoop = byId("seamless").checked && !byId("seamless-field").hidden;
  return {
    verb: "generate",
    model: model.id,
    ...told,
    ...(isLoop ? { loop: true } : {}),
    duration: Number(byId("duration").value),
    seed: chooseSeed(),
    .../** @type {any} */ (settings).read(),
  };
}

/** Fills the form with the settings of a clip. @param {Card} card */
export function reuse(card) {
  const { recipe } = /** @type {any} */ (card.clip);
  if (!recipe) return;
  byId("prompt").value = recipe.prompt ?? recipe.text ?? "";
  byId("duration").value = String(recipe.duration ?? 5);
  showDuration();
  story.write(recipe.story ? storyParts(recipe.story) : []);
  byId("seamless").checked = Boolean(recipe.loop);
  if (recipe.melody !== melody?.name) setMelody(null);
  if (recipe.melody && !melody) show(byId("make-message"), `Choose the melody again: ${recipe.melody}`);
  byId("seed").value = String(recipe.seed);
  lockSeed(true);
  settings?.write(recipe);
  location.hash = "#make";
  byId("prompt").focus();
}

async function generate() {
  const place = byId("make-message");
  clear(place);
  clear(byId("notice"));
  if (!model) return;
  let recipe;
  try {
    recipe = readRecipe();
  } catch (error) {
    showError(place, error);
    return;
  }
  clicked = performance.now();
  wake(model.sample_rate);
  player.pause();
  const recipes = Array.from({ length: Number(byId("takes").value) }, (_, i) => ({ ...recipe, seed: recipe.seed + i }));
  const batch = addCards(recipes);
  setRunning(new AbortController());
  announce(`Making ${recipes.length === 1 ? "one take" : `${recipes.length} takes`}.`);
  try {
    const best = await follow(recipes, batch, /** @type {any} */ (running).signal);
    announce(best ? `Finished. Take ${best.number.textContent} fits the prompt best.` : "Finished.");
  } catch (error) {
    const isStopped = /** @type {any} */ (error).name === "AbortError";
    finishEarly(batch, isStopped ? "Stopped" : "Not finished");
    if (isStopped) show(place, "Stopped.");
    else showError(place, error, generate);
  } finally {
    setRunning(null);
  }
}

/** @param {any[]} recipes @param {Card[]} batch @param {AbortSignal} signal */
async function follow(recipes, batch, signal) {
  const fields = { ...requestFields(recipes[0], model), n: recipes.length };
  const file = byId("melody-field").hidden ? null : melody;
  const options = file ? { file, signal } : { signal };
  /** @type {Map<Card, number>} */ const scores = new Map();
  const sounds = recipes.map(() => new Sound(model.sample_rate, model.num_channels));
  let hasStarted = false;
  for await (const event of make(file ? "melodies" : "generations", fields, options)) {
    const [card, sound] = [batch[event.index], sounds[event.index]];
    if (event.type === "audio.notice") {
      show(byId("notice"), event.message);
    } else if (event.type === "audio.progress") {
      card.say(progressText(event));
      if (event.position > 0 && event.index === 0) announce(progressText(event));
    } else if (event.type === "audio.delta") {
      sound.append(fromBase64(event.audio));
      card.grow(sound, recipes[0].duration);
      if (!hasStarted) {
        hasStarted = true;
        player.open(sound, card.key);
        player.play();
      }
    } else if (event.type === "audio.done") {
      sound.complete = true;
      const { loudness, true_peak: truePeak, settings: recipe } = event;
      card.finish(keep(sound, { title: card.options.title, recipe, loudness, truePeak }));
      if (event.score !== undefined) scores.set(card, event.score);
    }
  }
  return markBest(scores);
}

/** Marks the take that fits the prompt best, and returns it. @param {Map<Card, number>} scores */
function markBest(scores) {
  if (scores.size < 2) return null;
  const [best] = [...scores].reduce((a, b) => (b[1] > a[1] ? b : a));
  for (const [card, score] of scores) card.showScore(score, card === best);
  return best;
}

/** @param {{position: number, progress: number}} event */
export function progressText({ position, progress }) {
  if (position > 0) return `Waiting, number ${position} in the queue`;
  return progress > 0 ? `${Math.round(100 * progress)} %` : "Starting …";
}

/** @param {any} recipe of a generation. */
function titleOf(recipe) {
  if (recipe.story) return recipe.story.map(([, text]) => text).join(" → ");
  return recipe.prompt ?? "Anything";
}

/** Puts cards for new takes before the others. @param {any[]} recipes */
function addCards(recipes) {
  const batch = recipes.map(
    (recipe) =>
      new Card({
        title: titleOf(recipe),
        detail: `${recipe.duration} s, seed ${recipe.seed}`,
        ...actions,
      }),
  );
  cards = [...batch, ...cards];
  for (const card of cards.splice(MOST_CARDS)) card.remove();
  byId("take-list").prepend(...batch.map((card) => card.element));
  byId("take-empty").hidden = true;
  cards.forEach((card, i) => card.setNumber(i < MOST_TAKES ? i + 1 : 0));
  for (const card of batch) card.say("Starting …");
  return batch;
}

/** Ends the takes of a batch that are not complete. @param {Card[]} batch @param {string} reason */
function finishEarly(batch, reason) {
  for (const card of batch.filter((one) => !one.clip)) {
    card.fail(reason);
    if (card.sound) card.sound.complete = true;
  }
}

/** @param {AbortController | null} controller */
function setRunning(controller) {
  running = controller;
  const button = byId("generate");
  button.textContent = controller ? "Stop" : "Generate";
  button.classList.toggle("stop", Boolean(controller));
  byId("make").setAttribute("aria-busy", String(Boolean(controller)));
}

/** Stops what is being made, which frees its place in the service. */
export function stop() {
  running?.abort();
  return Boolean(running);
}

/** The take with a number from 1, or the one that played last. @param {number} [number] */
export function take(number) {
  return number ? cards[number - 1] : cards.find((card) => card.key === player.key);
}

let clicked = 0;

/** Measures the time from the click to the first sound. @param {CustomEvent} event */
function reportFirstSound(event) {
  if (!clicked) return;
  performance.measure("first sound", { start: clicked, end: event.detail.at });
  clicked = 0;
}
