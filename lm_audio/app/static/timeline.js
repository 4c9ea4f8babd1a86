// Timeline: one clip as a track that is continued, filled, and taken back version by version.

import { make } from "./api.js";
import { readFile, startRecording, TOO_LONG } from "./capture.js";
import { levelsText } from "./card.js";
import { keep, wavOf } from "./clips.js";
import { byId, clock, element, setIcon } from "./elements.js";
import { progressText } from "./make.js";
import { announce, clear, show, showError } from "./notices.js";
import { wake } from "./player.js";
import { fileName, requestFields } from "./recipe.js";
import { fromBase64, Sound } from "./sound.js";
import { Story } from "./story.js";
import { Track } from "./track.js";

const BEFORE_SEAM = 1; // seconds that are heard before a new part

/** @typedef {{clip: import("./clips.js").Clip, sound: Sound, label: string}} Version */

/** @type {any} the served model */ let model = null;
/** @type {Track} */ let track;
/** @type {Story} of a continuation */ let story;
/** @type {Version[]} */ let versions = [];
let index = 0;
/** @type {AbortController | null} */ let running = null;
/** @type {{stop: () => Promise<Blob>} | null} */ let recording = null;

export function setUpTimeline() {
  byId("choose-file").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", () => {
    const [file] = byId("file").files;
    byId("file").value = "";
    if (file) openFile(file, file.name);
  });
  byId("record").addEventListener("click", record);
  setUpDrop();
  byId("play").addEventListener("click", () => track.player.toggle());
  byId("loop").addEventListener("click", toggleLoop);
  byId("undo").addEventListener("click", () => step(-1));
  byId("redo").addEventListener("click", () => step(1));
  byId("snap").addEventListener("change", () => (track.snap = byId("snap").checked));
  for (const name of ["from", "to"]) byId(name).addEventListener("change", readSelection);
  byId("extend").addEventListener("change", () => track.setExtension(Number(byId("extend").value) || 5));
  byId("fill").addEventListener("click", () => (running ? stop() : fill()));
  byId("continue").addEventListener("click", () => (running ? stop() : continueClip()));
  byId("vary").addEventListener("click", () => (running ? stop() : vary()));
  byId("strength").addEventListener("input", showStrength);
  const seconds = () => Number(byId("extend").value) || 5;
  story = new Story(byId("edit-story"), { first: byId("edit-prompt"), seconds, hint: "for Continue: new sound that changes" });
  byId("edit-form").addEventListener("submit", (event) => event.preventDefault());
}

/** Shows the controls that the model has. @param {any} found */
export function setUpModel(found) {
  model = found;
  byId("fill").hidden = !model.abilities.includes("inpaint");
  byId("continue").hidden = byId("tail").hidden = !model.abilities.includes("continue");
  byId("edit-prompt").disabled = !model.abilities.includes("text");
  byId("edit-story").hidden = byId("continue").hidden || !model.abilities.includes("story");
  byId("vary-row").hidden = !model.abilities.includes("vary");
  showStrength();
}

function showStrength() {
  const text = `${byId("strength").value} %`;
  byId("strength-value").textContent = text;
  byId("strength").setAttribute("aria-valuetext", text);
}

/** Called when the view is shown or hidden. @param {boolean} visible */
export function showTimeline(visible) {
  if (!visible) track?.player.pause();
}

/** Starts anew with a clip. @param {import("./clips.js").Clip} clip @param {Sound} sound */
export function openClip(clip, sound) {
  stop();
  // wavesurfer.js measures its container: it is made once the container is visible.
  byId("editor").hidden = false;
  byId("drop").classList.add("compact");
  const view = byId("timeline");
  const wasHidden = view.hidden;
  view.hidden = false;
  setUpTrack();
  versions = [{ clip, sound, label: clip.title }];
  showVersion(0);
  if (clip.recipe?.loop && !track.isLooped) toggleLoop();
  view.hidden = wasHidden;
  clear(byId("timeline-message"));
  clear(byId("edit-message"));
}

function setUpTrack() {
  if (track) return;
  track = new Track();
  track.snap = byId("snap").checked;
  for (const name of ["play", "pause", "ended", "timeupdate"]) {
    track.player.addEventListener(name, showPlayback);
  }
  track.addEventListener("selection", showSelection);
  track.addEventListener("extension", () => {
    byId("extend").value = String(track.extension);
    story.layOut();
  });
}

function showPlayback() {
  const { player } = track;
  setIcon(byId("play"), player.paused ? "play" : "pause");
  byId("play").setAttribute("aria-label", player.paused ? "Play" : "Pause");
  byId("time").textContent = `${clock(player.currentTime)} / ${clock(player.duration)}`;
}

function showSelection() {
  const span = track.selection;
  byId("from").value = span ? span.start.toFixed(3) : "";
  byId("to").value = span ? span.end.toFixed(3) : "";
  byId("fill").disabled = !span && !running;
}

function readSelection() {
  const [start, end] = ["from", "to"].map((name) => byId(name).valueAsNumber);
  if (Number.isNaN(start) && Number.isNaN(end)) track.setSelection(null);
  else if (!Number.isNaN(start) && !Number.isNaN(end)) track.setSelection({ start, end }, { snap: track.snap });
}

function toggleLoop() {
  track.setLooped(!track.isLooped);
  byId("loop").setAttribute("aria-pressed", String(track.isLooped));
}

/** @param {number} number */
function showVersion(number) {
  index = number;
  const { clip, sound } = versions[index];
  track.open(sound);
  track.setLooped(track.isLooped);
  byId("track-title").textContent = clip.title;
  byId("track-levels").textContent = levelsText(clip);
  byId("undo").disabled = index === 0;
  byId("redo").disabled = index === versions.length - 1;
  const items = versions.map((version, i) =>
    element(
      "li",
      {},
      element(
        "button",
        { type: "button", "aria-current": i === index ? "true" : null, onclick: () => showVersion(i) },
        element("span", {}, version.label),
        element("small", {}, clock(version.sound.duration)),
      ),
    ),
  );
  byId("versions").replaceChildren(...items);
  showPlayback();
}

/** Goes back or forth in the versions. @param {number} by */
export function step(by) {
  const next = index + by;
  if (running || next < 0 || next >= versions.length) return;
  showVersion(next);
  announce(`Version ${next + 1}: ${versions[next].label}`);
}

/** Opens a file of the user. @param {Blob} file @param {string} name */
async function openFile(file, name) {
  const place = byId("timeline-message");
  if (!model) return;
  show(place, `Opening ${name} …`);
  try {
    const { sound, loudness, truePeak } = await readFile(file);
    openClip(keep(sound, { title: name, recipe: null, loudness, truePeak }), sound);
    announce(`${name} is open.`);
  } catch (/** @type {any} */ error) {
    const isUnknown = error.status === 400 && error.code !== TOO_LONG;
    const hint = isUnknown ? " Choose a WAV, FLAC, OGG or MP3 file." : "";
    error.message = `${name}: ${error.message}${hint}`;
    showError(place, error, () => openFile(file, name));
  }
}

function setUpDrop() {
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    byId("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer?.files ?? [];
    byId("drop").classList.remove("over");
    if (!file) return;
    event.preventDefault();
    location.hash = "#timeline";
    openFile(file, file.name);
  });
}

async function record() {
  const button = byId("record");
  const label = button.querySelector("span");
  if (recording) {
    const stopping = recording;
    recording = null;
    button.setAttribute("aria-pressed", "false");
    label.textContent = "Record";
    openFile(await stopping.stop(), "Recording");
    return;
  }
  try {
    recording = await startRecording();
    button.setAttribute("aria-pressed", "true");
    label.textContent = "Stop recording";
    show(byId("timeline-message"), "Recording …");
  } catch (error) {
    showError(byId("timeline-message"), error);
  }
}

/** What all edits share. */
function newRecipe(verb, fields) {
  const text = fields.story ? "" : byId("edit-prompt").value.trim();
  return {
    verb,
    model: model.id,
    ...(text ? { text } : {}),
    ...fields,
    seed: crypto.getRandomValues(new Uint32Array(1))[0],
  };
}

async function fill() {
  const span = track.selection;
  if (!span) return;
  const { start, end } = span;
  const rounded = { start: Number(start.toFixed(6)), end: Number(end.toFixed(6)) };
  const recipe = newRecipe("inpaint", rounded);
  const sound = new Sound(model.sample_rate, model.num_channels);
  const done = await edit("fill", "inpaintings", recipe, sound, "Filling");
  if (!done) return;
  addVersion(sound, done, `Filled ${start.toFixed(2)} to ${end.toFixed(2)} s`);
  track.setSelection(span);
  track.player.currentTime = Math.max(0, start - BEFORE_SEAM);
  track.player.play();
}

async function continueClip() {
  const { sound: before } = versions[index];
  let parts;
  try {
    parts = story.read();
  } catch (error) {
    showError(byId("edit-message"), error);
    return;
  }
  const recipe = newRecipe("continue", { duration: track.extension, ...(parts ? { story: parts } : {}) });
  const sound = new Sound(before.rate, before.channels);
  sound.append(before.samples);
  const done = await edit("continue", "continuations", recipe, sound, "Continuing", () => {
    track.grow(sound, before.numFrames);
    if (track.player.sound === sound) return;
    track.player.open(sound, "timeline");
    track.player.currentTime = Math.max(0, before.duration - BEFORE_SEAM);
    track.player.play();
  });
  if (done) addVersion(sound, done, `Continued by ${recipe.duration} s`);
  else track.player.open(before, "timeline");
}

async function vary() {
  const recipe = newRecipe("vary", { strength: Number(byId("strength").value) / 100 });
  const sound = new Sound(model.sample_rate, model.num_channels);
  const done = await edit("vary", "variations", recipe, sound, "Varying");
  if (!done) return;
  addVersion(sound, done, `Varied by ${Math.round(100 * recipe.strength)} %`);
  track.player.play();
}

/**
 * Runs one edit, whose new samples are appended to `sound`.
 * @returns {Promise<any>} the facts of the result, or nothing if it failed or was stopped.
 */
async function edit(button, route, recipe, sound, doing, onSound = () => {}) {
  const place = byId("edit-message");
  const { clip, sound: before } = versions[index];
  clear(place);
  wake(model.sample_rate);
  running = new AbortController();
  showRunning(button);
  announce(`${doing} …`);
  let done = null;
  let notice = "";
  try {
    const file = new File([wavOf(clip, before)], `${fileName(clip)}.wav`, { type: "audio/wav" });
    const options = { file, signal: running.signal };
    for await (const event of make(route, requestFields(recipe, model), options)) {
      if (event.type === "audio.progress") show(place, `${doing} … ${progressText(event)}`);
      if (event.type === "audio.delta") {
        sound.append(fromBase64(event.audio));
        onSound();
      }
      if (event.type === "audio.notice") notice = event.message;
      if (event.type === "audio.done") done = event;
    }
    sound.complete = true;
    show(place, notice);
    announce("Finished.");
  } catch (error) {
    sound.complete = true;
    done = null;
    if (/** @type {any} */ (error).name === "AbortError") show(place, "Stopped.");
    else showError(place, error, () => byId(button).click());
  } finally {
    running = null;
    showRunning(null);
  }
  return done;
}

/** @param {string | null} button the one that became Stop. */
function showRunning(button) {
  const labels = { fill: "Fill selection", continue: "Continue", vary: "Vary" };
  for (const [name, label] of Object.entries(labels)) {
    byId(name).textContent = name === button ? "Stop" : label;
    byId(name).classList.toggle("stop", name === button);
    byId(name).disabled = button !== null && name !== button;
  }
  if (!button) showSelection();
  byId("timeline").setAttribute("aria-busy", String(button !== null));
}

function addVersion(sound, { loudness, true_peak: truePeak, settings: recipe }, label) {
  const { title } = versions[0].clip;
  const clip = keep(sound, { title, recipe, loudness, truePeak });
  versions.push({ clip, sound, label });
  showVersion(versions.length - 1);
}

/** Stops what is being made; tells whether there was something. */
export function stop() {
  running?.abort();
  return Boolean(running);
}

/** Runs the shortcut of a key; tells whether there is one. @param {string} key */
export function press(key) {
  if (!versions.length) return false;
  const now = track.player.currentTime;
  const { start, end } = track.selection ?? { start: 0, end: track.player.duration };
  const click = (id) => () => byId(id).checkVisibility() && byId(id).click();
  const actions = {
    " ": () => track.player.toggle(),
    l: toggleLoop,
    f: click("fill"),
    c: click("continue"),
    v: click("vary"),
    "[": () => track.setSelection({ start: now, end: Math.max(end, now) }, { snap: track.snap }),
    "]": () => track.setSelection({ start: Math.min(start, now), end: now }, { snap: track.snap }),
    Delete: () => track.setSelection(null),
  };
  const action = actions[key.length === 1 ? key.toLowerCase() : key];
  action?.();
  return Boolean(action);
}
