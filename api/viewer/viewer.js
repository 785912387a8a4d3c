// The page around the desktop: toolbar, clipboard, and the words for what is going on.
// Text that came from elsewhere goes in through textContent and value only.

import { Connection } from "./connection.js";

const BAR_LINGERS_MS = 2_500;
const CLIPBOARD_PAUSE_MS = 300; // one message for a pasted or typed text, not one per letter

const el = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));
const connection = new Connection(el.screen, location.pathname.split("/").pop());
let rfb = null;

// --- State -------------------------------------------------------------------------------------

const STATUS = { connecting: "Connecting…", connected: "Connected", waiting: "Reconnecting…", ended: "Disconnected" };
let countdown;

connection.addEventListener("phase", ({ detail }) => {
  const { phase } = connection;
  const { ending } = detail;
  clearInterval(countdown);
  if (phase !== "connected") {
    rfb = null;
    el.screen.inert = true;
  }
  document.body.dataset.phase = phase;
  el.status.textContent = STATUS[phase];
  el.overlay.hidden = phase === "connected";
  el["reconnect-label"].textContent = phase === "waiting" ? "Try now" : "Reconnect";
  el.reconnect.hidden = phase !== "waiting" && phase !== "ended";
  el.link.textContent = phase === "connected" ? "Disconnect" : "Reconnect";
  for (const button of [el.paste, el.fit]) button.disabled = phase !== "connected";
  if (phase !== "connected") closeClipboard();

  // While connecting again, the card keeps saying why: a blank one would flicker at every try.
  if (phase === "connecting" && el.title.dataset.ending) {
    el.attempt.textContent = "Trying again now…";
  } else if (phase !== "connected") {
    el.title.textContent = ending?.title ?? "Connecting to the desktop";
    el.title.dataset.ending = ending ? "yes" : "";
    el.text.textContent = ending?.text ?? "A desktop that is not running yet takes a few seconds to start.";
    el.advice.textContent = ending?.advice ?? "";
    el.reason.textContent = ending?.reason ? `The server’s words: ${ending.reason}` : "";
    el.attempt.textContent = "";
  }
  if (phase === "connected") {
    el.title.dataset.ending = "";
    el["last-frame"].hidden = true;
  }
  if (phase === "waiting") countDown(detail);
  if (phase === "ended") el.reconnect.focus();
  showBar();
});

function countDown({ retryAt, attempt, tries }) {
  const tick = () => {
    const left_s = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
    el.attempt.textContent = `Trying again in ${left_s} s (${attempt} of ${tries})`;
  };
  tick();
  countdown = setInterval(tick, 250);
}

connection.addEventListener("connected", ({ detail }) => {
  rfb = detail;
  rfb.scaleViewport = true;
  rfb.resizeSession = el.fit.getAttribute("aria-pressed") === "true";
  rfb.background = "transparent";
  rfb.addEventListener("clipboard", (event) => showClipboard(event.detail.text));
  el.screen.inert = false;
  rfb.focus({ preventScroll: true });
});

// noVNC takes its picture away with the connection. A blurred copy stays behind the words.
connection.addEventListener("closing", () => {
  const picture = el.screen.querySelector("canvas");
  if (!picture?.width) return;
  el["last-frame"].width = picture.width;
  el["last-frame"].height = picture.height;
  el["last-frame"].getContext("2d").drawImage(picture, 0, 0);
  el["last-frame"].hidden = false;
});

addEventListener("online", () => connection.phase === "waiting" && connection.start());

// --- Toolbar -----------------------------------------------------------------------------------

let hideTimer;

function showBar() {
  document.body.dataset.bar = "shown";
  clearTimeout(hideTimer);
  hideTimer = setTimeout(() => {
    const busy = connection.phase !== "connected" || !el.clipboard.hidden || el.bar.matches(":hover, :focus-within");
    if (!busy) document.body.dataset.bar = "hidden";
  }, BAR_LINGERS_MS);
}

for (const event of ["pointerenter", "pointerleave", "pointerdown", "focusin", "focusout"]) el.bar.addEventListener(event, showBar);

el.reconnect.addEventListener("click", () => connection.start());
el.link.addEventListener("click", () => (connection.phase === "connected" ? connection.stop() : connection.start()));

el.fit.addEventListener("click", () => {
  const on = el.fit.getAttribute("aria-pressed") !== "true";
  el.fit.setAttribute("aria-pressed", on);
  rfb.resizeSession = on;
  rfb.focus();
});

el.full.hidden = !document.fullscreenEnabled;
el.full.addEventListener("click", async () => {
  if (document.fullscreenElement) {
    await document.exitFullscreen();
  } else {
    await document.documentElement.requestFullscreen();
    // Else Escape leaves full screen instead of reaching the desktop. Held down, it still does.
    await navigator.keyboard?.lock?.(["Escape"]);
  }
  rfb?.focus();
});
document.addEventListener("fullscreenchange", () => {
  el["full-label"].textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
});

// --- Clipboard ---------------------------------------------------------------------------------

let pasteTimer;

el.paste.addEventListener("click", () => (el.clipboard.hidden ? openClipboard() : closeClipboard()));
el.close.addEventListener("click", closeClipboard);
el.clipboard.addEventListener("keydown", (event) => event.key === "Escape" && closeClipboard());

function openClipboard() {
  el.clipboard.hidden = false;
  el.paste.setAttribute("aria-expanded", "true");
  el.clip.focus();
  el.clip.select();
}

function closeClipboard() {
  if (el.clipboard.hidden) return;
  el.clipboard.hidden = true;
  el.paste.setAttribute("aria-expanded", "false");
  rfb?.focus();
  showBar();
}

function showClipboard(text) {
  clearTimeout(pasteTimer);
  el.clip.value = text;
  el.note.textContent = "From the desktop";
}

el.clip.addEventListener("input", () => {
  clearTimeout(pasteTimer);
  el.note.textContent = "";
  pasteTimer = setTimeout(() => {
    rfb?.clipboardPasteFrom(el.clip.value);
    el.note.textContent = "Sent to the desktop";
  }, CLIPBOARD_PAUSE_MS);
});

el.copy.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(el.clip.value);
    el.note.textContent = "Copied to this computer";
  } catch {
    // Without https, or when the person said no, the browser lets only the keyboard copy.
    el.clip.select();
    el.note.textContent = "Press Ctrl+C to copy";
  }
});

connection.start();
