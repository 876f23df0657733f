//! Derived.
