//! HTTP: connections, TLS, and an answer's dress.
//!
//! Patroni answers in HTTP/1.0 and closes. Here an HTTP/1.0 request is answered likewise, while clients of HTTP/1.1
//! may keep their connection: every answer has a length, so that both kinds know where it ends.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, DATE, SERVER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use config::{RestApiConfig, ServerTokens};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use net::tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::access::Caller;
use super::answer::{Answer, Form};
use super::body::Bodies;
use super::budget::{Budget, Refusal};
use super::large_answers;
use super::patience::Impatient;
use super::respond::{Api, Head};
use super::route::{Route, Wish};
use crate::daemon::descriptors;

/// A client that says nothing for so long, at its start or between two requests, loses its connection.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// A larger head is refused.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to read an answer.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// How often it is logged that connections are turned away.
const REFUSAL_PAUSE: Duration = Duration::from_secs(10);
/// When no more files can be opened, a pause gives some time to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// No answer is a page, whatever stands in it.
const FOR_BROWSERS: [(HeaderName, &str); 2] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
];

/// What connections share. Each takes the TLS that is there when it begins.
pub(crate) struct HttpServer {
    api: Arc<Api>,
    dress: RwLock<Arc<Dress>>,
    tls: RwLock<Option<Arc<tls::Server>>>,
    /// Told when the TLS that connections began with is not the present one any more.
    tls_changes: watch::Sender<()>,
    budget: Arc<Budget>,
    bodies: Bodies,
    /// When a connection was last said to have been turned away: once in a while is enough.
    refusal_told: Mutex<Option<Instant>>,
}

/// What every answer wears.
pub(crate) struct Dress {
    server: HeaderValue,
    extra: Vec<(HeaderName, HeaderValue)>,
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy)]
struct Connection {
    address: IpAddr,
    has_certificate: bool,
}

impl Dress {
    /// The headers that `restapi` asks for; with a warning for those that HTTP does not permit.
    pub(crate) fn new(restapi: &RestApiConfig, version: &str) -> Self {
        let server = match restapi.server_tokens {
            ServerTokens::Original => concat!("Tamada/", env!("CARGO_PKG_VERSION")).to_owned(),
            ServerTokens::Minimal => format!("Patroni/{version}"),
            ServerTokens::ProductOnly => "Patroni".to_owned(),
        };
        let of_tls = restapi.certfile.as_ref().map(|_| &restapi.https_extra_headers);
        let mut extra: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in restapi
            .http_extra_headers
            .iter()
            .chain(of_tls.into_iter().flatten())
        {
            match (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                (Ok(name), Ok(value)) => {
                    extra.retain(|(known, _)| *known != name);
                    extra.push((name, value));
                }
                _ => {
                    tracing::warn!("restapi: the extra header {name:?} is left out: HTTP does not permit it")
                }
            }
        }
        let server = HeaderValue::from_str(&server).unwrap_or(HeaderValue::from_static("Patroni"));
        Self { server, extra }
    }

    fn put_on(&self, answer: Answer) -> Response<Body> {
        let mut response = Response::new(Body::from(large_answers::body(answer.body, answer.turn)));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        for (name, value) in FOR_BROWSERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let Some(content_type) = answer.form.content_type() else {
            return response;
        };
        headers.insert(SERVER, self.server.clone());
        let date =
            jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now());
        headers.extend(
            date.ok()
                .and_then(|date| HeaderValue::from_str(&date).ok())
                .map(|date| (DATE, date)),
        );
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        for (name, value) in &answer.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        if answer.form == Form::Page {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        } else {
            for (name, value) in &self.extra {
                headers.insert(name, value.clone());
            }
        }
        response
    }
}

impl HttpServer {
    pub(crate) fn new(api: Arc<Api>, dress: Dress, tls: Option<tls::Server>) -> Arc<Self> {
        Arc::new(Self {
            api,
            dress: RwLock::new(Arc::new(dress)),
            tls: RwLock::new(tls.map(Arc::new)),
            tls_changes: watch::Sender::new(()),
            budget: Budget::new(descriptors::limit()),
            bodies: Bodies::new(),
            refusal_told: Mutex::default(),
        })
    }

    /// Where members come from: some connections are kept for them.
    pub(crate) fn set_members(&self, addresses: Vec<IpAddr>) {
        self.budget.set_members(addresses);
    }

    fn tell_refusal(&self, peer: SocketAddr, refusal: Refusal) {
        let mut told = self.refusal_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= REFUSAL_PAUSE) {
            *told = Some(Instant::now());
            tracing::warn!("REST API: {peer} turned away: {refusal}");
        }
    }

    /// Replaces what answers wear.
    pub(crate) fn set_dress(&self, dress: Dress) {
        *self.dress.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(dress);
    }

    /// Replaces the TLS of new connections; `None` for plain HTTP. Those that there are end after the answer that is being
    /// given: none outlives its certificate.
    pub(crate) fn set_tls(&self, tls: Option<tls::Server>) {
        let new = tls.map(Arc::new);
        let has_tls = new.is_some();
        let old = std::mem::replace(
            &mut *self.tls.write().unwrap_or_else(PoisonError::into_inner),
            new,
        );
        if has_tls || old.is_some() {
            self.tls_changes.send_replace(());
        }
    }

    fn tls(&self) -> Option<Arc<tls::Server>> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Accepts connections on these sockets until the set is dropped. Connections go on for themselves.
    pub(crate) fn accept(self: &Arc<Self>, listeners: Vec<TcpListener>) -> JoinSet<()> {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept_on(Arc::clone(self), listener));
        }
        accepting
    }
}

async fn accept_on(server: Arc<HttpServer>, listener: TcpListener) {
    let router = Router::new()
        .fallback(answer_http)
        .with_state(Arc::clone(&server));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("REST API: cannot accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = match server.budget.admit(peer.ip()) {
            Ok(place) => place,
            Err(refusal) => {
                server.tell_refusal(peer, refusal);
                continue;
            }
        };
        // Before the TLS is read: no change is missed.
        let changes = server.tls_changes.subscribe();
        let (tls, router) = (server.tls(), router.clone());
        tokio::spawn(async move {
            serve_connection(stream, peer, tls, router, changes).await;
            drop(place);
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<tls::Server>>,
    router: Router,
    changes: watch::Receiver<()>,
) {
    let address = peer.ip().to_canonical();
    let Some(tls) = tls else {
        return serve_http(
            stream,
            Connection {
                address,
                has_certificate: false,
            },
            router,
            changes,
        )
        .await;
    };
    match timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(tls.config()).accept(stream)).await {
        Ok(Ok(stream)) => {
            let has_certificate = stream
                .get_ref()
                .1
                .peer_certificates()
                .is_some_and(|chain| !chain.is_empty());
            serve_http(
                stream,
                Connection {
                    address,
                    has_certificate,
                },
                router,
                changes,
            )
            .await;
        }
        Ok(Err(error)) => tracing::debug!("REST API: {peer}: the TLS handshake failed: {error}"),
        Err(_) => tracing::debug!("REST API: {peer}: the TLS handshake took too long"),
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: Connection,
    router: Router,
    mut changes: watch::Receiver<()>,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(connection);
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .max_buf_size(HEAD_BYTES_MAX)
        // A client may close its side once it has sent its request, as shell scripts do.
        .half_close(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(Impatient::new(stream, READ_LIMIT)), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        _ = changes.changed() => None,
    };
    let served = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(
            "REST API: the connection of {} broke: {error}",
            connection.address
        );
    }
}

async fn answer_http(
    State(server): State<Arc<HttpServer>>,
    request: Request,
) -> Result<Response<Body>, Infallible> {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    // serve_http puts it into every request.
    let unknown = Connection {
        address: IpAddr::from([0, 0, 0, 0]),
        has_certificate: false,
    };
    let connection = parts.extensions.get::<Connection>().copied().unwrap_or(unknown);
    let head = Head {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        caller: Caller {
            address: connection.address,
            has_certificate: connection.has_certificate,
            authorization: parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes),
        },
    };
    let answer = answer(&server, &head, &parts, body)
        .await
        .unwrap_or_else(|refused| refused);
    tracing::debug!(
        "API thread: {} - - \"{} {}\" {} latency: {:.3} ms",
        connection.address,
        head.method,
        parts.uri,
        answer.status,
        began.elapsed().as_secs_f64() * 1000.0
    );
    let dress = Arc::clone(&server.dress.read().unwrap_or_else(PoisonError::into_inner));
    Ok(dress.put_on(answer))
}

async fn answer(server: &HttpServer, head: &Head<'_>, parts: &Parts, body: Body) -> Result<Answer, Answer> {
    let api = &server.api;
    let route = Route::of(head.method, head.path);
    if route == Route::Wish(Wish::Failsafe) {
        api.check_access_of_leader(head.caller).await?;
        api.check_failsafe_mode()?;
    } else if route.is_protected() {
        api.check_access(head.caller).await?;
    }
    if route.is_protected() {
        api.check_browser(&parts.headers)?;
    }
    let Route::Wish(wish) = route else {
        return api.show(route, head).await;
    };
    let read = server.bodies.read(&parts.headers, body, wish).await?;
    api.act(wish, &read.body).await
}
