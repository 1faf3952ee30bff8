//! The words of the steps: for plans, and for errors.

use std::ffi::{CStr, CString};
use std::fmt;

use super::{HostPath, Inside, MapLines, Memory, Step, Upper, attr};

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.0.to_bytes()).fmt(f)
    }
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.path.to_bytes()).fmt(f)
    }
}

/// Bytes that may have been chosen by somebody else, with everything but printable ASCII and UTF-8 escaped.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    char if char.is_control() => write!(f, "{}", char.escape_default())?,
                    char => write!(f, "{char}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// The names of namespaces, as their clone flags.
struct Flags(u64);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (libc::CLONE_NEWUSER, "user"),
            (libc::CLONE_NEWNS, "mount"),
            (libc::CLONE_NEWPID, "pid"),
            (libc::CLONE_NEWNET, "net"),
            (libc::CLONE_NEWIPC, "ipc"),
            (libc::CLONE_NEWUTS, "uts"),
            (libc::CLONE_NEWCGROUP, "cgroup"),
            (libc::CLONE_NEWTIME, "time"),
        ];
        let names = names.iter().filter(|(flag, _)| self.0 & *flag as u64 != 0);
        let names: Vec<_> = names.map(|(_, name)| *name).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Display for MapLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, [inside, outside, count]) in self.lines.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{inside} {outside} {count}")?;
        }
        Ok(())
    }
}

/// Capabilities, by their mask.
struct Kept(u64);

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("none"),
            mask => write!(f, "{mask:#x}"),
        }
    }
}

/// A resource limit as getrlimit(2) has it.
struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            libc::RLIM64_INFINITY => f.write_str("unlimited"),
            amount => write!(f, "{amount}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Clone { process, namespaces: 0, memory } => write!(f, "clone {process}{memory}"),
            Step::Clone { process, namespaces, memory } => write!(f, "clone {process} {}{memory}", Flags(*namespaces)),
            Step::Timer { time, grace: None } => write!(f, "wall_time {time:?}"),
            Step::Timer { time, grace: Some(grace) } => write!(f, "wall_time {time:?}, then SIGTERM and {grace:?}"),
            Step::CgroupEnable { directory, controllers } => {
                write!(f, "write {directory}/cgroup.subtree_control {controllers}")
            }
            Step::Cgroup { directory } => write!(f, "mkdir {directory}/belljar-*"),
            Step::CgroupFile { name, data, .. } => write!(f, "write {name} {data}"),
            Step::EnterCgroup => f.write_str("enter cgroup"),
            Step::Deadline => f.write_str("timer SIGKILL"),
            Step::Maps { uid, gid } => {
                let by = |map: &MapLines, helper| if map.helper { helper } else { "write" };
                let (write_uid, write_gid) = (by(uid, "newuidmap"), by(gid, "newgidmap"));
                write!(f, "{write_uid} uid_map {uid}; {write_gid} gid_map {gid}")
            }
            Step::WriteProc { path, data, .. } => {
                write!(f, "write {} {}", Escaped(path.to_bytes()), String::from_utf8_lossy(data))
            }
            Step::MapsByCaller { .. } => f.write_str("uid_map, gid_map by the caller"),
            Step::NotDumpable => f.write_str("dumpable 0"),
            Step::Join { what, kind, .. } => write!(f, "setns {what} {}", Flags(*kind)),
            Step::EnterHolder { namespaces } => write!(f, "setns holder {}", Flags(*namespaces)),
            Step::EnterOwner => f.write_str("setns template user"),
            Step::EnterTemplate { network: false } => f.write_str("setns template user,mount"),
            Step::EnterTemplate { network: true } => f.write_str("setns template user,net,mount"),
            Step::HandOver => f.write_str("hand over user,mount"),
            Step::HandOverNetwork => f.write_str("hand over net"),
            Step::EndHolder => f.write_str("kill holder"),
            Step::Unshare { namespaces } => write!(f, "unshare {}", Flags(*namespaces)),
            Step::NotePidNamespace => f.write_str("stat pid namespace"),
            Step::Ready => f.write_str("ready"),
            Step::AwaitReady => f.write_str("wait until the other is ready"),
            Step::AwaitInit => f.write_str("wait for init"),
            Step::PassNetwork => f.write_str("pass net to init"),
            Step::JoinNetwork => f.write_str("setns net"),
            Step::LoopbackUp => f.write_str("lo up"),
            Step::NoUserNamespaces => f.write_str("max_user_namespaces 0"),
            Step::Hostname { name } => write!(f, "sethostname {}", Escaped(name.to_bytes())),
            Step::Domainname => f.write_str("setdomainname (none)"),
            Step::Private => f.write_str("private /"),
            Step::Workspace => f.write_str("tmpfs workspace"),
            Step::RootEmpty => f.write_str("root empty"),
            Step::RootMemory => f.write_str("root empty writable"),
            Step::Entry(entry) => entry.fmt(f),
            Step::RootDir { source, attributes } if attributes & attr::READ_ONLY == 0 => {
                write!(f, "root {source} writable")
            }
            Step::RootDir { source, .. } => write!(f, "root {source}"),
            Step::RootOverlay { lowers, upper } => write!(f, "root {}{upper}", Stack(lowers)),
            Step::RootCopy { size, inodes } => write!(f, "root copied to a tmpfs {}", Bounds(size, inodes)),
            Step::Place { at } => write!(f, "place {at}"),
            Step::OverlayTrial => f.write_str("overlay"),
            Step::Dir { at } => write!(f, "dir {at}"),
            Step::File { at, data, .. } => write!(f, "file {at} ({} bytes)", data.0.len()),
            Step::Symlink { target, at } => write!(f, "symlink {} <- {at}", Escaped(target.to_bytes())),
            Step::Bind { source, at, attributes } if attributes & attr::NO_DEV == 0 => {
                write!(f, "device {source} -> {at}")
            }
            Step::Bind { source, at, attributes } if attributes & attr::READ_ONLY != 0 => {
                write!(f, "bind_ro {source} -> {at}")
            }
            Step::Bind { source, at, .. } => write!(f, "bind {source} -> {at}"),
            Step::Stage { source, at, attributes, .. } | Step::Attach { source: Some(source), at, attributes, .. } => {
                let verb = if attributes & attr::READ_ONLY == 0 { "bind" } else { "bind_ro" };
                write!(f, "{verb} {source} -> {at}")
            }
            Step::StageFile { at, data, .. } => write!(f, "file {at} ({} bytes)", data.0.len()),
            Step::Attach { source: None, at, .. } => write!(f, "file {at}"),
            Step::Leave { at, .. } => write!(f, "place {at}"),
            Step::Keep => f.write_str("keep what starts take"),
            Step::TakeUp => f.write_str("take up what the template keeps"),
            Step::CoverProc => f.write_str("cover the template's /proc"),
            Step::Tmpfs { at, size, inodes, mode, .. } => {
                write!(f, "tmpfs {at} {} mode={}", Bounds(size, inodes), Escaped(mode.to_bytes()))
            }
            Step::Copy { source, at } => write!(f, "copy {source} -> {at}"),
            Step::Proc { at } => write!(f, "proc {at}"),
            Step::Devpts { at } => write!(f, "devpts {at}"),
            Step::Mask { at } => write!(f, "mask {at}"),
            Step::Protect { at } => write!(f, "read-only {at}"),
            Step::Seal { at, .. } => write!(f, "seal {at}"),
            Step::Pivot | Step::PivotOver => f.write_str("pivot_root"),
            Step::ExecInit { .. } => f.write_str("execveat init"),
            Step::ExecAgent { .. } => f.write_str("execveat agent"),
            Step::EndWithThread => f.write_str("pdeathsig KILL"),
            Step::Hold { .. } => f.write_str("hold"),
            Step::Setsid => f.write_str("setsid"),
            Step::OpenPty { rows, columns, .. } => write!(f, "pty {rows}x{columns}"),
            Step::TakeTerminal => f.write_str("controlling terminal pty"),
            Step::HandPtyOver => f.write_str("hand pty over"),
            Step::InstallPty { fd } => write!(f, "dup pty -> {fd}"),
            Step::SessionKeyring => f.write_str("session keyring new"),
            Step::Inherit { fd } => write!(f, "inherit {fd}"),
            Step::Install { what, fd, .. } => write!(f, "dup {what} -> {fd}"),
            Step::InstallNull { fd, .. } => write!(f, "dup null -> {fd}"),
            Step::CloseRest { ranges } => {
                f.write_str("close_range")?;
                for [first, last] in ranges {
                    match *last {
                        u32::MAX => write!(f, " {first}-")?,
                        last => write!(f, " {first}-{last}")?,
                    }
                }
                Ok(())
            }
            Step::OomScore { data } => write!(f, "oom_score_adj {}", String::from_utf8_lossy(data)),
            Step::Nice => f.write_str("sched_setattr SCHED_OTHER nice 0"),
            Step::IoPriority => f.write_str("ioprio_set default"),
            Step::Affinity => f.write_str("sched_setaffinity all"),
            Step::Personality => f.write_str("personality linux"),
            Step::TimerSlack { nanoseconds } => write!(f, "timer slack {nanoseconds} ns"),
            Step::Umask { mask } => write!(f, "umask {mask:03o}"),
            Step::Limit { name, soft, hard, .. } => write!(f, "rlimit {name} {}:{}", Amount(*soft), Amount(*hard)),
            Step::DropGroups => f.write_str("setgroups none"),
            Step::SetGid { id } => write!(f, "setresgid {id}"),
            Step::SetUid { id } => write!(f, "setresuid {id}"),
            Step::Securebits { bits } => write!(f, "securebits {bits:#x}"),
            Step::BoundingSet { kept } => write!(f, "bounding set {}", Kept(*kept)),
            Step::AmbientSet => f.write_str("ambient set none"),
            Step::CapabilitySets { kept } => write!(f, "capset {}", Kept(*kept)),
            Step::RaiseAmbient { kept } => write!(f, "ambient set {}", Kept(*kept)),
            Step::NoNewPrivs => f.write_str("no_new_privs"),
            Step::Chdir { path } => write!(f, "chdir {}", Escaped(path.to_bytes())),
            Step::ChdirFirst { paths } => {
                f.write_str("chdir")?;
                let path = |(index, path): (usize, &CString)| {
                    write!(f, "{} {}", if index == 0 { "" } else { " or" }, Escaped(path.to_bytes()))
                };
                paths.iter().enumerate().try_for_each(path)
            }
            Step::LandlockRuleset { handled, .. } => {
                let parts = [(handled.fs, " files"), (handled.net, " tcp"), (handled.scoped, " signals,sockets")];
                f.write_str("ruleset")?;
                parts.iter().filter(|(bits, _)| *bits != 0).try_for_each(|(_, name)| f.write_str(name))
            }
            Step::LandlockPath { path, access, .. } => {
                let kinds = [(1 << 2, "r"), (1 << 1, "w"), (1 << 0, "x")];
                let kinds: String = kinds.iter().filter(|(bit, _)| access & bit != 0).map(|(_, kind)| *kind).collect();
                write!(f, "allow {kinds} {}", Escaped(path.to_bytes()))
            }
            Step::LandlockPort { port, access } => {
                write!(f, "allow {} tcp {port}", if access & 1 != 0 { "bind" } else { "connect" })
            }
            Step::LandlockPassed { fds, .. } => {
                f.write_str("allow files passed as")?;
                fds.iter().try_for_each(|fd| write!(f, " {fd}"))
            }
            Step::LandlockRestrict { flags: 0 } => f.write_str("restrict_self"),
            Step::LandlockRestrict { .. } => f.write_str("restrict_self audited"),
            Step::Seccomp { program } => write!(f, "filter of {} instructions", program.len()),
            Step::Signals => f.write_str("signals default"),
            Step::CaughtSignals => f.write_str("signals default, but for those ignored"),
            Step::Look { program, .. } => write!(f, "look at {}", Escaped(program.to_bytes())),
            Step::Exec { program, argv, .. } if f.alternate() => {
                let args: Vec<_> = argv.iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
                write!(f, "execve {} {args:?}", Escaped(program.to_bytes()))
            }
            Step::Exec { program, .. } => write!(f, "execve {}", Escaped(program.to_bytes())),
        }
    }
}

/// The layers of a root, which may be hundreds.
struct Stack<'a>(&'a [HostPath]);

impl fmt::Display for Stack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("empty"),
            [only] => only.fmt(f),
            [lowest, above @ ..] => write!(f, "{lowest} and {} more on it", above.len()),
        }
    }
}

impl fmt::Display for Upper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Upper::Nothing => Ok(()),
            Upper::Private => f.write_str(" under a private layer"),
            Upper::Stage => f.write_str(" under a layer for places"),
            Upper::Tmpfs { size, inodes } => write!(f, " under a tmpfs {}", Bounds(size, inodes)),
            Upper::Kept { base } => write!(f, " under {base}"),
        }
    }
}

/// The bounds of a tmpfs.
struct Bounds<'a>(&'a CStr, &'a CStr);

impl fmt::Display for Bounds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_kernels = |bound: &CStr| match bound.to_bytes() {
            // What is not said is left to the kernel.
            b"" => "default".to_owned(),
            bytes => Escaped(bytes).to_string(),
        };
        write!(f, "size={} nr_inodes={}", or_kernels(self.0), or_kernels(self.1))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memory::Copied => f.write_str(" in copied memory"),
            Memory::Shared | Memory::SharedIfAllowed => Ok(()),
        }
    }
}
