// Says why, where the page's program does not start. Not a module and of plain old words, so that it runs where those cannot
// be read or do not come. Once the program runs, it takes the element `not-started` out of the page; where not even this
// file comes, style.css shows the element after a while.
(function () {
  'use strict';
  /** Milliseconds after the page has loaded, and after all, until the program must have reported. */
  var SOON = 1000;
  var LATE = 15000;
  var blocked = '';
  var thrown = '';
  var said = false;

  function ready(work) {
    if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', work);
    else work();
  }

  /** Shows the notice, unless the program runs. The first cause found is the one to tell. */
  function say(why, way) {
    ready(function () {
      var notice = document.getElementById('not-started');
      if (!notice || said) return;
      said = true;
      document.getElementById('not-started-why').textContent = why;
      document.getElementById('not-started-way').textContent = way;
      notice.className = notice.className.replace('late', '');
    });
  }

  var SERVER = 'Reload without the browser’s cache (Ctrl+Shift+R). If that does not help, the server that this page comes from needs mending: all files of web/dist belong there, as they are.';

  /** Fetches the modules one by one, and says what is wrong with the first that does not come as a module must. */
  function look(urls, i) {
    if (i === urls.length) return conclude();
    var url = urls[i];
    var request = new XMLHttpRequest();
    request.open('GET', url);
    request.timeout = LATE;
    request.onerror = request.ontimeout = function () {
      say(url + ' does not come: there is no connection, or something blocks it.', blocked || 'Reload the page when there is a connection.');
    };
    request.onload = function () {
      var type = request.getResponseHeader('content-type') || 'nothing by name';
      if (request.status !== 200) return say(url + ': the server answered ' + request.status + ' ' + request.statusText + '.', SERVER);
      if (!/(java|ecma)script/i.test(type)) {
        return say(url + ': the server sends it as ' + type + ', and browsers run modules only as text/javascript.', SERVER);
      }
      var imports = /^(?:import\b[^'"]*|export\s*(?:\*|\{[^}]*\})\s*from\s*)['"](\.{1,2}\/[^'"]+)['"]/gm;
      for (var found; (found = imports.exec(request.responseText)); ) {
        var next = new URL(found[1], url).href;
        if (urls.indexOf(next) < 0) urls.push(next);
      }
      look(urls, i + 1);
    };
    request.send();
  }

  /** All modules come as they should. */
  function conclude() {
    if (/does not provide an export|ambiguous|not found: /.test(thrown)) {
      say('Files of different versions have come together (' + thrown + ').', SERVER);
    } else if (/SyntaxError/.test(thrown)) {
      say('This browser cannot read the program: it is too old, or a file is damaged (' + thrown + ').', 'Take a current version of Chrome, Edge, Firefox or Safari. ' + SERVER);
    } else if (thrown) {
      say('The program stopped while it started (' + thrown + ').', SERVER);
    } else {
      say('Its files come as they should, and yet nothing runs.', 'Reload the page; a current version of Chrome, Edge, Firefox or Safari is needed.');
    }
  }

  function diagnose() {
    if (said || !document.getElementById('not-started')) return;
    if (!('noModule' in document.createElement('script'))) {
      return say('This browser is too old for it.', 'Take a current version of Chrome, Edge, Firefox or Safari.');
    }
    var main = document.querySelector('script[type=module]');
    if (main) look([main.src], 0);
  }

  if (location.protocol === 'file:') {
    say('It was opened as a file, and browsers let no page run modules from there.', 'Serve its folder on this machine, for example by “python3 -m http.server” in it, and open http://localhost:8000/.');
    return;
  }
  document.addEventListener('securitypolicyviolation', function (event) {
    blocked = 'The Content-Security-Policy of this page blocks ' + event.blockedURI + ' (' + event.effectiveDirective + ').';
    if (/^(script|default)-src/.test(event.effectiveDirective)) say(blocked, 'The server that this page comes from must allow the page’s own scripts: script-src \'self\' \'wasm-unsafe-eval\'.');
  });
  window.addEventListener('error', function (event) {
    if (event.message) thrown = thrown || event.message + (event.filename ? ', ' + event.filename + ':' + event.lineno : '');
    // An image or a style sheet is no program.
    if (event.message || (event.target && event.target.tagName === 'SCRIPT')) ready(diagnose);
  }, true);
  window.addEventListener('unhandledrejection', function (event) {
    thrown = thrown || String(event.reason);
    ready(diagnose);
  });
  window.addEventListener('load', function () {
    setTimeout(diagnose, SOON);
  });
  setTimeout(diagnose, LATE);
})();
