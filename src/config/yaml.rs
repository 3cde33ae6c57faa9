//! YAML text to a [`Node`] tree with positions. The only module that names the YAML library.
//!
//! Scalars stay text: whether `1.10` is a version or a number is decided by the setting that reads it. Everything is
//! bounded before it is stored: bytes, nesting, and nodes after aliases are expanded, so that a few hundred bytes of
//! nested aliases cannot become gigabytes.

use std::collections::HashMap;
use std::collections::HashSet;

use serde_saphyr::granit_parser::Event;
use serde_saphyr::granit_parser::Parser;
use serde_saphyr::granit_parser::ScalarStyle;
use serde_saphyr::granit_parser::Span;
use serde_saphyr::granit_parser::options;

use crate::config::node::Entry;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Origin;
use crate::config::node::Place;
use crate::config::node::Scalar;

/// The longest text that is read.
pub(crate) const MAX_BYTES: usize = 1 << 20;
const MAX_NODES: usize = 50_000;
const MAX_DEPTH: usize = 32;

/// Why a text is no usable YAML, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct YamlError {
    /// What is wrong.
    pub(crate) message: String,
    /// Where.
    pub(crate) place: Place,
    /// What to write instead, when that is known.
    pub(crate) help: Option<String>,
}

/// Reads one YAML document. An empty one is an empty mapping.
///
/// # Errors
/// Every problem that can be found: duplicate keys and other misuse are collected, a syntax error ends the reading.
pub(crate) fn parse(text: &str) -> Result<Node, Vec<YamlError>> {
    if text.len() > MAX_BYTES {
        return Err(vec![YamlError {
            message: format!("the file is larger than {} KiB", MAX_BYTES / 1024),
            place: Place::default(),
            help: None,
        }]);
    }
    let mut builder = Builder::default();
    for next in Parser::new_from_str_with_options(
        text,
        options! {
            emit_comments: false,
            emit_unresolved_aliases: true,
            disallow_directives: true,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        },
    ) {
        let result = match next {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => {
                let marker = error.marker();
                Err(YamlError {
                    message: format!("this is not valid YAML: {}", error.info()),
                    place: Place {
                        line: marker.line(),
                        column: marker.col() + 1,
                        len: 0,
                    },
                    help: syntax_help(text, marker.line(), &error.info()),
                })
            }
        };
        if let Err(error) = result {
            builder.errors.push(error);
            break;
        }
    }
    if !builder.errors.is_empty() {
        return Err(builder.errors);
    }
    let start = Origin::File(Place {
        line: 1,
        column: 1,
        len: 0,
    });
    match builder.root {
        None => Ok(Node::empty(start)),
        Some(node) if node.kind == Kind::Null => Ok(Node::empty(start)),
        Some(node) => Ok(node),
    }
}

/// Writes settings as YAML, to be read back by [`parse`].
///
/// # Errors
/// The text of the library, when a type cannot be written; no type of the tree is such.
pub(crate) fn write<T: serde::Serialize>(value: &T) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|error| error.to_string())
}

fn syntax_help(text: &str, line: usize, fault: &str) -> Option<String> {
    let line = text.lines().nth(line.checked_sub(1)?)?;
    let indent: String = line
        .chars()
        .take_while(|c| c.is_ascii_whitespace())
        .collect();
    if indent.contains('\t') {
        return Some("YAML is indented with spaces, this line starts with a tab".to_owned());
    }
    (fault.contains("flow") && line.contains(['{', '[']))
        .then(|| "a text that holds { } [ ] or , needs quotes here".to_owned())
}

/// Collects parser events into a tree.
#[derive(Default)]
struct Builder {
    root: Option<Node>,
    documents: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    errors: Vec<YamlError>,
}

/// A list or mapping whose end has not been seen.
struct Open {
    place: Place,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        merged: Vec<Entry>,
        seen: HashSet<String>,
        key: Option<(String, Place)>,
    },
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let place = place(&span);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(error(place, "the file holds more than one YAML document"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, _) => {
                let quoted = style != ScalarStyle::Plain;
                let kind = if !quoted && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    Kind::Null
                } else {
                    Kind::Scalar(Scalar {
                        text: text.into_owned(),
                        quoted,
                        template: None,
                    })
                };
                self.finish(kind, place, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Open {
                    place,
                    anchor,
                    content: Content::List(Vec::new()),
                });
                self.count(1, place)
            }
            Event::MappingStart(_, anchor, _) => {
                self.open.push(Open {
                    place,
                    anchor,
                    content: Content::Map {
                        entries: Vec::new(),
                        merged: Vec::new(),
                        seen: HashSet::new(),
                        key: None,
                    },
                });
                self.count(1, place)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else {
                    return Ok(());
                };
                let kind = match open.content {
                    Content::List(items) => Kind::List(items),
                    Content::Map {
                        mut entries,
                        merged,
                        seen,
                        ..
                    } => {
                        entries.extend(merged.into_iter().filter(|e| !seen.contains(&e.key)));
                        Kind::Map(entries)
                    }
                };
                self.finish(kind, open.place, open.anchor)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(error(place, "this alias stands inside its own anchor"));
                };
                self.count(size(&node), place)?;
                self.push(node, place)
            }
            Event::UnresolvedAlias(name) => Err(YamlError {
                message: format!("no anchor `&{name}` stands before this alias"),
                place,
                help: Some("a text that starts with * needs quotes".to_owned()),
            }),
            _ => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(error(
                place,
                format!("the file holds more than {MAX_NODES} values, aliases expanded"),
            ));
        }
        Ok(())
    }

    fn finish(&mut self, kind: Kind, place: Place, anchor: usize) -> Result<(), YamlError> {
        let node = Node {
            origin: Origin::File(place),
            kind,
        };
        if anchor != 0 {
            self.count(size(&node), place)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.count(1, place)?;
        self.push(node, place)
    }

    fn push(&mut self, node: Node, place: Place) -> Result<(), YamlError> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Map {
                entries,
                merged,
                seen,
                key,
            } => match key.take() {
                None => {
                    let text = match node.kind {
                        Kind::Scalar(scalar) => scalar.text,
                        Kind::Null => "null".to_owned(),
                        _ => return Err(error(place, "a key is a word, not a list or mapping")),
                    };
                    *key = Some((text, place));
                }
                Some((name, _)) if name == "<<" => merge(node, place, merged, &mut self.errors),
                Some((name, at)) => {
                    if !seen.insert(name.clone()) {
                        self.errors.push(YamlError {
                            message: format!("key `{name}` is written twice"),
                            place: at,
                            help: first_use(entries, &name),
                        });
                        return Ok(());
                    }
                    entries.push(Entry {
                        key: name,
                        key_origin: Origin::File(at),
                        value: node,
                    });
                }
            },
        }
        Ok(())
    }
}

/// `<<: *defaults` and `<<: [*a, *b]`: entries that give way to those written out.
fn merge(node: Node, place: Place, merged: &mut Vec<Entry>, errors: &mut Vec<YamlError>) {
    let maps = match node.kind {
        Kind::List(items) => items,
        _ => vec![node],
    };
    for map in maps {
        let Kind::Map(entries) = map.kind else {
            errors.push(error(place, "`<<` takes a mapping or a list of mappings"));
            continue;
        };
        for entry in entries {
            if !merged.iter().any(|e| e.key == entry.key) {
                merged.push(entry);
            }
        }
    }
}

fn first_use(entries: &[Entry], name: &str) -> Option<String> {
    let entry = entries.iter().find(|e| e.key == name)?;
    match entry.key_origin {
        Origin::File(place) => Some(format!("the first one is on line {}", place.line)),
        _ => None,
    }
}

fn size(node: &Node) -> usize {
    match &node.kind {
        Kind::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Kind::Map(entries) => 1 + entries.iter().map(|e| size(&e.value)).sum::<usize>(),
        _ => 1,
    }
}

fn error(place: Place, message: impl Into<String>) -> YamlError {
    YamlError {
        message: message.into(),
        place,
        help: None,
    }
}

fn place(span: &Span) -> Place {
    let len = if span.start.line() == span.end.line() {
        span.end.col().saturating_sub(span.start.col())
    } else {
        0
    };
    Place {
        line: span.start.line(),
        column: span.start.col() + 1,
        len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::node::Path;

    #[test]
    fn values_keep_their_text_and_place() {
        let root = parse("a: 1.10\nlist:\n  - x: \"q\"\n  - ~\n").unwrap();
        let a = root.key("a").unwrap();
        assert_eq!(a.text(), Some("1.10"));
        assert_eq!(
            a.origin,
            Origin::File(Place {
                line: 1,
                column: 4,
                len: 4
            })
        );
        let x = root.at(&Path::parse("list[0].x")).unwrap();
        assert_eq!(
            x.origin,
            Origin::File(Place {
                line: 3,
                column: 8,
                len: 3
            })
        );
        assert_eq!(root.at(&Path::parse("list[1]")).unwrap().kind, Kind::Null);
        assert_eq!(parse("# only a comment\n").unwrap().kind, Kind::Map(vec![]));
        assert_eq!(parse("").unwrap().kind, Kind::Map(vec![]));
    }

    #[test]
    fn aliases_and_merge_keys_are_expanded() {
        let root = parse("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nsame: *b\n").unwrap();
        assert_eq!(root.at(&Path::parse("use.x")).unwrap().text(), Some("1"));
        assert_eq!(root.at(&Path::parse("use.y")).unwrap().text(), Some("3"));
        assert_eq!(root.at(&Path::parse("same.y")).unwrap().text(), Some("2"));
    }

    #[test]
    fn misuse_is_refused_with_its_place() {
        let deep = format!("a: {}1{}", "[".repeat(40), "]".repeat(40));
        for (text, line, column, message) in [
            ("a: 1\na: 2\n", 2, 1, "written twice"),
            ("a: 1\n---\nb: 2\n", 2, 1, "more than one YAML document"),
            ("a: *nowhere\n", 1, 4, "no anchor"),
            ("a: [1, 2\nb: 3\n", 2, 0, "not valid YAML"),
            ("? [x]\n: 1\n", 1, 3, "a key is a word"),
            ("a: &x [*x]\n", 1, 8, "inside its own anchor"),
            ("<<: 5\n", 1, 5, "takes a mapping"),
            (deep.as_str(), 1, 0, "not valid YAML"),
        ] {
            let errors = parse(text).unwrap_err();
            let first = errors.first().unwrap();
            assert!(first.message.contains(message), "{text:?}: {first}");
            assert_eq!(first.place.line, line, "{text:?}: {first:?}");
            if column != 0 {
                assert_eq!(first.place.column, column, "{text:?}: {first:?}");
            }
        }
    }

    #[test]
    fn nested_aliases_do_not_grow_without_bound() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let previous = format!("*a{}", level - 1);
            let list = vec![previous; 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        let errors = parse(&text).unwrap_err();
        assert!(errors[0].message.contains("more than 50000 values"));
        let huge = "a".repeat(MAX_BYTES + 1);
        assert!(parse(&huge).unwrap_err()[0].message.contains("larger than"));
    }
}
