// The `ws` package, as its manual has it.
const { WebSocketServer } = require("ws");
const server = new WebSocketServer({ port: 8080, host: "127.0.0.1" });
server.on("connection", (connection) => {
  connection.on("message", (message) => connection.send(message.toString()));
});
