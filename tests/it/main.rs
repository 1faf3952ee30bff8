//! The integration tests: one binary, a module a subject.
//!
//! A test that can't run here says so, and fails when `BELLJAR_TEST_REQUIRE=all` is set.

#![allow(clippy::unwrap_used, unsafe_code, unreachable_pub)]

mod again;
mod alone;
mod async_host;
#[cfg(feature = "tokio")]
mod asynchronous;
mod bwrap;
mod capture;
mod cgroup;
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
mod enter;
mod entries;
mod errors;
mod fate;
mod faults;
mod fds;
mod filter;
mod fixtures;
mod handle;
mod harness;
mod hazards;
mod held;
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
mod join;
mod keyring;
mod killed;
mod landlock;
mod languages;
mod lifecycle;
mod limits;
mod machine;
mod misuse;
mod mounts;
mod namespaces;
mod network;
mod plan;
mod pool;
mod pool_life;
mod prepared;
mod privilege;
mod probe;
mod pty;
mod public_api;
mod refused;
mod report;
mod robustness;
mod root;
mod seccomp;
mod signals;
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
mod wall_time;
mod writes;
