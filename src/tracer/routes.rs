//! Route templates: a request path to its low-cardinality name.

use std::fmt;

use crate::model::Text;

/// The configured templates, compiled.
#[derive(Clone, Default)]
pub struct Routes {
    router: matchit::Router<Text>,
}

/// Why a template was refused.
#[derive(Debug, thiserror::Error)]
#[error("route template {template:?} is not usable")]
pub struct RouteError {
    template: String,
    #[source]
    source: matchit::InsertError,
}

impl Routes {
    /// Compiles templates such as `/users/{id}` and `/files/{*path}`.
    ///
    /// # Errors
    /// The first template that is malformed or conflicts with an earlier one.
    pub fn new<'a>(templates: impl IntoIterator<Item = &'a String>) -> Result<Self, RouteError> {
        let mut router = matchit::Router::new();
        for template in templates {
            router
                .insert(template.as_str(), Text::new(template))
                .map_err(|source| RouteError {
                    template: template.clone(),
                    source,
                })?;
        }
        Ok(Self { router })
    }

    /// The template that the path matches.
    pub fn template(&self, path: &str) -> Option<&Text> {
        self.router.at(path).ok().map(|found| found.value)
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Routes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_template() {
        let templates = ["/users/{id}", "/users/me", "/files/{*path}"].map(str::to_owned);
        let routes = Routes::new(&templates).unwrap();
        for (path, template) in [
            ("/users/7", Some("/users/{id}")),
            ("/users/me", Some("/users/me")),
            ("/files/a/b", Some("/files/{*path}")),
            ("/other", None),
            ("", None),
            ("*", None),
        ] {
            assert_eq!(routes.template(path).map(Text::as_str), template, "{path}");
        }
    }

    #[test]
    fn conflicting_templates_are_refused() {
        let templates = ["/a/{x}", "/a/{x}"].map(str::to_owned);
        assert!(
            Routes::new(&templates)
                .unwrap_err()
                .to_string()
                .contains("/a/{x}")
        );
    }
}
