// An Email Worker that does by the local part what workers do.
const alice = "alice@mailbox.example", bob = "bob@mailbox.example";
const handlers = {
  forward: (m) => m.forward(alice),
  several: (m) => Promise.all([m.forward(alice), m.forward(bob)]),
  twice: async (m) => {
    await m.forward(alice);
    await m.forward(alice);
  },
  later: (m, _, ctx) => ctx.waitUntil(scheduler.wait(10).then(() => m.forward(alice))),
  reject: (m) => m.setReject("Moved to another house, see https://example.org/"),
  both: async (m) => {
    await m.forward(alice);
    m.setReject("After all not");
  },
  words: (m) => m.setReject("Café\r\nclosed " + "x".repeat(1000)),
  drop: () => {},
  throw: () => {
    throw new Error("the table is out of reach");
  },
  forwardthenthrow: async (m) => {
    await m.forward(alice);
    throw new Error("thought better of it");
  },
  laterthrow: (m, _, ctx) => ctx.waitUntil(scheduler.wait(10).then(() => {
    throw new Error("later");
  })),
  subject: (m) => m.headers.get("Subject") === null && m.forward(alice),
  fields: (m) => [...m.headers].length === 0 && m.forward(alice),
  copy: (m) => new Headers(m.headers).has("Subject") || m.forward(alice),
  raw: (m) => new Response(m.raw).text(),
  rawsize: (m) => m.rawSize < 1000 && m.forward(alice),
  reply: (m) => m.reply({}),
  addfield: (m) => m.forward(alice, new Headers({ "X-Seen": "yes" })),
  unawaited: (m) => void m.forward(alice, new Headers({ "X-Seen": "yes" })).catch(() => {}),
  many: async (m) => {
    for (let i = 0; i < 21; i++) {
      await m.forward(`a${i}@mailbox.example`);
    }
  },
  known: (m) => m.from === "a@near.example" && m.canBeForwarded && m.headers.has("X-Millrace-Client") &&
    m.headers.get("X-Millrace-Rule") === "@every.example" && m.headers.get("X-Millrace-Nothing") === null &&
    m.forward(alice, new Headers()),
  env: (m, env) => env.MILLRACE_SECRET === undefined && m.forward(alice),
  nonsense: (m) => m.forward("no address"),
};

export default {
  async email(message, env, ctx) {
    await handlers[message.to.split("@")[0]](message, env, ctx);
  },
};
