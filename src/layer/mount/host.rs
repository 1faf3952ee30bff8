//! The host's userland: what programs of the distribution need, and nothing of its users or its state.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::path::{HostKind, host_path};
use super::{file, inside};
use crate::error::{Error, Layer, Result};
use crate::plan::{Content, InsideKind, Step, attr};

/// The directories that hold programs and libraries. Where they are links into /usr, so they are inside.
const USERLAND: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What of /etc programs need to start: the loader's cache and configuration, the choice among alternatives, the
/// certificates that are trusted, the time zone.
const ETC: [&str; 7] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/localtime",
];

/// Small files of the same kind, which are copied: that costs less than a mount.
const COPIED: [&str; 3] = ["/etc/ld.so.conf", "/etc/ssl/openssl.cnf", "/etc/timezone"];

/// The most that is copied of a file; a larger one is bound.
const COPY_MAX: u64 = 65_536;

/// What it takes to resolve names, with the host's network.
const RESOLVER: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

pub(crate) const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost\n";
pub(crate) const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n";

pub(super) fn lower(host_network: bool, (uid, gid): (u32, u32), steps: &mut Vec<Step>) -> Result<()> {
    for path in USERLAND.into_iter().chain(ETC) {
        lower_path(path, steps)?;
    }
    let mut files = vec![
        ("/etc/passwd", passwd(uid, gid).into_bytes()),
        ("/etc/group", group(gid).into_bytes()),
        ("/etc/nsswitch.conf", NSSWITCH.into()),
    ];
    match host_network {
        // These may be links to where the host's network manager keeps them: what counts is the content.
        true => RESOLVER.into_iter().try_for_each(|path| bind(path, Path::new(path), steps))?,
        false => files.push(("/etc/hosts", HOSTS.into())),
    }
    for path in COPIED {
        match copy(path) {
            Some(content) => files.push((path, content)),
            None => lower_path(path, steps)?,
        }
    }
    for (path, content) in files {
        steps.push(file(inside(path, InsideKind::File)?, path, Content(content.into()))?);
    }
    Ok(())
}

/// Brings a path of the host in as it is: a link as the same link, a file or directory read-only.
fn lower_path(path: &str, steps: &mut Vec<Step>) -> Result<()> {
    let Ok(target) = std::fs::read_link(path) else {
        return bind(path, Path::new(path), steps);
    };
    let target = CString::new(target.into_os_string().into_vec());
    let target = target.map_err(|_| Error::os(Layer::Mount, format!("symlink {path}"), libc::EINVAL))?;
    steps.push(Step::Symlink { target, at: inside(path, InsideKind::File)? });
    Ok(())
}

/// Binds a path of the host read-only, if it is there.
fn bind(path: &str, source: &Path, steps: &mut Vec<Step>) -> Result<()> {
    let words = format!("bind_ro {path} -> {path}");
    let (source, kind) = match host_path(source, &words) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
        // A link that leads out of the system's own directories: it is the host's, not a program's.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => match std::fs::canonicalize(source) {
            Ok(real) if real != source => host_path(&real, &words)?,
            _ => return Ok(()),
        },
        result => result?,
    };
    let kind = if kind == HostKind::Dir { InsideKind::Dir } else { InsideKind::File };
    let attributes = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV;
    steps.push(Step::Bind { source, at: inside(path, kind)?, attributes });
    Ok(())
}

/// The content of a small regular file.
fn copy(path: &str) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > COPY_MAX {
        return None;
    }
    let mut content = Vec::with_capacity(metadata.len() as usize);
    file.by_ref().take(COPY_MAX).read_to_end(&mut content).ok()?;
    Some(content)
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
