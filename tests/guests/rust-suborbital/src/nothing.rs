//! The package's own library: empty, the guests are its examples.
