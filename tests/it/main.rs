//! The integration tests: one binary, a module a subject.
//!
//! A test that can't run here says so, and fails when `BELLJAR_TEST_REQUIRE=all` is set.

#![allow(clippy::unwrap_used, unsafe_code, unreachable_pub)]

mod alone;
mod async_host;
mod faults;
mod handle;
mod harness;
mod hazards;
mod lifecycle;
mod plan;
mod threads;
