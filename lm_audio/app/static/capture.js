// Brings sounds into the page: files, and recordings from the microphone.

import { convert, ServiceError } from "./api.js";
import { readWav, Sound, wavFile } from "./sound.js";

export const TOO_LONG = "audio_too_long"; // the code of the service

/**
 * A file in the model's sample rate and channels.
 *
 * The service reads it; what it cannot read, such as AAC without ffmpeg, the browser may.
 * @param {File | Blob} file
 * @returns {Promise<{sound: Sound, loudness: number | null, truePeak: number | null}>}
 */
export async function readFile(file) {
  let converted;
  try {
    converted = await convert(file, "wav");
  } catch (error) {
    if (!(error instanceof ServiceError) || error.status !== 400 || error.code === TOO_LONG) throw error;
    const decoded = await decode(file).catch(() => null);
    if (!decoded) throw error;
    converted = await convert(wavFile(decoded), "wav");
  }
  const { blob, loudness, truePeak } = converted;
  return { sound: readWav(await blob.arrayBuffer()), loudness, truePeak };
}

/** Decodes with the browser. @param {Blob} file */
async function decode(file) {
  const context = new OfflineAudioContext(1, 1, 48000);
  const buffer = await context.decodeAudioData(await file.arrayBuffer());
  const channels = Math.min(2, buffer.numberOfChannels);
  const samples = new Int16Array(buffer.length * channels);
  for (let c = 0; c < channels; c++) {
    const values = buffer.getChannelData(c);
    for (let i = 0; i < values.length; i++) {
      samples[i * channels + c] = Math.max(-32768, Math.min(32767, Math.round(values[i] * 32768)));
    }
  }
  return Sound.of(buffer.sampleRate, channels, samples);
}

/** Records until `stop` is called. */
export async function startRecording() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers record on secure pages only. Open this page at http://localhost or over HTTPS.");
  }
  let stream;
  try {
    const processing = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: processing });
  } catch {
    throw new Error("The microphone cannot be used. Allow it for this page in the browser, then try again.");
  }
  const recorder = new MediaRecorder(stream);
  /** @type {Blob[]} */ const pieces = [];
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  recorder.start();
  return {
    /** @returns {Promise<Blob>} */
    stop: () =>
      new Promise((resolve) => {
        recorder.addEventListener("stop", () => {
          stream.getTracks().forEach((track) => track.stop());
          resolve(new Blob(pieces, { type: recorder.mimeType }));
        });
        recorder.stop();
      }),
  };
}
