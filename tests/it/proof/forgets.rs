//! forgets
