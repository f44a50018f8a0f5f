//! A TCP proxy that can hold back what the server says, and cut connections.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What becomes of the proxy's connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Hold,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: watch::Sender<Mode>,
    /// Connections of an older generation end.
    generation: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(Mode::Forward);
        let (generation, generations) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let modes = modes.clone();
                let mut generations = generations.clone();
                generations.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        // What is held when the connection is cut never arrives.
                        biased;
                        _ = generations.changed() => {}
                        () = copy(from_client, to_server, None) => {}
                        () = copy(from_server, to_client, Some(modes)) => {}
                    }
                });
            }
        });
        Self {
            port,
            mode,
            generation,
        }
    }

    /// Keeps back what the server says from now on.
    pub(crate) fn hold(&self) {
        self.mode.send_replace(Mode::Hold);
    }

    /// Cuts the present connections; later ones are forwarded again.
    pub(crate) fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
        self.mode.send_replace(Mode::Forward);
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: Option<watch::Receiver<Mode>>,
) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if let Some(modes) = &mut modes
            && modes.wait_for(|mode| *mode == Mode::Forward).await.is_err()
        {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
