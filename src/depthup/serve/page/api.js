// The server, as a page of its own origin speaks with it.

const KEPT = "depthup-key";
export const key = () => sessionStorage.getItem(KEPT) || "";
export const setKey = (value) => sessionStorage.setItem(KEPT, value);

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  const message = told.error ? told.error.message : `the server answers ${response.status}`;
  throw new Refused(response.status, wait ? `${message} (in ${wait} s)` : message);
}

export async function models() {
  return (await (await ask("/v1/models")).json()).data;
}

// Server-sent events of a response, one object after the other.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(500, event.error.message);
      yield event;
    }
  }
}

export async function* transcribe(file, model, signal) {
  const body = new FormData();
  body.set("file", file);
  body.set("model", model);
  body.set("response_format", "verbose_json");
  body.append("timestamp_granularities[]", "word");
  body.append("timestamp_granularities[]", "segment");
  body.set("stream", "true");
  yield* events(await ask("/v1/audio/transcriptions", { method: "POST", body, signal }));
}

export async function* chat(messages, model, signal) {
  const body = JSON.stringify({ model, messages, stream: true });
  const headers = { "Content-Type": "application/json" };
  for await (const event of events(await ask("/v1/chat/completions", { method: "POST", body, headers, signal }))) {
    const text = event.choices.length ? event.choices[0].delta.content : "";
    if (text) yield text;
  }
}

export function realtime() {
  const address = new URL("/v1/realtime", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const protocols = ["realtime"];
  if (key()) protocols.push(`openai-insecure-api-key.${key()}`);
  return new WebSocket(address, protocols);
}
