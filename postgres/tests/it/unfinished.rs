//! Copies that are cut off: nothing of them stays in the way, nothing runs on beside the next one, and nothing is started
//! on them.

use crate::harness::{Installation, Node, is_alive, script, soon, tests, until};
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tamada_postgres::{CloneMethods, CloneSource, DataDirectory, Recovery, Server, StartOptions};

tests![
    a_copy_with_directories_elsewhere_is_cut_off_and_made_again,
    an_orphan_is_asked_to_end_and_its_record_survives_an_emptied_directory,
    kept_data_stays_after_the_agent_was_killed,
    a_directory_whose_parent_cannot_be_written_to_has_a_record,
    a_new_cluster_is_unfinished_until_its_roles_are_made,
];

const NOBODY: CloneSource = CloneSource {
    name: None,
    source: None,
};

/// Runs `work` until `begun`, and leaves it then as an agent does that is killed: what it has started runs on.
async fn killed(what: &str, work: impl Future + 'static, begun: impl Fn() -> bool) {
    let mut work = Box::pin(work);
    tokio::select! {
        _ = &mut work => panic!("{what} has ended"),
        () = until(what, async || begun()) => {}
    }
    std::mem::forget(work);
}

fn clone(server: &Server, from: CloneSource) -> impl Future + use<> {
    let server = server.clone();
    async move {
        server
            .create_replica(&from, &CloneMethods::Configured, soon())
            .await
    }
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}

fn number_in(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Tablespaces come before anything in the data directory does, so that no link there leads to them yet.
async fn a_copy_with_directories_elsewhere_is_cut_off_and_made_again(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let (plain, space) = (a.dir.path().join("plain"), a.dir.path().join("space"));
    for place in [&plain, &space] {
        fs::create_dir(place).unwrap();
    }
    for (name, place) in [("plain", &plain), ("s", &space)] {
        a.sql(&format!(
            "CREATE TABLESPACE {name} LOCATION '{}'",
            place.display()
        ));
        a.sql(&format!("CREATE TABLE in_{name} TABLESPACE {name} AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)"));
    }
    let b = Node::new(&installation, "b");
    let at = |name: &str| b.dir.path().join(name);
    let options = format!(
        "[{{waldir: {}}}, {{tablespace-mapping: '{}={}'}}, {{tablespace-mapping: '{}={}'}}]",
        at("wal").display(),
        plain.display(),
        at("plain").display(),
        space.display(),
        at("space").display()
    );
    // Slow, so that it is still in a tablespace.
    let with = |rate: &str| {
        b.configure(&format!(
            "postgresql: {{basebackup: {}{rate}]}}",
            options.trim_end_matches(']')
        ));
    };
    with(", {max-rate: 1M}");
    let from = CloneSource {
        name: Some("a".to_owned()),
        source: Some(a.source()),
    };
    let filled = || entries(&at("plain")) + entries(&at("space")) > 0;
    killed("a tablespace is filled", clone(&b.server, from.clone()), filled).await;
    assert!(at("data.unfinished").exists());
    with("");
    b.server
        .create_replica(&from, &CloneMethods::Configured, soon())
        .await
        .unwrap();
    assert_eq!(b.server.data_directory(), DataDirectory::Filled);
    assert!(!at("data.unfinished").exists());
    assert!(b.data_dir().join("pg_wal").is_symlink() && entries(&at("space")) > 0);

    // Removed as well when nobody copies again.
    with(", {max-rate: 1M}");
    b.server.remove_data_directory().await.unwrap();
    killed("a tablespace is filled", clone(&b.server, from), filled).await;
    assert!(b.server.remove_unfinished_copy().await.unwrap());
    for place in ["plain", "space", "wal", "data"] {
        assert_eq!(entries(&at(place)), 0, "{place}");
    }
    assert!(!b.server.remove_unfinished_copy().await.unwrap());
}

/// As `pgbackrest restore --delta`, which removes every file that the backup does not have, the mark too.
async fn an_orphan_is_asked_to_end_and_its_record_survives_an_emptied_directory(installation: Installation) {
    let a = Node::new(&installation, "a");
    let at = |name: &str| a.dir.path().join(name);
    let data = a.data_dir();
    // A child in a session of its own stands for what a process group does not reach.
    let text = format!(
        "trap 'echo asked >> {dir}/asked; exit 1' TERM
         mkdir -p {data}/global {data}/base; touch {data}/PG_VERSION
         until test -e {data}/tamada.unfinished; do sleep 0.02; done
         find {data} -type f -delete
         setsid sleep 300 & echo $! > {dir}/stray
         echo $$ > {dir}/pid
         while true; do sleep 0.1; done",
        dir = a.dir.path().display(),
        data = data.display()
    );
    let restore = script(a.dir.path(), "restore", &text);
    a.configure(&format!(
        "postgresql: {{create_replica_methods: [restore], restore: {{command: '{restore}', no_leader: true}}}}"
    ));
    killed("the restore runs", clone(&a.server, NOBODY), || {
        number_in(&at("pid")).is_some()
    })
    .await;
    fs::remove_file(data.join("tamada.unfinished")).ok();
    assert_eq!(a.server.data_directory(), DataDirectory::Unfinished);
    let pids = [number_in(&at("pid")).unwrap(), number_in(&at("stray")).unwrap()];
    assert!(a.server.remove_unfinished_copy().await.unwrap());
    for pid in pids {
        assert!(!is_alive(pid), "{pid}");
    }
    assert_eq!(fs::read_to_string(at("asked")).unwrap(), "asked\n");
    assert_eq!(a.server.data_directory(), DataDirectory::Empty);

    // A copy that is cancelled is asked too, and the next one waits for its end.
    for name in ["pid", "asked"] {
        fs::remove_file(at(name)).unwrap();
    }
    let copying = tokio::spawn(async_of(&a.server));
    until("the restore runs", async || number_in(&at("pid")).is_some()).await;
    let pid = number_in(&at("pid")).unwrap();
    copying.abort();
    assert!(copying.await.unwrap_err().is_cancelled());
    a.server.end_filling().await.unwrap();
    assert!(!is_alive(pid));
    assert!(fs::read_to_string(at("asked")).unwrap().starts_with("asked\n"));
}

fn async_of(server: &Server) -> impl Future<Output = ()> + Send + use<> {
    let server = server.clone();
    async move {
        let _ = server
            .create_replica(&NOBODY, &CloneMethods::Configured, soon())
            .await;
    }
}

async fn kept_data_stays_after_the_agent_was_killed(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    a.stop().await;
    let mine = a.data_dir().join("base/mine");
    fs::write(&mine, "").unwrap();
    let note = a.dir.path().join("pid");
    let wait = format!("echo $$ > {}; sleep 300", note.display());
    let delta = script(a.dir.path(), "delta", &wait);
    let method = |command: &str| {
        a.configure(&format!(
            "postgresql: {{create_replica_methods: [delta], delta: {{command: '{command}', no_leader: true, keep_data: true}}}}"
        ));
    };
    method(&delta);
    killed("the restore runs", clone(&a.server, NOBODY), || {
        number_in(&note).is_some()
    })
    .await;
    // Another agent starts.
    assert!(!a.server.remove_unfinished_copy().await.unwrap());
    assert!(!is_alive(number_in(&note).unwrap()));
    assert!(mine.exists());
    assert_eq!(
        a.server.data_directory(),
        DataDirectory::Unfinished,
        "it may be half of a restore"
    );
    let options = StartOptions {
        recovery: Recovery::Primary,
        without_hot_standby: false,
    };
    let error = a.server.start(&options, soon()).await.unwrap_err().to_string();
    assert!(error.contains("not finished"), "{error}");
    method("true");
    a.server
        .create_replica(&NOBODY, &CloneMethods::Configured, soon())
        .await
        .unwrap();
    assert!(mine.exists());
    a.start(Recovery::Primary).await;
    a.stop().await;

    // A method that cannot be run has touched nothing.
    method("/nonexistent");
    assert!(
        a.server
            .create_replica(&NOBODY, &CloneMethods::Configured, soon())
            .await
            .is_err()
    );
    assert_eq!(a.server.data_directory(), DataDirectory::Filled);
}

async fn a_directory_whose_parent_cannot_be_written_to_has_a_record(installation: Installation) {
    let a = Node::new(&installation, "a");
    let parent = a.dir.path().join("mounts");
    let data = parent.join("data");
    fs::create_dir_all(&data).unwrap();
    let note = a.dir.path().join("pid");
    let text = format!(
        "touch {}/PG_VERSION; echo $$ > {}; sleep 300",
        data.display(),
        note.display()
    );
    let restore = script(a.dir.path(), "restore", &text);
    a.configure(&format!(
        "postgresql: {{data_dir: '{}', config_dir: '{}', pgpass: '{}/pgpass', create_replica_methods: [restore], \
         restore: {{command: '{restore}', no_leader: true}}}}",
        data.display(),
        data.display(),
        a.dir.path().display()
    ));
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o500)).unwrap();
    killed("the restore runs", clone(&a.server, NOBODY), || {
        number_in(&note).is_some()
    })
    .await;
    for entry in fs::read_dir(&data).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::write(data.join("PG_VERSION"), "").unwrap();
    assert!(a.server.remove_unfinished_copy().await.unwrap());
    assert!(!is_alive(number_in(&note).unwrap()));
    assert_eq!(entries(&data), 0);
    assert!(!a.server.remove_unfinished_copy().await.unwrap());
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o700)).unwrap();
}

async fn a_new_cluster_is_unfinished_until_its_roles_are_made(installation: Installation) {
    let a = Node::new(&installation, "a");
    let options = [("no-sync".to_owned(), None)];
    a.server.initdb(&options, &[], soon()).await.unwrap();
    assert!(a.server.is_unfinished_cluster().unwrap());
    a.start(Recovery::Primary).await;
    assert!(a.server.is_unfinished_cluster().unwrap());
    a.server.finish_new_cluster().unwrap();
    assert!(!a.server.is_unfinished_cluster().unwrap());
    a.stop().await;

    // The same when it is set aside.
    a.server.remove_data_directory().await.unwrap();
    a.server.initdb(&options, &[], soon()).await.unwrap();
    a.server.set_data_directory_aside().await.unwrap();
    assert!(!a.server.is_unfinished_cluster().unwrap());
}
