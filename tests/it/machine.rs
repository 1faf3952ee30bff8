//! Switches of the whole machine, for real: `tests/vm/inside` runs these as root in a virtual machine, one at a time.
//!
//! Each switch is set, a user is refused with the right words, and then the command that the words tell is run: it has
//! to be the remedy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{ErrorKind, Layer, Namespaces, Sandbox, host};

use crate::again::{again, is_again};
use crate::harness::is_root;
use crate::{for_root, skip};

/// Ends a test on a machine that others work on.
macro_rules! machine {
    () => {
        for_root!();
        if std::env::var_os("BELLJAR_TEST_VM").is_none() {
            skip!("this is no virtual machine of tests/vm/boot");
        }
    };
}

const USER: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// A switch of the kernel that is as it was at the end.
struct Switch(PathBuf, String);

impl Switch {
    fn set(name: &str, value: &str) -> Self {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, value).unwrap();
        Self(path, before)
    }

    fn value(&self) -> String {
        fs::read_to_string(&self.0).unwrap().trim().to_owned()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, &self.1);
    }
}

/// What this process is told for a sandbox with these namespaces: where it is refused, why, and what helps.
fn told(namespaces: Namespaces) -> Result<(), (Layer, i32, String)> {
    let error = Sandbox::new().namespaces(namespaces).command("/none").spawn().unwrap_err();
    if error.layer() == Layer::Exec {
        return Ok(());
    }
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    Err((error.layer(), error.raw_os_error().unwrap(), error.hint().unwrap_or_default()))
}

/// The command in a hint, between backquotes, run by root.
fn follow(hint: &str) {
    let command = hint.split('`').nth(1).unwrap_or_else(|| panic!("a command in {hint}"));
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
}

fn line(probe: &host::Probe, item: &str) -> String {
    probe.to_string().lines().find(|line| line.starts_with(item)).unwrap().to_owned()
}

/// Prints the hint, for `follow` in the other process.
fn say(hint: &str) {
    println!("hint: {hint}");
}

fn said(text: &str) -> &str {
    text.lines().find_map(|line| line.split_once("hint: ")).unwrap().1
}

#[test]
#[ignore = "changes the whole machine: tests/vm/inside runs it in a virtual machine"]
fn the_switch_of_debian_is_named_and_its_remedy_works() {
    const NAME: &str = "machine::the_switch_of_debian_is_named_and_its_remedy_works";
    const SWITCH: &str = "kernel.unprivileged_userns_clone";
    if is_again() {
        assert!(!is_root());
        let off = fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone").unwrap().trim() == "0";
        let probe = host::probe();
        assert_eq!(probe.namespaces().is_empty(), off, "\n{probe}");
        assert_eq!(line(&probe, "user namespace").contains(SWITCH), off, "\n{probe}");
        match told(Namespaces::default()) {
            Ok(()) => assert!(!off),
            Err((layer, errno, hint)) => {
                assert_eq!((layer, errno, off), (Layer::Namespaces, libc::EPERM, true), "{hint}");
                assert!(hint.contains(&format!("{SWITCH} is 0")), "{hint}");
                say(&hint);
            }
        }
        return;
    }
    machine!();
    again(NAME, &USER);
    let switch = Switch::set(SWITCH, "0");
    assert_eq!(told(Namespaces::default()), Ok(()), "it is no matter for root");
    let output = again(NAME, &USER);
    follow(said(&output));
    assert_eq!(switch.value(), "1");
    again(NAME, &USER);
}

#[test]
#[ignore = "changes the whole machine: tests/vm/inside runs it in a virtual machine"]
fn each_limit_on_namespaces_is_named_and_its_remedy_works() {
    const NAME: &str = "machine::each_limit_on_namespaces_is_named_and_its_remedy_works";
    const KINDS: [(&str, Namespaces); 8] = [
        ("user", Namespaces::USER),
        ("mnt", Namespaces::MOUNT),
        ("pid", Namespaces::PID),
        ("net", Namespaces::NET),
        ("ipc", Namespaces::IPC),
        ("uts", Namespaces::UTS),
        ("cgroup", Namespaces::CGROUP),
        ("time", Namespaces::TIME),
    ];
    /// The kind whose limit is 0.
    const VARIABLE: &str = "BELLJAR_TEST_KIND";
    if is_again() {
        let name = std::env::var(VARIABLE).unwrap();
        let (_, kind) = *KINDS.iter().find(|(known, _)| *known == name).unwrap();
        let probe = host::probe();
        // Without a user namespace a user gets none at all.
        let without = if kind == Namespaces::USER && !is_root() { Namespaces::all() } else { kind };
        assert_eq!(probe.namespaces(), Namespaces::all() - without, "\n{probe}");
        let words = format!("user.max_{name}_namespaces is 0");
        assert!(probe.to_string().contains(&words), "\n{probe}");
        assert_eq!(told(Namespaces::all() - without), Ok(()));
        let (layer, errno, hint) = told(Namespaces::all()).unwrap_err();
        assert_eq!((layer, errno), (Layer::Namespaces, libc::ENOSPC), "{hint}");
        assert!(hint.contains(&words), "{hint}");
        return say(&hint);
    }
    machine!();
    for (name, _) in KINDS {
        let switch = Switch::set(&format!("user.max_{name}_namespaces"), "0");
        let variable = format!("{VARIABLE}={name}");
        again(NAME, &["env", &variable]);
        let output = again(NAME, &[&USER[..], &["env", &variable]].concat());
        follow(said(&output));
        assert_eq!(switch.value(), "15000", "{name}");
        assert_eq!(told(Namespaces::all()), Ok(()), "{name}");
    }
}
