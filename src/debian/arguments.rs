//! Command lines of the form that Debian's scripts take: `--name=value` and words, in any order; what is unknown is
//! ignored, as callers give more than a script needs.

/// A command line, taken apart.
pub(super) struct Arguments<'a> {
    options: Vec<(&'a str, &'a str)>,
    /// What does not begin with two dashes, in order.
    pub(super) words: Vec<&'a str>,
}

impl<'a> Arguments<'a> {
    pub(super) fn parse(arguments: &'a [String]) -> Self {
        let mut options = Vec::new();
        let mut words = Vec::new();
        for argument in arguments {
            match argument.strip_prefix("--") {
                Some(option) => options.push(option.split_once('=').unwrap_or((option, ""))),
                None => words.push(argument.as_str()),
            }
        }
        Self { options, words }
    }

    /// The value of the last option of this name; one that is empty counts as not given.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        let mut given = self.options.iter().rev();
        let (_, value) = given.find(|(option, _)| *option == name)?;
        Some(*value).filter(|value| !value.is_empty())
    }

    /// Whether there is an option of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(option, _)| *option == name)
    }
}

#[cfg(test)]
mod tests {
    use super::Arguments;

    #[test]
    fn options_and_words_in_any_order() {
        let line = ["--port=5433", "18", "--vip=", "--force", "demo", "--what"];
        let line = line.map(String::from);
        let arguments = Arguments::parse(&line);
        assert_eq!(arguments.words, ["18", "demo"]);
        assert_eq!(arguments.value("port"), Some("5433"));
        assert_eq!(arguments.value("vip"), None);
        assert_eq!(arguments.value("hostip"), None);
        assert!(arguments.has("force") && !arguments.has("forc"));
    }
}
