//! The effective configuration as YAML that can be loaded again, each value with the place it came from.

use crate::config::diff::Change;
use crate::config::load::Loaded;
use crate::config::node::Entry;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Origin;
use crate::config::node::Path;
use crate::config::node::Scalar;
use crate::config::node::Step;
use crate::config::tree::Config;
use crate::config::yaml;

const REDACTED: &str = "<redacted>";

impl Loaded {
    /// [`Loaded::print`] after a reload: first what waits for a restart, with the values still in force.
    pub fn print_reloaded(&self, waiting: &[Change]) -> String {
        let mut out = String::new();
        if !waiting.is_empty() {
            out.push_str("# Changed since the start and waiting for a restart. Still in force:\n");
        }
        for Change { path, before, .. } in waiting {
            let before = before.as_deref().filter(|text| !text.is_empty());
            out.push_str(&format!("#   {path}: {}\n", before.unwrap_or("nothing")));
        }
        out + &self.print()
    }

    /// The whole configuration as YAML. Every value carries a comment with its origin; secrets are redacted.
    pub fn print(&self) -> String {
        let mut out =
            "# The configuration in effect. The comment behind a value says where it was set.\n"
                .to_owned();
        let printer = Printer { tree: &self.tree };
        if let Kind::Map(entries) = snapshot(&self.config).kind {
            printer.entries(&entries, &Path::default(), 0, "", &mut out);
        }
        out
    }
}

/// The settings as a tree, in the order of the structs; secrets are already redacted.
pub(crate) fn snapshot(config: &Config) -> Node {
    let empty = Node::empty(Origin::Derived("the default"));
    let Ok(text) = yaml::write(config) else {
        return empty;
    };
    yaml::parse(&text).unwrap_or(empty)
}

struct Printer<'a> {
    tree: &'a Node,
}

impl Printer<'_> {
    /// `first` replaces the indentation of the first line: the `- ` of a list element.
    fn entries(
        &self,
        entries: &[Entry],
        path: &Path,
        indent: usize,
        first: &str,
        out: &mut String,
    ) {
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 || first.is_empty() {
                out.push_str(&" ".repeat(indent));
            } else {
                out.push_str(first);
            }
            out.push_str(&quoted(&entry.key));
            out.push(':');
            self.value(&entry.value, &path.join(&entry.key), indent + 2, out);
        }
    }

    fn value(&self, node: &Node, path: &Path, indent: usize, out: &mut String) {
        match &node.kind {
            Kind::Map(entries) if !entries.is_empty() => {
                out.push('\n');
                self.entries(entries, path, indent, "", out);
            }
            Kind::List(items) if items.iter().any(|item| !is_scalar(item)) => {
                out.push('\n');
                for (index, item) in items.iter().enumerate() {
                    let path = path.index(index);
                    let dash = format!("{}- ", " ".repeat(indent));
                    match &item.kind {
                        Kind::Map(entries) if !entries.is_empty() => {
                            self.entries(entries, &path, indent + 2, &dash, out);
                        }
                        _ => {
                            out.push_str(dash.trim_end());
                            self.value(item, &path, indent + 2, out);
                        }
                    }
                }
            }
            _ => {
                let origin = self.origin(path);
                out.push_str(&format!(" {}  # {origin}\n", flow(node)));
            }
        }
    }

    /// The origin of the value at `path`: its own, or that of the text it is part of, or the default.
    fn origin(&self, path: &Path) -> String {
        let mut node = self.tree;
        for step in &path.0 {
            match node.at(&Path(vec![step.clone()])) {
                Some(child) if child.kind != Kind::Null => node = child,
                // `[a, b]` from one variable, or a list that was merged into one value.
                _ if matches!(step, Step::Index(_)) => break,
                _ if matches!(node.origin, Origin::Derived(_)) => break,
                _ => return "default".to_owned(),
            }
        }
        match &node.kind {
            Kind::Scalar(Scalar {
                template: Some(template),
                ..
            }) => format!("{}: {}", node.origin, template.replace(['\n', '\r'], " ")),
            _ => node.origin.to_string(),
        }
    }
}

fn is_scalar(node: &Node) -> bool {
    matches!(node.kind, Kind::Scalar(_) | Kind::Null)
}

/// A value in one line.
pub(super) fn flow(node: &Node) -> String {
    match &node.kind {
        Kind::Null | Kind::Removed => "null".to_owned(),
        Kind::Map(_) => "{}".to_owned(),
        Kind::List(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Kind::Scalar(scalar) => {
            let text = without_credentials(&scalar.text);
            // A number in quotes would come back as a number without them.
            let number = scalar.quoted && text.parse::<f64>().is_ok();
            let word = matches!(text.as_str(), "true" | "false" | "null");
            if number || (scalar.quoted && word) {
                quote(&text)
            } else {
                quoted(&text)
            }
        }
    }
}

/// A text, in quotes where it needs them.
pub(super) fn quoted(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else {
        quote(text)
    }
}

/// Letters, digits and marks that mean nothing to YAML in any position where this printer puts them.
fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && !text.ends_with(':')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/:+=".contains(&b))
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `http://user:password@host/` keeps neither user nor password.
fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((credentials, _)) => {
            let after = rest.strip_prefix(credentials).unwrap_or_default();
            format!("{scheme}://{REDACTED}{after}")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::load::Setting;
    use crate::config::load::Sources;
    use crate::config::load::load_text;

    fn sources(env: &[(&str, &str)]) -> Sources {
        Sources {
            file: Some("test.yaml".into()),
            env: env
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            flags: vec![Setting {
                flag: "--service",
                path: "service",
                value: "checkout".to_owned(),
            }],
        }
    }

    #[test]
    fn every_value_says_where_it_was_set() {
        let env = [("PILLION_WORKERS", "3"), ("LEVEL", "debug")];
        let text =
            "app: 127.0.0.1:3000\nlog:\n  level: ${LEVEL}\nresource: {a: '1', b: \"x # y\"}\n";
        let printed = load_text(&sources(&env), Some(text.to_owned()))
            .unwrap()
            .print();
        for line in [
            "service: checkout  # flag --service",
            "app: 127.0.0.1:3000  # file, line 1",
            "  level: debug  # file, line 3: ${LEVEL}",
            "  a: \"1\"  # file, line 4",
            "  b: \"x # y\"  # file, line 4",
            "workers: 3  # environment, PILLION_WORKERS",
            "  drain_timeout: 20s  # default",
            "    decision: true  # derived, no reporter leads to a server of strategies",
        ] {
            assert!(printed.lines().any(|l| l == line), "{line}\n{printed}");
        }
    }

    #[test]
    fn what_is_printed_loads_to_the_same() {
        let text = "app: '[::1]:3000'\nroutes:\n  - {listen: 127.0.0.1:1, to: a:80}\n  - {listen: 127.0.0.1:2, to: b:80, peer_service: '1.10'}\nresource: {'k: 1': 'true', empty: '', tricky: \"a\\n- b: *c\"}\nspans: {routes: ['/a/{id}', '/b']}\n";
        let plain = Sources {
            env: BTreeMap::new(),
            flags: Vec::new(),
            file: None,
        };
        let first = load_text(&plain, Some(text.to_owned())).unwrap();
        let printed = first.print();
        let second =
            load_text(&plain, Some(printed.clone())).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(first.config, second.config, "{printed}");
    }

    #[test]
    fn credentials_in_addresses_are_not_printed() {
        for (text, shown) in [
            ("http://u:p@h:1/x", "http://<redacted>@h:1/x"),
            ("https://token@h", "https://<redacted>@h"),
            ("http://h/p@q", "http://h/p@q"),
            ("a@b", "a@b"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }
}
