//! Two members are promoted without knowing of each other, to timelines of one number that begin at one position.

use crate::harness::versions::Postgresql;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, oldest, seconds};
use serde_json::{Value, json};

#[test]
fn a_timeline_of_that_number_is_not_that_timeline_on_the_oldest_postgresql() {
    promote_twice(oldest());
}

#[test]
fn a_timeline_of_that_number_is_not_that_timeline_on_the_newest_postgresql() {
    promote_twice(newest());
}

fn promote_twice(postgresql: Postgresql) {
    let mut cluster = Cluster::new(postgresql, 3);
    let a = cluster.bootstrap();
    let [b, c] = cluster.others(&a).try_into().unwrap();
    lose_the_first_two_leaders(&mut cluster, [&a, &b, &c]);

    // The second one to be promoted goes on from where the first one did.
    cluster.member_mut(&c).start();
    assert_eq!(cluster.wait_for_primary(seconds(40)), c);
    write(&cluster, &c, "of_c");
    assert_eq!(switch_points(&cluster, &c), switch_points(&cluster, &b));
    let origin = eventually("c tells of its timeline", seconds(20), || {
        let origins = cluster.document("origin");
        holds(origins[0]["promoter"] == *c, || origins.to_string())?;
        Ok::<_, String>(origins[0].clone())
    });
    assert_eq!(origin["timeline"], json!(2), "{origin}");
    tells(&cluster, &c, &origin);

    // For PostgreSQL what the first one has written belongs to the same timeline.
    cluster.member_mut(&b).start();
    let apart =
        format!("not following {c}: a timeline here is another one of that number; reinitialize this member");
    cluster.member(&b).wait_for_log(&apart, seconds(30));
    assert_eq!(cluster.member(&b).postmaster(), None, "{b} was started");
    assert!(!cluster.member(&b).log().contains("running pg_rewind"));

    let permit = "\npostgresql:\n  remove_data_directory_on_diverged_timelines: true\n";
    cluster.member(&b).edit_config("\npostgresql:\n", permit);
    cluster.member(&b).ask("POST", "/reload", None);
    cluster.member_mut(&a).start();
    assert_eq!(cluster.wait_until_healthy(seconds(60)), c);
    assert_eq!(
        cluster.member(&b).value("select to_regclass('of_b') is null"),
        "t"
    );
    cluster.wait_until_replicated(&c, &b, seconds(10));
    tells(&cluster, &b, &origin);
    the_next_promotion_goes_on(&cluster, [&b, &c], &origin);
}

fn tells(cluster: &Cluster, member: &str, origin: &Value) {
    eventually(&format!("{member} tells {origin}"), seconds(20), || {
        let told = cluster.member(member).status()?["tamada_origin"].clone();
        holds(told["nonce"] == origin["nonce"], || told.to_string())
    });
}

/// The first leader and one of its replicas are lost at once; the other replica takes over, writes, and is lost too.
fn lose_the_first_two_leaders(cluster: &mut Cluster, [a, b, c]: [&str; 3]) {
    cluster.wait_until_replayed(a);
    cluster.ctl(&["pause", "demo", "--wait"]);
    cluster.member_mut(a).kill_all();
    let received = |member: &str| {
        let position = "select pg_last_wal_receive_lsn()";
        cluster.member(member).value(position)
    };
    eventually("both have received the same", seconds(10), || {
        let (of_b, of_c) = (received(b), received(c));
        holds(of_b == of_c, || format!("{of_b} is not {of_c}"))
    });
    cluster.member_mut(c).kill_all();
    cluster.patch(&json!({ "pause": null }));
    assert_eq!(cluster.wait_for_primary(seconds(40)), b);
    write(cluster, b, "of_b");
    eventually("b tells of its timeline", seconds(20), || {
        let origins = cluster.document("origin");
        holds(origins[0]["promoter"] == *b, || origins.to_string())
    });
    cluster.member_mut(b).kill_all();
}

/// The leader key comes first, then the promotion.
fn write(cluster: &Cluster, member: &str, table: &str) {
    eventually(&format!("{member} takes writes"), seconds(10), || {
        cluster.member(member).query(&format!("create table {table} ()"))
    });
}

fn switch_points(cluster: &Cluster, member: &str) -> String {
    let path = cluster.member(member).data_dir().join("pg_wal/00000002.history");
    std::fs::read_to_string(path).unwrap()
}

fn the_next_promotion_goes_on(cluster: &Cluster, [b, c]: [&str; 2], second: &Value) {
    let output = cluster.ctl(&["switchover", "demo", "--leader", c, "--candidate", b, "--force"]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    cluster.wait_until_healthy(seconds(30));
    eventually("the key tells of both promotions", seconds(20), || {
        let origins = cluster.document("origin");
        let goes_on = origins[0] == *second && origins[1]["promoter"] == *b;
        holds(goes_on && origins[1]["timeline"] == 3, || origins.to_string())
    });
}
