//! Where the API server is and how a client proves who it is: by the pod's service account, or by a kubeconfig.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use config::{KubernetesConfig, Secret, Value};
use net::tls::{ClientOptions, Verify};

use super::lock;
use crate::Timing;

type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// The tokens of service accounts are replaced by the kubelet long before they expire.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// What of the process's surroundings says where the API server is.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `KUBERNETES_SERVICE_HOST`.
    pub service_host: Option<String>,
    /// `KUBERNETES_SERVICE_PORT`.
    pub service_port: Option<String>,
    /// The folder with `token` and `ca.crt` of the pod's service account.
    pub service_account: PathBuf,
    /// `KUBECONFIG`, or `.kube/config` in the home directory.
    pub kubeconfig: Option<PathBuf>,
}

impl Environment {
    /// That of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let home = text("HOME").map(|home| Path::new(&home).join(".kube/config"));
        Self {
            service_host: text("KUBERNETES_SERVICE_HOST"),
            service_port: text("KUBERNETES_SERVICE_PORT"),
            service_account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
            kubeconfig: text("KUBECONFIG").map(PathBuf::from).or(home),
        }
    }
}

/// A PEM text, in a file or in the kubeconfig itself.
#[derive(Debug, Clone)]
enum Pem {
    File(PathBuf),
    Text(Secret),
}

#[derive(Debug)]
enum Proof {
    None,
    Token(Secret),
    /// A file that is read again now and then; the token that was last read from it, and when.
    File(PathBuf, Mutex<(Secret, Instant)>),
    Password(String, Secret),
}

/// The API server's address and the client's credentials.
#[derive(Debug)]
pub(super) struct Credentials {
    /// `https://host:port`, without a slash at the end.
    pub(super) server: String,
    ca: Option<Pem>,
    cert: Option<Pem>,
    key: Option<Pem>,
    is_insecure: bool,
    proof: Proof,
}

impl Credentials {
    /// The pod's service account; outside of a pod the kubeconfig.
    ///
    /// # Errors
    /// Neither can be used.
    pub(super) fn load(config: &KubernetesConfig, environment: &Environment) -> Result<Self, Trouble> {
        let in_cluster = match Self::of_pod(config, environment) {
            Ok(credentials) => return Ok(credentials),
            Err(why) => why,
        };
        let Some(path) = &environment.kubeconfig else {
            return Err(format!("{in_cluster}, and neither KUBECONFIG nor HOME is set").into());
        };
        Self::of_kubeconfig(path, &config.context)
            .map_err(|why| format!("{in_cluster}, and the kubeconfig {}: {why}", path.display()).into())
    }

    fn of_pod(config: &KubernetesConfig, environment: &Environment) -> Result<Self, Trouble> {
        let (Some(host), Some(port)) = (&environment.service_host, &environment.service_port) else {
            return Err("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set".into());
        };
        let default = || environment.service_account.join("ca.crt");
        let ca = config.cacert.clone().unwrap_or_else(default);
        let text = read(&ca)?;
        if text.trim().is_empty() {
            return Err(format!("{} is empty", ca.display()).into());
        }
        let token_file = environment.service_account.join("token");
        let token = token(&token_file)?;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        Ok(Self {
            server: format!("https://{host}:{port}"),
            ca: Some(Pem::File(ca)),
            cert: None,
            key: None,
            is_insecure: false,
            proof: Proof::File(token_file, Mutex::new((token, Instant::now()))),
        })
    }

    fn of_kubeconfig(path: &Path, context: &str) -> Result<Self, Trouble> {
        if path.to_string_lossy().contains(':') && !path.exists() {
            return Err("KUBECONFIG lists several files, and only one can be used".into());
        }
        let tree = config::yaml::parse("kubeconfig", &read(path)?).map_err(|problem| problem.to_string())?;
        let context = context_of(&tree, context)?;
        let (cluster, user) = (named(&tree, "cluster", context)?, named(&tree, "user", context)?);
        let folder = path.parent().unwrap_or(Path::new("."));
        let pem = |map: &Value, key: &str| -> Result<Option<Pem>, Trouble> {
            if let Some(data) = text(map, &format!("{key}-data")) {
                let why = |_| format!("{key}-data is not PEM in Base64");
                let bytes = STANDARD.decode(data.trim()).map_err(why)?;
                let text =
                    String::from_utf8(bytes).map_err(|_| format!("{key}-data is not PEM in Base64"))?;
                return Ok(Some(Pem::Text(Secret::new(text))));
            }
            Ok(text(map, key).map(|file| Pem::File(folder.join(file))))
        };
        let server = text(cluster, "server").ok_or("its cluster has no server")?;
        Ok(Self {
            server: server.trim_end_matches('/').to_owned(),
            ca: pem(cluster, "certificate-authority")?,
            cert: pem(user, "client-certificate")?,
            key: pem(user, "client-key")?,
            is_insecure: cluster
                .get("insecure-skip-tls-verify")
                .is_some_and(Value::is_truthy),
            proof: proof(user, folder)?,
        })
    }

    /// The value of the header `Authorization`.
    pub(super) fn authorization(&self) -> Option<String> {
        match &self.proof {
            Proof::None => None,
            Proof::Token(token) => Some(format!("Bearer {}", token.reveal())),
            Proof::Password(user, password) => {
                let both = format!("{user}:{}", password.reveal());
                Some(format!("Basic {}", STANDARD.encode(both)))
            }
            Proof::File(path, known) => {
                let mut known = lock(known);
                if known.1.elapsed() >= TOKEN_LIFE {
                    match token(path) {
                        Ok(token) => known.0 = token,
                        Err(error) => tracing::error!("Failed to refresh service account token: {error}"),
                    }
                    known.1 = Instant::now();
                }
                Some(format!("Bearer {}", known.0.reveal()))
            }
        }
    }

    /// The server does not accept the token: its file is read before the next request.
    pub(super) fn distrust_token(&self) {
        if let Proof::File(path, known) = &self.proof
            && let Ok(token) = token(path)
        {
            *lock(known) = (token, Instant::now());
        }
    }

    /// A client with these credentials. `by_address`: for addresses of API servers that their certificates do not list.
    ///
    /// # Errors
    /// A certificate or key cannot be used.
    pub(super) fn client(&self, by_address: bool, timing: Timing) -> Result<reqwest::Client, Trouble> {
        let (ca, cert, key) = (
            Temporary::of(self.ca.as_ref())?,
            Temporary::of(self.cert.as_ref())?,
            Temporary::of(self.key.as_ref())?,
        );
        let options = ClientOptions {
            ca: ca.path(),
            cert: cert.path(),
            key: key.path(),
            key_password: None,
            verify: match (self.is_insecure, by_address) {
                (true, _) => Verify::None,
                (false, true) => Verify::Chain,
                (false, false) => Verify::ChainAndHostName,
            },
        };
        crate::http::client(&options, timing)
    }
}

/// A PEM text that TLS reads from a file once.
enum Temporary {
    None,
    Lasting(PathBuf),
    Passing(tempfile::NamedTempFile),
}

impl Temporary {
    fn of(pem: Option<&Pem>) -> Result<Self, Trouble> {
        Ok(match pem {
            None => Self::None,
            Some(Pem::File(path)) => Self::Lasting(path.clone()),
            Some(Pem::Text(text)) => {
                let file = tempfile::Builder::new().prefix("kubeconfig-").tempfile()?;
                std::fs::write(file.path(), text.reveal())?;
                Self::Passing(file)
            }
        })
    }

    fn path(&self) -> Option<PathBuf> {
        match self {
            Self::None => None,
            Self::Lasting(path) => Some(path.clone()),
            Self::Passing(file) => Some(file.path().to_owned()),
        }
    }
}

fn read(path: &Path) -> Result<String, Trouble> {
    net::file::read_text(path).map_err(|error| format!("cannot read {}: {error}", path.display()).into())
}

fn token(path: &Path) -> Result<Secret, Trouble> {
    let text = read(path)?;
    if text.trim().is_empty() {
        return Err(format!("{} is empty", path.display()).into());
    }
    Ok(Secret::new(text.trim()))
}

fn text(map: &Value, key: &str) -> Option<String> {
    let text = map.get(key).filter(|value| !value.is_null())?.python_text();
    Some(text).filter(|text| !text.is_empty())
}

fn entry<'a>(tree: &'a Value, kind: &str, name: &str) -> Option<&'a Value> {
    let list = tree.get(&format!("{kind}s"))?.as_list()?;
    let entry = list
        .iter()
        .find(|entry| text(entry, "name").as_deref() == Some(name))?;
    entry.get(kind)
}

/// The context that is configured. `kind-kind`, Patroni's default, gives way to the file's own choice if it does not exist.
fn context_of<'a>(tree: &'a Value, wanted: &str) -> Result<&'a Value, Trouble> {
    if let Some(context) = entry(tree, "context", wanted) {
        return Ok(context);
    }
    let current = text(tree, "current-context").filter(|_| wanted == "kind-kind");
    current
        .and_then(|name| entry(tree, "context", &name))
        .ok_or_else(|| format!("it has no context \"{}\"", wanted.escape_debug()).into())
}

fn named<'a>(tree: &'a Value, kind: &str, context: &Value) -> Result<&'a Value, Trouble> {
    let name = text(context, kind).ok_or_else(|| format!("its context names no {kind}"))?;
    entry(tree, kind, &name).ok_or_else(|| format!("it has no {kind} \"{}\"", name.escape_debug()).into())
}

fn proof(user: &Value, folder: &Path) -> Result<Proof, Trouble> {
    if let Some(token) = text(user, "token") {
        return Ok(Proof::Token(Secret::new(token)));
    }
    if let Some(file) = text(user, "tokenFile") {
        let path = folder.join(file);
        let known = token(&path)?;
        return Ok(Proof::File(path, Mutex::new((known, Instant::now()))));
    }
    if let (Some(name), Some(password)) = (text(user, "username"), text(user, "password")) {
        return Ok(Proof::Password(name, Secret::new(password)));
    }
    if user.get("exec").is_some() || user.get("auth-provider").is_some() {
        return Err(
            "plugins (exec, auth-provider) are not supported: use a token or a client certificate".into(),
        );
    }
    Ok(Proof::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(dir: &Path) -> Environment {
        Environment {
            service_host: Some("10.0.0.1".into()),
            service_port: Some("443".into()),
            service_account: dir.to_owned(),
            kubeconfig: Some(dir.join("config")),
        }
    }

    const KUBECONFIG: &str = r#"
current-context: here
contexts:
- {name: here, context: {cluster: c, user: token}}
- {name: basic, context: {cluster: c, user: basic}}
- {name: files, context: {cluster: insecure, user: files}}
- {name: plugin, context: {cluster: c, user: plugin}}
- {name: broken, context: {cluster: gone, user: token}}
clusters:
- {name: c, cluster: {server: "https://api:6443/", certificate-authority-data: UEVN}}
- {name: insecure, cluster: {server: "https://api", insecure-skip-tls-verify: true}}
users:
- {name: token, user: {token: s3cret}}
- {name: basic, user: {username: u, password: p}}
- {name: files, user: {client-certificate: cert.pem, client-key: /abs/key.pem}}
- {name: plugin, user: {exec: {command: aws}}}
"#;

    #[test]
    fn in_a_pod_the_token_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let config = super::super::tests::config();
        let missing = Credentials::load(&config, &environment(dir.path()))
            .unwrap_err()
            .to_string();
        assert!(
            missing.contains("ca.crt") && missing.contains("kubeconfig"),
            "{missing}"
        );
        std::fs::write(dir.path().join("ca.crt"), "PEM").unwrap();
        std::fs::write(dir.path().join("token"), "one\n").unwrap();
        let credentials = Credentials::load(&config, &environment(dir.path())).unwrap();
        assert_eq!(credentials.server, "https://10.0.0.1:443");
        assert_eq!(credentials.authorization().as_deref(), Some("Bearer one"));
        std::fs::write(dir.path().join("token"), "two").unwrap();
        assert_eq!(
            credentials.authorization().as_deref(),
            Some("Bearer one"),
            "within a minute"
        );
        credentials.distrust_token();
        assert_eq!(credentials.authorization().as_deref(), Some("Bearer two"));
        std::fs::write(dir.path().join("token"), "").unwrap();
        credentials.distrust_token();
        assert_eq!(
            credentials.authorization().as_deref(),
            Some("Bearer two"),
            "a failed read keeps it"
        );
    }

    #[test]
    fn a_kubeconfig_is_read_as_kubectl_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, KUBECONFIG).unwrap();
        let load = |context: &str| Credentials::of_kubeconfig(&path, context);
        let here = load("kind-kind").unwrap();
        assert_eq!(
            (here.server.as_str(), here.authorization().as_deref()),
            ("https://api:6443", Some("Bearer s3cret"))
        );
        assert!(matches!(&here.ca, Some(Pem::Text(text)) if text.reveal() == "PEM"));
        assert_eq!(
            load("basic").unwrap().authorization().as_deref(),
            Some("Basic dTpw")
        );
        let files = load("files").unwrap();
        assert!(files.is_insecure && files.authorization().is_none());
        assert!(matches!(&files.cert, Some(Pem::File(file)) if *file == dir.path().join("cert.pem")));
        assert!(matches!(&files.key, Some(Pem::File(file)) if file == Path::new("/abs/key.pem")));
        for (context, words) in [
            ("plugin", "not supported"),
            ("broken", "no cluster \"gone\""),
            ("x", "no context \"x\""),
        ] {
            let error = load(context).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(!format!("{here:?}").contains("s3cret"));
    }
}
