// The adapter between a hook of Millrace and an Email Worker (docs/hooks.md): it verifies each question, calls the
// worker's email handler, and answers what the handler said. What a message has and a hook does not know at RCPT is an
// error.
import worker from "./worker.js";
import { env as bindings } from "cloudflare:workers";

const maxBody = 64 << 10; // octets
const maxTargets = 20;
const maxText = 200;
const skew = 300; // seconds that a timestamp may be off: a question that was listened to is not asked again later
const prefix = "x-millrace-"; // of the fields that stand for what the hook knows of the client

// What cannot work is said at the start.
const secret = readSecret(bindings.MILLRACE_SECRET);
if (typeof (worker?.email ?? worker?.prototype?.email) !== "function") {
  throw new Error("worker.js: its default export has no email handler");
}

export default {
  async fetch(request, env, ctx) {
    const body = await read(request);
    if (body === null) {
      return new Response("too large", { status: 413 });
    }
    if (!(await verify(request.headers, body))) {
      return new Response("not signed by whom I know", { status: 401 });
    }
    const data = parse(body);
    if (data === null) {
      return new Response("no question", { status: 400 });
    }
    return Response.json(await ask(data, env, ctx));
  },
};

// ask calls the email handler and returns the answer. What the handler hands to waitUntil is awaited as well, because
// mail may be forwarded there.
async function ask(data, { MILLRACE_SECRET, ...env }, ctx) {
  const message = new Message(data);
  const pending = [];
  ctx.waitUntil = (promise) => void pending.push(promise);
  try {
    if (typeof worker === "function") {
      await new worker(ctx, env).email(message);
    } else {
      await worker.email(message, env, ctx);
    }
    for (const promise of pending) { // which may grow meanwhile
      await promise;
    }
    return message.answer();
  } catch (error) {
    console.error(printable(`${data.id}: the worker failed: ${error}`, 1000));
    const text = "The program that decides failed, try again later";
    return { action: "tempfail", code: 451, enhanced: "4.3.0", text };
  } finally {
    message.close();
  }
}

// A Message is what a worker sees: a ForwardableEmailMessage of the envelope.
class Message {
  #to = [];
  #reason = null;
  #failed = null; // why a call to forward failed: it must not become a drop where the worker does not await it
  #closed = false;

  constructor(data) {
    this.from = data.sender;
    this.to = data.recipient;
    this.headers = new Fields(data);
    this.canBeForwarded = true;
  }

  get raw() {
    throw absent("message.raw");
  }

  get rawSize() {
    throw absent("message.rawSize");
  }

  // forward is done by the node after the answer: it says nothing of what the destination answers.
  async forward(to, headers) {
    try {
      this.#open("forward");
      if (typeof to !== "string") {
        throw new TypeError("message.forward: the address is no string");
      }
      if (headers && [...new Headers(headers)].length > 0) {
        throw absent("message.forward with header fields");
      }
      if (!this.#to.includes(to) && this.#to.push(to) > maxTargets) {
        throw new Error(`message.forward: more than ${maxTargets} addresses`);
      }
    } catch (error) {
      this.#failed ??= error;
      throw error;
    }
  }

  setReject(reason) {
    this.#open("setReject");
    this.#reason = String(reason ?? "");
  }

  async reply() {
    throw absent("message.reply");
  }

  // answer returns what the worker decided. A worker that forwards and rejects has rejected: nothing is delivered whose
  // sender is told that it was not.
  answer() {
    if (this.#failed) {
      throw this.#failed;
    }
    if (this.#reason !== null) {
      return { action: "reject", code: 550, enhanced: "5.7.1", text: printable(this.#reason, maxText) };
    }
    return this.#to.length > 0 ? { action: "forward", to: this.#to } : { action: "drop" };
  }

  close() {
    this.#closed = true;
  }

  #open(call) {
    if (this.#closed) {
      console.error(`message.${call}: too late, the handler has returned`);
      throw new Error(`message.${call}: the handler has returned`);
    }
  }
}

// Fields stand for message.headers. They are no Headers: a copy of those would say that no other field is there.
class Fields {
  #known = new Map();

  constructor(data) {
    for (const [name, value] of Object.entries(data)) {
      this.#known.set(prefix + name, String(value));
    }
  }

  get(name) {
    name = String(name).toLowerCase();
    if (!name.startsWith(prefix)) {
      throw absent(`message.headers: the field ${name}`);
    }
    return this.#known.get(name) ?? null;
  }

  has(name) {
    return this.get(name) !== null;
  }

  entries() {
    throw absent("message.headers as a list");
  }
}
for (const name of ["keys", "values", "forEach", "getAll", "getSetCookie", Symbol.iterator]) {
  Fields.prototype[name] = Fields.prototype.entries;
}

// absent returns the error of what is not there yet.
function absent(what) {
  return new Error(`${what} is not there: a hook is asked at RCPT, before the message comes (docs/hooks.md)`);
}

// read returns the body of a request, or null if it is too large.
async function read(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.length;
    if (size > maxBody) {
      return null;
    }
    chunks.push(chunk);
  }
  return new Blob(chunks).arrayBuffer();
}

// verify reports whether one of the signatures is made with the secret, now.
async function verify(headers, body) {
  const id = headers.get("webhook-id") ?? "";
  const at = headers.get("webhook-timestamp") ?? "";
  if (!/^[0-9]{1,12}$/.test(at) || Math.abs(Date.now() / 1000 - Number(at)) > skew) {
    return false;
  }
  const key = await crypto.subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
  const signed = await new Blob([`${id}.${at}.`, body]).arrayBuffer();
  for (const signature of (headers.get("webhook-signature") ?? "").split(" ")) {
    const mac = signature.startsWith("v1,") ? decode(signature.slice(3)) : null;
    if (mac !== null && (await crypto.subtle.verify("HMAC", key, mac, signed))) {
      return true;
    }
  }
  return false;
}

// parse returns the data of a question, or null if the body is none.
function parse(body) {
  try {
    const { type, data } = JSON.parse(new TextDecoder().decode(body));
    const asked = type === "recipient.asked" && typeof data.recipient === "string" && typeof data.sender === "string";
    return asked ? data : null;
  } catch {
    return null;
  }
}

// readSecret reads the first secret of a file of secrets.
function readSecret(text) {
  const line = String(text ?? "").split("\n").map((l) => l.trim()).find((l) => l !== "" && l[0] !== "#") ?? "";
  const key = line.startsWith("whsec_") ? decode(line.slice("whsec_".length)) : null;
  if (key === null || key.length === 0) {
    throw new Error("MILLRACE_SECRET is not whsec_ and base64");
  }
  return key;
}

// decode returns the octets of base64, or null if it is none.
function decode(text) {
  try {
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  } catch {
    return null;
  }
}

// printable returns text as one line of ASCII of a length.
function printable(text, length) {
  return text.replace(/[\r\n\t]+/g, " ").replace(/[^ -~]/g, "?").slice(0, length);
}
