// What the end of a connection means to the person at the page: a title, what happened, what to do,
// and whether it makes sense that the page tries again by itself.
//
// The codes are those of RFC 6455 (section 7.4) and the relay's own from 4000 up.

const ENDINGS = new Map([
  [1000, { title: "The desktop has ended", text: "It closed the connection in the ordinary way.", advice: "Reconnecting starts it again.", retry: false }],
  [1001, { title: "The server is going away", text: "It is being stopped or restarted.", advice: "", retry: true }],
  [1002, { title: "The connection was refused", text: "This browser and the server did not understand each other.", advice: "Something between them may be changing the traffic.", retry: false }],
  [1003, { title: "The connection was refused", text: "This browser sent something other than desktop traffic.", advice: "Reload the page, then try again.", retry: false }],
  [1005, { title: "The connection ended", text: "The server gave no reason.", advice: "", retry: false }],
  [1006, { title: "The connection was lost", text: "The network or the server went away without a word.", advice: "", retry: true }],
  [1007, { title: "The connection was refused", text: "This browser sent text that cannot be read.", advice: "Reload the page, then try again.", retry: false }],
  [1008, { title: "The connection was refused", text: "This browser did something that this desktop does not allow.", advice: "Reload the page, then try again.", retry: false }],
  [1009, { title: "Too much at once", text: "This browser sent more than the server takes in one piece.", advice: "If you pasted a very long text, try a shorter one.", retry: false }],
  [1011, { title: "The server had a problem", text: "It could not go on with this connection.", advice: "", retry: true }],
  [1012, { title: "The server is restarting", text: "It will be back in a moment.", advice: "", retry: true }],
  [1013, { title: "The server is busy", text: "It takes no more connections at the moment.", advice: "", retry: true }],
  [4401, { title: "You are signed out", text: "Your session has expired or was revoked.", advice: "Open a new sign-in link, then reconnect.", retry: false }],
  [4408, { title: "The connection timed out", text: "This browser or the desktop did not answer in time.", advice: "", retry: true }],
  [4409, { title: "Closed while nobody was here", text: "There was no input for a long time.", advice: "Reconnect to go on.", retry: false }],
  [4410, { title: "This chat is archived", text: "This chat was archived, so its desktop was closed.", advice: "Unarchive the chat to open its desktop again.", retry: false }],
  [4502, { title: "The desktop misbehaved", text: "It sent something that is not part of the VNC protocol, so the connection was closed.", advice: "Reconnecting may help once; if it happens again, tell whoever runs this desktop.", retry: false }],
  [4503, { title: "The desktop went away", text: "It stopped or could not be reached.", advice: "The next connection starts it again.", retry: true }],
]);

/** The ending for a WebSocket close code; `reason` is what the server wrote beside it. */
export function closed(code, reason) {
  const ending = ENDINGS.get(code) ?? { ...ENDINGS.get(1005), text: `The server closed it with code ${code}.` };
  return { ...ending, reason };
}

/** The ending for an HTTP refusal, with the server's own message. */
export function refused(status, message) {
  if (status === 401) return { ...ENDINGS.get(4401), text: message };
  if (status >= 500) return { title: "The server had a problem", text: message, advice: "", retry: true };
  return { title: "This desktop cannot be opened", text: message, advice: "Check the address, or open the link again.", retry: false };
}

export const ARCHIVED = { ...ENDINGS.get(4410), text: "The desktop of an archived chat cannot be opened." };

export const SERVER_UNREACHABLE = { ...ENDINGS.get(1006), title: "The server cannot be reached", text: "It may be restarting, or this computer may be offline." };

// A browser hides the answer to an upgrade that was refused; the reason is asked for beside it.
export const DESKTOP_UNREACHABLE = { title: "The desktop could not be opened", text: "It did not start, could not be reached, or did not let the server in.", advice: "", retry: true };

// Where there is no such reason, nothing was wrong with the desktop.
export const TURNED_AWAY = { title: "The desktop could not be opened", text: "The server did not take this connection: too many desktops may be open, here or elsewhere.", advice: "Close what you do not need. The server’s log says more.", retry: true };

export const UNREADABLE = { title: "The picture could not be read", text: "This browser could not make sense of what the desktop sent.", advice: "", retry: false };

export const PAGE_INCOMPLETE = { title: "This page is incomplete", text: "Its viewer, noVNC, could not be loaded.", advice: "Reload the page. If that does not help, ask whoever runs the server to run “make novnc” and to install it again.", retry: false };

export const DISCONNECTED = { title: "Disconnected", text: "The desktop keeps running.", advice: "", retry: false };
