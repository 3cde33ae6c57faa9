//! Defaults, file, environment and flags to one checked configuration.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use crate::config::check;
use crate::config::check::Finding;
use crate::config::decode::decode;
use crate::config::env;
use crate::config::env::Assignment;
use crate::config::error::ConfigErrors;
use crate::config::error::Problem;
use crate::config::error::Source;
use crate::config::error::render;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Origin;
use crate::config::node::Path;
use crate::config::node::Place;
use crate::config::node::Step;
use crate::config::schema::Schema;
use crate::config::standard_env;
use crate::config::substitute::substitute;
use crate::config::tree::Config;
use crate::config::yaml;
use crate::config::yaml::YamlError;

/// Where settings come from, weakest first: defaults, `file`, `env`, `flags`.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file; `-` is standard input.
    pub file: Option<PathBuf>,
    /// The environment, read once.
    pub env: BTreeMap<String, String>,
    /// Values of command-line flags.
    pub flags: Vec<Setting>,
}

/// One value given by a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The flag with its dashes.
    pub flag: &'static str,
    /// The key it sets, written `inbound.listen`.
    pub path: &'static str,
    /// The value.
    pub value: String,
}

/// A configuration that passed every check.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What was ignored or is doubtful, each ready to print.
    pub warnings: Vec<String>,
    /// The file it came from.
    pub file: Option<PathBuf>,
    /// Every value as it was written, for its origin.
    pub(crate) tree: Node,
    /// The text of the file; empty when there is none.
    pub(crate) text: String,
}

impl Sources {
    /// This process's environment with the given flags. Without `file` the variable `PILLION_CONFIG` names it.
    ///
    /// Variables that are not UTF-8 are passed over.
    pub fn from_process(file: Option<PathBuf>, flags: Vec<Setting>) -> Self {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = env.get(env::FILE).filter(|name| !name.is_empty());
        let file = file.or_else(|| named.map(PathBuf::from));
        Self { file, env, flags }
    }

    /// True when there is a file, a flag or a `PILLION_*` variable that sets anything.
    pub fn has_settings(&self) -> bool {
        self.file.is_some() || !self.flags.is_empty() || !env::read(&self.env).0.is_empty()
    }
}

impl Loaded {
    /// Checks what the settings refer to: certificate files, and whether each reporter can be built.
    ///
    /// # Errors
    /// Everything that is missing or does not fit together.
    pub fn check_materials(&self) -> Result<(), ConfigErrors> {
        self.found(check::materials(&self.config))
    }

    /// Checks what the settings of the injector refer to: its certificate.
    ///
    /// # Errors
    /// What is missing or does not fit together.
    pub fn check_injector(&self) -> Result<(), ConfigErrors> {
        self.found(check::injector_materials(&self.config))
    }

    fn found(&self, findings: Vec<Finding>) -> Result<(), ConfigErrors> {
        let problems: Vec<Problem> = findings
            .into_iter()
            .filter_map(|finding| place(&self.tree, finding))
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        let source = Source {
            name: file_name(self.file.as_deref()),
            text: self.text.clone(),
        };
        Err(ConfigErrors { problems, source })
    }
}

/// Reads, merges and checks everything.
///
/// # Errors
/// All mistakes of all sources at once. An unreadable file or one that is no YAML hides what else is wrong with it.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let text = read(sources)?;
    load_text(sources, text)
}

/// [`load`] with the text of the file already read; `None` when there is no file.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_text(sources: &Sources, text: Option<String>) -> Result<Loaded, ConfigErrors> {
    let source = Source {
        name: file_name(sources.file.as_deref()),
        text: text.unwrap_or_default(),
    };
    let mut problems = Vec::new();
    let mut tree = match yaml::parse(&source.text) {
        Ok(tree) => tree,
        Err(errors) => {
            problems.extend(errors.into_iter().map(Problem::from));
            return Err(ConfigErrors { problems, source });
        }
    };
    if !matches!(tree.kind, Kind::Map(_)) {
        problems.push(Problem {
            message: format!("expected `key: value` lines, found {}", tree.describe()),
            path: Path::default(),
            origin: Some(tree.origin.clone()),
            help: None,
        });
        return Err(ConfigErrors { problems, source });
    }
    problems.extend(substitute(&mut tree, &sources.env));
    let mut warnings = standard_env::apply(&mut tree, &sources.env);
    let (assignments, ignored) = env::read(&sources.env);
    warnings.extend(ignored);
    let flags = sources.flags.iter().map(|setting| {
        Assignment::plain(
            setting.path,
            Origin::Flag(setting.flag),
            setting.value.clone(),
        )
    });
    for assignment in assignments.into_iter().chain(flags) {
        assignment.apply(&mut tree);
    }

    let mut decoded = decode::<Config>(tree);
    for problem in &mut decoded.problems {
        point_home(problem);
    }
    problems.append(&mut decoded.problems);
    let Some(mut config) = decoded.value else {
        return Err(ConfigErrors { problems, source });
    };
    if decoded
        .tree
        .key("sampling")
        .is_none_or(|n| n.kind == Kind::Null)
    {
        let (sampling, why) = check::default_sampling(&config);
        config.sampling = sampling;
        let node = Node::empty(Origin::Derived(why));
        decoded.tree.set(&Path::parse("sampling").0, node);
    }
    let out_of_bounds = check::bounds(&decoded.tree);
    problems.extend(out_of_bounds.into_iter().map(|finding| finding.problem));
    for finding in check::check(&config) {
        let fatal = finding.fatal;
        match place(&decoded.tree, finding) {
            Some(problem) if fatal => problems.push(problem),
            Some(problem) => warnings.push(problem),
            None => {}
        }
    }
    if !problems.is_empty() {
        problems.sort_by_key(Problem::order);
        problems.dedup();
        return Err(ConfigErrors { problems, source });
    }
    Ok(Loaded {
        config,
        warnings: warnings
            .iter()
            .map(|warning| render(&source, "warning", warning))
            .collect(),
        file: sources.file.clone(),
        tree: decoded.tree,
        text: source.text,
    })
}

/// The text of the file, at most what [`yaml::parse`] accepts and one byte more.
pub(crate) fn read(sources: &Sources) -> Result<Option<String>, ConfigErrors> {
    let Some(file) = &sources.file else {
        return Ok(None);
    };
    let limit = yaml::MAX_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let result = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(limit).read_to_end(&mut bytes))
    };
    let fault = match result {
        Ok(_) => match String::from_utf8(bytes) {
            Ok(text) => return Ok(Some(text)),
            Err(_) => "it is not UTF-8 text".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    Err(ConfigErrors {
        problems: vec![Problem {
            message: format!("cannot read {}: {fault}", file.display()),
            path: Path::default(),
            origin: None,
            help: None,
        }],
        source: Source::default(),
    })
}

fn file_name(file: Option<&std::path::Path>) -> String {
    match file {
        Some(file) if file.as_os_str() == "-" => "<stdin>".to_owned(),
        Some(file) => file.display().to_string(),
        None => String::new(),
    }
}

/// A key that exists elsewhere in the tree is more likely misplaced than misspelt.
fn point_home(problem: &mut Problem) {
    if !problem.message.starts_with("unknown key") {
        return;
    }
    let Some(help) = problem
        .help
        .as_mut()
        .filter(|h| h.starts_with("known here"))
    else {
        return;
    };
    let Some(Step::Key(key)) = problem.path.0.last() else {
        return;
    };
    let homes: Vec<String> = Schema::get()
        .paths()
        .iter()
        .filter(|path| path.0.last() == problem.path.0.last())
        .map(Path::to_string)
        .collect();
    if let [home] = homes.as_slice() {
        *help = format!("`{key}` exists as `{home}`; {help}");
    }
}

/// True when the value at a path, or one that it is part of, was passed over.
fn is_removed(tree: &Node, path: &Path) -> bool {
    let mut node = tree;
    for step in &path.0 {
        let next = Path(vec![step.clone()]);
        match node.at(&next) {
            Some(child) if child.kind == Kind::Removed => return true,
            Some(child) => node = child,
            None => return false,
        }
    }
    false
}

/// Finds out where the value that a finding is about was written. `None` when that value was wrong and its default is
/// what was checked: the mistake has been reported already.
fn place(tree: &Node, finding: Finding) -> Option<Problem> {
    let mut problem = finding.problem;
    problem.path = written(tree, &problem.path);
    let other = finding.other.map(|other| written(tree, &other));
    let follows = |path: &Path| is_removed(tree, path);
    if follows(&problem.path) || other.as_ref().is_some_and(follows) {
        return None;
    }
    if let Some(other) = other
        && tree.at(&problem.path).is_none()
    {
        problem.path = other;
    }
    problem.origin = problem
        .origin
        .or_else(|| tree.origin_of(&problem.path).cloned());
    Some(problem)
}

/// List indices of decoded values count what was kept; the user counts what is written.
fn written(tree: &Node, path: &Path) -> Path {
    let mut steps = Vec::new();
    let mut node = Some(tree);
    for step in &path.0 {
        let step = match (step, node.map(|n| n.list())) {
            (Step::Index(kept), Some(items)) if !items.is_empty() => {
                let mut indices = items
                    .iter()
                    .enumerate()
                    .filter(|(_, item)| item.kind != Kind::Removed)
                    .map(|(index, _)| index);
                Step::Index(indices.nth(*kept).unwrap_or(*kept))
            }
            _ => step.clone(),
        };
        node = node.and_then(|n| n.at(&Path(vec![step.clone()])));
        steps.push(step);
    }
    Path(steps)
}

impl From<YamlError> for Problem {
    fn from(error: YamlError) -> Self {
        let place: Place = error.place;
        Self {
            message: error.message,
            path: Path::default(),
            origin: Some(Origin::File(place)),
            help: error.help,
        }
    }
}

#[cfg(test)]
mod tests;
