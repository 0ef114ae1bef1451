// HTTP/2 in the clear, for clients that know it beforehand.
const http2 = require("http2");

const server = http2.createServer((request, answer) => {
  const body = `generation ${process.env.HOTSWAP_GENERATION}\n`;
  setTimeout(() => answer.end(body), request.url === "/slow" ? 200 : 0);
});
server.listen(3000, "127.0.0.1");
