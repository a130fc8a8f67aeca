// What the pages do beyond HTML: times in the reader's zone, the live part of the flow, and a login by a link.
"use strict";

// localize shows times in the zone of the reader. What the server wrote is UTC, and stays as the title.
function localize(root) {
	const form = new Intl.DateTimeFormat(document.documentElement.lang, {
		year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
	});
	for (const time of root.querySelectorAll("time[datetime]")) {
		const at = new Date(time.dateTime);
		if (!Number.isNaN(at.getTime())) {
			time.title = time.dateTime;
			time.textContent = form.format(at);
		}
	}
}

// follow keeps the live part up to date until it is paused. The server escapes what it sends.
function follow(part, pause, cut) {
	let source = null;
	const isPaused = () => pause.getAttribute("aria-pressed") === "true";
	const begin = () => {
		source = new EventSource(part.dataset.live);
		source.addEventListener("flow", (event) => {
			const focused = document.activeElement?.closest?.(".wide") !== null && part.contains(document.activeElement);
			part.innerHTML = event.data;
			if (focused) {
				part.querySelector(".wide")?.focus();
			}
			cut.hidden = true;
		});
		source.addEventListener("error", () => {
			cut.hidden = false;
			if (source?.readyState === EventSource.CLOSED) { // it was refused, and does not try again by itself
				source = null;
				setTimeout(() => { if (!source && !isPaused() && !document.hidden) { begin(); } }, 10000);
			}
		});
	};
	const end = () => { source?.close(); source = null; };
	pause.hidden = false;
	pause.addEventListener("click", () => {
		const paused = !isPaused();
		end();
		if (!paused) { begin(); }
		pause.textContent = paused ? pause.dataset.resume : pause.dataset.pause;
		pause.setAttribute("aria-pressed", String(paused));
	});
	document.addEventListener("visibilitychange", () => {
		if (isPaused()) { return; }
		if (document.hidden) { end(); } else if (!source) { begin(); }
	});
	begin();
}

localize(document);
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); // a narrow menu scrolls
const part = document.getElementById("flow");
if (part) {
	follow(part, document.getElementById("pause"), document.getElementById("cut"));
}
// byLink logs in by the token behind the "#" of a link, which is sent to no server by itself.
function byLink() {
	const token = document.getElementById("token");
	if (token && location.hash.length > 16) {
		token.value = decodeURIComponent(location.hash.slice(1));
		history.replaceState(null, "", location.pathname + location.search);
		document.getElementById("login").requestSubmit();
	}
}

byLink();
addEventListener("hashchange", byLink);
