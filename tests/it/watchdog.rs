//! A watchdog device, with a FIFO in its place: armed while the member leads, pinged by renewals of the lease only.

use crate::harness::cluster::{Program, Timers};
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// In the place of a device: what is written to it.
struct Device {
    path: PathBuf,
    written: Arc<Mutex<String>>,
}

impl Device {
    fn make(cluster: &Cluster, path: &Path) -> Self {
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
        cluster.give_away(path);
        // For writing as well: its end is never seen, however often it is closed.
        let mut file = File::options().read(true).write(true).open(path).unwrap();
        let written = Arc::new(Mutex::new(String::new()));
        std::thread::spawn({
            let written = Arc::clone(&written);
            move || {
                let mut bytes = [0; 64];
                while let Ok(count) = file.read(&mut bytes) {
                    written
                        .lock()
                        .unwrap()
                        .push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
            }
        });
        Self {
            path: path.to_owned(),
            written,
        }
    }

    fn written(&self) -> String {
        self.written.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, limit: Duration, is_there: impl Fn(&str) -> bool) {
        eventually(what, limit, || {
            let written = self.written();
            holds(is_there(&written), || format!("{written:?}"))
        });
    }

    fn pings(&self) -> usize {
        let text = self.written();
        let pings = text.lines().filter(|line| !line.starts_with("Ctimeout"));
        // The timeout follows on a line that may begin with pings.
        pings
            .map(|line| line.split('C').next().unwrap().matches('1').count())
            .sum()
    }

    #[track_caller]
    fn wait_for_ping(&self, limit: Duration) {
        let before = self.pings();
        self.wait_for("it is pinged", limit, |_| self.pings() > before);
    }
}

#[test]
fn it_is_armed_while_the_member_leads() {
    let timers = Timers {
        ttl: 21,
        loop_wait: 2,
        retry_timeout: 3,
    };
    let mut cluster = Cluster::with(newest(), 1, 1, timers);
    let device = Device::make(&cluster, &cluster.directory.path().join("watchdog"));
    let program = cluster.tamada_program();
    let member = &mut cluster.members[0];
    let section = format!(
        "\nwatchdog: {{mode: required, driver: testing, device: {}}}\n\ntags:\n",
        device.path.display()
    );
    member.edit_config("\ntags:\n", &section);
    member.program = Program {
        arguments: vec!["run".to_owned(), "--supervise".to_owned()],
        ..program
    };
    member.start();
    cluster.wait_for_primary(seconds(30));
    device.wait_for(
        "armed with ttl less safety_margin, and pinged",
        seconds(10),
        |text| text.starts_with("Ctimeout=16\n1"),
    );
    assert_eq!(cluster.members[0].status().unwrap().get("watchdog_failed"), None);
    let log = cluster.members[0].log();
    assert!(
        log.contains("activated with 16 second timeout, timing slack 14 seconds"),
        "{log}"
    );

    change(&cluster, &json!({"ttl": 20}));
    device.wait_for("the timeout follows", seconds(10), |text| {
        text.contains("Ctimeout=15\n1")
    });

    no_renewal_no_ping(&cluster, &device);
    the_next_agent_goes_on(&mut cluster, &device);

    change(&cluster, &json!({"pause": true}));
    device.wait_for("disabled in pause", seconds(4), |text| text.ends_with('V'));
    let before = device.written();
    std::thread::sleep(seconds(2 * timers.loop_wait));
    assert_eq!(device.written(), before, "nothing in pause");
    change(&cluster, &json!({"pause": null}));
    device.wait_for_ping(seconds(10));

    cluster.members[0].stop();
    device.wait_for("disabled at the end", seconds(2), |text| text.ends_with('V'));
    nobody_leads_without_it(&mut cluster, &device.path);
}

#[track_caller]
fn change(cluster: &Cluster, patch: &serde_json::Value) {
    let answer = cluster.members[0].ask("PATCH", "/config", Some(patch));
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn no_renewal_no_ping(cluster: &Cluster, device: &Device) {
    cluster.etcd.freeze();
    // A renewal may have been answered right before.
    std::thread::sleep(Duration::from_millis(500));
    let before = device.written();
    std::thread::sleep(seconds(5));
    assert_eq!(device.written(), before, "etcd has answered nothing");
    cluster.etcd.thaw();
    device.wait_for_ping(seconds(10));
}

/// Nobody disables it in between: it goes on counting while there is no agent.
fn the_next_agent_goes_on(cluster: &mut Cluster, device: &Device) {
    let before = device.written();
    let supervisor = cluster.members[0].agent().pid();
    let agent = crate::harness::member::descendants(supervisor)[1];
    kill_process(agent, Signal::KILL).unwrap();
    device.wait_for("armed again", seconds(10), |text| {
        text[before.len()..].contains("Ctimeout=15\n1")
    });
    assert!(!device.written()[before.len()..].contains('V'));
}

fn nobody_leads_without_it(cluster: &mut Cluster, path: &Path) {
    std::fs::remove_file(path).unwrap();
    let member = &mut cluster.members[0];
    member.start();
    member.wait_for_log("Watchdog device is not usable", seconds(20));
    eventually("it says so", seconds(10), || {
        let status = member.status()?;
        holds(status["watchdog_failed"] == json!(true), || status.to_string())
    });
    assert_eq!(member.status_code("/primary"), 503);
    assert_eq!(cluster.key("leader"), None);
    let device = Device::make(cluster, path);
    cluster.wait_for_primary(seconds(20));
    device.wait_for("armed", seconds(10), |text| text.starts_with("Ctimeout=15\n1"));
    cluster.members[0].stop();
}
