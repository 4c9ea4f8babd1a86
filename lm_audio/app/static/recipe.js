// How a clip was made, as the command line, Python and curl lines that make it again.
//
// A recipe has the names of the command line: { verb: "generate", prompt: "rain", duration: 5 ... }.
// The service sends it with each clip, and lm-audio stores it in the metadata of its files.

const LONGEST_COMMENT = 2000; // ASCII characters
const DEFAULTS = { model: "default", dtype: "float32" };
const LOADING = ["model", "device", "dtype"];
const SAMPLING = ["temperature", "top_k", "top_p", "min_p", "guidance_scale", "repetition_penalty", "steps", "solver"];

/**
 * @typedef {Object} Recipe
 * @property {"generate" | "continue" | "inpaint" | "vary"} verb
 * @property {string} model
 * @property {number} seed
 * @property {string} [prompt] the text of a generation.
 * @property {string} [text] the text of an edit.
 * @property {string | [number, string][]} [story] prompts over time, in place of one.
 * @property {string} [audio] the file that is edited.
 * @property {string} [melody] the file whose melody the clip follows.
 * @property {number} [strength] how much a variation changes, up to 1.
 * @property {boolean} [loop]
 * @property {number} [duration]
 * @property {number} [start]
 * @property {number} [end]
 * @property {string} [negative]
 * @property {string[]} [condition] such as voice=NAME.
 * @property {number} [guidance_scale] and the other sampling options.
 */

/** The fields of a request to the API. @param {any} recipe @param {any} model */
export function requestFields(recipe, model) {
  const fields = { seed: recipe.seed };
  for (const name of ["duration", "start", "end", "strength", "negative", "raw", "loop"]) {
    if (recipe[name] !== undefined) fields[name] = recipe[name];
  }
  if (recipe.num_candidates) fields.candidates = recipe.num_candidates;
  const prompt = recipe.prompt ?? recipe.text;
  if (prompt) fields.prompt = prompt;
  if (recipe.story) fields.story = storyParts(recipe.story);
  if (recipe.condition) fields.conditions = conditions(recipe);
  const sampling = samplingByStage(recipe, model);
  if (Object.keys(sampling).length) fields.sampling = sampling;
  return fields;
}

/** @typedef {[number, string] | [number, string, Record<string, number>]} StoryPart */

/**
 * The seconds, prompts and settings of a story, which the service writes as
 * "0: rain; 2.5 over=1 seed=7: thunder".
 * @param {string | StoryPart[]} story
 * @returns {StoryPart[]}
 */
export function storyParts(story) {
  if (typeof story !== "string") return story;
  return story.split(/;\s*(?=\d+(?:\.\d+)?(?: \w+=[\d.]+)*:)/).map((part) => {
    const colon = part.indexOf(":");
    const [at, ...settings] = part.slice(0, colon).trim().split(" ");
    const text = part.slice(colon + 1).trim();
    if (!settings.length) return [Number(at), text];
    return [Number(at), text, Object.fromEntries(settings.map((one) => [one.split("=")[0], Number(one.split("=")[1])]))];
  });
}

/** @param {any} recipe */
function conditions(recipe) {
  return Object.fromEntries(recipe.condition.map((text) => text.split(/=(.*)/s).slice(0, 2)));
}

/** The changed sampling options of each stage that has them. */
function samplingByStage(recipe, model) {
  const changed = SAMPLING.filter((name) => recipe[name] !== undefined);
  const sampling = structuredClone(recipe.sampling ?? {});
  for (const stage of model.stages) {
    const own = changed.filter((name) => name in stage.sampling);
    for (const name of own) (sampling[stage.name] ??= {})[name] = recipe[name];
  }
  return sampling;
}

/** @param {any} text */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? `${text}` : `'${`${text}`.replaceAll("'", `'"'"'`)}'`);

/** The command line, or null for settings that only Python has. @param {any} recipe @param {string} output */
export function asCommand(recipe, output = "clip.wav") {
  if (recipe.sampling || (recipe.story && recipe.verb !== "generate")) return null;
  const { verb, prompt, audio, ...given } = recipe;
  const words = ["lm-audio", verb];
  const place = prompt ?? audio;
  const isDashed = place?.startsWith("-");
  if (place !== undefined && !isDashed) words.push(quoted(place));
  for (const [name, value] of Object.entries(given)) {
    if (DEFAULTS[name] === value) continue;
    const option = `--${name.replaceAll("_", "-")}`;
    for (const one of [value].flat()) {
      if (one === true) words.push(option);
      else if (`${one}`.startsWith("-")) words.push(quoted(`${option}=${one}`));
      else words.push(option, quoted(one));
    }
  }
  words.push("-o", quoted(output));
  if (isDashed) words.push("--", quoted(place));
  return words.join(" ");
}

/** @param {any} value */
const python = (value) => (value === true ? "True" : JSON.stringify(value));
const METHODS = { generate: "generate", continue: "continue_from", inpaint: "inpaint", vary: "vary" };

/** @param {any} recipe @param {any} model @param {string} output */
export function asPython(recipe, model, output = "clip.wav") {
  const { verb, prompt, story, audio, melody, condition, sampling: _, ...given } = recipe;
  const place = prompt ?? audio;
  const words = place === undefined ? [] : [python(place)];
  if (story) {
    const parts = storyParts(story).map(([at, text, settings]) => `(${at}, ${python(text)}${settings ? `, ${JSON.stringify(settings)}` : ""})`);
    words.push(`${verb === "generate" ? "" : "text="}[${parts.join(", ")}]`);
  }
  const loading = [];
  for (const [name, value] of Object.entries(given)) {
    if (DEFAULTS[name] === value || SAMPLING.includes(name)) continue;
    if (name === "model") loading.unshift(python(value));
    else (LOADING.includes(name) ? loading : words).push(`${name}=${python(value)}`);
  }
  const values = { ...(condition ? conditions(recipe) : {}), ...(melody ? { melody } : {}) };
  if (Object.keys(values).length) words.push(`conditions=${JSON.stringify(values)}`);
  const lines = ["import lm_audio", "", `model = lm_audio.load(${loading.join(", ")})`];
  const sampling = Object.entries(samplingByStage(recipe, model));
  if (sampling.length) {
    lines.unshift("from dataclasses import replace", "");
    lines.push("sampling = {");
    for (const [stage, changed] of sampling) {
      const values = Object.entries(changed).map(([name, value]) => `${name}=${python(value)}`);
      lines.push(`    ${python(stage)}: replace(model.stages[${python(stage)}].sampling, ${values.join(", ")}),`);
    }
    lines.push("}");
    words.push("sampling=sampling");
  }
  lines.push(`clip = model.${METHODS[verb]}(${words.join(", ")})`, `clip.save(${python(output)})`);
  return lines.join("\n");
}

const ROUTES = { generate: "speech", continue: "continuations", inpaint: "inpaintings", vary: "variations" };

/** @param {any} recipe @param {any} model @param {string} origin such as http://127.0.0.1:8000 */
export function asCurl(recipe, model, origin, output = "clip.wav") {
  const { prompt, ...fields } = requestFields(recipe, model);
  const url = `${origin}/v1/audio/`;
  if (recipe.verb === "generate") {
    if (recipe.melody) {
      const settings = JSON.stringify({ ...(prompt ? { prompt } : {}), ...fields, stream: true });
      const file = `-F ${quoted(`file=@${recipe.melody}`)} -F ${quoted(`settings=${settings}`)}`;
      return `curl ${url}melodies ${file} -o ${quoted(output)}`;
    }
    // Speech returns a file, but needs a text, and makes no loops.
    if (prompt && !recipe.loop) {
      const body = JSON.stringify({ input: prompt, ...fields, response_format: "wav" });
      return `curl ${url}${ROUTES.generate} --json ${quoted(body)} -o ${quoted(output)}`;
    }
    const body = JSON.stringify({ ...(prompt ? { prompt } : {}), ...fields, stream: true });
    return `curl ${url}generations --json ${quoted(body)} -o ${quoted(output)}`;
  }
  const settings = JSON.stringify({ ...(prompt ? { prompt } : {}), ...fields });
  const file = `-F ${quoted(`file=@${recipe.audio}`)} -F ${quoted(`settings=${settings}`)}`;
  const decoded = `| python3 -c 'import base64, json, sys; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_audio"]))'`;
  return `curl ${url}${ROUTES[recipe.verb]} ${file} ${decoded} > ${quoted(output)}`;
}

/** The recipe as the comment of a file: ASCII, and short enough for all formats. */
export function asComment(recipe, version) {
  const facts = { "lm-audio": version, ...recipe };
  const ascii = (value) =>
    JSON.stringify(value).replace(/[\u0080-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  for (const name of ["negative", "prompt", "story", "text"]) {
    while (ascii(facts).length > LONGEST_COMMENT && facts[name]?.length > 1) {
      facts[name] = `${facts[name].slice(0, Math.floor(facts[name].length * 0.9) - 1)}…`;
    }
  }
  return ascii(facts);
}

/** A short name for files. @param {any} clip */
export function fileName(clip) {
  const words = clip.title.toLowerCase().normalize("NFKD").replace(/[^a-z0-9]+/g, "-");
  const name = words.replace(/^-+|-+$/g, "").slice(0, 40) || "clip";
  return clip.recipe ? `${name}-${clip.recipe.seed}` : name;
}
