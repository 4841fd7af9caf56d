// Calls to this server. Adds the key, asks for it on 401, turns error objects into ApiError.
import { apiKey, askKey } from "./key.js";
import { SseParser } from "./sse.js";

export class ApiError extends Error {
  constructor(message, { status = 0, param = null, code = null } = {}) {
    super(message);
    this.status = status;
    this.param = param;
    this.code = code;
  }
}

async function errorOf(response) {
  let body = null;
  try {
    body = (await response.json()).error;
  } catch {
    // Not our error object: the status says what there is to say.
  }
  let message = body?.message ?? `The server answered ${response.status} ${response.statusText}`;
  const retry = response.headers.get("retry-after");
  if (retry) message += ` (try again in ${retry} s)`;
  return new ApiError(message, {
    status: response.status, param: body?.param ?? null, code: body?.code ?? null,
  });
}

// A response with status 200, or an ApiError. Quiet calls never ask for a key.
async function call(path, { body, signal, quiet = false } = {}) {
  for (;;) {
    const headers = {};
    const key = apiKey();
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, {
        method: body ? "POST" : "GET", headers, signal,
        body: body ? JSON.stringify(body) : undefined,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server does not answer.");
    }
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401 || quiet || !(await askKey())) throw error;
  }
}

export async function getJson(path, options) {
  return (await call(path, options)).json();
}

export async function getText(path, options) {
  return (await call(path, options)).text();
}

export async function postJson(path, body, options) {
  return (await call(path, { ...options, body })).json();
}

// Streams a chat completion. `onRead(now, chunks)` gets the parsed chunks of one network read.
// Ends normally, with an ApiError (also one sent inside the stream), or with AbortError.
export async function streamChat(body, { signal, onRead }) {
  const response = await call("/v1/chat/completions", { body, signal });
  let chunks = [];
  let failure = null;
  const parser = new SseParser((data) => {
    if (data === "[DONE]" || failure) return;
    const chunk = JSON.parse(data);
    if (chunk.error) failure = new ApiError(chunk.error.message ?? "The answer failed.");
    else chunks.push(chunk);
  });
  const reader = response.body.getReader();
  const flush = () => {
    if (chunks.length > 0) onRead(performance.now(), chunks);
    chunks = [];
  };
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The connection broke in the middle of the answer.");
    }
    if (read.done) break;
    parser.feed(read.value);
    flush();
  }
  parser.end();
  flush();
  if (failure) throw failure;
}
