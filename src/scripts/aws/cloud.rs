//! This instance and its cloud: the instance's meta-data (IMDSv2), and EC2's Query API with signed requests.
//!
//! Credentials are looked for where all of AWS's tools look: the environment, the profile's files, the role of the
//! container or of the instance.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use net::http::{Client, Options};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner};
use reqsign_core::hash::hex_sha256;
use reqsign_core::{Context, FileRead, HttpSend, OsEnv, Signer};
use serde::Deserialize;

/// Where an instance's meta-data is, unless `AWS_EC2_METADATA_SERVICE_ENDPOINT` says otherwise.
const METADATA: &str = "http://169.254.169.254";

/// It is on the instance's own host: what takes longer is not there.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a request to EC2 may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The Query API's version: the only one for a decade.
const VERSION: &str = "2016-11-15";

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Tag<'a> {
    key: &'a str,
    value: &'a str,
}

impl<'a> Tag<'a> {
    pub(super) fn new(key: &'a str, value: &'a str) -> Self {
        Self { key, value }
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Setup(#[from] net::http::SetupError),
    #[error(transparent)]
    Http(#[from] net::http::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("no credentials of AWS are of use here: {0}")]
    Credentials(#[from] reqsign_core::Error),
    #[error("{what}: status {status}: {answer}")]
    Refused {
        what: &'static str,
        status: u16,
        answer: String,
    },
    #[error("{what} is not understood: {why}")]
    Malformed { what: &'static str, why: String },
}

impl Error {
    /// Whether it is worth another attempt.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Http(_) | Self::Refused { .. } => true,
            Self::Setup(_) | Self::Request(_) | Self::Credentials(_) | Self::Malformed { .. } => false,
        }
    }
}

/// An EC2 instance's view of its region.
pub(super) struct Cloud {
    client: Client,
    signer: Signer<Credential>,
    endpoint: String,
    instance: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    instance_id: String,
    region: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeVolumes {
    #[serde(default)]
    volume_set: VolumeSet,
    next_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct VolumeSet {
    #[serde(default, rename = "item")]
    items: Vec<Volume>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    volume_id: String,
}

impl Cloud {
    /// Asks the meta-data who this instance is.
    ///
    /// # Errors
    /// There is no meta-data service: this is no EC2 instance.
    pub(super) async fn find() -> Result<Self, Error> {
        let client = client()?;
        let metadata = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let metadata = metadata
            .as_deref()
            .unwrap_or(METADATA)
            .trim_end_matches('/')
            .to_owned();
        let request = Request::put(format!("{metadata}/latest/api/token"))
            .header("x-aws-ec2-metadata-token-ttl-seconds", "60")
            .body(Bytes::new())?;
        let token = answer(
            "the meta-data's token",
            client.execute(request, METADATA_TIMEOUT).await?,
        )?;
        let request = Request::get(format!("{metadata}/latest/dynamic/instance-identity/document"))
            .header("x-aws-ec2-metadata-token", token)
            .body(Bytes::new())?;
        let what = "the instance's identity document";
        let document = answer(what, client.execute(request, METADATA_TIMEOUT).await?)?;
        let identity: Identity = serde_json::from_str(&document).map_err(|error| Error::Malformed {
            what,
            why: error.to_string(),
        })?;
        let endpoint = variable("AWS_ENDPOINT_URL_EC2")
            .or_else(|| variable("AWS_ENDPOINT_URL"))
            .unwrap_or_else(|| endpoint(&identity.region));
        let context = Context::new()
            .with_env(OsEnv)
            .with_file_read(Files)
            .with_http_send(Requests(self::client()?));
        let signer = Signer::new(
            context,
            DefaultCredentialProvider::new(),
            RequestSigner::new("ec2", &identity.region),
        );
        Ok(Self {
            client,
            signer,
            endpoint,
            instance: identity.instance_id,
        })
    }

    /// This instance's ID.
    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    /// The IDs of the volumes that are attached to it.
    pub(super) async fn volumes(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut fields = vec![
                ("Filter.1.Name".to_owned(), "attachment.instance-id"),
                ("Filter.1.Value.1".to_owned(), &self.instance),
            ];
            if let Some(token) = &next {
                fields.push(("NextToken".to_owned(), token));
            }
            let text = self.call("DescribeVolumes", &fields).await?;
            let page: DescribeVolumes = quick_xml::de::from_str(&text).map_err(|error| Error::Malformed {
                what: "DescribeVolumes",
                why: error.to_string(),
            })?;
            found.extend(page.volume_set.items.into_iter().map(|volume| volume.volume_id));
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// Sets tags; those of the same key are replaced.
    pub(super) async fn create_tags(&self, resources: &[String], tags: &[Tag<'_>]) -> Result<(), Error> {
        let mut fields = Vec::new();
        for (n, resource) in (1..).zip(resources) {
            fields.push((format!("ResourceId.{n}"), resource.as_str()));
        }
        for (n, tag) in (1..).zip(tags) {
            fields.push((format!("Tag.{n}.Key"), tag.key));
            fields.push((format!("Tag.{n}.Value"), tag.value));
        }
        self.call("CreateTags", &fields).await.map(drop)
    }

    async fn call(&self, action: &'static str, fields: &[(String, &str)]) -> Result<String, Error> {
        let mut form = format!("Action={action}&Version={VERSION}");
        for (key, value) in fields {
            let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            form.push_str(&format!("&{key}={value}"));
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/", self.endpoint.trim_end_matches('/')))
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .header("x-amz-content-sha256", hex_sha256(form.as_bytes()))
            .body(())?;
        let (mut parts, ()) = request.into_parts();
        self.signer.sign(&mut parts, None).await?;
        let request = Request::from_parts(parts, Bytes::from(form));
        answer(action, self.client.execute(request, TIMEOUT).await?)
    }
}

fn client() -> Result<Client, net::http::SetupError> {
    Client::new(&Options {
        user_agent: format!("patroni_aws/{}", crate::PATRONI_VERSION),
        ..Options::default()
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Regions in China have a domain of their own.
fn endpoint(region: &str) -> String {
    let suffix = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("https://ec2.{region}.{suffix}")
}

fn answer(what: &'static str, response: net::http::Response) -> Result<String, Error> {
    if response.status.is_success() {
        return Ok(response.body);
    }
    Err(Error::Refused {
        what,
        status: response.status.as_u16(),
        answer: response.body.chars().take(500).collect(),
    })
}

/// How credentials' files are read.
#[derive(Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let path = PathBuf::from(path);
        net::file::read(&path).map_err(|error| {
            reqsign_core::Error::unexpected(format!("{} cannot be read: {error}", path.display()))
        })
    }
}

/// How credentials are asked for.
#[derive(Debug)]
struct Requests(Client);

impl HttpSend for Requests {
    async fn http_send(&self, request: Request<Bytes>) -> reqsign_core::Result<Response<Bytes>> {
        let failed = |error: String| reqsign_core::Error::unexpected(error);
        let response = self
            .0
            .execute(request, METADATA_TIMEOUT)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let mut made = Response::new(Bytes::from(response.body));
        *made.status_mut() = response.status;
        for (name, value) in response.headers.iter() {
            made.headers_mut().insert(name, HeaderValue::clone(value));
        }
        Ok(made)
    }
}
