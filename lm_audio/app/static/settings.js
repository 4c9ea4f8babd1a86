// The folded settings of Make: only those that the model has.

import { byId, element } from "./elements.js";

/** Sampling options with a slider, in the order of the page. */
const SLIDERS = [
  { name: "guidance_scale", label: "Guidance", hint: "how closely to follow the prompt", min: 1, max: 10, step: 0.1 },
  { name: "temperature", label: "Temperature", hint: "higher is more varied", min: 0, max: 2, step: 0.05 },
  { name: "top_k", label: "Top k", hint: "0 allows all tokens", min: 0, max: 1000, step: 1 },
  { name: "steps", label: "Steps", hint: "more are slower and more accurate", min: 1, max: 100, step: 1 },
];

/**
 * Builds the fields; `read` gives what differs from the model's defaults, `write` sets them.
 * @param {any} model
 */
export function setUpSettings(model) {
  /** @type {Map<string, {field: any, read: () => any, write: (value: any) => void}>} */
  const fields = new Map();
  const list = byId("settings-fields");
  list.replaceChildren();
  if (model.abilities.includes("negative")) {
    const field = element("input", { id: "negative", maxlength: 1000, placeholder: "wind, voices" });
    list.append(labelled("Negative prompt", "what to avoid", field));
    fields.set("negative", textField(field));
  }
  if (model.voices.length) {
    const field = element("select", { id: "voice" }, element("option", { value: "" }, "default"));
    field.append(...model.voices.map((voice) => element("option", {}, voice)));
    list.append(labelled("Voice", "", field));
    fields.set("condition", voiceField(field));
  }
  for (const slider of SLIDERS) {
    const values = model.stages.map((stage) => stage.sampling[slider.name]);
    const standard = values.find((value) => typeof value === "number");
    if (standard === undefined) continue;
    fields.set(slider.name, sliderField(list, slider, standard));
  }
  byId("settings").hidden = fields.size === 0;
  return {
    read: () => {
      const given = [...fields].map(([name, { read }]) => [name, read()]);
      return Object.fromEntries(given.filter(([, value]) => value !== undefined));
    },
    /** @param {any} recipe */
    write: (recipe) => fields.forEach(({ write }, name) => write(recipe[name])),
  };
}

function labelled(label, hint, field, output = null) {
  const text = element("label", { for: field.id }, `${label} `, element("small", {}, hint), output);
  return element("div", { class: "field" }, text, field);
}

function textField(field) {
  return {
    field,
    read: () => field.value.trim() || undefined,
    write: (value) => (field.value = value ?? ""),
  };
}

/** A voice is a condition of the recipe: ["voice=NAME"]. */
function voiceField(field) {
  const prefix = "voice=";
  return {
    field,
    read: () => (field.value ? [prefix + field.value] : undefined),
    write: (value) => (field.value = value?.[0]?.replace(prefix, "") ?? ""),
  };
}

function sliderField(list, { name, label, hint, min, max, step }, standard) {
  const field = element("input", { type: "range", id: name, min, max: Math.max(max, standard), step, value: standard });
  const output = element("output", { for: name }, String(standard));
  field.addEventListener("input", () => (output.textContent = field.value));
  list.append(labelled(label, hint, field, output));
  return {
    field,
    read: () => (Number(field.value) === standard ? undefined : Number(field.value)),
    write: (value) => {
      field.value = String(value ?? standard);
      output.textContent = field.value;
    },
  };
}
