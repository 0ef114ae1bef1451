const app = require("fastify")();
const body = `generation ${process.env.HOTSWAP_GENERATION}\n`;
app.get("/", async () => body);
app.get("/slow", async () => new Promise((resolve) => setTimeout(() => resolve(body), 200)));
app.listen(process.argv[2] ? { path: process.argv[2] } : { port: 3000, host: "127.0.0.1" });
