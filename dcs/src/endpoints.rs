//! Which endpoints of a store there are, and which one is in use.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// The known endpoints, as URLs.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    /// The one in use comes first.
    order: Vec<String>,
}

impl Endpoints {
    /// Begins with these, in an order by chance so that agents spread over the cluster.
    pub(crate) fn new(configured: Vec<String>) -> Self {
        let mut order = unique(configured);
        shuffle(&mut order);
        Self { order }
    }

    /// Begins with these in their order: the first one is to be asked while it answers.
    pub(crate) fn in_order(configured: Vec<String>) -> Self {
        Self {
            order: unique(configured),
        }
    }

    /// Takes over a newer list. The endpoint in use stays in use if it is still there, and the others keep their
    /// order; the second value tells whether it does not.
    pub(crate) fn replace(&mut self, urls: Vec<String>) -> bool {
        let mut urls = unique(urls);
        if urls.is_empty() {
            return false;
        }
        shuffle(&mut urls);
        let (mut order, new): (Vec<_>, Vec<_>) = urls.into_iter().partition(|url| self.order.contains(url));
        order.sort_by_key(|url| self.order.iter().position(|known| known == url));
        order.extend(new);
        let has_moved = self.order.first() != order.first();
        self.order = order;
        has_moved
    }

    /// All of them, the one in use first.
    pub(crate) fn order(&self) -> Vec<String> {
        self.order.clone()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The one in use.
    pub(crate) fn current(&self) -> Option<&str> {
        self.order.first().map(String::as_str)
    }

    /// Takes `url` into use, with those before it moving to the end; whether another was in use.
    pub(crate) fn select(&mut self, url: &str) -> bool {
        match self.order.iter().position(|known| known == url) {
            Some(0) | None => false,
            Some(position) => {
                self.order.rotate_left(position);
                true
            }
        }
    }
}

/// A whole number by chance, for jitter and order. Nothing secret hangs on it.
pub(crate) fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn shuffle(urls: &mut [String]) {
    let state = RandomState::new();
    urls.sort_by_cached_key(|url| state.hash_one(url));
}

fn unique(urls: Vec<String>) -> Vec<String> {
    let mut known = Vec::new();
    for url in urls {
        let url = url.trim_end_matches('/').to_owned();
        if !url.is_empty() && !known.contains(&url) {
            known.push(url);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_new_list_keeps_the_endpoint_in_use() {
        let mut endpoints = Endpoints::new(urls(&["http://a", "http://b/", "http://a/"]));
        assert_eq!(endpoints.len(), 2);
        endpoints.select("http://b");
        assert_eq!(endpoints.current(), Some("http://b"));
        assert!(!endpoints.replace(urls(&["http://c", "http://b", "http://a"])));
        assert_eq!(endpoints.order(), urls(&["http://b", "http://a", "http://c"]));
        assert!(endpoints.replace(urls(&["http://c"])));
        assert!(!endpoints.replace(Vec::new()), "an empty answer is no news");
        assert_eq!(endpoints.order(), urls(&["http://c"]));
    }
}
