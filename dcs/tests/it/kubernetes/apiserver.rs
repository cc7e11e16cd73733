//! The real kube-apiserver on an etcd of its own, and a foreign hand on it that may do everything. Agents have what
//! `packaging/kubernetes/rbac.yaml` permits, with the token of its service account.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, SanType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What `packaging/kubernetes` ships.
const RBAC: &str = include_str!("../../../../packaging/kubernetes/rbac.yaml");
const ADMIN: &str = "admin-token";
pub(crate) const MERGE: &str = "application/strategic-merge-patch+json";

/// The program, as `scripts/get-kube-apiserver.sh` puts it there. `root`: of the repository.
fn program(root: &Path) -> PathBuf {
    let default = root.join("target/kube-apiserver");
    let folder = std::env::var_os("TAMADA_TEST_KUBE_APISERVER").map_or(default, PathBuf::from);
    let program = folder.join("kube-apiserver");
    assert!(
        program.is_file(),
        "no kube-apiserver in {}: run scripts/get-kube-apiserver.sh target/kube-apiserver, or set TAMADA_TEST_KUBE_APISERVER to \
         the folder that has it",
        folder.display()
    );
    program
}

/// How a server is run.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) server: Vec<String>,
    pub(crate) etcd: Vec<String>,
}

pub(crate) struct ApiServer {
    pub(crate) port: u16,
    etcd_port: u16,
    peer_port: u16,
    settings: Settings,
    dir: TempDir,
    program: PathBuf,
    etcd: Option<Child>,
    server: Option<Child>,
    tls: Arc<rustls::ClientConfig>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // A process that is suspended is killed all the same.
        self.stop();
        self.stop_etcd();
    }
}

impl ApiServer {
    pub(crate) fn start(root: &Path) -> Self {
        Self::start_with(root, Settings::default())
    }

    pub(crate) fn start_with(root: &Path, settings: Settings) -> Self {
        let mut server = Self::prepare(root, settings);
        server.run_etcd();
        server.run();
        server
    }

    /// Neither of the two runs yet.
    pub(crate) fn prepare(root: &Path, settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .subject_alt_names
            .push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        for (name, text) in [
            ("ca.crt", certificate.pem()),
            ("key.pem", key.serialize_pem()),
            ("public.pem", key.public_key_pem()),
            ("tokens.csv", format!("{ADMIN},admin,admin,system:masters\n")),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let options = net::tls::ClientOptions {
            ca: Some(dir.path().join("ca.crt")),
            ..net::tls::ClientOptions::default()
        };
        let ports = free_ports(3);
        Self {
            port: ports[0],
            etcd_port: ports[1],
            peer_port: ports[2],
            settings,
            program: program(root),
            dir,
            etcd: None,
            server: None,
            tls: Arc::new(options.client_config().unwrap()),
        }
    }

    fn log(&self, name: &str) -> std::fs::File {
        let path = self.dir.path().join(name);
        std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
    }

    pub(crate) fn run_etcd(&mut self) {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut etcd = command("etcd");
        etcd.arg("--data-dir").arg(self.dir.path().join("etcd"));
        etcd.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        etcd.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        etcd.args([
            "--initial-cluster",
            &format!("default={peer}"),
            "--log-level",
            "error",
        ]);
        etcd.args(&self.settings.etcd).stderr(self.log("etcd.log"));
        self.etcd = Some(etcd.spawn().unwrap());
    }

    /// Starts the API server, and returns when it is ready.
    pub(crate) fn run(&mut self) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut server = command(&self.program);
        server.args([
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--authorization-mode=RBAC",
            // Nobody here creates the service account `default` of a namespace.
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            // It takes the address of the loopback interface for none of its own.
            "--endpoint-reconciler-type=none",
        ]);
        for (option, value) in [
            ("secure-port", self.port.to_string()),
            ("etcd-servers", format!("http://127.0.0.1:{}", self.etcd_port)),
            ("cert-dir", path("certificates")),
            ("tls-cert-file", path("ca.crt")),
            ("tls-private-key-file", path("key.pem")),
            ("service-account-key-file", path("public.pem")),
            ("service-account-signing-key-file", path("key.pem")),
            ("token-auth-file", path("tokens.csv")),
        ] {
            server.arg(format!("--{option}={value}"));
        }
        server.args(&self.settings.server).stderr(self.log("server.log"));
        self.server = Some(server.spawn().unwrap());
        self.wait();
    }

    fn wait(&mut self) {
        let limit = Instant::now() + Duration::from_secs(90);
        loop {
            let answer = self.try_ask("GET", "/readyz", None);
            let is_ready = matches!(answer, Ok((200, _)))
                && matches!(
                    self.try_ask("GET", "/api/v1/namespaces/default", None),
                    Ok((200, _))
                );
            if is_ready {
                return;
            }
            let has_ended = self.server.as_mut().unwrap().try_wait().unwrap().is_some();
            assert!(
                Instant::now() < limit && !has_ended,
                "kube-apiserver does not start: {answer:?}: {}",
                std::fs::read_to_string(self.dir.path().join("server.log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// It ends without a word.
    pub(crate) fn stop(&mut self) {
        end(self.server.take());
    }

    pub(crate) fn stop_etcd(&mut self) {
        end(self.etcd.take());
    }

    /// Both end; another etcd begins where there is nothing.
    pub(crate) fn wipe_etcd(&mut self) {
        self.stop();
        self.stop_etcd();
        std::fs::remove_dir_all(self.dir.path().join("etcd")).unwrap();
        self.run_etcd();
        self.run();
    }

    /// `SIGSTOP` or `SIGCONT`: the API server answers, and its etcd does not.
    pub(crate) fn suspend_etcd(&self, is_suspended: bool) {
        let signal = if is_suspended { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(self.etcd.as_ref().unwrap()), signal).unwrap();
    }

    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> Result<String, String> {
        let endpoint = format!("http://127.0.0.1:{}", self.etcd_port);
        let mut etcdctl = Command::new("etcdctl");
        etcdctl
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoint])
            .args(arguments);
        let output = etcdctl.output().expect("etcdctl is installed");
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The versions before the present one are forgotten.
    pub(crate) fn compact(&self) {
        let status = self.etcdctl(&["endpoint", "status", "-w", "json"]).unwrap();
        let status: Value = serde_json::from_str(&status).unwrap();
        let revision = status[0]["Status"]["header"]["revision"].to_string();
        self.etcdctl(&["compact", "--physical", &revision]).unwrap();
    }

    /// A kubeconfig that leads to an address of the server.
    pub(crate) fn kubeconfig_at(&self, server: &str, user: &str) -> String {
        format!(
            "current-context: kind-kind\ncontexts:\n- {{name: kind-kind, context: {{cluster: c, user: u}}}}\n\
             clusters:\n- {{name: c, cluster: {{server: \"{server}\", certificate-authority: {}}}}}\n\
             users:\n- {{name: u, user: {{{user}}}}}\n",
            self.ca().display()
        )
    }

    pub(crate) fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(crate) fn tls(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.tls)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// One request on a connection of its own.
    fn try_ask(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> std::io::Result<(u16, Value)> {
        let (status, text) = self.request(method, path, &format!("Bearer {ADMIN}"), body)?;
        Ok((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    /// As [`ApiServer::try_ask`], with these credentials; the answer as it came.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        authorization: &str,
        body: Option<(&str, &Value)>,
    ) -> std::io::Result<(u16, String)> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let tls =
            rustls::ClientConnection::new(Arc::clone(&self.tls), name).map_err(std::io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(tls, stream);
        let mut request =
            format!("{method} {path} HTTP/1.0\r\nHost: x\r\nAuthorization: {authorization}\r\n");
        let mut text = String::new();
        if let Some((kind, body)) = body {
            text = body.to_string();
            request.push_str(&format!(
                "Content-Type: {kind}\r\nContent-Length: {}\r\n",
                text.len()
            ));
        }
        stream.write_all(format!("{request}\r\n{text}").as_bytes())?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((
            status.ok_or_else(|| std::io::Error::other("no status"))?,
            body.to_owned(),
        ))
    }

    /// With success.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let kind = if method == "PATCH" {
            MERGE
        } else {
            "application/json"
        };
        let (status, answer) = self.try_ask(method, path, body.map(|body| (kind, body))).unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {answer}");
        answer
    }

    fn create(&self, collection: &str, body: &Value) {
        let (status, answer) = self
            .try_ask("POST", collection, Some(("application/json", body)))
            .unwrap();
        assert!(
            (200..300).contains(&status) || answer["reason"] == "AlreadyExists",
            "POST {collection}: {answer}"
        );
    }

    /// A namespace with what an agent in it may do.
    pub(crate) fn namespace(&self, name: &str) {
        self.create("/api/v1/namespaces", &json!({"metadata": {"name": name}}));
        self.ship(name, RBAC);
    }

    /// Creates the objects of a file of `packaging/kubernetes`.
    pub(crate) fn ship(&self, namespace: &str, text: &str) {
        for mut object in documents(text) {
            let kind = object["kind"].as_str().unwrap().to_owned();
            // Of the bypass: its binding is in the namespace `default` for the agents of this one.
            let mut place = namespace.to_owned();
            if let Some(other) = object["metadata"]["namespace"].as_str() {
                other.clone_into(&mut place);
                object["metadata"]["name"] = json!(format!(
                    "{}-{namespace}",
                    object["metadata"]["name"].as_str().unwrap()
                ));
            }
            if let Some(subject) = object.pointer_mut("/subjects/0/namespace") {
                *subject = json!(namespace);
            }
            let base = match object["apiVersion"].as_str().unwrap() {
                "v1" => "/api/v1".to_owned(),
                group => format!("/apis/{group}"),
            };
            let collection = format!("{}s", kind.to_lowercase());
            let path = match kind.as_str() {
                "ClusterRole" => format!("{base}/{collection}"),
                _ => format!("{base}/namespaces/{place}/{collection}"),
            };
            self.create(&path, &object);
        }
    }

    /// A token of the agents' service account.
    pub(crate) fn token(&self, namespace: &str) -> String {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/demo/token");
        let answer = self.ask("POST", &path, Some(&request));
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// A foreign hand: creates or merges.
    pub(crate) fn apply(&self, namespace: &str, kind: &str, name: &str, patch: &Value) {
        let (status, answer) = self
            .try_ask("PATCH", &path(namespace, kind, name), Some((MERGE, patch)))
            .unwrap();
        if status != 404 {
            assert!((200..300).contains(&status), "PATCH {kind} {name}: {answer}");
            return;
        }
        let mut object = patch.clone();
        object["metadata"]["name"] = json!(name);
        // What is null in a new object is not there.
        if let Some(annotations) = object.pointer_mut("/metadata/annotations") {
            annotations
                .as_object_mut()
                .unwrap()
                .retain(|_, value| !value.is_null());
        }
        if kind == "pods" && object["spec"].is_null() {
            object["spec"] = containers();
        }
        self.create(&format!("/api/v1/namespaces/{namespace}/{kind}"), &object);
    }

    /// A pod as the kubelet runs it.
    pub(crate) fn pod(&self, namespace: &str, name: &str, ip: &str, labels: &Value) {
        let mut spec = containers();
        spec["nodeName"] = json!(format!("node-of-{name}"));
        spec["hostname"] = json!(name);
        self.apply(
            namespace,
            "pods",
            name,
            &json!({"metadata": {"labels": labels}, "spec": spec}),
        );
        let status = json!({"status": {"podIP": ip, "phase": "Running"}});
        self.ask(
            "PATCH",
            &format!("{}/status", path(namespace, "pods", name)),
            Some(&status),
        );
    }

    pub(crate) fn get(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        let (status, object) = self.try_ask("GET", &path(namespace, kind, name), None).unwrap();
        (status == 200).then_some(object)
    }

    /// Deletes all objects of a kind.
    pub(crate) fn delete_all(&self, namespace: &str, kind: &str) {
        self.ask("DELETE", &format!("/api/v1/namespaces/{namespace}/{kind}"), None);
    }
}

/// It ends with the test, also when that is killed.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn path(namespace: &str, kind: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{kind}/{name}")
}

fn containers() -> Value {
    json!({"containers": [{"name": "tamada", "image": "tamada"}]})
}

/// Separate documents of one file, as JSON.
fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n")
        .map(|part| {
            let parsed = config::yaml::parse("packaging", part);
            Value::from(&parsed.unwrap_or_else(|problem| panic!("{problem:?}: {part}")))
        })
        .collect()
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    listeners.iter().map(port).collect()
}
