//! Who writes the headers, for formats that name the caller in them.

use crate::model::Text;

/// The name of our own service and of this instance of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `service.name`.
    pub service: Text,
    /// `service.instance.id`, or the host's name.
    pub instance: Text,
}

impl Default for Caller {
    /// A name that is not empty: receivers refuse empty ones.
    fn default() -> Self {
        Self {
            service: Text::new_static("unknown_service"),
            instance: Text::new_static("unknown"),
        }
    }
}
