// Who uses the dashboard: the holder of a key, or anybody where the gateway wants none. What a key
// may not do is refused by the gateway; here it is only not offered.

/** What /ui/session has told. */
export const session = {
  /** The key's name; null where there are no keys. */
  name: null,
  /** What it may do: infer, observe, manage. */
  scopes: [],
  /** Names and patterns of the models. */
  models: [],
  /** What goes with each request that changes something; null without a session. */
  csrf: null,

  may(scope) {
    return this.scopes.includes(scope);
  },

  get everyModel() {
    return this.models.includes("*");
  },
};

const ask = (name, options) => fetch(new URL(name, import.meta.url), options);

/**
 * Ask who it is.
 *
 * @returns {Promise<string>} why nobody is, in the gateway's words; "" if somebody is
 * @throws {Error} if the gateway does not answer
 */
export async function whoAmI() {
  const answer = await ask("session");
  if (answer.ok) {
    Object.assign(session, await answer.json());
    return "";
  }
  const { error } = await answer.json();
  if (answer.status === 401) return error.message;
  throw new Error(error.message);
}

/**
 * Begin a session.
 *
 * @returns {Promise<string>} why it could not be begun; "" if it was
 */
export async function logIn(key) {
  try {
    const body = JSON.stringify({ key });
    const answer = await ask("login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (!answer.ok) return (await answer.json()).error.message;
    return (await whoAmI()) && "The browser has not kept the session's cookie.";
  } catch (error) {
    return error instanceof TypeError ? "The gateway does not answer." : error.message;
  }
}

/** End the session; the page begins anew. */
export async function logOut() {
  try {
    await ask("logout", { method: "POST", headers: { "X-CSRF-Token": session.csrf || "" } });
  } finally {
    location.reload();
  }
}
