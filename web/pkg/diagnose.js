// Why a program did not start: browsers say little more than that it did not.

const JAVASCRIPT = /^(text|application)\/(x-)?(java|ecma)script\b/i;

/**
 * What is wrong with a module or any that it imports, in words: the first that does not come as a module must. Null if all do.
 *
 * @param {URL} entry
 */
export async function whyNot(entry) {
  const urls = [entry.href];
  const isolates = await embedderPolicy(globalThis.location?.href);
  for (const url of urls) {
    let response;
    try {
      response = await fetch(url, { cache: 'no-cache', signal: AbortSignal.timeout(10_000) });
    } catch {
      return `${url} does not come: no connection, or something blocks it`;
    }
    if (!response.ok) return `${url}: the server answered ${response.status} ${response.statusText}`.trim();
    const type = response.headers.get('content-type') || 'nothing by name';
    if (!JAVASCRIPT.test(type)) return `${url}: the server sends it as ${type}, and browsers run modules only as text/javascript`;
    if (isolates && !response.headers.get('cross-origin-embedder-policy')) {
      return `${url}: this page has a Cross-Origin-Embedder-Policy, and the server sends this file without one`;
    }
    for (const [, path] of (await response.text()).matchAll(/^(?:import\b[^'"]*|export\s*(?:\*|\{[^}]*\})\s*from\s*)['"](\.{1,2}\/[^'"]+)['"]/gm)) {
      const { href } = new URL(path, url);
      if (!urls.includes(href)) urls.push(href);
    }
  }
  return null;
}

/** Whether a page has a Cross-Origin-Embedder-Policy, which its workers must have too. */
async function embedderPolicy(page) {
  try {
    return Boolean(page && (await fetch(page, { method: 'HEAD', signal: AbortSignal.timeout(3000) })).headers.get('cross-origin-embedder-policy'));
  } catch {
    return false;
  }
}
