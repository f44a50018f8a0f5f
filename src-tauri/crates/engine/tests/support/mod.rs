//! The real kube-apiserver and etcd on loopback, for tests of what speaks to them.

mod broken;
mod proxy;
mod watched;

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant, SystemTime},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use minitunnel_engine::minikube::Credentials;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use serde_json::json;

pub(crate) use broken::{Broken, On, Trouble};
pub(crate) use proxy::Proxy;
pub(crate) use watched::{WAIT, Watched};

/// The real programs need 3 s on two cores; on a loaded machine more.
const START: Duration = Duration::from_secs(90);
/// How long certificates are good for.
const A_DAY: Duration = Duration::from_secs(86_400);

/// A running API server with its etcd; both end with it, and with this process however that ends.
pub(crate) struct ApiServer {
    dir: tempfile::TempDir,
    assets: PathBuf,
    port: u16,
    etcd_port: u16,
    options: Vec<String>,
    authority: Authority,
    credentials: Credentials,
    _etcd: Supervised,
    server: Option<Supervised>,
}

impl ApiServer {
    /// The one that tests share which only make services in namespaces of their own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<ApiServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// Starts one, with further options, and waits until it is ready.
    pub(crate) fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let assets = assets();
        let [port, etcd_port, peer_port] = free_ports();
        let authority = Authority::new();
        let credentials = make_certificates(dir.path(), port, &authority);
        let (etcd_url, peer_url) = (loopback("http", etcd_port), loopback("http", peer_port));
        let mut etcd = Command::new(assets.join("etcd"));
        etcd.args(["--unsafe-no-fsync", "--log-level=error", "--name=default"])
            .arg(format!("--data-dir={}", dir.path().join("etcd").display()))
            .args([
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
            ])
            .args([
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
            ])
            .arg(format!("--initial-cluster=default={peer_url}"));
        let etcd = Supervised::spawn(&etcd, &dir.path().join("etcd.log"));
        let options = options.iter().map(ToString::to_string).collect();
        let mut this = Self {
            dir,
            assets,
            port,
            etcd_port,
            options,
            authority,
            credentials,
            _etcd: etcd,
            server: None,
        };
        this.start_server();
        this
    }

    /// What its clients need.
    pub(crate) fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// The same with a client's certificate that ends then.
    pub(crate) fn credentials_until(&self, until: SystemTime) -> Credentials {
        let (cert, key) = self.authority.client(until);
        Credentials {
            cert: cert.into_bytes(),
            key: key.into_bytes(),
            ..self.credentials()
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn etcd_url(&self) -> String {
        loopback("http", self.etcd_port)
    }

    /// A client for a test's own changes, on the present runtime.
    pub(crate) async fn client(&self) -> Client {
        let text = |pem: &[u8]| json!(k8s_openapi::ByteString(pem.to_vec()));
        let Credentials {
            server,
            ca,
            cert,
            key,
        } = &self.credentials;
        let kubeconfig: Kubeconfig = serde_json::from_value(json!({
            "clusters": [{ "name": "p", "cluster": { "server": server, "certificate-authority-data": text(ca) } }],
            "users": [{ "name": "p", "user": { "client-certificate-data": text(cert), "client-key-data": text(key) } }],
            "contexts": [{ "name": "p", "context": { "cluster": "p", "user": "p" } }],
            "current-context": "p",
        }))
        .unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        Client::try_from(config).unwrap()
    }

    /// Kills the API server; etcd keeps what it held.
    pub(crate) fn kill(&mut self) {
        self.server = None;
    }

    /// Starts a killed one again, on the same port.
    pub(crate) fn start_server(&mut self) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let mut command = Command::new(self.assets.join("kube-apiserver"));
        command
            .arg(format!("--etcd-servers={}", self.etcd_url()))
            .arg(format!("--secure-port={}", self.port))
            // A documentation address: nobody asks it, and it must not be a loopback one.
            .args(["--bind-address=127.0.0.1", "--advertise-address=192.0.2.1"])
            .arg("--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/112")
            .arg(format!("--client-ca-file={}", file("ca.crt")))
            .arg(format!("--tls-cert-file={}", file("server.crt")))
            .arg(format!("--tls-private-key-file={}", file("server.key")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", file("sa.pub")))
            .arg(format!(
                "--service-account-signing-key-file={}",
                file("sa.key")
            ))
            .args([
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
            ])
            .arg("--endpoint-reconciler-type=none")
            .args(&self.options);
        self.server = Some(Supervised::spawn(
            &command,
            &self.dir.path().join("kube-apiserver.log"),
        ));
        self.wait_until_ready();
    }

    /// Lets it hang: connections are accepted by the kernel, and nothing is answered.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.server.as_ref().unwrap().pid;
        let status = Command::new("kill")
            .args([format!("-{signal}"), pid.to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Nothing announces readiness: it is asked for, on a thread that has a runtime of its own.
    fn wait_until_ready(&self) {
        let until = Instant::now() + START;
        let ready = || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
            thread::scope(|scope| {
                let ask = scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        let client = self.client().await;
                        // `default` is made after the server said that it is ready.
                        let namespace = http::Request::get("/api/v1/namespaces/default")
                            .body(Vec::new())
                            .unwrap();
                        let ready = http::Request::get("/readyz").body(Vec::new()).unwrap();
                        let asked = async {
                            client.request_text(ready).await.ok()?;
                            client.request_text(namespace).await.ok()
                        };
                        tokio::time::timeout(Duration::from_secs(2), asked)
                            .await
                            .ok()
                            .flatten()
                    })
                });
                ask.join().unwrap()
            })
        };
        while ready().is_none() {
            assert!(
                Instant::now() < until,
                "the API server is not ready after {START:?}; the end of its log:\n{}",
                tail(&self.dir.path().join("kube-apiserver.log"))
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A program that is killed when this is dropped, or when this process ends in whatever way: a shell waits for the end of
/// its standard input, which we hold.
struct Supervised {
    pid: u32,
    stdin: Option<ChildStdin>,
    shell: std::process::Child,
}

impl Supervised {
    fn spawn(command: &Command, log: &Path) -> Self {
        use std::io::{BufRead as _, BufReader};

        let script = r#"log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!; cat >/dev/null; kill -KILL $!; wait"#;
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(log)
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The shell's word of the killed job.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            pid: line.trim().parse().unwrap(),
            stdin: shell.stdin.take(),
            shell,
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.shell.wait();
    }
}

/// The folder of the real programs, built once by `tests/testbed/build` (5 minutes).
fn assets() -> PathBuf {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/testbed/build");
    let output = Command::new(build)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{build} failed");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

fn make_certificates(dir: &Path, port: u16, authority: &Authority) -> Credentials {
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    let mut server = CertificateParams::default();
    server
        .subject_alt_names
        .push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    let (server_cert, server_key) = authority.sign(server, ExtendedKeyUsagePurpose::ServerAuth);
    let (cert, key) = authority.client(SystemTime::now() + A_DAY);
    let service_accounts = KeyPair::generate().unwrap();
    write("ca.crt", &authority.certificate);
    write("server.crt", &server_cert);
    write("server.key", &server_key);
    write("sa.key", &service_accounts.serialize_pem());
    write("sa.pub", &service_accounts.public_key_pem());
    Credentials {
        server: loopback("https", port),
        ca: authority.certificate.clone().into_bytes(),
        cert: cert.into_bytes(),
        key: key.into_bytes(),
    }
}

/// A certificate authority; its certificates are of version 3, as rustls takes no other.
pub(crate) struct Authority {
    /// Its certificate, PEM.
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "minikubeCA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// An administrator's certificate and key.
    fn client(&self, until: SystemTime) -> (String, String) {
        let mut client = CertificateParams::default();
        let names = [
            (DnType::OrganizationName, "system:masters"),
            (DnType::CommonName, "minikube-user"),
        ];
        for (of, name) in names {
            client.distinguished_name.push(of, name);
        }
        client.not_after = until.into();
        self.sign(client, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> (String, String) {
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }
}

fn loopback(scheme: &str, port: u16) -> String {
    format!("{scheme}://127.0.0.1:{port}")
}

/// Ports that were free a moment ago, all different.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
