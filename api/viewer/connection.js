// Keeps one desktop connected: asks whether the chat may be opened, opens the WebSocket, hands it
// to noVNC, and tries again after the ends for which that makes sense. Knows nothing of the page.

import { ARCHIVED, DESKTOP_UNREACHABLE, DISCONNECTED, PAGE_INCOMPLETE, SERVER_UNREACHABLE, TURNED_AWAY, UNREADABLE, closed, refused } from "./endings.js";

const HANDSHAKE_LIMIT_MS = 30_000; // a first viewer waits while the desktop starts
const STABLE_MS = 3_000; // connected this long, the next trouble starts counting from one
const TRIES = 10;
const LONGEST_WAIT_S = 30;

/**
 * Events: "phase" (see `phase` and `detail`), "connected" with the RFB object as `detail`, and
 * "closing" just before a lost picture is removed.
 *
 * `phase` is "connecting", "connected", "waiting" (detail: ending, retryAt, attempt) or "ended"
 * (detail: ending).
 */
export class Connection extends EventTarget {
  phase = "connecting";
  #screen;
  #api;
  #tries = 0;
  #current = new AbortController();

  /** `screen` is the element the desktop goes into, `chat` the chat's id as it stands in the address. */
  constructor(screen, chat) {
    super();
    this.#screen = screen;
    // Only the chat's id comes from the address. Where to connect never does: a link could
    // otherwise aim this page, and the keys typed into it, at somebody else's server. It is where
    // this script is from, under whatever path.
    this.#api = new URL(`../api/v2/chats/${chat}`, import.meta.url);
  }

  /** Connect now, with all tries still to come. Ends what was going on before. */
  start() {
    this.#current.abort();
    this.#current = new AbortController();
    this.#tries = 0;
    this.#run(this.#current.signal);
  }

  stop() {
    this.dispatchEvent(new CustomEvent("closing"));
    this.#current.abort();
    this.#enter("ended", { ending: DISCONNECTED });
  }

  async #run(signal) {
    while (!signal.aborted) {
      this.#enter("connecting", {});
      const ending = (await this.#ask(signal)) ?? (await this.#session(signal)) ?? (await this.#unopened(signal));
      if (signal.aborted) return;
      if (!ending.retry || this.#tries === TRIES) return this.#enter("ended", { ending });
      // Jitter, so that all viewers of a restarted server do not come back in the same instant.
      const wait_s = Math.min(2 ** this.#tries, LONGEST_WAIT_S) * (1 + Math.random() / 4);
      this.#tries += 1;
      this.#enter("waiting", { ending, retryAt: Date.now() + wait_s * 1000, attempt: this.#tries, tries: TRIES });
      await elapsed(wait_s * 1000, signal);
    }
  }

  /** Why the chat can't be opened now, or null. */
  async #ask(signal) {
    let response;
    let body;
    try {
      response = await fetch(this.#api, { signal, cache: "no-store", headers: { Accept: "application/json" } });
      body = await response.json().catch(() => ({}));
    } catch {
      return SERVER_UNREACHABLE;
    }
    if (!response.ok) return refused(response.status, body.message || `The server answered ${response.status}.`);
    return body.archived ? ARCHIVED : null;
  }

  /** The ending where a desktop could not be opened, with the server's reason if it is known. */
  async #unopened(signal) {
    const chat = await fetch(this.#api, { signal, cache: "no-store" }).then((response) => response.json()).catch(() => ({}));
    return chat.desktop_problem ? { ...DESKTOP_UNREACHABLE, reason: chat.desktop_problem } : TURNED_AWAY;
  }

  /** One connection from beginning to end; resolves to its ending, or to null where it never opened. */
  async #session(signal) {
    let RFB;
    try {
      ({ default: RFB } = await import("./novnc/core/rfb.js"));
    } catch {
      return PAGE_INCOMPLETE;
    }
    if (signal.aborted) return null;
    return new Promise((resolve) => {
      const socket = new WebSocket(`${this.#api}/desktop`.replace(/^http/, "ws"));
      const handshakeLimit = setTimeout(() => socket.close(), HANDSHAKE_LIMIT_MS);
      const over = new AbortController();
      let stable;
      let rfb = null;
      signal.addEventListener("abort", () => (rfb ? rfb.disconnect() : socket.close()), { signal: over.signal });

      // noVNC tells only whether an end was clean, so the page owns the socket. This listener
      // comes before noVNC's own, while its picture is still there.
      socket.addEventListener("close", (event) => {
        over.abort();
        clearTimeout(handshakeLimit);
        clearTimeout(stable);
        if (rfb && !signal.aborted) this.dispatchEvent(new CustomEvent("closing"));
        resolve(rfb ? closed(event.code, event.reason) : null);
      });
      socket.addEventListener("open", () => {
        clearTimeout(handshakeLimit);
        rfb = new RFB(this.#screen, socket, { shared: true });
        rfb.addEventListener("connect", () => {
          stable = setTimeout(() => (this.#tries = 0), STABLE_MS);
          this.#enter("connected", {});
          this.dispatchEvent(new CustomEvent("connected", { detail: rfb }));
        });
        rfb.addEventListener("securityfailure", () => resolve(UNREADABLE));
        // The first to resolve wins: an unclean end before the socket's is noVNC giving up.
        rfb.addEventListener("disconnect", ({ detail }) => detail.clean || resolve(UNREADABLE));
      });
    });
  }

  #enter(phase, detail) {
    this.phase = phase;
    this.dispatchEvent(new CustomEvent("phase", { detail }));
  }
}

function elapsed(duration_ms, signal) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const end = () => (clearTimeout(timer), over.abort(), resolve());
    const timer = setTimeout(end, duration_ms);
    signal.addEventListener("abort", end, { signal: over.signal });
  });
}
