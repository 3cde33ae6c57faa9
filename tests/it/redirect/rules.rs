//! `pillion redirect`: once and twice installed, removed without a trace, refused without privilege.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::redirect::PYTHON;
use crate::redirect::redirect;
use crate::support::netns::Net;
use crate::support::netns::has;
use crate::support::netns::program;

const OTHERS: &str = "nft -f - <<'END'
table inet others { chain output { type filter hook output priority 0; tcp dport 1 counter accept; }; }
END";

#[test]
fn twice_is_once_and_removing_leaves_no_trace() {
    if !has("nft") {
        return;
    }
    let Some(Net { pod, .. }) = Net::new() else {
        return;
    };
    pod.sh(OTHERS).unwrap();
    let ruleset = || pod.sh("nft list ruleset").unwrap();
    let before = ruleset();
    redirect(&pod, &["remove"]).unwrap();
    assert_eq!(ruleset(), before, "there was nothing to remove");
    redirect(&pod, &["install"]).unwrap();
    let once = ruleset();
    assert!(
        once.starts_with(&before) && once.contains("redirect to :15602"),
        "{once}"
    );
    redirect(&pod, &["install"]).unwrap();
    assert_eq!(ruleset(), once);
    assert!(
        redirect(&pod, &["show"])
            .unwrap()
            .contains("redirect to :15607")
    );
    redirect(
        &pod,
        &["install", "--no-inbound", "--outbound-redirect", "[::]:999"],
    )
    .unwrap();
    let shown = redirect(&pod, &["show"]).unwrap();
    assert!(
        shown.contains("redirect to :999") && !shown.contains("prerouting"),
        "{shown}"
    );
    redirect(&pod, &["remove"]).unwrap();
    assert_eq!(ruleset(), before);
    assert!(redirect(&pod, &["show"]).unwrap().starts_with("no rules"));
}

#[test]
fn iptables_rules_are_replaced_and_removed_beside_others() {
    if !has("iptables-restore") || !has("ip6tables-save") {
        return;
    }
    let Some(Net { pod, .. }) = Net::new() else {
        return;
    };
    pod.sh("for t in iptables ip6tables; do $t -t nat -A OUTPUT -p tcp --dport 1 -j RETURN; done")
        .unwrap();
    let rules = || {
        pod.sh("iptables-save; ip6tables-save")
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let before = rules();
    let install = [
        "install",
        "--tool",
        "iptables",
        "--uids",
        "1,2",
        "--exclude-outbound-cidrs",
        "10.0.0.0/8,fd00::/8",
    ];
    redirect(&pod, &install).unwrap();
    let once = rules();
    assert!(once.contains("-j REDIRECT --to-ports 15602"), "{once}");
    redirect(&pod, &install).unwrap();
    assert_eq!(rules(), once);
    assert!(
        redirect(&pod, &["show"])
            .unwrap()
            .contains("PILLION_OUTPUT")
    );
    redirect(&pod, &["remove"]).unwrap();
    assert_eq!(rules(), before);
}

#[test]
fn what_fails_half_way_leaves_nothing() {
    if !has("iptables-restore") {
        return;
    }
    let Some(Net { pod, .. }) = Net::new() else {
        return;
    };
    // A tool for IPv6 that fails, in front of the real one.
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("ip6tables-restore");
    std::fs::write(&fake, "#!/bin/sh\necho no >&2\nexit 1\n").unwrap();
    std::os::unix::fs::symlink("/bin/true", folder.path().join("true")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let script = format!(
        "chmod 755 {fake}; PATH={folder}:{path} {pillion} redirect install --tool iptables 2>&1; echo status $?; iptables-save",
        fake = fake.display(),
        folder = folder.path().display(),
        pillion = env!("CARGO_BIN_EXE_pillion"),
    );
    let printed = pod.sh(&script).unwrap();
    assert!(
        printed.contains("ip6tables-restore refused the rules: no"),
        "{printed}"
    );
    assert!(
        printed.contains("status 1") && !printed.contains("PILLION_OUTPUT"),
        "{printed}"
    );
}

#[test]
fn nothing_is_run_in_a_dry_run_and_without_privilege() {
    let pillion = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        crate::support::pillion::scrub(&mut command);
        command.arg("redirect").args(args);
        command
    };
    for args in [
        &["install", "--dry-run"][..],
        &["install", "--dry-run", "--tool", "iptables"],
        &["remove", "--dry-run", "--tool", "nft"],
        &["show", "--dry-run"],
    ] {
        let output = pillion(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        assert!(
            output.status.success() && text.contains("pillion") || args[0] == "show",
            "{args:?}: {text}"
        );
    }
    let mut command = pillion(&["install"]);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    match command.output() {
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(77), "{error}");
            assert!(error.contains("NET_ADMIN"), "{error}");
        }
        Err(error) => crate::support::skip::skip(&format!("another user cannot run it: {error}")),
    }
}

/// The commands of docs/redirect.md, top to bottom, with a call in between.
#[test]
fn the_page_s_commands_do_what_it_says() {
    if !has("nft") || !has("iptables-restore") || !has("setpriv") || !has("curl") {
        return;
    }
    let Some(Net { pod, world }) = Net::new() else {
        return;
    };
    let page = include_str!("../../../docs/redirect.md");
    let mut blocks = page
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let mut next = || blocks.next().unwrap();
    let (run, install, remove, dry, isolate) = (next(), next(), next(), next(), next());
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_pillion"))
        .parent()
        .unwrap();
    let _server = world.spawn(program(&[PYTHON, "-m", "http.server", "8080"]));
    let script = format!(
        "set -e
        PATH={}:$PATH
        for name in $(env | grep -o '^[A-Za-z_]*_proxy\\|^PILLION_[A-Z_]*\\|^OTEL_[A-Z_]*'); do unset $name; done
        {dry}
        {run}
        proxy=$!
        trap 'kill $proxy' EXIT
        curl -sf --retry 9 --retry-delay 1 --retry-connrefused http://127.0.0.1:15690/readyz >&2
        {install}
        setpriv --reuid 65534 --clear-groups curl -s --retry 9 --retry-delay 1 --retry-all-errors -f http://10.77.0.2:8080/ >&2
        curl -s http://127.0.0.1:15690/metrics | grep 'detected.*outbound.*http1'
        {remove}
        kill $proxy
        wait $proxy || true
        trap - EXIT
        {isolate}
        nft list ruleset",
        folder.display(),
    );
    let printed = pod.sh(&script).unwrap();
    assert!(
        printed.contains("nft -f - <<'END'") && printed.contains("*nat"),
        "{printed}"
    );
    assert!(printed.contains("table inet pillion"), "{printed}");
    let counted = printed.lines().find(|line| line.contains("http1")).unwrap();
    assert!(!counted.ends_with(" 0"), "{printed}");
    assert!(
        printed.ends_with("</html>\n"),
        "removed without a trace: {printed}"
    );
}
