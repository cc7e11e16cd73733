//! The PostgreSQL and Patroni installations to test with. See STYLE.md, "Tests".

use std::path::{Path, PathBuf};

/// One installation of PostgreSQL.
#[derive(Clone, Debug)]
pub struct Postgresql {
    pub bin: PathBuf,
    pub major: u32,
}

/// The oldest version that is here.
pub fn oldest() -> Postgresql {
    installations()
        .into_iter()
        .next()
        .expect("PostgreSQL: set TAMADA_TEST_PG_BIN or install it")
}

/// The newest version that is here.
pub fn newest() -> Postgresql {
    installations()
        .pop()
        .expect("PostgreSQL: set TAMADA_TEST_PG_BIN or install it")
}

fn installations() -> Vec<Postgresql> {
    let directories: Vec<PathBuf> = match std::env::var_os("TAMADA_TEST_PG_BIN") {
        Some(list) => std::env::split_paths(&list).collect(),
        None => {
            let debian = std::fs::read_dir("/usr/lib/postgresql")
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().join("bin"));
            debian.chain([target().join("pg18/bin")]).collect()
        }
    };
    let mut found: Vec<Postgresql> = directories
        .into_iter()
        .filter(|bin| bin.join("initdb").exists())
        .map(|bin| Postgresql {
            major: major_version(&bin),
            bin,
        })
        .collect();
    found.sort_by_key(|postgresql| postgresql.major);
    found
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` is 15.
fn major_version(bin: &Path) -> u32 {
    let output = std::process::Command::new(bin.join("postgres"))
        .arg("--version")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.split_whitespace().nth(2).unwrap();
    version
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// The directory with Patroni's programs.
pub fn patroni() -> PathBuf {
    let bin = std::env::var_os("TAMADA_TEST_PATRONI_BIN")
        .map_or_else(|| target().join("patroni/bin"), PathBuf::from);
    assert!(
        bin.join("patroni").exists(),
        "no Patroni in {}: run scripts/get-patroni.sh, or set TAMADA_TEST_PATRONI_BIN",
        bin.display()
    );
    bin
}

/// Cargo's `target`.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .to_owned()
}
