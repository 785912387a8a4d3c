// The list of one's own chats, or how to sign in.

const [title, text, list] = ["title", "text", "chats"].map((id) => document.getElementById(id));

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

try {
  const response = await fetch("/api/v2/chats", { cache: "no-store", headers: { Accept: "application/json" } });
  const body = await response.json();
  if (response.status === 401) {
    say("You are signed out", "Open the link that the server printed, or ask whoever runs it for one: “deskrelay token create --link” makes it.");
  } else if (!response.ok) {
    say("The chats cannot be listed", body.message);
  } else if (body.length === 0) {
    say("Your desktops", "You have no chats yet.");
  } else {
    say("Your desktops", "Choose the chat whose desktop you want to see.");
    list.append(...body.map(row));
    list.hidden = false;
  }
} catch {
  say("The server cannot be reached", "It may be restarting. Reload the page in a moment.");
}
