// The list of one's own chats and sign-ins, or how to sign in.

const API = new URL("../api/v2/", import.meta.url);
const el = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));

function say(heading, words) {
  el.title.textContent = heading;
  el.text.textContent = words;
}

function ask(path, method = "GET") {
  return fetch(new URL(path, API), { method, cache: "no-store", headers: { Accept: "application/json" } });
}

/** A list's items with so many elements or texts in each. */
function item(...parts) {
  const made = document.createElement("li");
  made.append(...parts);
  return made;
}

function chatItem(chat) {
  const link = document.createElement("a");
  link.href = new URL(`../chats/${encodeURIComponent(chat.id)}`, import.meta.url);
  link.append(chat.title || "Untitled chat");
  return item(link);
}

function tokenItem(token, sessions) {
  const open = sessions.filter((session) => session.token_id === token.id);
  const at = (moment) => new Date(moment).toLocaleString();
  const words = [
    token.current ? "This browser" : `Token ${token.id}`,
    `since ${at(token.created_at)}, last used ${at(token.last_used_at)}`,
    ...open.map((session) => `A desktop is open at ${session.address} since ${at(session.since)}${session.view_only ? ", to look at" : ""}`),
  ];
  const text = document.createElement("p");
  text.append(...words.flatMap((line) => [line, document.createElement("br")]));
  if (token.current) return item(text);
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "quiet", textContent: "Revoke" });
  button.addEventListener("click", () => change(`tokens/${encodeURIComponent(token.id)}`, "DELETE"));
  return item(text, button);
}

/** Something that signs somebody out; afterwards the page is as if it had been opened now. */
async function change(path, method) {
  try {
    const response = await ask(path, method);
    // What is gone already, or signed out already, is as it should be.
    if (response.ok || response.status === 404 || response.status === 401) location.reload();
    else say("You are still signed in", (await response.json()).message);
  } catch {
    say("The server cannot be reached", "You are still signed in. Try again in a moment.");
  }
}

async function showSignIns() {
  const answer = await ask("sessions");
  const sessions = answer.ok ? await answer.json() : [];
  for (let next = "tokens"; next; ) {
    const page = await ask(next);
    if (!page.ok) return;
    el.tokens.append(...(await page.json()).map((token) => tokenItem(token, sessions)));
    next = behind(page);
  }
}

el.out.addEventListener("click", () => change("users/logout", "POST"));
el.everywhere.addEventListener("click", () => change("users/logout?everywhere=true", "POST"));

// Where the list goes on: `Link: <?after=...>; rel="next"`, relative to what was answered.
function behind(response) {
  const next = /<([^>]*)>; *rel="next"/.exec(response.headers.get("Link") ?? "");
  return next && new URL(next[1], response.url);
}

/** Adds a page of chats to the list; where that cannot be done, what is there stays. */
async function load(address) {
  el.more.disabled = true;
  try {
    const response = await ask(address);
    const body = await response.json();
    el.account.hidden = response.status === 401;
    if (response.status === 401) {
      say("You are signed out", "Open the link that the server printed, or ask whoever runs it for one: “deskrelay token create --user NAME --link” makes it.");
    } else if (!response.ok) {
      say("The chats cannot be listed", body.message);
    } else if (body.length === 0 && el.chats.hidden) {
      say("Your desktops", "You have no chats yet.");
    } else {
      say("Your desktops", "Choose the chat whose desktop you want to see.");
      el.chats.append(...body.map(chatItem));
      el.chats.hidden = false;
      const next = behind(response);
      el.more.hidden = !next;
      el.more.onclick = () => load(next);
    }
    return response.ok;
  } catch {
    say("The server cannot be reached", "It may be restarting. Reload the page in a moment.");
    return false;
  } finally {
    el.more.disabled = false;
  }
}

if (await load("chats")) await showSignIns().catch(() => say("The server cannot be reached", "It may be restarting. Reload the page in a moment."));
