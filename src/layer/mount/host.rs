//! The host's userland: what programs of the distribution need, and nothing of its users or its state.

use std::path::Path;

use super::{file, inside, inside_as, path::HostKind, path::host_path, text};
use crate::error::Result;
use crate::plan::{InsideKind, Step, attr};

/// The directories that hold programs and libraries. Where they are links into /usr, so they are inside.
const USERLAND: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What of /etc programs need to start: the loader's cache and configuration, the choice among alternatives, the
/// certificates that are trusted, the time zone.
const ETC: [&str; 11] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates.conf",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/timezone",
    "/etc/localtime",
];

/// What it takes to resolve names, with the host's network.
const RESOLVER: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n";

pub(super) fn lower(host_network: bool, (uid, gid): (u32, u32), steps: &mut Vec<Step>) -> Result<()> {
    for path in USERLAND.into_iter().chain(ETC) {
        lower_path(Path::new(path), steps)?;
    }
    let mut files = vec![
        ("/etc/passwd", passwd(uid, gid)),
        ("/etc/group", group(gid)),
        ("/etc/nsswitch.conf", NSSWITCH.to_owned()),
    ];
    match host_network {
        // These may be links to where the host's network manager keeps them: what counts is the content.
        true => RESOLVER.into_iter().try_for_each(|path| bind(Path::new(path), steps))?,
        false => files.push(("/etc/hosts", HOSTS.to_owned())),
    }
    for (number, (path, content)) in files.into_iter().enumerate() {
        // Numbers that the caller's own files do not have.
        let at = inside(path, InsideKind::File)?;
        steps.push(file(at, usize::MAX - number, content.as_bytes())?);
    }
    Ok(())
}

/// Brings a path of the host in as it is: a link as the same link, a file or directory read-only.
fn lower_path(path: &Path, steps: &mut Vec<Step>) -> Result<()> {
    if let Ok(target) = std::fs::read_link(path) {
        let target = text(&target.to_string_lossy())?;
        steps.push(Step::Symlink { target, at: inside(path, InsideKind::File)? });
        return Ok(());
    }
    bind(path, steps)
}

/// Binds a path of the host read-only, if it is there.
fn bind(path: &Path, steps: &mut Vec<Step>) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let words = format!("bind_ro {0} -> {0}", path.display());
    let (source, kind) = host_path(&std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()), &words)?;
    let kind = if kind == HostKind::Dir { InsideKind::Dir } else { InsideKind::File };
    let attributes = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV;
    steps.push(Step::Bind { source, at: inside_as(path, kind, &words)?, attributes });
    Ok(())
}

fn passwd(uid: u32, gid: u32) -> String {
    let mut text = String::from("root:x:0:0:root:/root:/bin/sh\n");
    if uid != 0 && uid != NOBODY {
        text.push_str(&format!("user:x:{uid}:{gid}:user:/tmp:/bin/sh\n"));
    }
    text.push_str("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
    text
}

fn group(gid: u32) -> String {
    let mut text = String::from("root:x:0:\n");
    if gid != 0 && gid != NOBODY {
        text.push_str(&format!("user:x:{gid}:\n"));
    }
    text.push_str("nogroup:x:65534:\n");
    text
}

const NOBODY: u32 = 65534;
