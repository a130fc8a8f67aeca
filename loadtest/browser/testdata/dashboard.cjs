// Looks at the dashboard with Chromium. What is wrong is a line each, and the exit code is 1 then.
"use strict";
const { chromium } = require("playwright-core");
const fs = require("fs");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [, , base, token] = process.argv;
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
];

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
