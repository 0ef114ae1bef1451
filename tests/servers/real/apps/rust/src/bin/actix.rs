//! actix-web, which stops gracefully by itself; takes a socket by the `listenfd` crate, or listens where it is told.

use std::time::Duration;

use actix_web::{App, HttpServer, get};
use listenfd::ListenFd;

fn body() -> String {
    format!(
        "generation {}\n",
        std::env::var("HOTSWAP_GENERATION").unwrap()
    )
}

#[get("/")]
async fn quick() -> String {
    body()
}

#[get("/slow")]
async fn slow() -> String {
    tokio::time::sleep(Duration::from_millis(200)).await;
    body()
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let server = HttpServer::new(|| App::new().service(quick).service(slow)).workers(2);
    let server = if let Some(path) = std::env::args().nth(1) {
        server.bind_uds(path)?
    } else if let Some(inherited) = ListenFd::from_env().take_tcp_listener(0)? {
        server.listen(inherited)?
    } else {
        server.bind("127.0.0.1:8080")?
    };
    server.run().await
}
