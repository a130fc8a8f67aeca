// An Email Worker: mail goes to a person by its local part, and what has no person is refused.
const people = {
  orders: ["alice@mailbox.example"],
  help: ["alice@mailbox.example", "bob@mailbox.example"],
};

export default {
  async email(message, env, ctx) {
    const local = message.to.slice(0, message.to.lastIndexOf("@")).toLowerCase();
    if (!Object.hasOwn(people, local)) {
      message.setReject("No such address here");
      return;
    }
    for (const address of people[local]) {
      await message.forward(address);
    }
  },
};
