// Looks at the dashboard with Chromium. What is wrong is a line each, and the exit code is 1 then.
"use strict";
const { chromium } = require("playwright-core");
const fs = require("fs");
const net = require("net");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [, , base, token, relay] = process.argv;
const shots = process.env.SHOTS;
const flags = [
	"--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
	"--disable-sync",
];
let wrong = 0;
const complain = (...what) => { wrong++; console.log(...what); };
const paths = [
	"/", "/sites", "/rules", "/rules?q=nothing", "/log", "/log?status=rejected", "/log?status=x", "/log?from=nothing", "/senders",
	"/senders?to=info@x.example", "/explain", "/dns", "/dns?domain=x.example", "/nothing",
	"/destinations", "/rules/new", "/tokens", "/audit", "/audit?q=nothing",
];

// send sends a mail and returns the answer to its recipient.
function send(from, to) {
	return new Promise((resolve, reject) => {
		const [host, port] = relay.split(":");
		const lines = ["EHLO mail.client.example", `MAIL FROM:<${from}>`, `RCPT TO:<${to}>`, "DATA", "Subject: x\r\n\r\nhi\r\n.", "QUIT"];
		let answer = "", text = "";
		const socket = net.connect(Number(port), host);
		socket.setTimeout(60000, () => reject(new Error("the relay is silent")));
		socket.on("error", reject);
		socket.on("data", (data) => {
			text += data;
			if (!/^\d{3} .*\r\n$/m.test(text)) { return; }
			const line = lines.shift();
			if (line === "DATA") {
				answer = text;
				if (answer[0] !== "2") { lines.length = 0; socket.end("QUIT\r\n"); return; }
			}
			text = "";
			if (line) { socket.write(line + "\r\n"); }
		});
		socket.on("close", () => resolve(answer));
	});
}

// edit does what the owner of a domain does on the first day: an address, its destination, a mail, a sender who is blocked,
// the catch-all, and an address that is retired.
async function edit(page, name) {
	const click = async (selector, url) => { await page.click(selector); await page.waitForURL(url); };
	const expect = async (from, to, want) => {
		let got = "";
		for (let i = 0; i < 40; i++) { // a rule is in force within two seconds
			got = await send(from, to);
			if (got.startsWith(want)) { return; }
			await page.waitForTimeout(250);
		}
		complain(name, `mail of ${from} to ${to} is answered ${got}, want ${want}`);
	};
	await page.goto(base + "/destinations");
	await page.fill("main [name=address]", "me@x.example");
	await page.click("main .filters button");
	await page.waitForSelector("main .notice.warn"); // no letter can be sent here: there is no public.url
	await look(page, name);
	await page.goto(base + "/rules/new");
	await look(page, name);
	await page.fill("main [name=pattern]", "shop@example.com");
	await page.fill("main input[name=to]", "me@x.example");
	await click("main .form button", /done=done.saved/);
	if (!(await page.textContent("main")).includes(name.includes("japanese") ? "確認待ち" : "waits for its destination")) {
		complain(name, "the rule does not wait for its destination");
	}
	await page.goto(base + "/destinations");
	await click("form[action$='/verify'] button", /done=done.saved/);
	await expect("ann@client.example", "shop@example.com", "250");
	await page.goto(base + "/log?to=shop@example.com&status=delivered");
	await click("tbody a.tag", /\/log\/[0-9a-f]{32}/);
	await click("form[action='/block'] button", /done=done.blocked/);
	await look(page, name);
	await expect("ann@client.example", "shop@example.com", "55");
	await page.goto(base + "/rules/new?pattern=@example.com");
	for (const [choice, answer] of [["drop", "250"], ["reject", "550"], ["tempfail", "451"], ["forward", "250"]]) {
		await page.check(`#do-${choice}`);
		await page.fill("main input[name=to]", "me@x.example");
		await click("main .form button", /done=done.saved/);
		await expect("bob@client.example", "any@example.com", answer);
		await page.click("main a:text-is('@example.com')");
		await page.waitForSelector("#do-forward");
		if (!(await page.isChecked(`#do-${choice}`))) {
			complain(name, "the form forgets", choice);
		}
	}
	await look(page, name + "_catchall");
	await page.goto(base + "/senders?to=shop@example.com");
	await click("form[action='/retire'] button", /done=done.retired/);
	await expect("carol@client.example", "shop@example.com", "550");
	// The next visitor begins with nothing.
	for (;;) {
		await page.goto(base + "/rules");
		const link = await page.$("main td a, main th a");
		if (!link) { break; }
		await link.click();
		await click("form[action$='/remove'] button", /done=done.removed/);
	}
	await page.goto(base + "/destinations");
	await click("form[action$='/remove'] button", /done=done.(removed|disabled)/);
}

async function look(page, name, path, status) {
	const answer = path ? await page.goto(base + path) : null;
	if (answer && answer.status() !== (status || 200)) {
		complain(name, path, "answers", answer.status());
	}
	const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
	if (wide > 0) {
		complain(name, page.url(), "scrolls sideways by", wide);
	}
	await page.evaluate(axe); // by the debugger, which the policy of the page does not bind
	const found = await page.evaluate(() => window.axe.run());
	for (const v of found.violations) {
		complain(name, page.url(), v.impact, v.id, v.nodes[0].html.slice(0, 200));
	}
	if (shots) {
		const file = new URL(page.url());
		await page.screenshot({ path: `${shots}/${name}${(file.pathname + file.search).replace(/[^a-z0-9]+/gi, "_")}.png`, fullPage: true });
	}
}

async function visit(browser, name, options) {
	const context = await browser.newContext(options);
	const page = await context.newPage();
	page.setDefaultTimeout(120000);
	page.on("dialog", (d) => { complain(name, "a script of strangers ran:", d.message()); d.dismiss(); });
	page.on("pageerror", (e) => complain(name, page.url(), e.message));
	page.on("console", (m) => {
		if (m.type() === "error" && !/status of 4\d\d/.test(m.text())) {
			complain(name, page.url(), m.text());
		}
	});
	page.on("request", (r) => {
		if (!r.url().startsWith(base)) {
			complain(name, "asks for", r.url());
		}
	});
	await look(page, name, "/login");
	await page.fill("#token", "wrong-wrong-wrong");
	await page.keyboard.press("Enter");
	await page.waitForSelector("[role=alert]");
	await look(page, name + "_wrong");
	await page.goto("about:blank");
	await page.goto(base + "/login#" + token);
	await page.waitForURL((u) => u.pathname === "/");
	for (const path of paths) {
		await look(page, name, path, { "/nothing": 404, "/log?status=x": 400 }[path]);
	}
	// The flow shows what comes.
	await page.goto(base + "/");
	await page.waitForFunction(() => parseFloat(document.querySelector(".o-relayed dd").textContent) > 0);
	await look(page, name + "_flowing");
	await page.click("#pause");
	const paused = await page.innerHTML("#flow");
	await page.waitForTimeout(5000);
	if (await page.innerHTML("#flow") !== paused) {
		complain(name, "a paused page goes on");
	}
	// By the keyboard alone: the skip link, the filter, the row, the trace.
	await page.goto(base + "/log");
	await page.keyboard.press("Tab");
	if (await page.evaluate(() => document.activeElement.className) !== "skip") {
		complain(name, "the first stop is not the link to the content");
	}
	await page.keyboard.press("Enter");
	await page.keyboard.press("Tab");
	await page.keyboard.type("evil.example");
	await page.keyboard.press("Enter");
	await page.waitForURL(/from=evil/);
	await page.focus("tbody a");
	await page.keyboard.press("Enter");
	await page.waitForURL(/\/log\/[0-9a-f]{32}/);
	await look(page, name);
	// The simulator.
	await page.goto(base + "/explain");
	await page.fill("main [name=ip]", "192.0.2.7");
	await page.fill("main [name=to]", "info@x.example");
	await page.click("main form button");
	await page.waitForSelector("article");
	await look(page, name + "_explained");
	await edit(page, name);
	// A token is made, shown once and withdrawn; the audit has all of it.
	await page.goto(base + "/tokens");
	await page.fill("main [name=name]", "A token with a name that is rather long, for " + "x".repeat(60));
	await page.fill("main [name=domains]", "x.example, " + "long".repeat(10) + ".example");
	await page.click("main .form button");
	await page.waitForSelector("main input[readonly]");
	await look(page, name + "_made");
	await page.goto(base + "/tokens");
	if (await page.$("main input[readonly]")) { complain(name, "a token is shown again"); }
	await page.click("form[action$='/revoke'] button");
	await page.waitForURL(/done=done.revoked/);
	await look(page, name);
	await look(page, name + "_full", "/audit");
	// A page in a frame of another site stays empty.
	const framed = await context.newPage();
	await framed.setContent(`<iframe src="${base}/log"></iframe>`);
	await framed.waitForTimeout(1000);
	for (const frame of framed.frames().slice(1)) {
		if (await frame.$("nav, form, table")) {
			complain(name, "the page stands in a frame");
		}
	}
	await framed.close();
	await page.goto(base + "/log");
	await page.click("form[action='/logout'] button");
	await page.waitForURL(/\/login/);
	await context.close();
}

(async () => {
	const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: flags });
	for (const [name, width, locale, colorScheme] of [
		["wide", 1280, "en", "light"], ["japanese", 1280, "ja", "light"], ["narrow", 360, "en", "dark"], ["narrow_japanese", 360, "ja", "light"],
	]) {
		await visit(browser, name, { viewport: { width, height: 900 }, locale, colorScheme });
	}
	await browser.close();
	console.log(wrong ? `${wrong} things are wrong` : "all pages are as they should be");
	process.exit(wrong ? 1 : 0);
})().catch((e) => { console.error(e); process.exit(1); });
