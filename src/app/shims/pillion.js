// Start-up shim of Pillion for Node.js: `node --require pillion.js`, or NODE_OPTIONS=--require=pillion.js.
//
// Carries the header `pillion-token` from a request that this program serves to the plain http:// calls made on its
// behalf, through promises, timers and queues. It reads, keeps and sends nothing else. Whatever fails in here leaves the
// program as it would be without it.
'use strict';

(() => {
  const HEADER = 'pillion-token';
  let http;
  let https;
  let storage;
  try {
    http = require('http');
    https = require('https');
    storage = new (require('async_hooks').AsyncLocalStorage)();
  } catch {
    return;
  }
  const SERVED = new Set(['request', 'checkContinue', 'checkExpectation', 'upgrade']);

  // A request is served inside its own context; one without a token inside an empty one.
  function patchServer(Server) {
    const emit = Server.prototype.emit;
    Server.prototype.emit = function (event, ...args) {
      if (!SERVED.has(event)) return emit.call(this, event, ...args);
      let token;
      try {
        token = args[0].headers[HEADER];
      } catch {
        token = undefined;
      }
      return storage.run(token, () => emit.call(this, event, ...args));
    };
  }

  // The token is put on when the call is made, not when a socket is free for it.
  function stamp(request) {
    try {
      const token = storage.getStore();
      if (token && !request.headersSent && request.protocol === 'http:' && !request.hasHeader(HEADER)) {
        request.setHeader(HEADER, token);
      }
    } catch {
      // The call goes out without it.
    }
    return request;
  }

  function patchClient(module) {
    const original = module.request;
    module.request = function request(...args) {
      return stamp(original.apply(this, args));
    };
    module.get = function get(...args) {
      const request = module.request(...args);
      request.end();
      return request;
    };
  }

  // fetch and undici do not use the http module.
  function patchFetch() {
    require('diagnostics_channel').subscribe('undici:request:create', ({ request }) => {
      try {
        const token = storage.getStore();
        if (token && String(request.origin).startsWith('http:')) request.addHeader(HEADER, token);
      } catch {
        // The call goes out without it.
      }
    });
  }

  for (const patch of [
    () => patchServer(http.Server),
    () => patchServer(https.Server),
    () => patchClient(http),
    patchFetch,
    () => require('module').syncBuiltinESMExports(),
  ]) {
    try {
      patch();
    } catch {
      // This version of Node.js lacks it.
    }
  }
})();
