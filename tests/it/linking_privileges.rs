//! An ordinary user with the capabilities BPF and PERFMON alone: what is promised of that is so, and what needs one more
//! says so.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::XattrFlags;
use rustix::fs::setxattr;

use crate::linking::bench::apps;
use crate::linking_lives::beside::Beside;
use crate::linking_lives::beside::Program;
use crate::support::skip::skip;

/// Users of nobody, so to speak.
const OURS: &str = "65534";
const ANOTHER: &str = "65533";

/// Where a file's capabilities are, and those two, permitted and effective (`struct vfs_cap_data`, revision 2).
const FILE: &str = "security.capability";
const BPF_AND_PERFMON: [u8; 20] = [
    1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0,
];

/// How the capabilities come to the sidecar.
#[derive(Clone, Copy)]
enum Given {
    /// Handed on by who starts it.
    Ambient(&'static str),
    /// Of its file: the capabilities BPF and PERFMON.
    InFile,
}

/// A place that every user can read: the sidecar, and programs with what they need.
struct Place(tempfile::TempDir);

impl Place {
    /// `None`, with the reason printed: users cannot be changed here.
    fn new() -> Option<Self> {
        let ours = Command::new("setpriv")
            .args(user(OURS))
            .args([
                "--inh-caps=-all,+bpf,+perfmon",
                "--ambient-caps=-all,+bpf,+perfmon",
            ])
            .arg("true")
            .output();
        if !ours.is_ok_and(|output| output.status.success()) {
            skip("needs root, and setpriv that knows the capability BPF");
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for script in ["node.js", "threads.py", "truth.py"] {
            let to = place.path().join(script);
            fs::copy(apps::directory().join(script), &to).unwrap();
            fs::set_permissions(to, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let pillion = place.path().join("pillion");
        fs::copy(env!("CARGO_BIN_EXE_pillion"), &pillion).unwrap();
        fs::set_permissions(pillion, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self(place))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A sidecar of our user with these capabilities.
    async fn sidecar(&self, given: Given) -> Option<Beside> {
        let mut command = Command::new("setpriv");
        command.args(user(OURS));
        let pillion = self.path().join("pillion");
        match given {
            Given::Ambient(list) => {
                command.arg(format!("--inh-caps=-all,{list}"));
                command.arg(format!("--ambient-caps=-all,{list}"));
            }
            Given::InFile => {
                if let Err(error) = setxattr(&pillion, FILE, &BPF_AND_PERFMON, XattrFlags::empty())
                {
                    skip(&format!("files can be given no capabilities: {error}"));
                    return None;
                }
            }
        }
        command.arg(pillion);
        Beside::start_by(command).await
    }

    fn program(&self, of: &str, command: [&str; 2]) -> Option<Vec<OsString>> {
        // Where every user finds it.
        let mut places = ["/usr/bin", "/usr/local/bin"].iter();
        let Some(place) = places.find(|place| Path::new(place).join(command[0]).exists()) else {
            skip(&format!("no {} for every user", command[0]));
            return None;
        };
        let program = Path::new(place).join(command[0]);
        let mut all = vec!["setpriv".into()];
        all.extend(user(of).map(OsString::from));
        all.extend([program.into(), self.path().join(command[1]).into()]);
        Some(all)
    }
}

fn user(id: &str) -> [String; 3] {
    [
        format!("--reuid={id}"),
        format!("--regid={id}"),
        "--clear-groups".to_owned(),
    ]
}

const NODE: [&str; 2] = ["node", "node.js"];
const PYTHON: [&str; 2] = ["python3", "threads.py"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_capabilities_are_enough_for_a_program_of_the_same_user() {
    for given in [Given::Ambient("+bpf,+perfmon"), Given::InFile] {
        let Some(place) = Place::new() else { return };
        let Some(node) = place.program(OURS, NODE) else {
            return;
        };
        let Some(beside) = place.sidecar(given).await else {
            return;
        };
        let _program = Program::start(&beside, &node, &[]);
        beside.serves().await;
        beside.until_probes(
            "the probe is at work",
            |probes| matches!(probes, [one] if one.is_active && one.runtime == "libuv"),
        );
        let score = beside.row("par2", 100).await;
        assert_eq!(score.wrong_merges(), 0, "{:?}", score.methods);
        assert!(score.right * 10 > score.calls * 9, "{score:?}");
        let state = beside.linking();
        assert_eq!(state["profile"], "bpf");
        assert_eq!(state["lacking"], serde_json::json!(["CAP_SYS_PTRACE"]));
        beside.until_linking("the program is seen", |state| {
            state["program"]["class"] == "event_loop"
        });
        let told = beside.pillion.stderr();
        let lines: Vec<&str> = told
            .lines()
            .filter(|line| line.contains("privileges for linking"))
            .collect();
        assert!(
            matches!(lines[..], [line] if line.contains(r#""profile":"bpf""#)),
            "{told}"
        );
        assert!(
            lines[0].contains("CAP_SYS_PTRACE") && !lines[0].contains("CAP_BPF"),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_another_user_needs_one_more_for_its_probe_and_none_for_its_threads() {
    let Some(place) = Place::new() else { return };
    let Some(beside) = place.sidecar(Given::Ambient("+bpf,+perfmon")).await else {
        return;
    };
    if let Some(python) = place.program(ANOTHER, PYTHON) {
        let program = Program::start(&beside, &python, &[]);
        beside.serves().await;
        let score = beside.row("seq2", 100).await;
        assert_eq!(score.wrong_merges(), 0, "{:?}", score.methods);
        assert_eq!(score.right, score.calls, "{:?}", score.methods);
        assert!(
            score.methods.contains_key("thread/high"),
            "{:?}",
            score.methods
        );
        program.kill();
    }
    let Some(node) = place.program(ANOTHER, NODE) else {
        return;
    };
    let _program = Program::start(&beside, &node, &[]);
    beside.serves().await;
    let score = beside.row("seq2", 100).await;
    assert_eq!(score.wrong_merges(), 0, "{:?}", score.methods);
    assert!(
        !score.methods.contains_key("runtime/high"),
        "{:?}",
        score.methods
    );
    beside.until_probes("it says what is lacking", |probes| {
        let refused = |one: &str| one.starts_with("needs CAP_SYS_PTRACE");
        matches!(probes, [one] if one.refused.as_deref().is_some_and(refused))
    });
    beside.until_linking("it says so of the program too", |state| {
        let needs = state["program"]["needs"].as_str().unwrap_or_default();
        needs.contains("CAP_SYS_PTRACE")
    });
    assert_eq!(
        beside.times_told("linking does not look into the program"),
        1
    );
    drop(beside);
    let Some(beside) = place
        .sidecar(Given::Ambient("+bpf,+perfmon,+sys_ptrace"))
        .await
    else {
        return;
    };
    let _program = Program::start(&beside, &node, &[]);
    beside.serves().await;
    beside.until_probes(
        "with it the probe is at work",
        |probes| matches!(probes, [one] if one.is_active && one.runtime == "libuv"),
    );
    assert_eq!(beside.linking()["lacking"], serde_json::json!([]));
    beside.until_linking("what the program is, is known", |state| {
        state["program"]["class"] == "event_loop"
    });
}
