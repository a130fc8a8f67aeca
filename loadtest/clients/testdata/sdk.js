// What the npm package cloudflare does with a relay, unmodified: sdk.js URL TOKEN DOMAIN.
'use strict';
const assert = require('node:assert/strict');
const Cloudflare = require('cloudflare');

const [baseURL, apiToken, domain] = process.argv.slice(2);
const client = new Cloudflare({ apiToken, baseURL });

async function all(list) {
  const out = [];
  for await (const one of list) out.push(one);
  return out;
}

// refused runs what is to fail, and returns the error.
async function refused(status, run) {
  try {
    await run();
  } catch (e) {
    assert.equal(e.status, status, String(e));
    return e;
  }
  assert.fail(`it was not refused with ${status}`);
}

const to = (value) => [{ type: 'literal', field: 'to', value }];
const forward = (...value) => [{ type: 'forward', value }];

async function main() {
  // What is asked before all else.
  const accounts = await all(client.accounts.list());
  assert.equal(accounts.length, 1);
  const account_id = accounts[0].id;
  assert.equal((await all(client.memberships.list())).length, 1);
  assert.equal((await client.user.tokens.verify()).status, 'active');
  const zones = await all(client.zones.list({ name: domain }));
  assert.deepEqual(zones.map((z) => z.name), [domain]);
  const zone_id = zones[0].id;
  assert.equal((await client.zones.get({ zone_id })).account.id, account_id);
  assert.deepEqual(await all(client.zones.list({ name: 'unknown.example' })), []);

  // Settings and DNS.
  const routing = client.emailRouting;
  assert.equal((await routing.get({ zone_id })).enabled, true);
  assert.equal((await routing.disable({ zone_id, body: {} })).enabled, false);
  assert.equal((await routing.enable({ zone_id, body: {} })).enabled, true);
  assert.equal((await routing.unlock({ zone_id })).name, domain);
  assert.equal((await routing.edit({ zone_id, support_subaddress: true })).support_subaddress, true);
  assert.equal((await routing.update({ zone_id, support_subaddress: false })).support_subaddress, false);
  const records = await routing.dns.get({ zone_id });
  assert.ok(Array.isArray(records) && records.some((r) => r.type === 'MX' && r.name === domain && r.priority > 0));
  assert.equal((await routing.dns.create({ zone_id, name: domain })).name, domain);
  assert.equal((await routing.dns.edit({ zone_id, name: domain })).name, domain);
  assert.equal((await routing.dns.delete({ zone_id })).name, domain);

  // Destinations.
  const address = await routing.addresses.create({ account_id, email: 'box@mailbox.example' });
  assert.equal(address.verified, null);
  assert.equal((await routing.addresses.create({ account_id, email: 'box@mailbox.example' })).id, address.id);
  assert.deepEqual((await all(routing.addresses.list({ account_id }))).map((a) => a.id), [address.id]);

  // A rule is returned as it was written, though its destination is pending.
  const rules = routing.rules;
  const written = { name: 'first', enabled: true, priority: 3, matchers: to('a@' + domain), actions: forward(address.email) };
  const rule = await rules.create({ zone_id, ...written, source: 'api' });
  for (const got of [rule, await rules.get(rule.id, { zone_id })]) {
    assert.deepEqual({ ...got }, { id: rule.id, tag: rule.id, source: 'api', ...written });
  }
  assert.ok((await routing.addresses.edit(address.id, { account_id, status: 'verified' })).verified);
  const changed = await rules.update(rule.id, {
    zone_id, matchers: to('b@' + domain), actions: forward('box@mailbox.example', 'other@mailbox.example'),
  });
  assert.equal(changed.id, rule.id);
  assert.equal(changed.name, undefined);
  assert.equal(changed.priority, 3);
  assert.deepEqual(changed.actions[0].value, ['box@mailbox.example', 'other@mailbox.example']);
  for (const action of [{ type: 'drop' }, { type: 'drop', value: [] }]) {
    const got = await rules.update(rule.id, { zone_id, matchers: to('b@' + domain), actions: [action] });
    assert.deepEqual(got.actions, [action]);
  }

  // What cannot be is refused once: the SDK repeats no answer by itself.
  await refused(400, () => rules.create({ zone_id, matchers: to('b@' + domain), actions: [{ type: 'drop' }] }));
  await refused(400, () => rules.create({ zone_id, matchers: to('x@elsewhere.example'), actions: [{ type: 'drop' }] }));
  const unknown = await refused(404, () => rules.get('0'.repeat(32), { zone_id }));
  assert.equal(unknown.errors[0].code, 2020);
  await refused(401, () => new Cloudflare({ apiToken: 'x'.repeat(40), baseURL }).zones.get({ zone_id }));

  // The catch-all.
  const before = await rules.catchAlls.get({ zone_id });
  assert.equal(before.enabled, false);
  const everything = await rules.catchAlls.update({
    zone_id, enabled: true, matchers: [{ type: 'all' }], actions: forward(address.email),
  });
  assert.equal(everything.id, before.id);
  assert.deepEqual(everything.actions, forward(address.email));

  // The thousand rules that are there, and some that are made at a time, by pages of the default and of another size.
  const wanted = [];
  for (let i = 0; i < 20; i++) wanted.push(`new${i}@${domain}`);
  await Promise.all(wanted.map((value) => rules.create({ zone_id, matchers: to(value), actions: [{ type: 'drop' }] })));
  for (let i = 0; i < 1000; i++) wanted.push(`r${i}@${domain}`);
  for (const list of [rules.list({ zone_id }), rules.list({ zone_id, per_page: 333 }), routing.accountRules.list({ account_id })]) {
    const got = await all(list);
    const values = new Set(got.map((r) => r.matchers[0].value));
    assert.ok(got.length === new Set(got.map((r) => r.id)).size && wanted.every((w) => values.has(w)), `${got.length} rules`);
  }

  // What was made goes, and is answered as it was. Without its destination a rule is disabled.
  const last = await rules.create({ zone_id, matchers: to('last@' + domain), actions: forward(address.email) });
  assert.equal((await routing.addresses.delete(address.id, { account_id })).email, address.email);
  assert.equal((await rules.get(last.id, { zone_id })).enabled, false);
  assert.equal((await rules.delete(last.id, { zone_id })).id, last.id);
  await refused(404, () => rules.get(last.id, { zone_id }));
}

main().catch((e) => {
  console.error(e);
  process.exitCode = 1;
});
