//! Session keyrings: a program that may use keys has one of its own.

use std::ffi::{CString, c_long};
use std::path::PathBuf;
use std::process::Command;

use belljar::{Enforcement, Landlock, Layer, Namespaces, Sandbox, Seccomp};

use crate::again::{again, is_again};
use crate::harness::{compile_static, token};

/// `KEYCTL_SEARCH`, `KEYCTL_JOIN_SESSION_KEYRING` and `KEY_SPEC_SESSION_KEYRING` of keyctl(2).
const SEARCH: c_long = 10;
const JOIN: c_long = 1;
const SESSION: c_long = -3;

/// Looks for a key in the keyring of its session, and adds one of its own.
fn probe() -> PathBuf {
    compile_static(
        "keyring",
        r#"
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(int count, char **args) {
            printf("%s", syscall(SYS_keyctl, 10, -3, "user", args[1], 0) > 0 ? "found" : "missing");
            long added = syscall(SYS_add_key, "user", "own", "data", 4, -3);
            printf(" %s\n", added > 0 && syscall(SYS_keyctl, 10, -3, "user", "own", 0) == added ? "own" : "none");
            return 0;
        }
        "#,
    )
}

/// Gives this process a new session keyring.
fn join() {
    // SAFETY: Without a name the kernel reads nothing.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN, 0) };
    assert!(joined > 0, "{}", std::io::Error::last_os_error());
}

/// Adds a key to the keyring of this process's session.
fn add(name: &str) -> std::io::Result<()> {
    let name = CString::new(name).unwrap();
    let (kind, data) = (c"user".as_ptr(), c"data".as_ptr());
    // SAFETY: All strings end in a zero byte, and as many bytes of the data are read as it has.
    let key = unsafe { libc::syscall(libc::SYS_add_key, kind, name.as_ptr(), data, 4, SESSION) };
    if key > 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn has(name: &str) -> bool {
    let name = CString::new(name).unwrap();
    // SAFETY: Both strings end in a zero byte, and are only read.
    unsafe { libc::syscall(libc::SYS_keyctl, SEARCH, SESSION, c"user".as_ptr(), name.as_ptr(), 0) > 0 }
}

/// What the probe says in a sandbox.
fn told(sandbox: &Sandbox, path: &str, name: &str) -> String {
    let output = sandbox.command(path).arg(name).output().unwrap();
    assert!(output.outcome.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_session_keyring_of_the_host_is_not_the_programs() {
    const NAME: &str = "keyring::the_session_keyring_of_the_host_is_not_the_programs";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    let name = token();
    join();
    add(&name).unwrap();
    let probe = probe();
    let path = probe.to_str().unwrap();
    let control = Command::new(&probe).arg(&name).output().unwrap();
    assert_eq!(control.stdout, b"found own\n", "the control: a child of std has it");
    let inside = Sandbox::new().bind_ro(&probe, "/program");
    let allowed = Seccomp::container().allow(["add_key", "keyctl", "request_key"]);
    for seccomp in [Seccomp::off(), allowed] {
        assert_eq!(told(&inside.clone().seccomp(seccomp.clone()), "/program", &name), "missing own\n");
        let bare = Sandbox::new().namespaces(Namespaces::empty()).landlock(Landlock::off()).seccomp(seccomp);
        assert_eq!(told(&bare, path, &name), "missing own\n");
    }
    // The default refuses to use any.
    assert_eq!(told(&inside, "/program", &name), "missing none\n");
    assert!(has(&name) && has("own"), "the host's is as it was, with what the control has added");
}

#[test]
fn a_caller_with_all_the_keys_that_it_may_have_is_told() {
    const NAME: &str = "keyring::a_caller_with_all_the_keys_that_it_may_have_is_told";
    if !is_again() {
        crate::for_root!();
        // As somebody who runs no other test: what one of them could not add would be no proof. Root may have a million.
        again(NAME, &["setpriv", "--reuid=65531", "--regid=65531", "--clear-groups"]);
        return;
    }
    join();
    let sandbox = Sandbox::new().bind_ro(probe(), "/program").seccomp(Seccomp::off());
    let process = |sandbox: &Sandbox| {
        let mut child = sandbox.command("/program").arg("x").spawn().unwrap();
        child.wait().unwrap();
        child.report().layer(Layer::Process).unwrap().clone()
    };
    assert_eq!(process(&sandbox).enforcement(), Enforcement::InForce, "the control");
    let mut numbers = 0..;
    let mut fill = || {
        let full = numbers.find_map(|number: u32| add(&format!("key-{number}")).err()).unwrap();
        assert_eq!(full.raw_os_error(), Some(libc::EDQUOT));
        process(&sandbox)
    };
    // The kernel frees the keyring of the control when it likes, and then there is place for one more.
    let told = (0..100).map(|_| fill()).find(|status| status.enforcement() == Enforcement::Partly);
    let status = told.expect("no start has met a full quota");
    assert!(status.why().unwrap().contains("session keyring"), "{status:?}");
    // With the filter there is nothing to lose.
    assert_eq!(process(&sandbox.seccomp(Seccomp::container())).enforcement(), Enforcement::InForce);
}
