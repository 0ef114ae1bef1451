//! axum, with the graceful shutdown of its examples; takes a socket by the `listenfd` crate, or listens where it is told.

use std::time::Duration;

use axum::{Router, routing::get};
use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

fn body() -> String {
    format!(
        "generation {}\n",
        std::env::var("HOTSWAP_GENERATION").unwrap()
    )
}

async fn slow() -> String {
    tokio::time::sleep(Duration::from_millis(200)).await;
    body()
}

async fn told_to_stop() {
    signal(SignalKind::terminate()).unwrap().recv().await;
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", get(|| async { body() }))
        .route("/slow", get(slow));
    if let Some(path) = std::env::args().nth(1) {
        let listener = UnixListener::bind(path)?;
        return axum::serve(listener, app)
            .with_graceful_shutdown(told_to_stop())
            .await;
    }
    let listener = match ListenFd::from_env().take_tcp_listener(0)? {
        Some(inherited) => {
            inherited.set_nonblocking(true)?;
            TcpListener::from_std(inherited)?
        }
        None => TcpListener::bind("127.0.0.1:8080").await?,
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(told_to_stop())
        .await
}
