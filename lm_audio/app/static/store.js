// The library in the browser: IndexedDB, facts and samples of clips apart.

const NAME = "lm-audio";
const CLIPS = "clips";
const SOUNDS = "sounds";

/** @typedef {import("./clips.js").Clip} Clip */

/** @type {Promise<IDBDatabase> | null} */
let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(CLIPS, { keyPath: "id" });
      request.result.createObjectStore(SOUNDS);
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * Runs one transaction; resolves when it is durable.
 * @template T
 * @param {IDBTransactionMode} mode
 * @param {(clips: IDBObjectStore, sounds: IDBObjectStore) => IDBRequest<T> | void} work
 * @returns {Promise<T>}
 */
async function transaction(mode, work) {
  const run = (await database()).transaction([CLIPS, SOUNDS], mode);
  const request = work(run.objectStore(CLIPS), run.objectStore(SOUNDS));
  return new Promise((resolve, reject) => {
    run.oncomplete = () => resolve(/** @type {any} */ (request?.result));
    run.onerror = run.onabort = () => reject(run.error);
  });
}

/** @param {Clip} clip @param {Int16Array} samples */
export const save = (clip, samples) =>
  transaction("readwrite", (clips, sounds) => {
    clips.put(clip);
    sounds.put(samples.slice(), clip.id);
  });

/** Saves changed facts, unless the clip was deleted. @param {Clip} clip */
export const update = (clip) =>
  transaction("readwrite", (clips) => {
    clips.count(clip.id).onsuccess = (event) => {
      if (/** @type {any} */ (event.target).result) clips.put(clip);
    };
  });

/** All clips, the newest first. @returns {Promise<Clip[]>} */
export async function all() {
  const found = await transaction("readonly", (clips) => clips.getAll());
  return found.sort((a, b) => b.createdAt - a.createdAt);
}

/** @param {string} id @returns {Promise<Int16Array | undefined>} */
export const samples = (id) => transaction("readonly", (_, sounds) => sounds.get(id));

/** @param {string} id */
export const remove = (id) =>
  transaction("readwrite", (clips, sounds) => {
    clips.delete(id);
    sounds.delete(id);
  });

export const clear = () =>
  transaction("readwrite", (clips, sounds) => {
    clips.clear();
    sounds.clear();
  });
