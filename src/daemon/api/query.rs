//! The query string of a request.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// Names and values. Of a repeated name the first value counts; a name without a value is as if it were not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads what stands behind the `?`, as an HTML form would write it.
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |part: &str| {
            percent_decode_str(&part.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let mut values = BTreeMap::new();
        for pair in text.split('&') {
            if let Some((name, value)) = pair.split_once('=').filter(|(_, value)| !value.is_empty()) {
                values.entry(decode(name)).or_insert_with(|| decode(value));
            }
        }
        Self(values)
    }

    /// The value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What `tag_<key>=<value>` ask for, as keys and values.
    pub(crate) fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("tag_")?, value.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn first_value_counts_and_empty_ones_do_not() {
        let query = Query::parse("lag=10MB&lag=1&tag_a%20b=c+d&tag_e=&mode&=x");
        assert_eq!((query.get("lag"), query.get("mode")), (Some("10MB"), None));
        assert_eq!(query.tags().collect::<Vec<_>>(), [("a b", "c d")]);
        assert_eq!(Query::parse(""), Query::default());
    }
}
