// An Email Worker that is a class.
import { WorkerEntrypoint } from "cloudflare:workers";

export default class extends WorkerEntrypoint {
  async email(message) {
    this.ctx.waitUntil(scheduler.wait(10).then(() => message.forward("alice@mailbox.example")));
  }
}
