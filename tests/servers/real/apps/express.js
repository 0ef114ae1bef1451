const app = require("express")();
const body = `generation ${process.env.HOTSWAP_GENERATION}\n`;
app.get("/", (_, answer) => answer.send(body));
app.get("/slow", (_, answer) => setTimeout(() => answer.send(body), 200));
const server = process.argv[2] ? app.listen(process.argv[2]) : app.listen(3000, "127.0.0.1");
// As express's manual has it.
process.on("SIGTERM", () => server.close());
