//! What operators take as it is: alerts, the dashboard, the unit with its notifications, the package.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use pillion::telemetry::metrics::FAMILIES;
use pillion::telemetry::metrics::Kind;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::pillion::LIMIT;
use crate::support::pillion::Pillion;
use crate::support::pillion::scrub;
use crate::support::skip::skip;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs a checker; what it printed, and whether it was content. `None`: it is not there.
fn checked(command: &mut Command) -> Option<(String, bool)> {
    let output = command.output().ok()?;
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    Some((printed, output.status.success()))
}

/// Every series that can be asked for, the recorded ones aside.
fn series() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for family in FAMILIES {
        names.insert(family.name.to_owned());
        if let Kind::Histogram(_) = family.kind {
            for suffix in ["bucket", "count", "sum"] {
                names.insert(format!("{}_{suffix}", family.name));
            }
        }
    }
    let page = read("docs/metrics.md");
    let words = page.split('`').skip(1).step_by(2);
    names.extend(
        words
            .filter(|word| word.starts_with("process_"))
            .map(str::to_owned),
    );
    names
}

/// The names in an expression that look like ours or the process's.
fn names(expression: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(|c| !is_name(c));
    let ours = ["pillion_", "pillion:", "process_"];
    words
        .filter(|word| ours.iter().any(|start| word.starts_with(start)))
        .collect()
}

/// What follows `key` on the lines of a file of rules.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().map(|line| line.trim_start_matches([' ', '-']));
    lines.filter_map(move |line| line.strip_prefix(key))
}

#[test]
fn the_rules_ask_for_what_there_is_and_each_has_an_example() {
    let rules = read("deploy/prometheus/rules.yaml");
    let examples = read("deploy/prometheus/rules_test.yaml");
    let recorded: BTreeSet<&str> = values(&rules, "record: ").collect();
    let known = series();
    let without_words: String = rules
        .lines()
        .filter(|line| !line.trim_start().starts_with(['#', 's', 'd']) || line.contains("sum"))
        .filter(|line| !line.contains("description:") && !line.contains("summary:"))
        .collect::<Vec<_>>()
        .join("\n");
    let asked = names(&without_words);
    assert!(asked.len() > 20, "the search finds something: {asked:?}");
    for name in asked {
        assert!(
            known.contains(name) || recorded.contains(name),
            "{name} is not exported"
        );
    }
    for alert in values(&rules, "alert: ") {
        let name = format!("alertname: {alert}\n");
        let fires = examples
            .split(&name)
            .skip(1)
            .any(|rest| rest.trim_start().starts_with("exp_alerts:\n"));
        assert!(fires, "no example in which {alert} fires");
    }
    for name in recorded {
        assert!(
            examples.contains(&format!("expr: \"{name}\"")),
            "no example for {name}"
        );
    }
    let folder = path("deploy/prometheus");
    for args in [
        ["check", "rules", "rules.yaml"],
        ["test", "rules", "rules_test.yaml"],
    ] {
        match checked(Command::new("promtool").args(args).current_dir(&folder)) {
            Some((printed, content)) => assert!(content, "{printed}"),
            None => return skip("promtool is not installed (tests/interop/install.sh debian)"),
        }
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is_by_labels_that_there_are() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/pillion.json")).unwrap();
    let known = series();
    let page = read("docs/metrics.md");
    let mut labels: BTreeSet<&str> = page.split('`').skip(1).step_by(2).collect();
    labels.extend(["instance", "le"]);
    let mut count = 0;
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "two panels with one id"
        );
        let title = panel["title"].as_str().unwrap();
        let Some(targets) = panel["targets"].as_array() else {
            continue;
        };
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            assert!(
                expression.contains("instance=~\"$instance\""),
                "{title}: {expression}"
            );
            for name in names(expression) {
                assert!(known.contains(name), "{title}: {name} is not exported");
                count += 1;
            }
            let groups = expression
                .split(" by (")
                .skip(1)
                .filter_map(|rest| rest.split(')').next());
            let legend = target["legendFormat"].as_str().unwrap().split("{{").skip(1);
            let legend = legend.filter_map(|rest| rest.split("}}").next());
            for label in groups.flat_map(|group| group.split(", ")).chain(legend) {
                assert!(labels.contains(label), "{title}: no label {label}");
            }
        }
    }
    assert!(count > 30, "the search finds something");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["datasource", "instance"]);
}

#[test]
fn systemd_takes_the_unit_and_finds_it_safe() {
    let unit = read("deploy/systemd/pillion.service");
    let start = "ExecStart=pillion run";
    assert!(
        unit.contains(start) && unit.contains("\nType=notify-reload\n"),
        "{unit}"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pillion.service");
    let binary = format!("ExecStart={} run", env!("CARGO_BIN_EXE_pillion"));
    fs::write(&file, unit.replace(start, &binary)).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&file);
    let Some((printed, content)) = checked(&mut verify) else {
        return skip("systemd-analyze is not installed (apt-get install systemd)");
    };
    // One thing may be said: that a version before 253 does not know the newer type.
    let said = printed
        .lines()
        .filter(|line| line.contains("pillion.service"));
    let other: Vec<&str> = said
        .filter(|line| !line.contains("notify-reload"))
        .collect();
    assert!(content && other.is_empty(), "{printed}");
    // As it is, and with what redirection adds.
    let dropins = folder.path().join("pillion.service.d");
    fs::create_dir(&dropins).unwrap();
    let addition = read("deploy/systemd/redirect.conf");
    // The rules are made from the settings of the service.
    let settings = "redirect install -c /etc/pillion/pillion.yaml ";
    assert!(unit.contains("-c /etc/pillion/pillion.yaml") && addition.contains(settings));
    let addition = addition.replace("=+pillion", &format!("=+{}", env!("CARGO_BIN_EXE_pillion")));
    fs::write(
        dropins.join("redirect.conf"),
        addition.replace("User=pillion", "User=daemon"),
    )
    .unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&file);
    let (printed, content) = checked(&mut verify).unwrap();
    assert!(content && !printed.contains("redirect.conf"), "{printed}");
    fs::remove_dir_all(dropins).unwrap();
    let mut security = Command::new("systemd-analyze");
    // Of 100, less is better; a unit without any hardening has 96.
    security
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&file);
    let (printed, content) = checked(&mut security).unwrap();
    assert!(content, "{printed}");

    fs::write(&file, unit.replace(start, "ExecStart=/nowhere/pillion run")).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&file);
    assert!(
        !checked(&mut verify).unwrap().1,
        "the checker notices a program that is missing"
    );
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let told = || {
        let mut message = [0; 4096];
        let n = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..n]).into_owned()
    };
    let config = folder.path().join("pillion.yaml");
    let text = "inbound: { listen: '127.0.0.1:0' }\noutbound: { listen: '127.0.0.1:0' }\nadmin: { listen: '127.0.0.1:0' }\n";
    fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    scrub(&mut command);
    command
        .arg("run")
        .arg("-c")
        .arg(&config)
        .env("NOTIFY_SOCKET", &socket);
    let before = monotonic();
    let mut pillion = Pillion::spawn(command);
    assert_eq!(told().trim(), "READY=1");
    pillion.signal(Signal::HUP);
    // Both in one message, as Type=notify-reload wants it.
    let reloading = told();
    let mut lines = reloading.lines();
    assert_eq!(lines.next(), Some("RELOADING=1"), "{reloading}");
    let at = lines
        .next()
        .and_then(|line| line.strip_prefix("MONOTONIC_USEC="));
    let at = Duration::from_micros(at.unwrap_or_else(|| panic!("{reloading}")).parse().unwrap());
    assert!(before < at && at < monotonic(), "{before:?} {at:?}");
    assert_eq!(told().trim(), "READY=1");
    // A reload that fails is over, too.
    fs::write(&config, "nonsense: true\n").unwrap();
    pillion.signal(Signal::HUP);
    assert!(told().starts_with("RELOADING=1"));
    assert_eq!(told().trim(), "READY=1");
    pillion.signal(Signal::TERM);
    let last = std::iter::repeat_with(told).find(|message| message.contains("STOPPING=1"));
    assert!(last.is_some());
    assert!(pillion.wait().success(), "{}", pillion.stderr());
}

/// The clock of `MONOTONIC_USEC`.
fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[test]
fn the_package_has_what_it_names() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(path(""))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let deb = &metadata["packages"][0]["metadata"]["deb"];
    let mut installed = Vec::new();
    for asset in deb["assets"].as_array().unwrap() {
        let [source, to, mode] = [0, 1, 2].map(|index| asset[index].as_str().unwrap());
        assert!(["644", "640", "755"].contains(&mode), "{asset}");
        let to = match to.strip_suffix('/') {
            Some(folder) => format!("/{folder}/{}", source.rsplit('/').next().unwrap()),
            None => format!("/{to}"),
        };
        installed.push(to);
        // These two come from the commands above the section.
        let made = ["target/release/pillion", "target/man/*.1"];
        let there = match source.split_once('*') {
            Some((folder, _)) => path(folder).is_dir(),
            None => path(source).is_file(),
        };
        assert!(there || made.contains(&source), "{source}");
    }
    // What docs/service.md takes from the tree.
    for file in ["systemd/redirect.conf", "grafana/pillion.json"] {
        let to = format!("/usr/share/doc/pillion/examples/{file}");
        assert!(installed.contains(&to), "{to}");
    }
    for file in deb["conf-files"].as_array().unwrap() {
        let file = file.as_str().unwrap();
        assert!(
            installed.iter().any(|to| to == file),
            "{file} is not installed"
        );
    }
    let units = path(deb["systemd-units"]["unit-scripts"].as_str().unwrap());
    assert!(units.join("pillion.service").is_file());
    let unit = read("deploy/systemd/pillion.service");
    for file in ["/etc/pillion/pillion.yaml", "/etc/pillion/environment"] {
        assert!(
            unit.contains(file) && installed.iter().any(|to| to == file),
            "{file}"
        );
    }
    let mut validate = Command::new(env!("CARGO_BIN_EXE_pillion"));
    scrub(&mut validate);
    validate
        .args(["validate", "--strict", "-c"])
        .arg(path("deploy/debian/pillion.yaml"));
    let (printed, content) = checked(&mut validate).unwrap();
    assert!(content, "{printed}");
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("man");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    scrub(&mut command);
    let (printed, content) = checked(command.args(["man", "--to"]).arg(&to)).unwrap();
    assert!(content && printed.is_empty(), "{printed}");
    for name in [
        "pillion",
        "pillion-run",
        "pillion-exec",
        "pillion-redirect-install",
    ] {
        let page = fs::read_to_string(to.join(format!("{name}.1"))).unwrap();
        assert!(
            page.contains(".TH") && page.contains(".SH SYNOPSIS"),
            "{name}"
        );
    }
    assert!(
        !to.join("pillion-demo-service.1").exists(),
        "not for people"
    );
}
