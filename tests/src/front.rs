//! What stands before a cluster's API server, at the common address of several control planes: it passes all on, or answers
//! as broken servers do.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::pki::{Authority, Identity};
use crate::{Cluster, NODE_PORT, Result, Scene};

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// They are accepted, and that is all.
    Hang,
    /// Every request has this status and text as its answer.
    Answer(&'static str, &'static str),
    /// The server's certificate is another authority's.
    Certificate,
    /// These bytes, and the end.
    Rubbish(&'static [u8]),
    /// All is passed on, but a byte of the client's at a time, with such a pause.
    SlowReader(Duration),
}

/// The proxy. It ends with this value.
#[derive(Debug)]
pub struct Front {
    trouble: watch::Sender<Option<Trouble>>,
    connections: Arc<AtomicUsize>,
    accepting: tokio::task::AbortHandle,
}

/// What each connection needs.
#[derive(Clone)]
struct Shared {
    server: String,
    good: TlsAcceptor,
    foreign: TlsAcceptor,
}

impl Front {
    /// Stands before the scene's cluster, passes all on, and lets Alice's profile lead there.
    ///
    /// The address is the machine's own, as the test is: it becomes one of the scene's tables of before.
    pub async fn start(scene: &mut Scene) -> Result<Self> {
        let address = scene.cluster.common_address();
        let bridge = scene.cluster.bridge();
        let add = format!("ip address add {address}/32 dev {bridge}");
        scene.lab.sh(&add).await?;
        scene.before = scene.lab.routes().await?;
        let authority = scene.lab.authority();
        let shared = Shared {
            server: Cluster::server(&scene.cluster).replacen("https://", "", 1),
            good: acceptor(&authority.server([IpAddr::from(address)])?)?,
            foreign: acceptor(&Authority::new()?.server([IpAddr::from(address)])?)?,
        };
        let listener = TcpListener::bind((address, NODE_PORT)).await?;
        let trouble = watch::Sender::new(None);
        let connections = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(accept(
            listener,
            shared,
            trouble.subscribe(),
            Arc::clone(&connections),
        ));
        let profile = scene.cluster.profile().to_owned();
        let mut config = scene.home.config(&profile)?;
        config["KubernetesConfig"]["APIServerHAVIP"] = address.to_string().into();
        scene.home.save_config(&profile, &config)?;
        let server = format!("https://{address}:{NODE_PORT}");
        scene.home.serve(&profile, &server)?;
        Ok(Self {
            trouble,
            connections,
            accepting: accepting.abort_handle(),
        })
    }

    /// From now on, with all connections cut; without one, all is passed on again.
    pub fn set(&self, trouble: Option<Trouble>) {
        self.connections.store(0, Ordering::SeqCst);
        self.trouble.send_replace(trouble);
    }

    /// How many connections there were since then.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    shared: Shared,
    troubles: watch::Receiver<Option<Trouble>>,
    connections: Arc<AtomicUsize>,
) {
    while let Ok((client, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::SeqCst);
        let shared = shared.clone();
        let mut troubles = troubles.clone();
        tokio::spawn(async move {
            let trouble = *troubles.borrow_and_update();
            tokio::select! {
                _ = troubles.changed() => {}
                // A connection may end in any way.
                _ = connection(client, &shared, trouble) => {}
            }
        });
    }
}

async fn connection(mut client: TcpStream, shared: &Shared, trouble: Option<Trouble>) -> Result {
    match trouble {
        None => {
            let mut server = TcpStream::connect(&shared.server).await?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
        Some(Trouble::Hang) => std::future::pending().await,
        Some(Trouble::Answer(status, text)) => {
            let mut client = BufReader::new(shared.good.accept(client).await?);
            loop {
                let mut line = String::new();
                // The empty line is a head's end; what may follow it is taken for the next one's beginning.
                while line != "\r\n" {
                    line.clear();
                    if client.read_line(&mut line).await? == 0 {
                        return Ok(());
                    }
                }
                let length = text.len();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{text}");
                client.get_mut().write_all(answer.as_bytes()).await?;
            }
        }
        Some(Trouble::Certificate) => {
            let mut client = shared.foreign.accept(client).await?;
            client.read_to_end(&mut Vec::new()).await?;
        }
        Some(Trouble::Rubbish(bytes)) => client.write_all(bytes).await?,
        Some(Trouble::SlowReader(pause)) => {
            let server = TcpStream::connect(&shared.server).await?;
            let (mut from_server, mut to_server) = server.into_split();
            let (mut from_client, mut to_client) = client.into_split();
            let slowly = async {
                loop {
                    let byte = from_client.read_u8().await?;
                    to_server.write_u8(byte).await?;
                    tokio::time::sleep(pause).await;
                }
            };
            tokio::select! {
                ended = slowly => ended,
                ended = tokio::io::copy(&mut from_server, &mut to_client) => ended.map(drop),
            }?;
        }
    }
    Ok(())
}

fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(
                identity.certificate.as_bytes(),
            )?],
            PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?,
        )?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
