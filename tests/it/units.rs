//! The units in `systemd/`: whether systemd understands them, and what the guard depends on stands in each.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Which there are, and what each starts.
const UNITS: [(&str, &str); 4] = [
    ("tamada.service", "/usr/bin/tamada run /etc/tamada.yml"),
    ("tamada@.service", "/usr/bin/tamada run /etc/tamada/%i.yml"),
    ("patroni@.service", "/usr/bin/patroni /etc/patroni/%i.yml"),
    ("patroni.service", "/usr/bin/patroni /etc/patroni/config.yml"),
];

fn read(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// `Section.Key` and its values.
fn settings(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut section = "";
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
            continue;
        }
        let (key, value) = line.split_once('=').expect(line);
        settings
            .entry(format!("{section}.{key}"))
            .or_default()
            .push(value.to_owned());
    }
    settings
}

#[test]
fn an_agent_comes_back_and_guard_and_postgresql_outlive_it() {
    for (name, command) in UNITS {
        let settings = settings(&read(name));
        let expected = [
            ("Service.ExecStart", command),
            ("Service.Type", "notify"),
            ("Service.User", "postgres"),
            ("Service.Restart", "always"),
            ("Service.RestartSec", "100ms"),
            ("Service.KillMode", "process"),
            ("Service.WatchdogSec", "30"),
            ("Service.WatchdogSignal", "SIGKILL"),
            ("Service.TimeoutStartSec", "infinity"),
            ("Service.ExecReload", "/bin/kill -s HUP $MAINPID"),
            ("Service.OOMPolicy", "continue"),
            ("Service.LimitNOFILE", "65536"),
            // The guard has some 30 MiB mapped; systemd's default of 8 MiB would lock nothing.
            ("Service.LimitMEMLOCK", "64M"),
            ("Install.WantedBy", "multi-user.target"),
        ];
        for (key, value) in expected {
            assert_eq!(settings.get(key), Some(&vec![value.to_owned()]), "{name}: {key}");
        }
        for page in settings["Unit.Documentation"][0].split(' ') {
            let name = page.strip_prefix("file:/usr/share/doc/tamada/").expect(page);
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
            assert!(
                source.is_file(),
                "{name} is not among the pages that are installed"
            );
        }
        // A namespace of its own would hide guard and PostgreSQL from the agent after it.
        let hides = |key: &&String| key.contains("PrivateTmp") || key.contains("PrivatePIDs");
        assert_eq!(settings.keys().find(hides), None, "{name}");
    }
}

#[test]
fn systemd_understands_them() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: there is no systemd-analyze");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, _) in UNITS {
        // The program is not installed where the tests run.
        let program = env!("CARGO_BIN_EXE_tamada");
        let text = read(name);
        let text = text
            .replace("ExecStart=/usr/bin/tamada", &format!("ExecStart={program}"))
            .replace("ExecStart=/usr/bin/patroni", &format!("ExecStart={program}"));
        let path = folder.path().join(name.replace('@', "@18-demo"));
        fs::write(&path, text).unwrap();
        let output = Command::new("systemd-analyze")
            .arg("verify")
            .arg(&path)
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = complaints
            .lines()
            .filter(|line| line.contains(folder.path().to_str().unwrap()) || line.contains("18-demo"))
            .collect();
        assert!(output.status.success() && ours.is_empty(), "{name}: {complaints}");
    }
}
