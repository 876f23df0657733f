//! The service against real servers and real files.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    clippy::print_stderr,
    clippy::let_underscore_must_use
)]

mod harness;

mod adopt;
mod bad_input;
mod books;
mod carry;
mod cluster;
mod compare;
mod connect;
mod derived;
mod doctor;
mod fleet;
mod hostile;
mod hostile_output;
mod load;
mod observe;
mod outputs;
mod packages;
mod permissions;
mod proof;
mod properties;
mod reader;
mod rebuild;
mod recorded;
mod rules;
mod scenarios;
mod sql_docs;
mod stage;
mod startup;
mod survives;
mod torture;
mod writer;
