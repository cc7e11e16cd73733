//! WAL that waits for the archive while the server is down: nothing throws it away.

use crate::harness::{Installation, Node, soon, tests};
use std::fs;
use std::path::{Path, PathBuf};
use tamada_postgres::rewind::Rewound;

tests![
    archiving_is_found_wherever_it_is_set,
    one_file_that_fails_holds_no_other_up_and_the_rewind_waits,
    what_cannot_be_archived_from_here_is_kept,
];

const HISTORY: &str = "00000009.history";
const SEGMENTS: [&str; 3] = [
    "000000090000000000000001",
    "000000090000000000000002",
    "000000090000000000000003",
];

async fn stopped(installation: &Installation) -> (Node, PathBuf) {
    let a = Node::primary(installation, "a").await;
    a.stop().await;
    let archive = a.dir.path().join("archive");
    fs::create_dir(&archive).unwrap();
    (a, archive)
}

fn status_dir(node: &Node) -> PathBuf {
    node.data_dir().join("pg_wal/archive_status")
}

fn wait_for_archive(node: &Node, files: &[&str]) {
    for file in files {
        fs::write(node.data_dir().join("pg_wal").join(file), file).unwrap();
        fs::write(status_dir(node).join(format!("{file}.ready")), "").unwrap();
    }
}

fn append(path: &Path, text: &str) {
    let before = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, format!("{before}\n{text}\n")).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

async fn archiving_is_found_wherever_it_is_set(installation: Installation) {
    let (a, archive) = stopped(&installation).await;
    let data = a.data_dir();
    let command = format!("cp %p {}/%f", archive.display());
    let opts = data.join("postmaster.opts");
    let last_start = fs::read_to_string(&opts).unwrap();
    let included = data.join("included.conf");
    append(
        &data.join("postgresql.base.conf"),
        "include_if_exists = 'included.conf'",
    );
    for place in ["an include", "ALTER SYSTEM", "the command line"] {
        wait_for_archive(&a, &SEGMENTS);
        let settings = |mode: &str| format!("archive_mode = {mode}\narchive_command = '{command}'");
        let by_system = data.join("postgresql.auto.conf");
        match place {
            "an include" => fs::write(&included, settings("'ON'")).unwrap(),
            "ALTER SYSTEM" => fs::write(&by_system, settings("yes")).unwrap(),
            _ => {
                let options = format!("\"--archive_mode=1\" \"--archive_command={command}\"");
                fs::write(&opts, format!("{} {options}\n", last_start.trim())).unwrap();
            }
        }
        a.server.save_waiting_wal(soon()).await.unwrap();
        assert_eq!(names(&archive), SEGMENTS, "{place}");
        assert!(
            names(&status_dir(&a)).iter().all(|name| name.ends_with(".done")),
            "{place}"
        );
        for file in SEGMENTS {
            fs::remove_file(archive.join(file)).unwrap();
        }
        let _ = fs::remove_file(&included);
        let _ = fs::remove_file(&by_system);
    }
}

async fn one_file_that_fails_holds_no_other_up_and_the_rewind_waits(installation: Installation) {
    let (a, archive) = stopped(&installation).await;
    let [first, missing, last] = SEGMENTS;
    wait_for_archive(&a, &[first, missing, last, HISTORY]);
    fs::remove_file(a.data_dir().join("pg_wal").join(missing)).unwrap();
    let gate = a.dir.path().join("gate");
    let command = format!(
        "(test %f != {first} || test -e {}) && cp %p {}/%f",
        gate.display(),
        archive.display()
    );
    let settings = format!("archive_mode = on\narchive_command = '{command}'");
    append(&a.data_dir().join("postgresql.base.conf"), &settings);
    let Rewound::WalWaits(why) = a.server.rewind(&a.source(), soon()).await.unwrap() else {
        panic!("it waits");
    };
    assert!(why.contains(first) && !why.contains(last), "{why}");
    assert_eq!(names(&archive), [HISTORY, last]);
    assert!(!a.server.is_half_rewound());

    fs::write(&gate, "").unwrap();
    let rewound = a.server.rewind(&a.source(), soon()).await;
    assert!(!matches!(rewound, Ok(Rewound::WalWaits(_))), "{rewound:?}");
    assert_eq!(names(&archive), [HISTORY, first, last]);
    assert!(!a.dir.path().join("data.unarchived").exists());
}

async fn what_cannot_be_archived_from_here_is_kept(installation: Installation) {
    let (a, _) = stopped(&installation).await;
    wait_for_archive(&a, &SEGMENTS);
    let kept = a.dir.path().join("data.unarchived");
    // Archiving is off: nothing waits.
    a.server.save_waiting_wal(soon()).await.unwrap();
    assert!(!kept.exists());
    let settings = if installation.major >= 15 {
        "archive_mode = on\narchive_library = 'basic_archive'"
    } else {
        "archive_mode = on\narchive_command = ''"
    };
    append(&a.data_dir().join("postgresql.base.conf"), settings);
    a.server.save_waiting_wal(soon()).await.unwrap();
    assert_eq!(names(&kept), SEGMENTS);
    a.server.remove_data_directory().await.unwrap();
    assert_eq!(fs::read_to_string(kept.join(SEGMENTS[0])).unwrap(), SEGMENTS[0]);
}
