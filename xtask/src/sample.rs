//! `cargo xtask sample`: a random sample of comments, messages and pages, for readers who judge them against STYLE.md. The same
//! seed on the same tree draws the same sample.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::tidy::{Source, page_files, read_sources, workspace_root};

pub(crate) const USAGE: &str =
    "usage: cargo xtask sample [--seed S] [--comments N] [--messages N] [--pages N]

  --seed S       which sample; default 1
  --comments N   blocks of comment lines in Rust files; default 200
  --messages N   string literals of at least four words outside tests: log lines, errors, help; default 60
  --pages N      Markdown files; default 10. Pages are named, not printed";

/// The packages whose strings a user can read.
const PROGRAM: [&str; 8] = [
    "src/",
    "config/src/",
    "dcs/src/",
    "guard/src/",
    "ha/src/",
    "net/src/",
    "postgres/src/",
    "xtask/src/",
];

/// Something to judge: where it stands, and its text.
#[derive(Debug, PartialEq, Eq)]
struct Excerpt {
    place: String,
    text: String,
}

struct Options {
    seed: u64,
    comments: usize,
    messages: usize,
    pages: usize,
}

/// Draws the sample that the arguments ask for and prints it.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let options = parse(arguments)?;
    let root = workspace_root()?;
    let sources = read_sources(root)?;
    let comments = sources.iter().flat_map(comment_blocks).collect();
    let messages = sources
        .iter()
        .filter(|source| PROGRAM.iter().any(|folder| source.path.starts_with(folder)))
        .flat_map(messages)
        .collect();
    let mut random = Random::new(options.seed);
    print_sample("comments", options.comments, comments, &mut random);
    print_sample("messages", options.messages, messages, &mut random);
    print_sample("pages", options.pages, pages(root)?, &mut random);
    Ok(ExitCode::SUCCESS)
}

fn parse(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options {
        seed: 1,
        comments: 200,
        messages: 60,
        pages: 10,
    };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else {
            bail!("{} needs a number\n{USAGE}", pair.concat());
        };
        let number: u64 = value
            .parse()
            .with_context(|| format!("{name} needs a number, found {value:?}\n{USAGE}"))?;
        match name.as_str() {
            "--seed" => options.seed = number,
            "--comments" => options.comments = usize::try_from(number)?,
            "--messages" => options.messages = usize::try_from(number)?,
            "--pages" => options.pages = usize::try_from(number)?,
            _ => bail!("unknown option {name}\n{USAGE}"),
        }
    }
    Ok(options)
}

fn print_sample(what: &str, wanted: usize, mut all: Vec<Excerpt>, random: &mut Random) {
    let total = all.len();
    println!("== {what}: {} of {total}", wanted.min(total));
    for number in 1..=wanted.min(total) {
        let Excerpt { place, text } = all.swap_remove(random.below(all.len()));
        println!("\n{number}. {place}");
        for line in text.lines() {
            println!("    {line}");
        }
    }
    println!();
}

/// Comment lines that follow each other are one text.
fn comment_blocks(source: &Source) -> Vec<Excerpt> {
    let mut blocks: Vec<Excerpt> = Vec::new();
    let mut continues = false;
    for (index, line) in source.lines.iter().enumerate() {
        let comment = line.comment.trim();
        if comment.is_empty() {
            continues = false;
            continue;
        }
        let stands_alone = line.code.trim().is_empty();
        match blocks.last_mut().filter(|_| continues && stands_alone) {
            Some(block) => {
                block.text.push('\n');
                block.text.push_str(comment);
            }
            None => blocks.push(Excerpt {
                place: source.place(index),
                text: comment.to_owned(),
            }),
        }
        continues = stands_alone;
    }
    blocks
}

/// String literals outside tests that a person may read: at least four words.
fn messages(source: &Source) -> Vec<Excerpt> {
    let mut found = Vec::new();
    for (index, line) in source.lines.iter().enumerate().filter(|(_, line)| !line.is_test) {
        let long = line.strings.iter().filter(|text| is_sentence(text));
        found.extend(long.map(|text| Excerpt {
            place: source.place(index),
            text: text.clone(),
        }));
    }
    found
}

fn is_sentence(text: &str) -> bool {
    let words = text
        .split_whitespace()
        .filter(|word| word.chars().any(char::is_alphabetic));
    words.count() >= 4
}

/// The pages by name only: they are too long to print.
fn pages(root: &Path) -> anyhow::Result<Vec<Excerpt>> {
    let files = page_files(root)?;
    let excerpts = files.iter().map(|file| Excerpt {
        place: file.strip_prefix(root).unwrap_or(file).display().to_string(),
        text: String::new(),
    });
    Ok(excerpts.collect())
}

/// `SplitMix64`: small, and the same on every machine.
struct Random(u64);

impl Random {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit` - 1; 0 if `limit` is 0.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % limit).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "//! What it does,\n//! in two lines.\n\nfn a() { // why\n    // alone\n    b(\"cannot read it: WHY\", \"no\");\n}\n\n#[cfg(test)]\nmod tests {\n    const T: &str = \"a test says this too\";\n}\n";

    #[test]
    fn comments_are_drawn_as_blocks() {
        let blocks = comment_blocks(&Source::parse("a/src/lib.rs", FILE));
        let texts: Vec<&str> = blocks.iter().map(|block| block.text.as_str()).collect();
        assert_eq!(
            texts,
            ["//! What it does,\n//! in two lines.", "// why", "// alone"]
        );
        assert_eq!(blocks[1].place, "a/src/lib.rs:4");
    }

    #[test]
    fn messages_are_long_strings_outside_tests() {
        let found = messages(&Source::parse("a/src/lib.rs", FILE));
        assert_eq!(
            found,
            [Excerpt {
                place: "a/src/lib.rs:6".to_owned(),
                text: "cannot read it: WHY".to_owned()
            }]
        );
    }

    #[test]
    fn a_seed_draws_the_same_sample() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..20).map(|_| random.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_eq!(Random::new(1).below(0), 0);
    }
}
