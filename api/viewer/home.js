// The list of one's own chats, or how to sign in.

const [title, text, list, more] = ["title", "text", "chats", "more"].map((id) => document.getElementById(id));

function say(heading, words) {
  title.textContent = heading;
  text.textContent = words;
}

function row(chat) {
  const link = document.createElement("a");
  link.href = `/chats/${encodeURIComponent(chat.id)}`;
  link.append(chat.title || "Untitled chat");
  const item = document.createElement("li");
  item.append(link);
  return item;
}

// Where the list goes on: `Link: <?after=...>; rel="next"`, relative to what was answered.
function behind(response) {
  const next = /<([^>]*)>; *rel="next"/.exec(response.headers.get("Link") ?? "");
  return next && new URL(next[1], response.url).href;
}

// Adds a page of chats to the list; where that cannot be done, what is there stays.
async function load(address) {
  more.disabled = true;
  try {
    const response = await fetch(address, { cache: "no-store", headers: { Accept: "application/json" } });
    const body = await response.json();
    if (response.status === 401) {
      say("You are signed out", "Open the link that the server printed, or ask whoever runs it for one: “deskrelay token create --link” makes it.");
    } else if (!response.ok) {
      say("The chats cannot be listed", body.message);
    } else if (body.length === 0 && list.hidden) {
      say("Your desktops", "You have no chats yet.");
    } else {
      say("Your desktops", "Choose the chat whose desktop you want to see.");
      list.append(...body.map(row));
      list.hidden = false;
      const next = behind(response);
      more.hidden = !next;
      more.onclick = () => load(next);
    }
  } catch {
    say("The server cannot be reached", "It may be restarting. Reload the page in a moment.");
  }
  more.disabled = false;
}

await load("/api/v2/chats");
