//! The files that put Pillion into service: image, Kubernetes manifest, systemd unit, Prometheus example.
//!
//! Builds no image and talks to no cluster. What a checker exists for is checked by it; the rest is read as text.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::support::jaeger::tools;
use crate::support::skip::skip;

/// Every claim of a container's `securityContext` that a sidecar can keep.
const SECURITY_CONTEXT: &[&str] = &[
    "runAsNonRoot: true",
    "runAsUser: 65532",
    "runAsGroup: 65532",
    "readOnlyRootFilesystem: true",
    "allowPrivilegeEscalation: false",
    "drop: [\"ALL\"]",
    "type: RuntimeDefault",
    "automountServiceAccountToken: false",
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// One instruction of a Dockerfile, continuation lines joined.
struct Instruction {
    word: String,
    rest: String,
}

fn dockerfile() -> Vec<Instruction> {
    let text = read("Dockerfile");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty())
        .collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    joined
        .lines()
        .map(|line| {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            Instruction {
                word: word.to_owned(),
                rest: rest.split_whitespace().collect::<Vec<_>>().join(" "),
            }
        })
        .collect()
}

/// What comes after the last `FROM`: the image that is shipped.
fn final_stage(instructions: &[Instruction]) -> &[Instruction] {
    let start = instructions
        .iter()
        .rposition(|instruction| instruction.word == "FROM")
        .unwrap();
    &instructions[start..]
}

#[test]
fn the_image_runs_as_nobody_and_starts_no_shell() {
    let all = dockerfile();
    let stage = final_stage(&all);
    let of = |word: &str| -> Vec<&str> {
        let found = stage.iter().filter(|i| i.word == word);
        found.map(|i| i.rest.as_str()).collect()
    };
    assert_eq!(of("USER"), ["65532:65532"]);
    assert_eq!(of("RUN"), [""; 0], "the final stage has no shell to run");
    assert_eq!(of("ENTRYPOINT"), [r#"["/pillion"]"#]);
    let health = of("HEALTHCHECK");
    assert!(
        matches!(health.as_slice(), [check] if check.ends_with(r#"CMD ["/pillion", "healthcheck"]"#)),
        "{health:?}"
    );
    for instruction in stage {
        if ["ENTRYPOINT", "CMD"].contains(&instruction.word.as_str()) {
            let form = &instruction.rest;
            assert!(form.starts_with('['), "shell form: {form}");
        }
    }
    let labels = of("LABEL").join(" ");
    for label in ["title", "licenses", "version", "revision"] {
        let label = format!("org.opencontainers.image.{label}=");
        assert!(labels.contains(&label), "no {label}");
    }
    let version = format!("image.version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(labels.contains(&version), "{labels}");
}

#[test]
fn the_image_is_built_from_locked_dependencies_with_the_pinned_compiler() {
    let all = dockerfile();
    let mut builds = 0;
    for instruction in &all {
        for step in instruction.rest.split("&&") {
            let cargo = step.contains("cargo") && instruction.word == "RUN";
            if cargo && (step.contains("build") || step.contains("install")) {
                assert!(step.contains("--locked"), "{step}");
                builds += 1;
            }
        }
    }
    assert_eq!(builds, 3, "the tool, the dependencies, the program");
    let pinned = read("rust-toolchain.toml");
    let version = pinned
        .lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .unwrap();
    let from: Vec<&str> = all
        .iter()
        .filter(|i| i.word == "FROM")
        .map(|i| i.rest.as_str())
        .collect();
    assert!(from[0].starts_with(&format!("rust:{version}-")), "{from:?}");
    assert!(
        all.iter()
            .any(|i| i.word == "ENV" && i.rest.contains(&format!("RUSTUP_TOOLCHAIN={version}"))),
        "rustup would fetch rust-toolchain.toml's components"
    );
}

#[test]
fn everything_the_image_copies_passes_dockerignore() {
    let ignore = read(".dockerignore");
    for instruction in dockerfile() {
        if instruction.word != "COPY" || instruction.rest.contains("--from=") {
            continue;
        }
        let words: Vec<&str> = instruction.rest.split_whitespace().collect();
        let (_, sources) = words.split_last().unwrap();
        for source in sources {
            assert!(path(source).exists(), "{source}");
            let rule = format!("!{source}");
            assert!(ignore.lines().any(|line| line == rule), "no {rule}");
        }
    }
}

#[test]
fn the_manifest_is_what_kubernetes_takes() {
    let file = "deploy/kubernetes/sidecar.yaml";
    let text = read(file);
    for claim in SECURITY_CONTEXT {
        assert!(text.contains(claim), "{file}: no `{claim}`");
    }
    assert!(text.contains("restartPolicy: Always"), "a native sidecar");
    let checker = tools().map(|tools| tools.join("python/bin/kubernetes-validate"));
    let Some(checker) = checker.filter(|file| file.exists()) else {
        return skip("kubernetes-validate is not installed (tests/interop/install.sh python)");
    };
    let check = |file: &Path| {
        Command::new(&checker)
            .args(["--strict", "-k", "1.37"])
            .arg(file)
            .output()
            .unwrap()
    };
    let output = check(&path(file));
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let broken = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(&broken, text.replace("startupProbe", "startProbe")).unwrap();
    assert!(
        !check(broken.path()).status.success(),
        "the checker notices a misspelt key"
    );
}

#[test]
fn at_the_pods_address_are_probes_and_metrics_alone() {
    let mut folders = vec![path("deploy")];
    let mut files = vec![path("config/sidecar.yaml"), path("Dockerfile")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let found = entry.unwrap().path();
            match found.is_dir() {
                true => folders.push(found),
                false => files.push(found),
            }
        }
    }
    assert!(files.len() > 20);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (line, shown) in text.lines().enumerate() {
            let opens = shown.contains("15690") && !shown.contains("127.0.0.1:15690");
            let opens = opens || shown.contains("ADMIN__LISTEN");
            let (file, line) = (file.display(), line + 1);
            assert!(!opens, "{file}:{line}: the admin port is for the pod alone");
        }
    }
    for file in ["config/sidecar.yaml", "deploy/kubernetes/sidecar.yaml"] {
        assert!(read(file).contains(":15691"), "{file}: a port for probes");
    }
}

#[test]
fn the_prometheus_example_is_what_prometheus_takes() {
    let Ok(output) = Command::new("promtool").arg("--version").output() else {
        return skip("promtool is not installed (tests/interop/install.sh debian)");
    };
    assert!(output.status.success());
    // Some builds of promtool know no Kubernetes; the rest of the file does not depend on where targets come from.
    let text = read("deploy/prometheus/scrape.yaml")
        .replace("kubernetes_sd_configs:", "static_configs:")
        .replace("- role: pod", "- targets: []");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    let output = Command::new("promtool")
        .args(["check", "config"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_unit_stops_after_the_proxy_does_and_gives_it_nothing() {
    let unit = read("deploy/systemd/pillion.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key}"))
    };
    let shutdown = pillion::config::Shutdown::default();
    let ours = shutdown.delay.0 + shutdown.drain_timeout.0 + shutdown.flush_timeout.0;
    let theirs: u64 = value("TimeoutStopSec=")
        .trim_end_matches('s')
        .parse()
        .unwrap();
    assert!(theirs > ours.as_secs(), "{theirs}s is not after {ours:?}");
    assert_eq!(value("RestartPreventExitStatus="), "78");
    assert_eq!(value("CapabilityBoundingSet="), "");
    for hardening in [
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateDevices=yes",
        "RestrictNamespaces=yes",
        "MemoryDenyWriteExecute=yes",
        "SystemCallFilter=@system-service",
    ] {
        assert!(unit.lines().any(|line| line == hardening), "{hardening}");
    }
}
