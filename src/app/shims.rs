//! What runs inside the program: start-up shims, small files that a runtime loads before the program and that carry a
//! token from a request to its calls, and the library that tells which request a thread works on.
//!
//! They are kept in the binary and laid out where the program can read them. Each is used through a variable that its
//! runtime reads by itself; what the program's environment says there already stays in force.

use std::collections::BTreeMap;
use std::fs;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

use crate::net::evidence::offer;

/// A runtime's shim.
struct Shim {
    /// Where it goes below the chosen directory.
    file: &'static str,
    content: &'static [u8],
    variable: &'static str,
    /// The variable's value, from the directory and what the variable held.
    value: fn(&str, Option<&str>) -> String,
}

const SHIMS: &[Shim] = &[
    Shim {
        file: "node/pillion.js",
        content: include_bytes!("shims/pillion.js"),
        variable: "NODE_OPTIONS",
        value: |dir, held| joined(held, " ", &format!("--require={dir}/node/pillion.js")),
    },
    Shim {
        file: "python/sitecustomize.py",
        content: include_bytes!("shims/sitecustomize.py"),
        variable: "PYTHONPATH",
        // In front: it runs the `sitecustomize` that it hides.
        value: |dir, held| match held {
            Some(held) => format!("{dir}/python:{held}"),
            None => format!("{dir}/python"),
        },
    },
    Shim {
        file: "ruby/pillion.rb",
        content: include_bytes!("shims/pillion.rb"),
        variable: "RUBYOPT",
        value: |dir, held| joined(held, " ", &format!("-r{dir}/ruby/pillion.rb")),
    },
    Shim {
        // Built from `shims/java` by the script there.
        file: "java/pillion.jar",
        content: include_bytes!("shims/pillion.jar"),
        variable: "JAVA_TOOL_OPTIONS",
        value: |dir, held| joined(held, " ", &format!("-javaagent:{dir}/java/pillion.jar")),
    },
];

/// Tells which request a thread works on. Empty when there was no C compiler to build it.
const THREAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libpillion_thread.so"));
/// Its file below the chosen directory.
const THREAD_FILE: &str = "libpillion_thread.so";
const PRELOAD: &str = "LD_PRELOAD";
/// Tells the library where its memory is.
const EVIDENCE: &str = "_PILLION_EVIDENCE";

/// Why shims could not be laid out.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct ShimError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes every shim below `dir`, and the library where this build has it; the variables that make programs load them.
///
/// # Errors
/// The first file that could not be written.
pub fn write_to(dir: &Path) -> Result<Vec<(&'static str, String)>, ShimError> {
    write(dir)?;
    let dir = fs::canonicalize(dir).map_err(|source| ShimError {
        path: dir.to_owned(),
        source,
    })?;
    let mut all = variables(&dir, &BTreeMap::new());
    if has_library() {
        write_library(&dir)?;
        all.extend(preload_in(&dir.to_string_lossy(), &BTreeMap::new()));
    }
    Ok(all)
}

/// True when this build has the library that tells about threads.
pub fn has_library() -> bool {
    !THREAD.is_empty()
}

/// The variables that make a program load the library that [`write_to`] wrote to `dir` and ask for its memory at the
/// socket there, where the program's environment holds `env`.
pub(super) fn preload_in(dir: &str, env: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    let library = format!("{dir}/{THREAD_FILE}");
    vec![
        (PRELOAD, preloaded(&library, env)),
        (EVIDENCE, format!("unix:{dir}/{}", offer::NAME)),
    ]
}

/// The variables that make the runtimes of a program load what [`write_to`] wrote to `dir`, where the program's
/// environment holds `env`.
pub(super) fn variables_in(
    dir: &str,
    env: &BTreeMap<String, String>,
) -> Vec<(&'static str, String)> {
    variables(Path::new(dir), env)
}

/// The shims of one program, in a directory that goes when this is dropped.
pub(super) struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// Lays them out where only this user and root write.
    ///
    /// # Errors
    /// The directory or a file could not be written.
    pub(super) fn new() -> Result<Self, ShimError> {
        let name = format!("pillion-{:016x}", fastrand::u64(..));
        let dir = std::env::temp_dir().join(name);
        // Fails when somebody else made it first. The program may run as another user: it must be able to read.
        let made = DirBuilder::new().mode(0o755).create(&dir);
        made.map_err(|source| ShimError {
            path: dir.clone(),
            source,
        })?;
        let folder = Self { dir };
        write(&folder.dir)?;
        Ok(folder)
    }

    /// What the program's environment gains by shims.
    pub(super) fn variables(&self, env: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
        variables(&self.dir, env)
    }

    /// Adds the library that tells about threads; what the program's environment gains by it.
    ///
    /// `evidence` is the memory that it writes, `app_port` where the program serves.
    ///
    /// # Errors
    /// This build has no library, or it could not be written.
    pub(super) fn preload(
        &self,
        evidence: String,
        app_port: u16,
        env: &BTreeMap<String, String>,
    ) -> Result<[(&'static str, String); 3], ShimError> {
        let library = write_library(&self.dir)?;
        Ok([
            (PRELOAD, preloaded(&library.to_string_lossy(), env)),
            (EVIDENCE, evidence),
            ("_PILLION_APP_PORT", app_port.to_string()),
        ])
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind, it harms nobody.
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn write(dir: &Path) -> Result<(), ShimError> {
    for shim in SHIMS {
        let path = dir.join(shim.file);
        let folder = path.parent().unwrap_or(dir);
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, shim.content));
        written.map_err(|source| ShimError { path, source })?;
    }
    Ok(())
}

/// Where it is.
fn write_library(dir: &Path) -> Result<PathBuf, ShimError> {
    let path = dir.join(THREAD_FILE);
    let written = match THREAD {
        [] => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this build has no preload library: there was no C compiler",
        )),
        library => fs::write(&path, library),
    };
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(ShimError { path, source }),
    }
}

/// The value of `LD_PRELOAD`: the library behind what is there.
fn preloaded(library: &str, env: &BTreeMap<String, String>) -> String {
    let held = env.get(PRELOAD).filter(|value| !value.is_empty());
    joined(held.map(String::as_str), ":", library)
}

fn variables(dir: &Path, env: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    let dir = dir.to_string_lossy();
    let held = |shim: &Shim| env.get(shim.variable).filter(|value| !value.is_empty());
    SHIMS
        .iter()
        .map(|shim| {
            let value = (shim.value)(&dir, held(shim).map(String::as_str));
            (shim.variable, value)
        })
        .collect()
}

fn joined(held: Option<&str>, separator: &str, ours: &str) -> String {
    match held {
        Some(held) => format!("{held}{separator}{ours}"),
        None => ours.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_holds_stays_in_force() {
        let env = BTreeMap::from([
            ("NODE_OPTIONS".to_owned(), "--enable-source-maps".to_owned()),
            ("PYTHONPATH".to_owned(), "/app/lib".to_owned()),
        ]);
        let variables = BTreeMap::from_iter(variables(Path::new("/s"), &env));
        assert_eq!(
            variables["NODE_OPTIONS"],
            "--enable-source-maps --require=/s/node/pillion.js"
        );
        assert_eq!(variables["PYTHONPATH"], "/s/python:/app/lib");
    }

    #[test]
    fn the_library_joins_what_is_loaded_before() {
        for (held, value) in [
            (None, "/s/libpillion_thread.so"),
            (Some(""), "/s/libpillion_thread.so"),
            (Some("/a.so /b.so"), "/a.so /b.so:/s/libpillion_thread.so"),
        ] {
            let held = held.map(|held| (PRELOAD.to_owned(), held.to_owned()));
            let variables = preload_in("/s", &held.into_iter().collect());
            let socket = "unix:/s/evidence.sock".to_owned();
            assert_eq!(variables, [(PRELOAD, value.to_owned()), (EVIDENCE, socket)]);
        }
    }

    #[test]
    fn the_folder_of_a_program_goes_with_it() {
        let folder = Folder::new().unwrap();
        let dir = folder.dir.clone();
        for shim in SHIMS {
            assert!(dir.join(shim.file).is_file(), "{}", shim.file);
        }
        drop(folder);
        assert!(!dir.exists());
    }
}
