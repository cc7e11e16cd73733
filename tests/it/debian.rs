//! Three Debian hosts under systemd, with the packages: what an operator types, from nothing to a failover, and the way
//! from Debian's own Patroni and back while a client writes.

use crate::harness::hosts::Hosts;
use crate::harness::{Writer, seconds};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const CTL: &str = "patronictl -c /etc/patroni/18-demo.yml";

/// The password that an operator gives the superuser, so that clients come in over the network.
const PASSWORD: &str = "SUPERUSER-PASSWORD";

/// The block of the page that has this text in it, with the addresses of these hosts.
#[track_caller]
fn quick_start(text: &str) -> String {
    let page = include_str!("../../docs/quick-start.md");
    let blocks = page.split("\n```").skip(1).step_by(2);
    let block = blocks.map(|block| block.split_once('\n').map_or("", |(_, block)| block));
    let mut found = block.filter(|block| block.contains(text));
    let block = found
        .next()
        .unwrap_or_else(|| panic!("no block of the page has {text}"));
    block.replace("10.0.0.", "10.78.0.")
}

/// How long a member may take to be created, or to come back, on a busy machine.
const SETTLED: Duration = seconds(90);

/// No write waits longer than this when nothing happens to the primary, on a busy machine.
const WITHOUT_NOTICE: Duration = seconds(2);

/// A switchover by Patroni takes 2.5 s where there is nothing else to do.
const SWITCHOVER: Duration = seconds(8);

/// etcd on all three hosts, as a host's own file says it.
/// The virtual address.
const VIP: &str = "10.78.0.99";

fn start_etcd(hosts: &Hosts) {
    for node in hosts.names() {
        let own = Hosts::address(node);
        let line = |line: &str| {
            if line.starts_with("ETCD_INITIAL_CLUSTER=") {
                format!("{line}\n")
            } else {
                format!("{}\n", line.replace("node1", node).replace("10.78.0.11", &own))
            }
        };
        let file: String = quick_start("ETCD_NAME=").lines().map(line).collect();
        hosts.run(
            node,
            &format!("systemctl stop etcd; rm -rf /var/lib/etcd/default\ncat > /etc/default/etcd <<END\n{file}END\n"),
        );
    }
    hosts.run_on_all("systemctl enable --now etcd");
}

/// What `pg_createconfig_patroni 18 demo` needs: where etcd is, and clients of the network in pg_hba.conf. The cluster
/// that comes with PostgreSQL's package has the port.
fn prepare_configuration(hosts: &Hosts) {
    hosts.run_on_all(
        "pg_dropcluster --stop 18 main
         printf 'etcd3:\n  host: 127.0.0.1:2379\n' > /etc/patroni/dcs.yml
         sed -i 's/^#\\( *- host *all *all *@NETWORK@\\)/\\1/' /etc/patroni/config.yml.in",
    );
}

/// The role of each member in what `list` prints, `None` as long as not all are well.
fn leader(table: &str) -> Option<String> {
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| node"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let leader = rows
        .iter()
        .find(|row| row[3] == "Leader" && row[4] == "running")?;
    let streams = |row: &&Vec<&str>| row[3] == "Replica" && row[4] == "streaming" && row[5] == leader[5];
    (rows.iter().filter(streams).count() == 2).then(|| leader[1].to_owned())
}

/// Waits until one leads and the others stream; its name.
#[track_caller]
fn wait_until_healthy(hosts: &Hosts, node: &str) -> String {
    let table = hosts.wait_for(node, &format!("{CTL} list"), SETTLED, |table| {
        leader(table).is_some()
    });
    leader(&table).unwrap()
}

fn give_password(hosts: &Hosts, leader: &str) {
    let statement = format!("alter role postgres password '{PASSWORD}'");
    hosts.run(leader, &format!("su postgres -c \"psql -c \\\"{statement}\\\"\""));
}

/// Who answers a client that looks for the primary on all hosts.
fn primary_for_clients(hosts: &Hosts, from: &str) -> String {
    let conninfo = "user=postgres host=node1,node2,node3 target_session_attrs=read-write connect_timeout=2";
    let query = "select inet_server_addr()";
    let psql = format!("PGPASSWORD={PASSWORD} psql -XAt -d \"{conninfo}\" -c '{query}'");
    let address = hosts.wait_for(from, &psql, SETTLED, |text| text.starts_with("10."));
    let address = address.trim().to_owned();
    hosts
        .names()
        .iter()
        .find(|node| Hosts::address(node) == address)
        .unwrap()
        .clone()
}

/// As shipped, with the addresses of these hosts.
fn start_haproxy(hosts: &Hosts, node: &str) {
    hosts.run(
        node,
        "sed 's/10\\.0\\.0\\./10.78.0./' /usr/share/doc/tamada/examples/haproxy.cfg > /etc/haproxy/haproxy.cfg
         haproxy -c -f /etc/haproxy/haproxy.cfg && systemctl restart haproxy",
    );
}

/// Which member answers a client that comes in by this port, once it is one of this role.
fn ask_behind_haproxy(hosts: &Hosts, node: &str, port: u16, role: &str) -> String {
    let conninfo = format!("user=postgres host={node} port={port} connect_timeout=2");
    let query = "select pg_is_in_recovery(), inet_server_addr()";
    let psql = format!("PGPASSWORD={PASSWORD} psql -XAt -d \"{conninfo}\" -c '{query}'");
    let begin = if role == "replica" { "t|" } else { "f|" };
    let answer = hosts.wait_for(node, &psql, SETTLED, |text| text.starts_with(begin));
    let address = answer.trim().trim_start_matches(begin);
    hosts
        .names()
        .iter()
        .find(|node| Hosts::address(node) == address)
        .unwrap()
        .clone()
}

/// As shipped, too: Debian's unit with the file that pg_createconfig_patroni makes of Debian's own template, of which one
/// line has an older name than this vip-manager reads. PostgreSQL listens on all addresses.
fn start_vip_manager(hosts: &Hosts) {
    hosts.run_on_all(&format!(
        "pg_createconfig_patroni --force --vip={VIP} 18 demo
         sed -i 's/^VIP_IFACE=/VIP_INTERFACE=/' /etc/patroni/18-demo.vip
         systemctl enable --now vip-manager@18-demo"
    ));
}

/// Waits until `node`, and no other host that is up, has the virtual address, and the primary answers there.
fn wait_for_vip(hosts: &Hosts, node: &str, others: &[&String]) {
    let addresses = "ip -o -4 address show dev eth0";
    hosts.wait_for(node, addresses, SETTLED, |text| text.contains(VIP));
    for other in others {
        hosts.wait_for(other, addresses, SETTLED, |text| !text.contains(VIP));
    }
    let query = "select pg_is_in_recovery(), inet_server_addr()";
    let psql = format!(
        "PGPASSWORD={PASSWORD} psql -XAt -d 'user=postgres host={VIP} connect_timeout=2' -c '{query}'"
    );
    let answer = format!("f|{VIP}");
    hosts.wait_for(others[0], &psql, SETTLED, |text| text.trim() == answer);
}

fn writer() -> Writer {
    let addresses = "host=10.78.0.11,10.78.0.12,10.78.0.13 port=5432";
    Writer::start_at(format!(
        "{addresses} user=postgres password={PASSWORD} dbname=postgres target_session_attrs=read-write connect_timeout=1"
    ))
}

#[test]
#[ignore = "long: make test-all"]
fn the_article_works_word_for_word() {
    let hosts = Hosts::start(3);
    hosts.bring_packages();
    configurations_are_those_of_debians_own_scripts(&hosts);
    hosts.run_on_all(
        "dpkg --purge patroni && dpkg -i /root/tamada.deb /root/tamada-patroni-compat.deb
         test \"$(stat -c '%a %U %G' /etc/patroni/dcs.yml /etc/patroni/config.yml.in | sort -u)\" = '640 root postgres'",
    );
    start_etcd(&hosts);
    let first_page = quick_start("pg_dropcluster");
    hosts.run_on_all(
        first_page
            .lines()
            .find(|line| line.starts_with("pg_dropcluster"))
            .unwrap(),
    );
    hosts.run_on_all(&quick_start("REPLICATION-PASSWORD"));
    let create = quick_start("pg_createconfig_patroni 18 demo");
    let (create, enable) = create.trim_end().split_once('\n').unwrap();
    hosts.run_on_all(create);
    let values = "python3 -c 'import yaml; print(yaml.safe_load(open(\"/etc/patroni/18-demo.yml\")))'";
    println!("{}", hosts.run("node1", values));
    hosts.run(
        "node3",
        "mkdir /etc/systemd/system/patroni@.service.d
         cp /usr/share/doc/tamada/examples/hardening.conf /etc/systemd/system/patroni@.service.d/
         systemctl daemon-reload",
    );
    hosts.run_on_all(enable);

    let first = wait_until_healthy(&hosts, "node1");
    println!("{}", hosts.run("node1", &format!("{CTL} list")));
    for node in hosts.names() {
        let clusters = hosts.run(node, "pg_lsclusters");
        println!("{clusters}");
        // A standby has its signal file; so it is with Patroni.
        let status = if *node == first {
            "online,patroni"
        } else {
            "online,recovery,patroni"
        };
        let expected = format!("18  demo    5432 {status} postgres /var/lib/postgresql/18/demo ");
        assert!(clusters.contains(&expected), "{clusters}");
        the_journal_has_fields(&hosts, node);
    }
    let table = hosts.run("node2", &format!("{CTL} list"));
    let heading = table.lines().nth(1).unwrap();
    let columns: Vec<&str> = heading
        .split('|')
        .map(str::trim)
        .filter(|title| !title.is_empty())
        .collect();
    assert_eq!(
        columns,
        [
            "Member",
            "Host",
            "Role",
            "State",
            "TL",
            "Receive LSN",
            "Lag",
            "Replay LSN",
            "Lag"
        ]
    );

    let settings = quick_start("edit-config --set");
    let (edit, restart) = settings.trim_end().split_once('\n').unwrap();
    assert!(hosts.run("node1", edit).contains("+    wal_level: logical"));
    let restart = hosts.run("node1", restart);
    println!("{restart}");
    for node in hosts.names() {
        let line = format!("Success: restart on member {node}");
        assert!(restart.contains(&line), "{restart}");
    }
    let show = "su postgres -c \"psql -XAtc 'show wal_level'\"";
    hosts.wait_for("node3", show, SETTLED, |text| text.trim() == "logical");

    let clients = format!(
        "{} -XAtc 'select inet_server_addr()'",
        quick_start("psql -d ").trim_end()
    );
    assert_eq!(hosts.run("node2", &clients).trim(), Hosts::address(&first));
    let other = hosts.names().iter().find(|node| **node != first).unwrap();
    assert_eq!(primary_for_clients(&hosts, other), first);
    start_haproxy(&hosts, other);
    let behind = |port, role| ask_behind_haproxy(&hosts, other, port, role);
    assert_eq!(behind(5000, "primary"), first);
    assert_ne!(behind(5001, "replica"), first);
    start_vip_manager(&hosts);
    let others: Vec<&String> = hosts.names().iter().filter(|node| **node != first).collect();
    wait_for_vip(&hosts, &first, &others);
    let writer = writer();
    let begin = Instant::now();
    hosts.crash(&first);
    writer.wait_for_write("after the crash of the primary's host", seconds(90));
    println!(
        "host crash, ttl 30: no writes for {:?}",
        writer.longest_silence(begin)
    );
    assert_ne!(primary_for_clients(&hosts, other), first);
    let promoted = behind(5000, "primary");
    assert_ne!(promoted, first);
    assert_ne!(behind(5001, "replica"), first);
    let others: Vec<&String> = others.into_iter().filter(|node| **node != promoted).collect();
    wait_for_vip(&hosts, &promoted, &others);
    hosts.boot(&first);
    // It was enabled.
    let second = wait_until_healthy(&hosts, other);
    assert_ne!(second, first);
    println!("{}", hosts.run(other, &format!("{CTL} list")));
    writer.assert_lost_at_most_a_second_before(begin);

    packages_leave_a_running_server_alone(&hosts, &second);
}

/// What the agent has said about itself, found by its fields.
#[track_caller]
fn the_journal_has_fields(hosts: &Hosts, node: &str) {
    let wanted = format!("TAMADA_SCOPE=18-demo TAMADA_MEMBER={node} LOGGER=tamada.daemon.start PRIORITY=6");
    let shown = hosts.run(
        node,
        &format!("journalctl -u patroni@18-demo -t patroni -o cat {wanted}"),
    );
    let text = format!(", member {node} of cluster 18-demo");
    assert!(shown.lines().any(|line| line.ends_with(&text)), "{shown}");
}

/// Debian's own scripts and ours, with the same template and the same arguments.
fn configurations_are_those_of_debians_own_scripts(hosts: &Hosts) {
    let given = [
        "18 demo",
        "--port=5555 18 demo",
        "--hostip=10.1.2.3 --network=10.1.0.0/16 18 my-app",
        "--vip=10.78.0.99 18 demo",
        "--vip=10.78.0.99 --endpoint=https://etcd.internal:2379 18 demo",
        "18",
        "eighteen demo",
        "99 demo",
        "--port=5432 18 demo",
    ];
    hosts.run(
        "node1",
        "cp -a /etc/patroni /root/patroni.before
         printf 'etcd3:\n  hosts: 127.0.0.1:2379\n# no more\n' > /etc/patroni/dcs.yml
         for v in IP MASK IFACE KEY HOST TYPE ENDPOINT; do echo \"$v: @VIP_$v@\"; done > /etc/patroni/vip.in
         dpkg-deb -x /root/tamada.deb /root/ours; ln -s tamada /root/ours/usr/bin/pg_createconfig_patroni",
    );
    let made = |program: &str, arguments: &str| {
        let command = format!(
            "rm -f /etc/patroni/18-*; {program} {arguments} 2>/dev/null; echo \"exit code $?\"
             cd /etc/patroni; for f in $(ls -d 18-*); do echo \"== $f\"; cat $f; done; stat -c '%n %U:%G %a' 18-*.yml"
        );
        hosts.run("node1", &format!("({command}) || true"))
    };
    for arguments in given {
        let theirs = made("/usr/bin/pg_createconfig_patroni", arguments);
        let ours = made("/root/ours/usr/bin/pg_createconfig_patroni", arguments);
        if arguments == "18" {
            // Debian's has a slip in its own name.
            assert!(ours.starts_with("Usage: pg_createconfig_patroni ") && theirs.starts_with("Usage: "));
            continue;
        }
        assert_eq!(ours, theirs, "{arguments}");
    }
    let again =
        "cd /root; for i in 1 2; do ours/usr/bin/pg_createconfig_patroni 18 demo; done; rm /etc/patroni/18-*";
    assert_eq!(
        hosts.run("node1", again),
        "Patroni configuration file already exists\n"
    );
    // The values of our own template are those of Debian's.
    let values = |folder: &str| {
        let fill = format!(
            "cp {folder}/config.yml.in /etc/patroni/; /root/ours/usr/bin/pg_createconfig_patroni --force 18 demo
             python3 -c 'import json, yaml
text = open(\"/etc/patroni/18-demo.yml\").read()
print(json.dumps(yaml.safe_load(text), indent=1, sort_keys=True))'"
        );
        hosts.run("node1", &fill)
    };
    let theirs = values("/root/patroni.before");
    assert_eq!(values("/root/ours/usr/share/tamada"), theirs);
    hosts.run(
        "node1",
        "rm -rf /etc/patroni; mv /root/patroni.before /etc/patroni",
    );
}

/// An upgrade, a removal and a purge, on the primary, and on the host with the hardened unit.
fn packages_leave_a_running_server_alone(hosts: &Hosts, primary: &str) {
    let started = "su postgres -c \"psql -XAtc 'select pg_postmaster_start_time()'\"";
    let agent = "systemctl show -P MainPID patroni@18-demo";
    for node in BTreeSet::from([primary, "node3"]) {
        let before = hosts.run(node, started);
        hosts.run(node, "dpkg -i /root/tamada.deb /root/tamada-patroni-compat.deb");
        assert_eq!(hosts.run(node, started), before);
        // The agent is exchanged, and nobody notices.
        let process = hosts.run(node, agent);
        hosts.run(node, "systemctl kill -s KILL --kill-whom=main patroni@18-demo");
        hosts.wait_for(node, agent, seconds(20), |text| {
            text != process && text.trim() != "0"
        });
        assert_eq!(wait_until_healthy(hosts, node), primary);
        assert_eq!(hosts.run(node, started), before);
    }
    let before = hosts.run(primary, started);
    hosts.run(primary, "dpkg --remove tamada-patroni-compat tamada");
    assert_eq!(hosts.run(primary, started), before);
    hosts.run(primary, "dpkg --purge tamada-patroni-compat tamada");
    assert_eq!(hosts.run(primary, started), before);
    // It is even started again.
    hosts.run(
        primary,
        "kill -9 $(head -n 1 /var/lib/postgresql/18/demo/postmaster.pid)",
    );
    hosts.wait_for(primary, started, SETTLED, |now| !now.is_empty() && now != before);
    hosts.run(
        primary,
        "test -e /etc/patroni/18-demo.yml && test -e /var/lib/postgresql/18/demo/PG_VERSION",
    );
    tamadas_own_words(hosts, primary);
}

/// A cluster of one more, by the package `tamada` alone, on a host where nothing of the other is in the way.
fn tamadas_own_words(hosts: &Hosts, primary: &str) {
    let node = hosts
        .names()
        .iter()
        .find(|node| *node != primary && *node != "node3");
    let node = node.map_or("node3", String::as_str);
    hosts.run(
        node,
        "dpkg --purge tamada-patroni-compat && rm /etc/patroni/dcs.yml",
    );
    let unknown = hosts.attempt(node, "tamada config create 18 other");
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("it is not known where the DCS is"));
    let made = hosts.run(
        node,
        "tamada config create 18 other --etcd 10.78.0.11,10.78.0.12,10.78.0.19",
    );
    println!("{made}");
    assert!(made.contains("Wrote /etc/tamada/18-other.yml: member "), "{made}");
    assert!(
        made.contains("the DCS at 10.78.0.19:2379 does not answer"),
        "{made}"
    );
    assert!(!made.contains("10.78.0.11:2379 does not answer"), "{made}");
    // The next port, as another cluster has the first.
    assert!(made.contains(&format!("{}:5433", Hosts::address(node))), "{made}");
    let commands: Vec<&str> = made
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(_, it)| it)
        .collect();
    let start = commands
        .iter()
        .find(|command| command.starts_with("systemctl"))
        .unwrap();
    let list = commands
        .iter()
        .find(|command| command.starts_with("tamada ctl"))
        .unwrap();
    hosts.run(node, start);
    hosts.wait_for(node, list, SETTLED, |table| {
        table.contains("| Leader | running |")
    });
    // The agent whose package is gone runs on, longer than systemd's watchdog would let one that it does not listen to.
    let watchdog = seconds(30);
    let purged = Instant::now();
    while purged.elapsed() < watchdog + seconds(10) {
        let clusters = hosts.run(node, "pg_lsclusters");
        assert!(clusters.contains("18  other   5433 online,patroni"), "{clusters}");
        assert!(
            clusters.contains("18  demo    5432 online,recovery,patroni"),
            "{clusters}"
        );
        std::thread::sleep(seconds(1));
    }
}

/// Debian's own package, where apt has left it.
const PATRONI_PACKAGE: &str = "$(ls /var/cache/apt/archives/patroni_*.deb)";

/// What apt is to be told: nothing is asked, and files that an operator has edited stay.
const APT: &str = "DEBIAN_FRONTEND=noninteractive apt-get install -y -q -o Dpkg::Options::=--force-confold";

/// Exchanges the agent on one host while a client writes. The longest time without a write.
#[track_caller]
fn exchange(hosts: &Hosts, writer: &Writer, node: &str, packages: &str, agent: &str) -> Duration {
    let begin = Instant::now();
    hosts.run(node, &format!("{APT} {packages}"));
    hosts.run(node, "systemctl restart patroni@18-demo");
    let main = "readlink /proc/$(systemctl show -P MainPID patroni@18-demo)/exe";
    hosts.wait_for(node, main, SETTLED, |text| text.contains(agent));
    wait_until_healthy(hosts, node);
    writer.wait_for_write("after the exchange", seconds(30));
    writer.longest_silence(begin)
}

#[test]
#[ignore = "long: make test-all"]
fn from_debians_patroni_and_back_while_a_client_writes() {
    let hosts = Hosts::start(3);
    hosts.bring_packages();
    start_etcd(&hosts);
    prepare_configuration(&hosts);
    hosts.run_on_all("pg_createconfig_patroni 18 demo && systemctl enable --now patroni@18-demo");
    let first = wait_until_healthy(&hosts, "node1");
    give_password(&hosts, &first);
    let clusters = hosts.run(&first, "pg_lsclusters");
    assert!(clusters.contains("online,patroni"), "{clusters}");
    let writer = writer();
    let replicas: Vec<String> = hosts
        .names()
        .iter()
        .filter(|node| **node != first)
        .cloned()
        .collect();
    let ours = "/root/tamada.deb /root/tamada-patroni-compat.deb";

    for node in &replicas {
        let silence = exchange(&hosts, &writer, node, ours, "tamada");
        println!("{node}, a replica, to Tamada: no writes for {silence:?}");
        assert!(silence < crate::harness::patience(WITHOUT_NOTICE), "{silence:?}");
    }
    assert_eq!(wait_until_healthy(&hosts, &first), first);
    let second = &replicas[0];
    let begin = Instant::now();
    let switchover = format!("{CTL} switchover --leader {first} --candidate {second} --force");
    println!("{}", hosts.run(&first, &switchover));
    hosts.wait_for(second, &format!("{CTL} list"), SETTLED, |table| {
        leader(table).as_ref() == Some(second)
    });
    let silence = writer.longest_silence(begin);
    println!("switchover from Patroni to Tamada: no writes for {silence:?}");
    assert!(silence < crate::harness::patience(SWITCHOVER), "{silence:?}");
    let silence = exchange(&hosts, &writer, &first, ours, "tamada");
    println!("{first}, the former primary, to Tamada: no writes for {silence:?}");
    assert!(silence < crate::harness::patience(WITHOUT_NOTICE), "{silence:?}");
    writer.assert_nothing_lost();
    println!("{}", hosts.run(&first, &format!("{CTL} list")));

    // And back; the primary without a switchover, in pause.
    for node in hosts.names().iter().filter(|node| *node != second) {
        let silence = exchange(&hosts, &writer, node, PATRONI_PACKAGE, "python");
        println!("{node}, a replica, to Patroni: no writes for {silence:?}");
        assert!(silence < crate::harness::patience(WITHOUT_NOTICE), "{silence:?}");
    }
    let started = "su postgres -c \"psql -XAtc 'select pg_postmaster_start_time()'\"";
    let before = hosts.run(second, started);
    hosts.run(second, &format!("{CTL} pause --wait"));
    let silence = exchange(&hosts, &writer, second, PATRONI_PACKAGE, "python");
    println!("{second}, the primary in pause, to Patroni: no writes for {silence:?}");
    assert!(silence < crate::harness::patience(WITHOUT_NOTICE), "{silence:?}");
    hosts.run(second, &format!("{CTL} resume --wait"));
    assert_eq!(wait_until_healthy(&hosts, second), *second);
    assert_eq!(hosts.run(second, started), before);
    hosts.run_on_all(
        "test \"$(dpkg-query -W -f '${db:Status-Abbrev}' tamada-patroni-compat 2>/dev/null)\" != 'ii '",
    );
    println!("{}", hosts.run(second, &format!("{CTL} list")));
    writer.assert_nothing_lost();
}

/// ZooKeeper as each host finds it in Debian's file, on its own loopback address: one server beside the hosts, to which HAProxy on each of
/// them leads.
fn start_zookeeper(hosts: &Hosts) -> (tempfile::TempDir, Ended) {
    let folder = tempfile::tempdir().unwrap();
    let settings = format!(
        "tickTime=2000\nclientPortAddress=10.78.0.1\nclientPort=2181\ndataDir={}\nadmin.enableServer=false\n",
        folder.path().join("data").display()
    );
    std::fs::write(folder.path().join("zoo.cfg"), settings).unwrap();
    let jar = "/usr/share/java/zookeeper.jar";
    assert!(
        std::path::Path::new(jar).exists(),
        "no {jar}: run scripts/install-deps.sh"
    );
    let mut java = std::process::Command::new("setpriv");
    java.args(["--pdeathsig", "KILL", "--", "java", "-Xmx128m", "-cp", jar]);
    java.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(folder.path().join("zoo.cfg"));
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    java.stdout(log.try_clone().unwrap()).stderr(log);
    let server = Ended(java.spawn().unwrap());
    hosts.run_on_all(
        "cat > /etc/haproxy/haproxy.cfg <<END
defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
listen zookeeper
  bind 127.0.0.1:2181
  server beside 10.78.0.1:2181
END
         systemctl restart haproxy",
    );
    hosts.wait_for(
        "node1",
        "printf srvr | (exec 3<>/dev/tcp/127.0.0.1/2181; cat >&3; cat <&3)",
        SETTLED,
        |text| text.contains("Mode: standalone"),
    );
    (folder, server)
}

struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// The DCS of Debian's package is ZooKeeper on this host, until somebody edits the file.
#[test]
#[ignore = "long: make test-all"]
fn debians_untouched_dcs_yml_is_enough() {
    let hosts = Hosts::start(3);
    hosts.bring_packages();
    let _zookeeper = start_zookeeper(&hosts);
    let untouched = "dpkg --verify patroni; grep -v '^ *#' /etc/patroni/dcs.yml | grep .";
    assert_eq!(
        hosts.run("node1", untouched),
        "zookeeper:\n  hosts: 127.0.0.1:2181\n"
    );
    hosts.run_on_all("pg_dropcluster --stop 18 main");
    let theirs =
        "pg_createconfig_patroni 18 demo && cat /etc/patroni/18-demo.yml && rm /etc/patroni/18-demo.yml";
    let theirs = hosts.run("node1", theirs);
    hosts.run_on_all(&format!(
        "{APT} /root/tamada.deb /root/tamada-patroni-compat.deb
         sed -i 's/^#\\( *- host *all *all *@NETWORK@\\)/\\1/' /etc/patroni/config.yml.in
         pg_createconfig_patroni 18 demo"
    ));
    let ours = hosts.run("node1", "cat /etc/patroni/18-demo.yml");
    let active = |text: &str| {
        text.replace('#', "")
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(active(&ours), active(&theirs));
    hosts.run_on_all("tamada run --validate-config --ignore-listen-port /etc/patroni/18-demo.yml");
    hosts.run_on_all("systemctl enable --now patroni@18-demo");
    let first = wait_until_healthy(&hosts, "node1");
    println!("{}", hosts.run("node1", &format!("{CTL} list")));
    give_password(&hosts, &first);
    let writer = writer();
    let second = hosts.names().iter().find(|node| **node != first).unwrap();
    let switchover = format!("{CTL} switchover --leader {first} --candidate {second} --force");
    hosts.run(&first, &switchover);
    hosts.wait_for(second, &format!("{CTL} list"), SETTLED, |table| {
        leader(table).as_ref() == Some(second)
    });
    writer.assert_nothing_lost();
    let begin = Instant::now();
    hosts.crash(second);
    writer.wait_for_write("after the crash of the primary's host", seconds(90));
    println!(
        "host crash on ZooKeeper, ttl 30: no writes for {:?}",
        writer.longest_silence(begin)
    );
    hosts.boot(second);
    assert_ne!(wait_until_healthy(&hosts, &first), *second);
    writer.assert_lost_at_most_a_second_before(begin);
}
