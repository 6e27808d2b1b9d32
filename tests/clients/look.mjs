// What the scripts for the JavaScript clients share: they run `seen`, functions by name, one after the
// other, and print what each came back with as one line of JSON.

export function describe(error) {
  const status = error.status ?? error.statusCode ?? null;
  return { error: error.constructor.name, status, message: error.message };
}

export async function print(seen) {
  const results = {};
  for (const [name, look] of Object.entries(seen)) {
    results[name] = await look().catch((error) => ({ failed: String(error) }));
  }
  console.log(JSON.stringify(results));
}
