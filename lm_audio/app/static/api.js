// The client of the public API (docs/serving.md). Nothing here is private to this page.

const KEY = "lm-audio-api-key";
const FORM_BYTES = 1000; // of a form, beside the file and the settings

/** A refused or failed request, in words for the user. */
export class ServiceError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string | null}} details
   */
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether the same request may succeed later. */
  get canRetry() {
    return [0, 401, 429, 503, 504].includes(this.status);
  }
}

const UNREACHABLE =
  "The service does not answer. Start it again with “lm-audio app”; this page reconnects by itself.";
const INTERRUPTED = "The connection to the service was lost before the sound was complete.";

/** @param {string | null} key */
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/**
 * @param {string} path
 * @param {RequestInit} options
 * @returns {Promise<Response>} a successful response.
 */
async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (/** @type {any} */ (error).name === "AbortError") throw error;
    window.dispatchEvent(new Event("service-gone"));
    throw new ServiceError(UNREACHABLE);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const found = body?.error ?? { message: `The service answered ${response.status}.` };
  if (response.status === 401) window.dispatchEvent(new Event("key-needed"));
  throw new ServiceError(found.message, { status: response.status, code: found.code });
}

/** Bytes per request. */ let maxUpload = Infinity;

/** What the served model is and can do. */
export async function getModel() {
  const models = await (await request("/v1/models")).json();
  maxUpload = models.data[0].limits.max_upload;
  return models.data[0];
}

/** The version of the service. */
export async function getVersion() {
  return (await (await request("/v1")).json()).version;
}

/** Whether the service accepts requests. */
export async function isReady() {
  try {
    return (await fetch("/ready", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** @param {Record<string, any>} settings @param {File | Blob} [file] */
function form(settings, file) {
  const text = JSON.stringify(settings);
  // The service would refuse it as well, but in bytes and after a part of the upload.
  if (file && file.size + text.length + FORM_BYTES > maxUpload) {
    const [size, most] = [file.size, maxUpload].map((bytes) => +(bytes / 1e6).toPrecision(3));
    const message = `The file has ${size} MB, but the service takes at most ${most} MB. Use a shorter file, or FLAC or MP3.`;
    throw new ServiceError(message, { status: 413, code: "request_too_large" });
  }
  const body = new FormData();
  if (file) body.append("file", file, /** @type {any} */ (file).name ?? "sound.wav");
  body.append("settings", text);
  return body;
}

/**
 * An audio file in another format, in the sample rate and channels of the model.
 * @param {File | Blob} file
 * @param {string} format
 */
export async function convert(file, format) {
  const body = form({ response_format: format }, file);
  const response = await request("/v1/audio/conversions", { method: "POST", body });
  const level = (name) => {
    const text = response.headers.get(name);
    return text === null ? null : Number(text);
  };
  return {
    blob: await response.blob(),
    loudness: level("x-loudness"),
    truePeak: level("x-true-peak"),
  };
}

/** @typedef {{type: string, index: number, [field: string]: any}} ClipEvent */

/**
 * Makes clips and yields their events: accepted, progress, delta, done.
 * @param {"generations" | "continuations" | "inpaintings" | "melodies" | "variations"} route
 * @param {Record<string, any>} settings
 * @param {{file?: Blob, signal: AbortSignal}} options
 * @returns {AsyncGenerator<ClipEvent>}
 */
export async function* make(route, settings, { file, signal }) {
  const fields = { ...settings, stream_format: "sse" };
  const options = file
    ? { body: form(fields, file) }
    : { body: JSON.stringify(fields), headers: { "Content-Type": "application/json" } };
  const response = await request(`/v1/audio/${route}`, { method: "POST", signal, ...options });
  let missing = Infinity;
  try {
    for await (const event of events(response)) {
      if (event.type === "audio.accepted") missing = event.seeds.length;
      if (event.type === "audio.error") throw new ServiceError(event.error.message, { status: 500 });
      if (event.type === "audio.done") missing -= 1;
      yield event;
    }
  } catch (error) {
    if (error instanceof ServiceError || /** @type {any} */ (error).name === "AbortError") throw error;
    window.dispatchEvent(new Event("service-gone"));
    throw new ServiceError(INTERRUPTED);
  }
  if (missing > 0 && !signal.aborted) throw new ServiceError(INTERRUPTED);
}

/** @param {Response} response @returns {AsyncGenerator<ClipEvent>} */
async function* events(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const parts = text.split("\n\n");
      text = /** @type {string} */ (parts.pop());
      for (const part of parts) {
        const data = part.split("\n").find((line) => line.startsWith("data: "));
        if (data) yield JSON.parse(data.slice(6));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
