//! The integration tests: one binary, a module a subject.
//!
//! A test that can't run here says so, and fails when `BELLJAR_TEST_REQUIRE=all` is set.

#![allow(clippy::unwrap_used, unsafe_code, unreachable_pub)]

mod again;
mod alone;
mod async_host;
mod bwrap;
mod changes;
#[cfg(feature = "image")]
mod commit;
mod containment;
mod distribution;
#[cfg(feature = "image")]
mod distroless;
#[cfg(feature = "image")]
mod docker;
mod embedder;
mod entries;
mod errors;
mod faults;
mod fds;
mod filter;
mod fixtures;
mod handle;
mod harness;
mod hazards;
mod host;
mod ids;
#[cfg(feature = "image")]
mod image_hostile;
#[cfg(feature = "image")]
mod image_made;
#[cfg(feature = "image")]
mod image_open;
#[cfg(feature = "image")]
mod image_run;
mod inherited;
mod keyring;
mod killed;
mod landlock;
mod languages;
mod lifecycle;
mod misuse;
mod mounts;
mod namespaces;
mod network;
mod plan;
mod pool;
mod pool_life;
mod privilege;
mod probe;
mod public_api;
mod report;
mod root;
mod seccomp;
#[cfg(feature = "image")]
mod store;
#[cfg(feature = "image")]
mod store_hostile;
#[cfg(feature = "image")]
mod store_made;
#[cfg(feature = "image")]
mod store_shared;
mod threads;
mod tidy;
mod toolchains;
mod writes;
