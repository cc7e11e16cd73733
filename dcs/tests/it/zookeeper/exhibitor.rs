//! Exhibitor, by a small HTTP server that says what Exhibitor says.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::{DcsConfig, ExhibitorConfig, ZookeeperConfig};
use ha::cluster::Cluster;
use tamada_dcs::zookeeper::Zookeeper;
use tamada_dcs::{Dcs, Error, Layout, Timing};

use super::proxy::Proxy;
use super::server::{Ensemble, config_for};
use crate::contract::{LIMIT, TIMING, eventually, identity};

struct Fake {
    port: u16,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

fn list(port: u16) -> String {
    format!(r#"{{"servers":["127.0.0.1"],"port":{port}}}"#)
}

impl Fake {
    fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(Mutex::new(answer));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (answer.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut line = String::new();
                let _ = BufReader::new(&stream).read_line(&mut line);
                assert!(
                    line.is_empty() || line.starts_with("GET /exhibitor/v1/cluster/list "),
                    "{line}"
                );
                count.fetch_add(1, Ordering::SeqCst);
                let body = shared.lock().unwrap().clone();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { port, answer, asked }
    }

    fn config(&self, poll_interval: Duration) -> ExhibitorConfig {
        let zookeeper = ZookeeperConfig {
            hosts: Vec::new(),
            ..config_for([])
        };
        ExhibitorConfig {
            hosts: vec!["127.0.0.1".to_owned()],
            port: self.port,
            poll_interval,
            zookeeper,
        }
    }
}

fn layout() -> Layout {
    Layout::new("service", "batman", None)
}

#[tokio::test]
async fn exhibitor_names_the_servers_again_and_again() {
    let ensemble = Ensemble::start(1);
    let (first, second) = (
        Proxy::start(ensemble.members[0].port),
        Proxy::start(ensemble.members[0].port),
    );
    let fake = Fake::start(list(first.port));
    let config = fake.config(Duration::from_millis(200));
    let a = Zookeeper::connect_by_exhibitor(&config, layout(), Some(identity("a")), TIMING)
        .await
        .unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    let lease = a.lease();
    // An answer that is none changes nothing.
    *fake.answer.lock().unwrap() = "broken".to_owned();
    let seen = fake.asked.load(Ordering::SeqCst);
    while fake.asked.load(Ordering::SeqCst) < seen + 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        a.renew_leader(tamada_dcs::WhenGone::Lost)
            .await
            .unwrap()
            .is_held()
    );
    // The servers move.
    *fake.answer.lock().unwrap() = list(second.port);
    first.shut(true);
    while !a
        .renew_leader(tamada_dcs::WhenGone::Lost)
        .await
        .is_ok_and(|renewed| renewed.is_held())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(a.lease(), lease, "the session goes on at the other server");
    let led = |cluster: &Cluster| cluster.leader.clone();
    eventually(&a, LIMIT, "the copy is kept", led).await;
    assert!(
        Zookeeper::scopes_by_exhibitor(&config, "service", TIMING)
            .await
            .unwrap()
            .contains("batman")
    );
}

#[tokio::test]
async fn without_exhibitor_there_is_no_start() {
    let fake = Fake::start("{}".to_owned());
    let mut config = fake.config(Duration::from_secs(300));
    let open = async |config: &ExhibitorConfig| {
        tamada_dcs::open(
            &DcsConfig::Exhibitor(config.clone()),
            layout(),
            None,
            Timing::default(),
        )
        .await
        .err()
        .unwrap()
    };
    let error = open(&config).await;
    assert!(matches!(error, Error::Unavailable(_)), "{error:#}");
    assert!(format!("{error:#}").contains("names no servers"), "{error:#}");
    config.port = super::server::free_ports(1)[0];
    let error = open(&config).await;
    assert!(matches!(error, Error::Unavailable(_)), "{error:#}");
}

#[tokio::test]
async fn a_reload_keeps_to_the_kind() {
    let ensemble = Ensemble::start(1);
    let fake = Fake::start(list(ensemble.members[0].port));
    let config = DcsConfig::Exhibitor(fake.config(Duration::from_secs(300)));
    let opened = tamada_dcs::open(&config, layout(), Some(identity("a")), TIMING)
        .await
        .unwrap();
    opened.reload.reload(&config).await.unwrap();
    assert!(opened.dcs.acquire_leader().await.unwrap());
    let other = DcsConfig::Zookeeper(ensemble.config());
    let error = opened.reload.reload(&other).await.unwrap_err();
    assert!(matches!(error, Error::Fatal(_)), "{error:#}");
}
