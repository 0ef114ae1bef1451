//! Others that run a server anew when its file is saved, and hotswap beside them with the same server.

use super::Rival;

const NODE: &str = "const body = `generation 0 began {began} ready 0\\n`;\n\
    const server = require('http').createServer((request, answer) => answer.end(body));\n\
    server.listen({port}, '127.0.0.1');\n";

const PYTHON: &str = "body = b'generation 0 began {began} ready 0\\n'\n\
    async def app(scope, receive, send):\n    \
        if scope['type'] == 'lifespan':\n        \
            raise RuntimeError('none')\n    \
        headers = [(b'content-length', str(len(body)).encode())]\n    \
        await send({'type': 'http.response.start', 'status': 200, 'headers': headers})\n    \
        await send({'type': 'http.response.body', 'body': body})\n";

const fn node(name: &'static str, needs: &'static [&'static str], start: &'static str) -> Rival {
    Rival {
        name,
        needs,
        files: &[("app.js", NODE)],
        start,
        swap: "true",
    }
}

const fn python(name: &'static str, needs: &'static [&'static str], start: &'static str) -> Rival {
    Rival {
        name,
        needs,
        files: &[("app.py", PYTHON)],
        start,
        swap: "true",
    }
}

pub const RIVALS: [Rival; 9] = [
    node(
        "hotswap --dev, node",
        &["node"],
        "{hotswap} --dev --name bench --watch app.js -- node app.js",
    ),
    node(
        "hotswap --dev --hold, node",
        &["node"],
        "{hotswap} --dev --hold --name bench --watch app.js -- node app.js",
    ),
    node("node --watch", &["node"], "node --watch app.js"),
    node("nodemon", &["node", "nodemon"], "nodemon --quiet app.js"),
    node(
        "entr -r, node",
        &["node", "entr"],
        "sh -c 'echo app.js | entr -n -r node app.js'",
    ),
    node(
        "watchexec --restart, node",
        &["node", "watchexec"],
        "watchexec --quiet --restart --watch app.js -- node app.js",
    ),
    python(
        "hotswap --dev, uvicorn",
        &["uvicorn"],
        "{hotswap} --dev --name bench --watch app.py -- \
         uvicorn --log-level warning --port {port} app:app",
    ),
    python(
        "hotswap --dev --hold, uvicorn",
        &["uvicorn"],
        "{hotswap} --dev --hold --name bench --watch app.py -- \
         uvicorn --log-level warning --port {port} app:app",
    ),
    python(
        "uvicorn --reload",
        &["uvicorn"],
        "uvicorn --log-level warning --reload --port {port} app:app",
    ),
];
