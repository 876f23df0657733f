//! mends
