// What the pages share: the gateway's public endpoints, and what they say of a model.
// Names and engines' words are text: they are shown by textContent only.

/** The gateway's address, such as http://localhost:8000/. */
export const root = new URL("../", import.meta.url);

/** Milliseconds until a stream that the gateway has refused is asked for again. */
const AGAIN = 5000;

/** What a status of /models or of an event says: {state, why, since}; since is in seconds. */
function told(state, status) {
  return {
    state: status.failed ? "failed" : state,
    why: status.error || "",
    since: status.failed_at || null,
  };
}

/** All models, in the order of the configuration. */
async function list() {
  const answer = await fetch(new URL("models", root));
  if (!answer.ok) throw new Error(await reason(answer));
  const { data } = await answer.json();
  return data.map((model) => ({
    name: model.id,
    size: model.size,
    remote: Boolean(model.replicas),
    ...told(model.status.value, model.status),
  }));
}

async function reason(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The answer has status ${answer.status}.`;
  }
}

/** Have a model loaded or unloaded, and wait until it is. */
export async function order(what, model) {
  let answer;
  try {
    answer = await fetch(new URL(`models/${what}`, root), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model, wait: true }),
    });
  } catch {
    throw new Error("The gateway does not answer.");
  }
  if (!answer.ok) throw new Error(await reason(answer));
}

/**
 * Follow the models for as long as the page is visible.
 *
 * - listed(models): all of them, whenever the stream begins
 * - changed(name, told): one has another state; also called with what is known already
 * - connected(error): the stream has begun (null), or ended ("", or why)
 */
export function follow({ listed, changed, connected }) {
  let events = null;
  let timer = 0;

  function close() {
    clearTimeout(timer);
    if (events) events.close();
    events = null;
  }

  function lost(source, error) {
    if (source !== events) return;
    connected(error);
    // The browser tries again by itself, but not after an answer that is no stream.
    if (error || source.readyState === EventSource.CLOSED) {
      close();
      timer = setTimeout(open, AGAIN);
    }
  }

  function open() {
    close();
    const source = (events = new EventSource(new URL("models/sse", root)));
    // Changes that come before the list does are applied after it.
    let early = [];
    source.onopen = async () => {
      early = [];
      try {
        const models = await list();
        if (source !== events) return;
        listed(models);
        for (const [name, status] of early) changed(name, status);
        early = null;
        connected(null);
      } catch (error) {
        lost(source, error.message);
      }
    };
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.event === "progress") return; // no news of its state
      const one = [event.model, told(event.data.status, event.data)];
      if (early) early.push(one);
      else changed(...one);
    };
    source.onerror = () => lost(source, "");
  }

  function look() {
    if (document.hidden) close();
    else open();
  }

  document.addEventListener("visibilitychange", look);
  look();
}
