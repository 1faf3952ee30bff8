//! Switches of the whole machine, for real: `tests/vm/inside` runs these as root in a virtual machine, one at a time.
//!
//! Each switch is set, a user is refused with the right words, and then the command that the words tell is run: it has
//! to be the remedy.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use belljar::{ErrorKind, IdMap, Layer, Namespaces, Sandbox, host};

use crate::again::{again, is_again};
use crate::alone::watch;
use crate::harness::{is_root, noop, real, temp_dir, with_program};
use crate::hazards::{self, lists_descriptors};
use crate::robustness::{limit, policies, until_it_succeeds};
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

#[test]
#[ignore = "changes the whole machine: tests/vm/inside runs it in a virtual machine"]
fn files_may_run_out_for_everybody_at_every_count() {
    const NAME: &str = "machine::files_may_run_out_for_everybody_at_every_count";
    /// Room for all that there may be.
    const ALL: u64 = u64::MAX;
    if is_again() {
        let open_one = || File::open("/dev/null");
        limit(libc::RLIMIT_NOFILE, ALL);
        let dir = temp_dir();
        let held = RefCell::new(Vec::new());
        // Who is not root may open as many as there are left in the machine: here, `room`.
        let leave = |room: u64| {
            let mut held = held.borrow_mut();
            held.clear();
            if room != ALL {
                held.extend(std::iter::from_fn(|| open_one().ok()));
                assert_eq!(open_one().unwrap_err().raw_os_error(), Some(libc::ENFILE));
                let kept = held.len() - room as usize;
                held.truncate(kept);
            }
            ALL
        };
        for sandbox in policies(&real(dir.path())) {
            let failed = until_it_succeeds(&sandbox, libc::ENFILE, 0.., leave);
            assert!(failed.len() > 4, "different steps fail: {failed:?}");
        }
        return;
    }
    machine!();
    let used = fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
    let used: u64 = used.split_whitespace().next().unwrap().parse().unwrap();
    // What a process may have open by itself is more.
    let _most = Switch::set("fs.file-max", &(used + 700).to_string());
    again(NAME, &USER);
}

#[test]
#[ignore = "changes the whole machine: tests/vm/inside runs it in a virtual machine"]
fn a_profile_of_apparmor_is_named_and_its_rules_are_the_remedy() {
    const NAME: &str = "machine::a_profile_of_apparmor_is_named_and_its_rules_are_the_remedy";
    const CONFINED: [&str; 4] =
        ["sh", "-c", "echo exec belljar-test >/proc/self/attr/apparmor/exec && exec \"$@\"", "sh"];
    if is_again() {
        let current = fs::read_to_string("/proc/thread-self/attr/apparmor/current").unwrap();
        assert_eq!(current, "belljar-test (enforce)\n");
        match told(Namespaces::default()) {
            Ok(()) => println!("it is allowed"),
            Err((layer, errno, hint)) => {
                // Whichever the profile denies first, by what its parser and the kernel know.
                assert!(
                    [Layer::Namespaces, Layer::Mount].contains(&layer) && errno == libc::EACCES,
                    "{layer:?}: {hint}"
                );
                assert!(hint.contains("the profile \"belljar-test\""), "{hint}");
                say(&hint);
            }
        }
        return;
    }
    machine!();
    let usual = "file, capability, network, signal, ptrace, unix,";
    assert!(load_profile(usual));
    let hint = said(&again(NAME, &[&USER[..], &CONFINED].concat())).to_owned();
    let rules: Vec<_> = hint.split('`').filter(|word| word.ends_with(',') && !word.contains(' ')).collect();
    assert_eq!(rules, ["userns,", "mount,", "umount,", "pivot_root,"]);
    said(&again(NAME, &CONFINED));
    // Older parsers, as Debian 12's, know no rule for user namespaces, and with them the kernel asks for none.
    let allow = |rules: &[&str]| load_profile(&format!("{usual} {}", rules.join(" ")));
    assert!(allow(&rules) || allow(&rules[1..]));
    for wrapper in [&[&USER[..], &CONFINED].concat()[..], &CONFINED] {
        assert!(again(NAME, wrapper).contains("it is allowed"));
    }
}

fn load_profile(rules: &str) -> bool {
    let profile = format!("profile belljar-test flags=(attach_disconnected) {{ {rules} }}");
    let mut parser = Command::new("apparmor_parser");
    let mut parser = parser.arg("--replace").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    parser.stdin.take().unwrap().write_all(profile.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

#[test]
#[ignore = "changes the whole machine: tests/vm/inside runs it in a virtual machine"]
fn memory_that_is_promised_once_is_not_asked_for_again() {
    machine!();
    let _strict = Switch::set("vm.overcommit_memory", "2");
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap()
    };
    let size = (kib("CommitLimit:") - kib("Committed_AS:")) * 1024 / 3 * 2;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: A new mapping, at an address that the kernel picks.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    // SAFETY: The child, if there is one, ends at once.
    let forked = match unsafe { libc::fork() } {
        // SAFETY: It runs no handler.
        0 => unsafe { libc::_exit(0) },
        pid => (pid, std::io::Error::last_os_error().raw_os_error()),
    };
    assert_eq!(forked, (-1, Some(libc::ENOMEM)), "the control: there is no room for a copy of this process");
    let shared = with_program(&noop());
    for sandbox in
        [shared.clone(), shared.clone().user(1, 1), shared.namespaces(Namespaces::default() - Namespaces::PID)]
    {
        assert!(sandbox.command("/program").status().unwrap().success());
        assert!(sandbox.prepare().unwrap().command("/program").status().unwrap().success());
    }
    // To change ids takes a copy.
    let range = IdMap::new(0, 100_000, 1000);
    let copied = with_program(&noop()).uid_map(range).gid_map(range).user(5, 6);
    let error = copied.command("/program").spawn().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::ENOMEM)), "{error}");
    assert!(error.step().starts_with("clone "), "{error}");
    // SAFETY: Nobody else knows the mapping.
    assert_eq!(unsafe { libc::munmap(memory, size) }, 0);
    assert!(copied.command("/program").status().unwrap().success());
}

#[test]
#[ignore = "changes the whole machine: tests/vm/inside runs it in a virtual machine"]
fn a_limit_of_a_billion_descriptors_takes_no_time() {
    const NAME: &str = "machine::a_limit_of_a_billion_descriptors_takes_no_time";
    const MOST: u64 = 1_000_000_000;
    if is_again() {
        // To close so many, one after the other, would take hours here.
        watch(Duration::from_secs(60));
        assert_eq!(limit(libc::RLIMIT_NOFILE, MOST), MOST);
        let list = lists_descriptors();
        let plain = Sandbox::new().bind_ro(&list, "/list");
        let pool = plain.prepare().unwrap().pool_by_hand(1).unwrap();
        pool.refill().unwrap();
        let mut commands = vec![plain.prepare().unwrap().command("/list"), pool.command("/list")];
        commands.extend(hazards::policies().into_iter().map(|policy| policy.bind_ro(&list, "/list").command("/list")));
        for mut command in commands {
            let output = command.output().unwrap();
            assert_eq!((output.outcome.code(), &*output.stdout), (Some(0), &b"0 1 2 "[..]));
        }
        return;
    }
    machine!();
    let _most = Switch::set("fs.nr_open", &MOST.to_string());
    again(NAME, &["prlimit", &format!("--nofile={MOST}:{MOST}")]);
}
