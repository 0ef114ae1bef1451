// Looks for a free port first, by the package that its argument names, as many tools do.
const http = require("http");

const finders = {
  "get-port-please": async ({ getPort }) => getPort({ port: 3000 }),
  "detect-port": async (found) => (found.detect || found.default || found)(3000),
  portfinder: async ({ getPortPromise }) => getPortPromise({ port: 3000 }),
};
const name = process.argv[2];
const server = http.createServer((request, answer) => {
  const body = `generation ${process.env.HOTSWAP_GENERATION}\n`;
  setTimeout(() => answer.end(body), request.url === "/slow" ? 200 : 0);
});
import(require.resolve(name)).then(finders[name]).then((port) => server.listen(port, "127.0.0.1"));
