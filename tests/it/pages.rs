//! The pages that people follow from top to bottom: every command of their `sh` blocks is run, in order, in one shell
//! with a network of its own. What changes the machine stands in `console` blocks; docs/service.md alone has them, and
//! they are run on a copy of the machine with a systemd of its own.
//!
//! docs/redirect.md is run in `redirect::rules`, docs/kubernetes.md in `apiserver`.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::jaeger::tools;
use crate::support::left;
use crate::support::left::until;
use crate::support::netns::Net;
use crate::support::netns::has;
use crate::support::skip::skip;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The fenced blocks of one language, joined.
fn blocks(page: &str, language: &str) -> String {
    let open = format!("```{language}\n");
    let blocks = page.split(&open).skip(1);
    blocks
        .filter_map(|rest| rest.split("```\n").next())
        .collect()
}

/// Runs the page; what it printed, on both streams. The shell stops at the first command that fails.
fn follow(page: &str, before: &str) -> Option<String> {
    if !["curl", "python3"].into_iter().all(has) {
        return None;
    }
    let net = Net::new()?;
    let folder = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_pillion")).parent().unwrap();
    let script = format!(
        "exec 2>&1; set -e
        PATH={}:$PATH
        for name in $(env | grep -o '^[A-Za-z_]*_proxy\\|^PILLION_[A-Z_]*\\|^OTEL_[A-Z_]*\\|^JAEGER_[A-Z_]*'); do unset $name; done
        cd {}
        here=$PWD
        trap 'jobs -p >$here/jobs; kill $(cat $here/jobs) 2>/dev/null || true' EXIT
        {before}\n{}",
        binary.display(),
        folder.path().display(),
        blocks(&read(page), "sh"),
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let output = net.pod.output(command);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{page}: {}: {printed}",
        output.status
    );
    Some(printed)
}

#[test]
fn in_front_of_a_program() {
    let Some(printed) = follow("docs/reverse-proxy.md", "") else {
        return;
    };
    for text in [
        "200\n",
        "legacy",
        "direction=\"inbound\"",
        "pillion.yaml: valid",
        "service: legacy  # file, line 1",
    ] {
        assert!(printed.contains(text), "{text} is missing: {printed}");
    }
}

#[test]
fn around_a_program() {
    let Some(printed) = follow("docs/exec.md", "") else {
        return;
    };
    for text in [
        "\"url.full\":\"http://localhost:8080/\"",
        "200\n",
        "ended with 143",
        "started with the shim",
    ] {
        assert!(printed.contains(text), "{text} is missing: {printed}");
    }
}

#[test]
fn as_a_service() {
    let tree = path("");
    let before = format!("ROOT=$PWD/root; cd {}", tree.display());
    let Some(printed) = follow("docs/service.md", &before) else {
        return;
    };
    assert!(
        printed.contains("etc/pillion/pillion.yaml: valid"),
        "{printed}"
    );
    let commands = read("docs/service.md");
    for named in ["man --to target/man", "cargo deb --no-build"] {
        assert!(
            commands.contains(named) && read("Cargo.toml").contains(named),
            "{named}"
        );
    }
    let unit = read("deploy/systemd/pillion.service");
    for key in ["WatchdogSec=", "DynamicUser=yes", "EnvironmentFile="] {
        assert!(unit.contains(key), "{key}");
    }
}

/// What stands for what takes minutes, or is not there: the program of the tests for one built for release, a package that
/// is packed loosely, and nobody to ask for a password.
const BEFORE: &str = r#"
PS4='+$SECONDS '
set -exo pipefail
cargo() {
  case $1 in
    build) install -D "$PROGRAM" target/release/pillion ;;
    deb) command cargo "$@" --fast ;;
  esac
}
sudo() { "$@"; }
until_it() {
  for n in $(seq 100); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.1; done
  "$@"
}
is_web() { curl -fsS "$@" | grep 'Directory listing'; }
cat >/etc/systemd/system/legacy.service <<'END'
[Service]
ExecStart=python3 -m http.server 3000 --bind 127.0.0.1
DynamicUser=yes
END
systemctl daemon-reload
systemctl start legacy
"#;

/// After the package or the files are there.
const INSTALLED: &str = r#"
if systemctl is-active pillion || systemctl is-enabled pillion; then exit 1; fi
"#;

/// After it was started.
const STARTED: &str = r#"
systemctl is-enabled pillion
until_it is_web http://127.0.0.1:15606/
[[ $(stat --format %u /proc/$(systemctl show --property MainPID --value pillion)) != 0 ]]
"#;

/// After the program was told of it, and what the page says of settings, reload and the log.
const TOLD: &str = r#"
is_told() { tr '\0' '\n' </proc/$(systemctl show --property MainPID --value legacy)/environ | grep ^HTTP_PROXY=http://127.0.0.1:15601; }
until_it is_told
has_name() { curl -fsS http://127.0.0.1:15690/config_dump | grep "$1"; }
sed -i 's/^service: .*/service: renamed/' /etc/pillion/pillion.yaml
until_it has_name renamed
if (( $(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p') >= 253 )); then systemctl reload pillion; fi
cp /etc/pillion/pillion.yaml /tmp/right
echo 'nonsense: true' >>/etc/pillion/pillion.yaml
complains() { journalctl --unit pillion | grep 'pillion.yaml:[0-9]*:[0-9]*'; }
until_it complains
has_name renamed
cp /tmp/right /etc/pillion/pillion.yaml
"#;

/// After it takes redirected connections.
const REDIRECTED: &str = r#"
pillion redirect show | grep 'redirect to :15602'
[[ $(stat --format %U /proc/$(systemctl show --property MainPID --value pillion)) = pillion ]]
systemctl stop pillion
pillion redirect show | grep 'no rules'
systemctl start pillion
# What is killed is there again.
kill -KILL "$(systemctl show --property MainPID --value pillion)"
until_it is_web http://127.0.0.1:15606/
until_it systemctl is-active pillion
systemctl stop pillion
systemctl show --property Result --value pillion | grep -x success
# A socket that systemd holds: whoever calls starts the service.
cat >/etc/systemd/system/pillion.socket <<'END'
[Socket]
ListenStream=127.0.0.1:18606
FileDescriptorName=inbound
END
systemctl daemon-reload
systemctl start pillion.socket
until_it is_web http://127.0.0.1:18606/
until_it systemctl is-active pillion
systemctl stop pillion.socket pillion
rm /etc/systemd/system/pillion.socket
"#;

const PURGED: &str = r#"
apt-get purge --yes pillion
left=$(find /etc/pillion /usr/bin/pillion /usr/share/doc/pillion /lib/systemd/system/pillion.service || true)
[[ -z $left ]]
"#;

/// The blocks of a page that are run, with what they begin with: each as a person types it.
fn typed(page: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("```") {
        let (language, after) = after.split_once('\n').unwrap();
        let (text, after) = after.split_once("```").unwrap();
        rest = after;
        match language {
            "sh" => all.push(text.to_owned()),
            "console" => {
                let lines = text.lines().map(|line| line.strip_prefix("$ ").unwrap());
                all.push(lines.collect::<Vec<_>>().join("\n"));
            }
            other => panic!("nobody runs {other}"),
        }
    }
    all
}

/// Follows docs/service.md on a machine; `steps`: how its blocks begin, and what is done and looked at after each. `None`
/// for `after`: this way does not take the block.
fn on_a_machine(steps: &[(&str, Option<&str>)]) {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut copy = Command::new("sh");
    copy.args([
        "-c",
        "tar -c --exclude=./target --exclude=./.git . | tar -x -C \"$0\"",
    ]);
    assert!(
        copy.arg(&tree)
            .current_dir(path(""))
            .status()
            .unwrap()
            .success()
    );
    let program = folder.path().join("pillion");
    fs::copy(env!("CARGO_BIN_EXE_pillion"), &program).unwrap();
    // About as large as one that is built for release.
    Command::new("strip").arg(&program).status().unwrap();
    let page = typed(&read("docs/service.md"));
    assert_eq!(page.len(), steps.len(), "the page has other blocks");
    let mut script = format!(
        "export PATH=/mnt:{}/bin:{} HOME={} CARGO_NET_OFFLINE=true PROGRAM=/mnt/pillion ROOT=\ncd /mnt/tree\n{BEFORE}",
        tools().unwrap_or_default().display(),
        std::env::var("PATH").unwrap(),
        std::env::var("HOME").unwrap(),
    );
    for name in ["CARGO_HOME", "RUSTUP_HOME"] {
        if let Ok(folder) = std::env::var(name) {
            script = format!("export {name}='{folder}'\n{script}");
        }
    }
    for (block, (begins, after)) in page.iter().zip(steps) {
        assert!(block.starts_with(begins), "{begins}: {block}");
        if let Some(after) = after {
            script += &format!("{block}\n{after}");
        }
    }
    fs::write(folder.path().join("script"), script).unwrap();
    let mut machine = Command::new(path("tests/machine/run"));
    let ended = machine.arg(folder.path()).arg("300").output().unwrap();
    let printed = fs::read_to_string(folder.path().join("output")).unwrap_or_default();
    assert!(ended.status.success(), "{ended:?}\n{printed}");
}

/// True where a machine can be made.
fn machines() -> bool {
    let tools = ["curl", "python3", "nft", "strip", "useradd", "setpriv"];
    if !tools.into_iter().all(has) {
        return false;
    }
    if !Path::new("/lib/systemd/systemd").exists() {
        skip("systemd is not installed (tests/interop/install.sh debian)");
        return false;
    }
    let cgroups = Command::new("findmnt")
        .args(["--types", "cgroup2"])
        .output();
    if !cgroups.is_ok_and(|output| output.status.success()) {
        skip("no cgroups of version 2 are mounted");
        return false;
    }
    let mut overlay = Command::new("unshare");
    overlay.args(["--mount", "sh", "-c"]);
    overlay.arg("mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w /mnt/r && mount -t overlay none -o lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w /mnt/r");
    if !overlay.output().is_ok_and(|output| output.status.success()) {
        skip("no overlay in a mount namespace: not root, or not in this kernel");
        return false;
    }
    true
}

#[test]
fn as_a_service_by_the_package_with_a_real_systemd() {
    if !machines() || !has("apt-get") {
        return;
    }
    let deb = tools().map(|tools| tools.join("bin/cargo-deb"));
    if !deb.is_some_and(|file| file.exists()) {
        return skip("cargo-deb is not installed (.ci/run deb)");
    }
    on_a_machine(&[
        ("cargo build", Some(INSTALLED)),
        ("install -D --mode 755", None),
        ("pillion validate", Some("")),
        ("sudo systemctl enable", Some(STARTED)),
        ("mkdir -p", Some("")),
        ("sudo systemctl daemon-reload", Some(TOLD)),
        ("install -D --mode 644", Some("")),
        ("sudo systemctl stop", Some(&[REDIRECTED, PURGED].concat())),
    ]);
}

#[test]
fn as_a_service_without_the_package_with_a_real_systemd() {
    if !machines() {
        return;
    }
    on_a_machine(&[
        ("cargo build", None),
        ("install -D --mode 755", Some(INSTALLED)),
        ("pillion validate", Some("")),
        ("sudo systemctl enable", Some(STARTED)),
        ("mkdir -p", Some("")),
        ("sudo systemctl daemon-reload", Some(TOLD)),
        ("install -D --mode 644", Some("")),
        ("sudo systemctl stop", Some(REDIRECTED)),
    ]);
}

#[test]
fn a_killed_machine_leaves_nothing() {
    if !machines() {
        return;
    }
    for signal in [Signal::TERM, Signal::KILL] {
        let folder = tempfile::tempdir().unwrap();
        let script = "cat /proc/1/environ >/mnt/begun; exec sleep 1000";
        fs::write(folder.path().join("script"), script).unwrap();
        let mut command = Command::new(path("tests/machine/run"));
        let mut child = command
            .arg(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = || fs::read_to_string(folder.path().join("begun")).unwrap_or_default();
        until("the script", || begun().contains("PILLION_TEST_CGROUP="));
        let environment = begun();
        let mut variables = environment.split('\0');
        let cgroup = variables.find_map(|each| each.strip_prefix("PILLION_TEST_CGROUP="));
        let cgroup = Path::new(cgroup.unwrap());
        left::end(&mut child, signal);
        until("the end of its processes", || {
            let events = fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
            !events.contains("populated 1") && !left::names(folder.path())
        });
        if signal == Signal::TERM {
            assert!(!cgroup.exists(), "{} stays", cgroup.display());
        }
        // Who was killed cannot remove them.
        let mut remove = Command::new("find");
        remove.arg(cgroup).args(["-depth", "-type", "d", "-delete"]);
        remove.stderr(Stdio::null()).status().unwrap();
    }
}
