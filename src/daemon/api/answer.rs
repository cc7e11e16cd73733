//! What a request is answered with, before it becomes HTTP.

use serde::Serialize;

use super::json;

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
}

/// How an answer is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The status alone.
    Bare,
    /// A short text, which Patroni labels `text/html`.
    Text,
    /// JSON.
    Json,
    /// Prometheus's text format.
    Metrics,
    /// A page about an error of the protocol; the connection is closed after it.
    Page,
}

impl Form {
    /// The header `Content-Type`.
    pub(crate) fn content_type(self) -> Option<&'static str> {
        match self {
            Self::Bare => None,
            Self::Text => Some("text/html"),
            Self::Json => Some("application/json"),
            Self::Metrics => Some("text/plain"),
            Self::Page => Some("text/html;charset=utf-8"),
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
        }
    }

    /// The status alone.
    pub(crate) fn bare(status: u16) -> Self {
        Self::new(status, Form::Bare, String::new())
    }

    /// A short text.
    pub(crate) fn text(status: u16, text: impl Into<String>) -> Self {
        Self::new(status, Form::Text, text.into())
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

    /// A page that says what is wrong and why.
    pub(crate) fn page(status: u16, message: &str) -> Self {
        let reason = http_reason(status);
        let message = message
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        let body = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status} {reason}</title></head>\n\
             <body><h1>{status} {reason}</h1><p>{message}</p></body></html>\n"
        );
        Self::new(status, Form::Page, body)
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
