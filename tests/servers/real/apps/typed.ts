import http from "node:http";

const body: string = `generation ${process.env.HOTSWAP_GENERATION}\n`;
const server: http.Server = http.createServer((request, answer) => {
  setTimeout(() => answer.end(body), request.url === "/slow" ? 200 : 0);
});
server.listen(3000, "127.0.0.1");
process.on("SIGTERM", () => server.close());
