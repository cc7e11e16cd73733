//! Requests that a web page makes a browser send. Pure.
//!
//! A browser within the cluster's network is a way in for pages of others: a form that posts to a member's address (CSRF),
//! or a page whose name suddenly has a member's address (DNS rebinding). Clients of the API (`curl`, patronictl, HAProxy,
//! Kubernetes, other members) send none of a browser's headers, and are not looked at here.
//!
//! 1. A page of another site cannot send a JSON content type before the browser has asked for permission by OPTIONS, which
//!    this API never gives. So a request that changes something, and that a page sends, is JSON or comes from a page of
//!    this member's own address.
//! 2. A rebound page is of "its own address", as that is the name of its own site. So the header `Host` has to be an
//!    address, or a name that members are known by. A request that has shown the right password is exempt: a browser keeps
//!    passwords by the name of the site. That lets a proxy under another name through.

use std::net::IpAddr;

use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN, REFERER, UPGRADE_INSECURE_REQUESTS};
use axum::http::{HeaderMap, HeaderName};

use super::answer::Answer;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What browsers send, and others do not.
const MARKS: [HeaderName; 7] = [
    ORIGIN,
    REFERER,
    SEC_FETCH_SITE,
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-dest"),
    HeaderName::from_static("sec-fetch-user"),
    UPGRADE_INSECURE_REQUESTS,
];

/// Whether a request was sent by a browser.
pub(crate) fn is_sender(headers: &HeaderMap) -> bool {
    MARKS.iter().any(|mark| headers.contains_key(mark))
}

/// Lets a browser's request change something, or says why not. `names` are those of members; `None` when the request has
/// shown a password.
pub(crate) fn check(headers: &HeaderMap, names: Option<&[String]>) -> Result<(), Answer> {
    let refuse = |why: &str| Err(Answer::text(403, format!("refused: {why}")));
    let host = only(headers, &HOST);
    if !is_json(headers) && !is_of_own_page(headers, host) {
        return refuse(
            "the request comes from a page of another site, and its Content-Type is not application/json",
        );
    }
    let is_known = |names: &[String]| host.and_then(host_name).is_some_and(|host| is_own(host, names));
    if names.is_some_and(|names| !is_known(names)) {
        return refuse(
            "the request comes from a browser, and its Host is neither an address nor the name of a member; use \
             the name in restapi.connect_address, or set restapi.authentication",
        );
    }
    Ok(())
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = only(headers, &CONTENT_TYPE) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn is_of_own_page(headers: &HeaderMap, host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    let is_own = |url: &str| {
        let authority = url.split_once("://").map(|(_, rest)| rest);
        let authority = authority.and_then(|rest| rest.split(['/', '?', '#']).next());
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    let site = only(headers, &SEC_FETCH_SITE);
    if headers.contains_key(SEC_FETCH_SITE) && !matches!(site, Some("same-origin" | "none")) {
        return false;
    }
    match (headers.contains_key(ORIGIN), headers.contains_key(REFERER)) {
        (true, _) => only(headers, &ORIGIN).is_some_and(is_own),
        (false, true) => only(headers, &REFERER).is_some_and(is_own),
        (false, false) => site == Some("same-origin"),
    }
}

/// `host:port` without the port and the brackets of IPv6.
fn host_name(authority: &str) -> Option<&str> {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then_some(host)
}

/// An address cannot be given another meaning, and names below `localhost` are not looked up.
fn is_own(host: &str, names: &[String]) -> bool {
    let is_below_localhost = host
        .rsplit('.')
        .next()
        .is_some_and(|last| last.eq_ignore_ascii_case("localhost"));
    host.parse::<IpAddr>().is_ok()
        || is_below_localhost
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        let mut map = HeaderMap::new();
        for (name, value) in lines.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    fn passes(lines: &[(&'static str, &str)]) -> bool {
        let headers = headers(lines);
        let names = ["db1".to_owned(), "db1.example.org".to_owned()];
        !is_sender(&headers) || check(&headers, Some(&names)).is_ok()
    }

    const JSON: (&str, &str) = ("content-type", "application/json");
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
    const HERE: (&str, &str) = ("host", "10.0.0.11:8008");

    #[test]
    fn clients_that_are_no_browsers_are_let_through() {
        for lines in [
            &[HERE, FORM][..],
            &[HERE, JSON],
            &[HERE],
            &[("host", "anything.example.net"), FORM, ("user-agent", "curl/8")],
            &[],
        ] {
            assert!(passes(lines), "{lines:?}");
        }
    }

    #[test]
    fn pages_of_others_are_refused_unless_they_had_to_ask_before() {
        let plain: [&[(&str, &str)]; 6] = [
            &[FORM],
            &[("content-type", "text/plain")],
            &[("content-type", "multipart/form-data; boundary=x")],
            &[("content-type", "text/plain; application/json")],
            &[("content-type", "text/plain"), JSON],
            &[],
        ];
        let marks: [&[(&str, &str)]; 9] = [
            &[("origin", "http://evil.example")],
            &[("origin", "null")],
            &[("origin", "http://10.0.0.11:8008.evil.example")],
            &[("origin", "http://10.0.0.11")],
            &[("referer", "http://evil.example/http://10.0.0.11:8008/")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-mode", "navigate")],
            &[("upgrade-insecure-requests", "1")],
        ];
        for mark in marks {
            for kind in plain {
                let lines = [&[HERE], mark, kind].concat();
                assert!(!passes(&lines), "{lines:?}");
            }
            assert!(passes(&[&[HERE, JSON], mark].concat()), "{mark:?}");
        }
        let both = [
            HERE,
            FORM,
            ("origin", "http://10.0.0.11:8008"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert!(!passes(&both));
    }

    #[test]
    fn a_members_own_page_is_let_through_by_the_names_that_members_have() {
        for (host, is_known) in [
            ("10.0.0.11:8008", true),
            ("[fd00::1]:8008", true),
            ("localhost:8008", true),
            ("db1:8008", true),
            ("DB1.example.org", true),
            ("db1.example.org.:8008", true),
            ("db1.evil.example:8008", false),
            ("evil.example:8008", false),
            ("10.0.0.11.evil.example", false),
            ("localhost.evil.example", false),
            ("", false),
            (":8008", false),
        ] {
            let origin = format!("http://{host}");
            for kind in [JSON, FORM] {
                let lines = [("host", host), ("origin", origin.as_str()), kind];
                assert_eq!(passes(&lines), is_known, "{lines:?}");
                assert!(
                    check(&headers(&lines), None).is_ok(),
                    "with a password: {lines:?}"
                );
            }
        }
        assert!(!passes(&[("origin", "http://x"), JSON]), "no Host");
        assert!(!passes(&[
            HERE,
            ("host", "evil.example"),
            ("origin", "http://10.0.0.11:8008"),
            JSON
        ]));
    }
}
