//! Reads the bodies of requests: none is larger than any that makes sense, and all that are large, together, have a bound. A body as JSON
//! takes many times its size, so a large one keeps its share until its request is answered.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::answer::Answer;
use super::control;
use super::route::Wish;

/// How long a body may take to arrive, with the wait for its share.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// The largest body with a configuration, in KiB. What `/config` may hold is less.
const CONFIGURATION_KIB_MAX: u32 = 2048;

/// The largest body of any other request, in KiB.
const REQUEST_KIB_MAX: u32 = 64;

/// What all bodies with a configuration may have together, in KiB.
const ALL_KIB_MAX: u32 = 2 * CONFIGURATION_KIB_MAX;

/// More commas and brackets than this are no configuration.
const ENTRIES_MAX: usize = 50_000;

/// What large bodies share.
pub(crate) struct Bodies {
    free_kib: Semaphore,
}

/// A body, and its share of what all may have.
pub(crate) struct Read<'a> {
    pub(crate) body: control::Body,
    _share: Option<SemaphorePermit<'a>>,
}

impl Bodies {
    pub(crate) fn new() -> Self {
        Self {
            free_kib: Semaphore::new(ALL_KIB_MAX as usize),
        }
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// The answer to one that is missing, too large, too slow or no JSON object.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body, wish: Wish) -> Result<Read<'_>, Answer> {
        let is_optional = wish.body_is_optional();
        let without_share = |body| Read { body, _share: None };
        let length = headers.get(CONTENT_LENGTH);
        if length.is_none() && !headers.contains_key(TRANSFER_ENCODING) {
            let missing = Answer::page(411, "the header Content-Length is missing");
            return if is_optional {
                Ok(without_share(control::Body::new()))
            } else {
                Err(missing)
            };
        }
        let kib_max = match wish {
            Wish::PatchConfig | Wish::PutConfig => CONFIGURATION_KIB_MAX,
            _ => REQUEST_KIB_MAX,
        };
        let bytes_max = kib_max as usize * 1024;
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > bytes_max) {
            let message = format!("the body is larger than {bytes_max} bytes");
            return Err(Answer::page(413, &message));
        }
        let until = Instant::now() + BODY_LIMIT;
        let share = self.share(length.unwrap_or(bytes_max), until).await?;
        let bytes = match timeout_at(until, to_bytes(body, bytes_max)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(Answer::page(400, &format!("the body cannot be read: {error}"))),
            Err(_) => return Err(Answer::page(408, "the body did not arrive in time")),
        };
        if bytes.is_empty() && is_optional {
            return Ok(without_share(control::Body::new()));
        }
        Ok(Read {
            body: parse(&bytes, is_optional)?,
            _share: share,
        })
    }

    /// What is small has no share: the number of connections bounds that.
    async fn share(&self, length: usize, until: Instant) -> Result<Option<SemaphorePermit<'_>>, Answer> {
        let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(ALL_KIB_MAX);
        if kib <= REQUEST_KIB_MAX {
            return Ok(None);
        }
        match timeout_at(until, self.free_kib.acquire_many(kib)).await {
            Ok(Ok(share)) => Ok(Some(share)),
            Ok(Err(_)) | Err(_) => Err(Answer::page(503, "too many large requests at once")),
        }
    }
}

fn parse(bytes: &[u8], is_optional: bool) -> Result<control::Body, Answer> {
    let entries = bytes
        .iter()
        .filter(|byte| matches!(byte, b',' | b'{' | b'['))
        .count();
    if entries > ENTRIES_MAX {
        return Err(Answer::page(
            413,
            &format!("the body has more than {ENTRIES_MAX} entries"),
        ));
    }
    match serde_json::from_slice::<control::Body>(bytes) {
        Ok(object) if is_optional || !object.is_empty() => Ok(object),
        Ok(_) => Err(Answer::page(400, "the body is an empty JSON object")),
        Err(error) => Err(Answer::page(
            400,
            &format!("the body is not a JSON object: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(length: usize) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(length))])
    }

    #[tokio::test]
    async fn large_bodies_share_what_there_is() {
        let bodies = Bodies::new();
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(2_000_000));
        let small = r#"{"a":1}"#;
        let (of_large, of_small) = (headers(large.len()), headers(small.len()));
        let read = |wish| bodies.read(&of_large, Body::from(large.clone()), wish);
        let first = read(Wish::PatchConfig).await.ok().unwrap();
        let second = read(Wish::PutConfig).await.ok().unwrap();
        assert_eq!(first.body.len(), 1);
        // The third one waits, and is turned away; what is small, as members' requests are, is not.
        let refused = bodies.share(large.len(), Instant::now()).await;
        assert_eq!(refused.err().unwrap().status, 503);
        let small = bodies.read(&of_small, Body::from(small), Wish::Failsafe).await;
        assert!(small.is_ok());
        drop(first);
        assert!(read(Wish::PatchConfig).await.is_ok());
        drop(second);
        assert_eq!(bodies.free_kib.available_permits(), ALL_KIB_MAX as usize);
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused() {
        let bodies = Bodies::new();
        let many = format!(r#"{{"a":[{}1]}}"#, "1,".repeat(60_000));
        for (text, wish, status) in [
            (many.as_str(), Wish::PatchConfig, 413),
            (&"x".repeat(3_000_000), Wish::PatchConfig, 413),
            (&"x".repeat(100_000), Wish::Switchover, 413),
            ("[]", Wish::PatchConfig, 400),
            ("{}", Wish::PatchConfig, 400),
        ] {
            let read = bodies
                .read(&headers(text.len()), Body::from(text.to_owned()), wish)
                .await;
            assert_eq!(read.err().map(|answer| answer.status), Some(status));
        }
    }
}
