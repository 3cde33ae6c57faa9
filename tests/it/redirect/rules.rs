//! `pillion redirect`: once and twice installed, removed without a trace, refused without privilege.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::redirect::LEGACY;
use crate::redirect::Mode;
use crate::redirect::PYTHON;
use crate::redirect::Tool;
use crate::redirect::USUAL;
use crate::redirect::redirect;
use crate::redirect::redirect_with;
use crate::support::netns::Namespace;
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
    let Some(Net { pod, world: _world }) = Net::new() else {
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

/// Everything that a tool could change, as the system tells it.
fn everything(pod: &Namespace, tool: Tool) -> String {
    let rules = match tool {
        Tool::Nft => "nft list ruleset",
        Tool::Iptables => "iptables-save; ip6tables-save",
        Tool::Legacy => "iptables-legacy-save; ip6tables-legacy-save",
    };
    let routes = "ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all";
    let text = pod.sh(&format!("{rules}; {routes}")).unwrap();
    // What the device itself brings comes when it likes, and chains count their packets.
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("pod0"))
        .map(|line| line.split(" [").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Rules of others, in every table that we write to.
fn others(pod: &Namespace, tool: Tool) {
    let suffix = match tool {
        Tool::Nft => return drop(pod.sh(OTHERS).unwrap()),
        Tool::Iptables => "",
        Tool::Legacy => "-legacy",
    };
    for family in ["iptables", "ip6tables"] {
        for table in ["nat", "mangle"] {
            pod.sh(&format!(
                "{family}{suffix} -t {table} -A OUTPUT -p tcp --dport 1 -j RETURN"
            ))
            .unwrap();
        }
    }
}

#[test]
fn every_tool_installs_twice_as_once_replaces_and_removes_beside_others() {
    for tool in [Tool::Nft, Tool::Iptables, Tool::Legacy] {
        if !tool.is_there() || !has("ip") {
            continue;
        }
        let Some(Net { pod, world: _world }) = Net::new() else {
            return;
        };
        others(&pod, tool);
        let before = everything(&pod, tool);
        let more = [
            "--uids",
            "1,2",
            "--exclude-outbound-cidrs",
            "10.0.0.0/8,fd00::/8",
        ];
        for mode in [
            Mode::Redirect(tool),
            Mode::Tproxy(tool),
            Mode::Redirect(tool),
        ] {
            let mut args = mode.rules();
            args.extend(more);
            redirect_with(&pod, tool, &args).unwrap();
            let once = everything(&pod, tool);
            redirect_with(&pod, tool, &args).unwrap();
            assert_eq!(everything(&pod, tool), once, "{mode:?}");
            let is_tproxy = matches!(mode, Mode::Tproxy(_));
            assert_eq!(once.to_lowercase().contains("tproxy"), is_tproxy, "{once}");
            assert_eq!(
                once.contains("fwmark 0x70696d lookup 15602"),
                is_tproxy,
                "{once}"
            );
            let shown = redirect_with(&pod, tool, &["show"]).unwrap();
            assert_eq!(shown.contains("fwmark"), is_tproxy, "{shown}");
            assert!(shown.to_lowercase().contains("pillion"), "{shown}");
        }
        redirect_with(&pod, tool, &Mode::Tproxy(tool).rules()).unwrap();
        redirect_with(&pod, tool, &["remove"]).unwrap();
        assert_eq!(everything(&pod, tool), before);
    }
}

#[test]
fn one_tool_replaces_what_another_installed() {
    for (first, second) in [(Tool::Nft, Tool::Iptables), (Tool::Iptables, Tool::Nft)] {
        if !first.is_there() || !second.is_there() || !has("ip") {
            return;
        }
        let Some(Net { pod, world: _world }) = Net::new() else {
            return;
        };
        let install = |tool: Tool, user: &str, path: &str| {
            let name = if tool == Tool::Nft { "nft" } else { "iptables" };
            let line = format!(
                "PATH={path}$PATH {} redirect install --tool {name} --uids {user} 2>&1; echo status $?",
                env!("CARGO_BIN_EXE_pillion"),
            );
            pod.sh(&line).unwrap()
        };
        let show = || redirect(&pod, &["show"]).unwrap();
        assert!(install(first, "1111", "").contains("status 0"));
        // The last step fails: what was there is there again.
        let held = show();
        let folder = tempfile::tempdir().unwrap();
        let script = "#!/bin/sh\n[ \"$1\" = list ] && PATH=${PATH#*:} exec nft \"$@\"\nexit 1\n";
        let fake = folder.path().join("nft");
        std::fs::write(&fake, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fake, mode).unwrap();
        let path = format!("{}:", folder.path().display());
        assert!(install(second, "2222", &path).contains("status 1"));
        assert_eq!(show(), held);

        // A dry run says all of it, and does none.
        let said = install(second, "2222 --dry-run", "");
        let takes = match first {
            Tool::Nft => "delete table inet pillion",
            _ => "-X PILLION_OUTPUT",
        };
        assert!(said.contains(takes) && said.contains("2222"), "{said}");
        assert_eq!(show(), held);

        assert!(install(second, "2222", "").contains("status 0"));
        let shown = show();
        assert!(shown.contains("2222") && !shown.contains("1111"), "{shown}");
        redirect(&pod, &["remove"]).unwrap();
        assert!(show().starts_with("no rules"));
    }
}

/// Installs with a tool that does its work and then fails; what was there before is to be there again.
#[test]
fn what_fails_half_way_leaves_what_was_there() {
    let real = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join(name));
        found.into_iter().find(|at| at.is_file()).unwrap()
    };
    for (tool, failing) in [
        (Tool::Nft, "nft"),
        (Tool::Iptables, "ip6tables-restore"),
        (Tool::Iptables, "iptables-restore"),
        (Tool::Legacy, "ip6tables-restore"),
    ] {
        if !tool.is_there() || !has("ip") {
            continue;
        }
        let Some(Net { pod, world: _world }) = Net::new() else {
            return;
        };
        others(&pod, tool);
        let folder = tempfile::tempdir().unwrap();
        let mut links = vec![];
        if tool == Tool::Legacy {
            links.extend(USUAL.into_iter().zip(LEGACY));
        }
        for (usual, legacy) in links.into_iter().filter(|(usual, _)| *usual != failing) {
            std::os::unix::fs::symlink(real(legacy), folder.path().join(usual)).unwrap();
        }
        let fake = folder.path().join(failing);
        let behind = match tool {
            Tool::Legacy => real(&failing.replace("tables-", "tables-legacy-")),
            _ => real(failing),
        };
        // The tool fails the first time; what is taken back is taken back by one that works.
        let script = format!(
            "#!/bin/sh\nif [ -e {mark} ] || [ $1 = list ]; then exec {behind} \"$@\"; fi\n: >{mark}\n\
             {nft} || {behind} \"$@\"\necho no >&2\nexit 1\n",
            mark = folder.path().join("failed").display(),
            behind = behind.display(),
            nft = if tool == Tool::Nft { "true" } else { "false" },
        );
        std::fs::write(&fake, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fake, mode).unwrap();
        let install = |mode: Mode| {
            let args = mode.rules().join(" ");
            let line = format!(
                "PATH={}:$PATH {} redirect {args} 2>&1; echo status $?",
                folder.path().display(),
                env!("CARGO_BIN_EXE_pillion"),
            );
            pod.sh(&line).unwrap()
        };
        let before = everything(&pod, tool);
        let printed = install(Mode::Tproxy(tool));
        let told = format!("{failing} refused the rules: no");
        assert!(
            printed.contains(&told) && printed.contains("status 1"),
            "{printed}"
        );
        assert_eq!(everything(&pod, tool), before, "{failing} of {tool:?}");
        // And where something was installed, that stays.
        assert!(install(Mode::Redirect(tool)).contains("status 0"));
        let before = everything(&pod, tool);
        std::fs::remove_file(folder.path().join("failed")).unwrap();
        let printed = install(Mode::Tproxy(tool));
        assert!(printed.contains("status 1"), "{printed}");
        assert_eq!(
            everything(&pod, tool),
            before,
            "{failing} of {tool:?}, replacing"
        );
    }
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

#[test]
fn no_port_of_our_own_is_redirected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pillion.yaml");
    let ports = |settings: &str, tool: &str| -> Vec<u16> {
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        crate::support::pillion::scrub(&mut command);
        command.args(["redirect", "install", "--dry-run", "--no-outbound"]);
        command.args(["--tool", tool, "-c"]).arg(&file);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers = text.split(|c: char| !c.is_ascii_digit());
        numbers.filter_map(|number| number.parse().ok()).collect()
    };
    for (settings, own) in [
        ("app: 127.0.0.1:3000", &[15690][..]),
        (
            "admin: { listen: '127.0.0.1:2001', probe_listen: '0.0.0.0:2003' }",
            &[2001, 2003],
        ),
        (
            "receivers: { otlp: { enabled: true, grpc: '[::]:2005' } }",
            &[2005, 4318],
        ),
        ("receivers: { zipkin: { enabled: true } }", &[9411]),
        (
            "receivers: { skywalking: { enabled: true } }",
            &[11800, 12800],
        ),
        // Not the three ports for datagrams, which nobody redirects.
        (
            "receivers: { jaeger: { enabled: true, http: '' } }",
            &[5778, 14250],
        ),
    ] {
        for tool in ["nft", "iptables"] {
            let found = ports(settings, tool);
            for port in own {
                assert!(found.contains(port), "{settings}: {port}: {found:?}");
            }
            for other in [4317, 6831, 14268] {
                assert!(!found.contains(&other), "{settings}: {other}: {found:?}");
            }
        }
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
