//! The checkers of Kubernetes objects: `kubernetes-validate`, which holds the schemas of many versions.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::jaeger::tools;
use crate::support::skip::skip;

/// The versions that everything is checked against: the first that starts native sidecars by itself, the one that
/// declares them stable, the newest that the checker knows.
pub(crate) const VERSIONS: [&str; 3] = ["1.29", "1.33", "1.37"];

/// Checks objects strictly (an unknown field is an error) against each version. Skips when there is no checker.
pub(crate) fn validate(objects: &[Value], versions: &[&str]) {
    let checker = tools().map(|tools| tools.join("python/bin/kubernetes-validate"));
    let Some(checker) = checker.filter(|file| file.exists()) else {
        return skip("kubernetes-validate is not installed (tests/interop/install.sh python)");
    };
    let mut text = String::new();
    for object in objects {
        let mut object = object.clone();
        // What the API server makes of it; the checker wants a name to report.
        if let Some(prefix) = object["metadata"]["generateName"].as_str() {
            object["metadata"]["name"] = format!("{prefix}x7v2k").into();
        }
        // JSON is YAML.
        writeln!(text, "---\n{object}").unwrap();
    }
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(&file, text).unwrap();
    for version in versions {
        if let Err(said) = run(&checker, version, file.path()) {
            panic!("Kubernetes {version}: {said}");
        }
    }
    let mut broken = objects[0].clone();
    broken["metadata"]["name"] = "broken".into();
    broken["spec"]["misspelt"] = true.into();
    std::fs::write(&file, broken.to_string()).unwrap();
    let refused = run(&checker, versions[0], file.path()).is_err();
    assert!(refused, "the checker notices a misspelt key");
}

fn run(checker: &Path, version: &str, file: &Path) -> Result<(), String> {
    let output = Command::new(checker)
        .args(["--strict", "-k", version])
        .arg(file)
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)),
    }
}
