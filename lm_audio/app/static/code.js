// The dialog with the command, Python and curl lines that make a clip again.

import { byId, element } from "./elements.js";
import { announce } from "./notices.js";
import { asCommand, asCurl, asPython, fileName } from "./recipe.js";

/** @type {any} the served model */
let model = null;
export function setModel(found) {
  model = found;
}

/** @param {import("./clips.js").Clip} clip */
export function showCode(clip) {
  const output = `${fileName(clip)}.wav`;
  const blocks = clip.recipe
    ? {
        "Command line": asCommand(clip.recipe, output) ?? "Only Python and the API have settings by stage.",
        Python: asPython(clip.recipe, model, output),
        curl: asCurl(clip.recipe, model, location.origin, output),
      }
    : { Note: "This is a recording or a file of yours; it was not made by the model." };
  byId("code-blocks").replaceChildren(...Object.entries(blocks).map(([title, text]) => block(title, text)));
  byId("code").showModal();
}

function block(title, text) {
  const code = element("pre", { tabindex: 0, "aria-label": title, class: "code" }, text);
  const button = element("button", { type: "button", class: "small" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text); // exists on secure pages only
      button.textContent = "Copied";
      announce(`${title} copied.`);
    } catch {
      getSelection()?.selectAllChildren(code);
      button.textContent = "Press Ctrl+C";
    }
  });
  return element("div", { class: "code-block" }, element("h3", {}, title), button, code);
}
