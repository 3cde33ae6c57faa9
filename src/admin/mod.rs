//! Health, metrics, recent spans and the page.
