//! What a request is answered with, before it becomes HTTP.

use config::escape;
use serde::Serialize;

use super::json;
use super::large_answers::Turn;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// How it is dressed.
    pub(crate) form: Form,
    /// The body.
    pub(crate) body: String,
    /// Headers of its own.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// A large one: the right to be kept until the client has it.
    pub(crate) turn: Option<Turn>,
}

/// How an answer is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The status alone.
    Bare,
    /// A short text. Patroni labels it `text/html`, which makes of a text that a browser shows a page that it runs.
    Text,
    /// JSON.
    Json,
    /// Prometheus's text format.
    Metrics,
    /// An error of the protocol; the connection is closed after it.
    Page,
}

impl Form {
    /// The header `Content-Type`.
    pub(crate) fn content_type(self) -> Option<&'static str> {
        match self {
            Self::Bare => None,
            Self::Text | Self::Page => Some("text/plain; charset=utf-8"),
            Self::Json => Some("application/json"),
            Self::Metrics => Some("text/plain"),
        }
    }
}

impl Answer {
    fn new(status: u16, form: Form, body: String) -> Self {
        Self {
            status,
            form,
            body,
            headers: Vec::new(),
            turn: None,
        }
    }

    /// The status alone.
    pub(crate) fn bare(status: u16) -> Self {
        Self::new(status, Form::Bare, String::new())
    }

    /// A short text.
    pub(crate) fn text(status: u16, text: impl Into<String>) -> Self {
        let text = text.into();
        Self::new(status, Form::Text, escape::line(&text).into_owned())
    }

    /// The same, and then why.
    pub(crate) fn with_detail(mut self, detail: Option<String>) -> Self {
        if let Some(detail) = detail {
            self.body.push_str(": ");
            self.body.push_str(&detail);
        }
        self
    }

    /// A JSON document.
    pub(crate) fn json<T: Serialize>(status: u16, value: &T) -> Self {
        Self::new(status, Form::Json, json::to_text(value))
    }

    /// A JSON document that is text already.
    pub(crate) fn json_text(status: u16, body: String) -> Self {
        Self::new(status, Form::Json, body)
    }

    /// Metrics.
    pub(crate) fn metrics(text: String) -> Self {
        Self::new(200, Form::Metrics, text)
    }

    /// An error of the protocol: what is wrong and why.
    pub(crate) fn page(status: u16, message: &str) -> Self {
        let reason = http_reason(status);
        Self::new(
            status,
            Form::Page,
            format!("{status} {reason}: {}\n", escape::line(message)),
        )
    }

    /// With the right to be kept until the client has it.
    pub(crate) fn with_turn(mut self, turn: Turn) -> Self {
        self.turn = Some(turn);
        self
    }

    /// With one more header.
    pub(crate) fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

fn http_reason(status: u16) -> &'static str {
    axum::http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error")
}
