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

/// Why shims could not be laid out.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct ShimError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes every shim below `dir`; the variables that make the runtimes load them.
///
/// # Errors
/// The first file that could not be written.
pub fn write_to(dir: &Path) -> Result<Vec<(&'static str, String)>, ShimError> {
    write(dir)?;
    let dir = fs::canonicalize(dir).map_err(|source| ShimError {
        path: dir.to_owned(),
        source,
    })?;
    Ok(variables(&dir, &BTreeMap::new()))
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
        let path = self.dir.join("libpillion_thread.so");
        let written = match THREAD {
            [] => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this build has no preload library: there was no C compiler",
            )),
            library => fs::write(&path, library),
        };
        let library = path.to_string_lossy().into_owned();
        written.map_err(|source| ShimError { path, source })?;
        let held = env.get("LD_PRELOAD").filter(|value| !value.is_empty());
        Ok([
            (
                "LD_PRELOAD",
                joined(held.map(String::as_str), ":", &library),
            ),
            ("_PILLION_EVIDENCE", evidence),
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
