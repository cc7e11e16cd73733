//! What is wrong is said clearly, and nothing is lost.

use crate::harness::{Installation, Node, soon, tests};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use tamada_postgres::{DataDirectory, Error, Recovery, StartOptions};

tests![
    a_wrong_bin_dir_is_named,
    a_port_in_use_is_told_in_the_servers_words,
    a_data_directory_open_to_all_is_refused_by_the_server,
    a_directory_of_something_else_is_left_alone,
    a_broken_include_is_told,
    a_failed_cluster_is_set_aside,
];

fn as_primary() -> StartOptions {
    StartOptions {
        recovery: Recovery::Primary,
        without_hot_standby: false,
    }
}

async fn a_wrong_bin_dir_is_named(installation: Installation) {
    let node = Node::with(&installation, "a", "postgresql: {bin_dir: /nonexistent}");
    let error = node.server.initdb(&[], &[], soon()).await.unwrap_err();
    assert!(matches!(error, Error::Spawn { .. }));
    assert!(error.to_string().contains("/nonexistent/initdb"), "{error}");
    let error = node.server.version(soon()).await.unwrap_err().to_string();
    assert!(error.contains("bin_dir"), "{error}");
}

async fn a_port_in_use_is_told_in_the_servers_words(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    node.stop().await;
    let _other = std::net::TcpListener::bind(("127.0.0.1", node.port)).unwrap();
    let error = node.server.start(&as_primary(), soon()).await.unwrap_err();
    assert!(matches!(error, Error::StartFailed { .. }));
    let text = error.to_string();
    assert!(
        text.contains("Address already in use") && text.contains(&node.port.to_string()),
        "{text}"
    );
}

async fn a_data_directory_open_to_all_is_refused_by_the_server(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    node.stop().await;
    fs::set_permissions(node.data_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let text = node
        .server
        .start(&as_primary(), soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("has invalid permissions"), "{text}");
    fs::set_permissions(node.data_dir(), fs::Permissions::from_mode(0o000)).unwrap();
    assert!(matches!(
        node.server.data_directory(),
        DataDirectory::Inaccessible(_)
    ));
    assert!(node.server.start(&as_primary(), soon()).await.is_err());
    fs::set_permissions(node.data_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    node.start(Recovery::Primary).await;
}

async fn a_directory_of_something_else_is_left_alone(installation: Installation) {
    let node = Node::new(&installation, "a");
    fs::create_dir(node.data_dir()).unwrap();
    fs::write(node.data_dir().join("thesis.tex"), "important").unwrap();
    assert!(matches!(
        node.server.data_directory(),
        DataDirectory::Incomplete(_)
    ));
    let error = node
        .server
        .initdb(&[], &[], soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("not empty"), "{error}");
    assert!(!node.server.remove_unfinished_copy().await.unwrap());
    assert!(node.data_dir().join("thesis.tex").exists());
    node.server.remove_data_directory().await.unwrap();
    assert!(
        node.dir.path().join("data.failed/thesis.tex").exists(),
        "renamed, not removed"
    );
    let forbidden = [("pwfile".to_owned(), Some("/etc/passwd".to_owned()))];
    let error = node
        .server
        .initdb(&forbidden, &[], soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("pwfile") && error.contains("not allowed"),
        "{error}"
    );
    let unknown = [("no-such-option".to_owned(), None)];
    let error = node
        .server
        .initdb(&unknown, &[], soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("initdb failed") && error.contains("no-such-option"),
        "{error}"
    );
}

async fn a_broken_include_is_told(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    node.stop().await;
    let base = node.data_dir().join("postgresql.base.conf");
    fs::write(&base, "work_mem = \n").unwrap();
    let text = node
        .server
        .start(&as_primary(), soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("postgresql.base.conf") && text.contains("syntax error"),
        "{text}"
    );
}

async fn a_failed_cluster_is_set_aside(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    assert!(
        node.server.set_data_directory_aside().await.is_err(),
        "not while it runs"
    );
    node.stop().await;
    node.server.set_data_directory_aside().await.unwrap();
    assert_eq!(node.server.data_directory(), DataDirectory::Empty);
    assert!(node.dir.path().join("data.failed/global/pg_control").exists());
    node.bootstrap().await;
    node.stop().await;
    node.server.remove_data_directory().await.unwrap();
    assert!(!node.data_dir().exists());
}
