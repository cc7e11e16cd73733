//! What the stand-in for an API server accepts, and what it makes of it.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Answer, status};

/// Names and values of an object's annotations together.
const LONGEST_ANNOTATIONS: usize = 256 * 1024;

/// JSON merge, which strategic merging is for all that is patched here: no list has a merge key.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

pub(super) fn invalid(name: &str, body: &Value) -> Option<Answer> {
    let is_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > 253 || !name.bytes().all(is_name) {
        return Some(status(
            422,
            "Invalid",
            &format!("metadata.name: Invalid value: \"{name}\": a lowercase RFC 1123 subdomain"),
        ));
    }
    let lengths = texts(body, "annotations").map(|(name, value)| name.len() + value.as_str().unwrap().len());
    if lengths.sum::<usize>() > LONGEST_ANNOTATIONS {
        return Some(status(422, "Invalid", "metadata.annotations: Too long"));
    }
    let is_label = |value: &str| {
        value.len() <= 63
            && value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if texts(body, "labels").any(|(_, value)| !is_label(value.as_str().unwrap())) {
        return Some(status(422, "Invalid", "metadata.labels: a valid label must be"));
    }
    let ips = body["subsets"].as_array().into_iter().flatten();
    let mut ips = ips.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
    let is_usable = |ip: &str| {
        ip.parse::<IpAddr>()
            .is_ok_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    let is_refused = ips.any(|address| !address["ip"].as_str().is_some_and(is_usable));
    is_refused.then(|| {
        status(
            422,
            "Invalid",
            "subsets.addresses.ip: must be a valid IP address, and not in the loopback range",
        )
    })
}

fn texts<'a>(object: &'a Value, map: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object["metadata"][map].as_object().into_iter().flatten()
}

pub(super) fn has_texts(object: &Value) -> bool {
    ["annotations", "labels"]
        .iter()
        .all(|map| texts(object, map).all(|(_, value)| value.is_string()))
}

/// What the server adds: ports have a protocol.
pub(super) fn complete(object: &mut Value) {
    let subsets = object.get_mut("subsets").and_then(Value::as_array_mut);
    for subset in subsets.into_iter().flatten() {
        let ports = subset.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            if port["protocol"].is_null() {
                port["protocol"] = json!("TCP");
            }
        }
    }
}

pub(super) fn matches(object: &Value, selector: &[(String, String)]) -> bool {
    selector
        .iter()
        .all(|(name, value)| object["metadata"]["labels"][name] == *value)
}
