// An Email Worker: mail of some senders and domains is forwarded, and that of others is refused. Take it as worker.js.
const senders = ["ann@example.org"];
const domains = ["partner.example"];

export default {
  async email(message, env, ctx) {
    const from = message.from.toLowerCase();
    const domain = from.slice(from.lastIndexOf("@") + 1);
    if (senders.includes(from) || domains.includes(domain)) {
      await message.forward("alice@mailbox.example");
    } else {
      message.setReject("This address takes mail of its correspondents only");
    }
  },
};
