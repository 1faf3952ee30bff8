//! The integration tests: one binary, a module a subject.
//!
//! A test that can't run here says so, and fails when `BELLJAR_TEST_REQUIRE=all` is set.

#![allow(clippy::unwrap_used, unsafe_code, unreachable_pub)]

mod again;
mod distribution;
mod errors;
mod fds;
mod harness;
mod host;
mod ids;
mod inherited;
mod languages;
mod misuse;
mod mounts;
mod namespaces;
mod network;
mod plan;
mod privilege;
mod probe;
mod public_api;
mod root;
mod tidy;
