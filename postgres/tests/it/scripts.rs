//! Callbacks, `pre_promote`, `before_stop`.

use crate::harness::{Installation, Node, is_alive, script, soon, tests, until};
use ha::pg::Role;
use ha::step::Callback;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use tamada_postgres::Error;

tests![
    callbacks_get_their_arguments_and_yield_to_newer_ones,
    scripts_that_are_waited_for
];

async fn callbacks_get_their_arguments_and_yield_to_newer_ones(installation: Installation) {
    let node = Node::new(&installation, "a");
    let dir = node.dir.path();
    let quick = script(dir, "quick", "echo \"$@\" > \"${0}.args\"");
    let slow = script(dir, "slow", "sleep 300 & echo $! > \"${0}.pid\"; wait");
    node.configure(&format!(
        "postgresql: {{callbacks: {{on_role_change: '{quick} first', on_start: {slow}, on_reload: {slow}, on_stop: /nonexistent}}}}"
    ));
    let read = |name: &str| {
        fs::read_to_string(dir.join(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    node.server.run_callback(Callback::OnReload, Role::Primary);
    until("the slow one runs", async || !read("slow.pid").is_empty()).await;
    let reload_child: i32 = read("slow.pid").parse().unwrap();
    fs::remove_file(dir.join("slow.pid")).unwrap();
    node.server.run_callback(Callback::OnStart, Role::Primary);
    until("the slow one runs", async || !read("slow.pid").is_empty()).await;
    let start_child: i32 = read("slow.pid").parse().unwrap();
    node.server
        .run_callback(Callback::OnRoleChange, Role::StandbyLeader);
    until("the quick one has run", async || {
        read("quick.args") == "first on_role_change standby_leader demo"
    })
    .await;
    until("the former one is gone with its child", async || {
        !is_alive(start_child)
    })
    .await;
    assert!(is_alive(reload_child), "on_reload has a place of its own");
    node.server.run_callback(Callback::OnStop, Role::Primary);
    node.server.run_callback(Callback::OnRestart, Role::Primary);
    node.server.run_callback(Callback::OnReload, Role::Primary);
    until("the former reload is gone", async || !is_alive(reload_child)).await;

    fs::remove_file(dir.join("slow.pid")).unwrap();
    node.server.run_callback(Callback::OnStart, Role::Primary);
    until("the slow one runs", async || !read("slow.pid").is_empty()).await;
    let child: i32 = read("slow.pid").parse().unwrap();
    node.server.leave_callbacks().await;
    fs::remove_file(dir.join("quick.args")).unwrap();
    node.server.run_callback(Callback::OnRoleChange, Role::Primary);
    until("another one has run", async || !read("quick.args").is_empty()).await;
    assert!(is_alive(child), "it was left to itself");
    kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
}

async fn scripts_that_are_waited_for(installation: Installation) {
    let node = Node::new(&installation, "a");
    assert!(node.server.run_pre_promote(soon()).await.unwrap());
    for (command, allowed) in [
        ("true", true),
        ("false", false),
        ("/nonexistent", false),
        ("'", false),
    ] {
        node.configure(&format!("postgresql: {{pre_promote: \"{command}\"}}"));
        assert_eq!(
            node.server.run_pre_promote(soon()).await.unwrap(),
            allowed,
            "{command}"
        );
    }
    node.configure("postgresql: {pre_promote: sleep 300}");
    let deadline = tamada_postgres::Instant::now() + std::time::Duration::from_millis(200);
    assert!(matches!(
        node.server.run_pre_promote(deadline).await,
        Err(Error::Timeout { .. })
    ));

    let command = script(
        node.dir.path(),
        "before",
        "cp \"$1/postmaster.pid\" \"$1/../seen\"",
    );
    node.configure(&format!(
        "postgresql: {{before_stop: '{command} {}'}}",
        node.data_dir().display()
    ));
    node.bootstrap().await;
    node.stop().await;
    assert!(
        node.dir.path().join("seen").exists(),
        "it ran while the server was there"
    );
}
