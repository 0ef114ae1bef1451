// Node's own server, as its manual begins with it: no handler for any signal.
const http = require("http");

const server = http.createServer((request, answer) => {
  const body = `generation ${process.env.HOTSWAP_GENERATION}\n`;
  setTimeout(() => answer.end(body), request.url === "/slow" ? 200 : 0);
});
const where = process.argv[2] || "127.0.0.1:3000";
if (where.startsWith("fd:")) server.listen({ fd: Number(where.slice(3)) });
else if (where.includes("/")) server.listen(where);
else server.listen(Number(where.split(":")[1]), where.split(":")[0]);
