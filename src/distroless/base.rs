//! The small files of a root, as the distroless base image has them, and what is added by name.

use std::path::Path;

use super::closure::Closure;
use super::elf::Flaw;
use super::listing::Node;
use super::tree::Kind;
use super::{elf, shown};
use crate::error::Result;
use crate::layer::mount::{Distroless, HOSTS, NSSWITCH};

const NOBODY: u32 = 65534;

const OS_RELEASE: &str = "NAME=\"Distroless\"\nPRETTY_NAME=\"Distroless\"\nID=distroless\n";

/// Where systems keep the certificates that they trust, in one file: Debian and Arch, Fedora, openSUSE, Alpine.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where OpenSSL looks for that file, as Debian, its authors, and Fedora build it.
const BUNDLE_LINKS: [&str; 3] = ["/usr/lib/ssl/cert.pem", "/etc/ssl/cert.pem", "/etc/pki/tls/cert.pem"];

const BUSYBOX: [&str; 3] = ["/usr/bin/busybox", "/bin/busybox", "/usr/sbin/busybox"];

/// The tools that every build of busybox for people has.
const APPLETS: [&str; 62] = [
    "sh",
    "ash",
    "awk",
    "basename",
    "cat",
    "chmod",
    "chown",
    "clear",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "diff",
    "dirname",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hexdump",
    "hostname",
    "id",
    "kill",
    "less",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "more",
    "mount",
    "mv",
    "nc",
    "nslookup",
    "od",
    "ping",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "sed",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tar",
    "test",
    "top",
    "touch",
    "tr",
    "uname",
    "vi",
    "wget",
];

/// The files that every root has.
pub(super) fn put(distroless: &Distroless, closure: &mut Closure<'_>) -> Result<()> {
    check_user(distroless, closure)?;
    let (name, id) = (&distroless.user.0, distroless.user.1);
    let home = format!("/home/{name}");
    let passwd = format!(
        "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:{NOBODY}:{NOBODY}:nobody:/nonexistent:/sbin/nologin\n\
         {name}:x:{id}:{id}:{name}:{home}:/sbin/nologin\n"
    );
    let group = format!("root:x:0:\nnobody:x:{NOBODY}:\ntty:x:5:\nstaff:x:50:\n{name}:x:{id}:\n");
    let files = [
        ("/etc/passwd", passwd.as_str()),
        ("/etc/group", &group),
        ("/etc/nsswitch.conf", NSSWITCH),
        ("/etc/hosts", HOSTS),
        ("/usr/lib/os-release", OS_RELEASE),
    ];
    for (path, text) in files {
        closure.listing.put(path, Node::Text(text.into()));
    }
    closure.listing.put("/etc/os-release", Node::Link("../usr/lib/os-release".into()));
    closure.listing.put("/root", Node::Dir { mode: 0o700, owner: 0 });
    closure.listing.put("/tmp", Node::Dir { mode: 0o1777, owner: 0 });
    closure.listing.put(home, Node::Home { owner: id });
    if let Some(cache) = closure.loader_cache() {
        closure.listing.put("/etc/ld.so.cache", Node::Text(cache));
    }
    Ok(())
}

fn check_user(distroless: &Distroless, closure: &Closure<'_>) -> Result<()> {
    let (name, id) = (&distroless.user.0, distroless.user.1);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !first || name.len() > 32 || !name.bytes().all(plain) {
        let cause = format!("{:?} can't be the name of a user", name);
        return Err(closure.invalid(cause).with_hint("1 to 32 letters, digits, '_', '-' and '.', a letter first"));
    }
    if ["root", "nobody"].contains(&name.as_str()) || [0, NOBODY, u32::MAX].contains(&id) {
        let cause = format!("the user {name}, {id}, is root, nobody or no one, who are there already");
        return Err(closure.invalid(cause));
    }
    Ok(())
}

pub(super) fn put_certificates(closure: &mut Closure<'_>) -> Result<()> {
    if !BUNDLES.iter().any(|path| closure.copy(Path::new(path), BUNDLES[0])) {
        let cause = format!("no trusted certificates are found: {}", BUNDLES.join(", "));
        return Err(closure.missing_errno(cause).with_path(BUNDLES[0]).with_hint("apt install ca-certificates"));
    }
    for link in BUNDLE_LINKS {
        closure.listing.put(link, Node::Link(BUNDLES[0].into()));
    }
    Ok(())
}

pub(super) fn put_tzdata(closure: &mut Closure<'_>) -> Result<()> {
    let path = Path::new("/usr/share/zoneinfo");
    let there = closure.tree.find(path).is_ok_and(|found| found.kind == Kind::Dir);
    if !there {
        let cause = format!("no time zones are found: {}", path.display());
        return Err(closure.missing_errno(cause).with_path(path).with_hint("apt install tzdata"));
    }
    closure.named_any(path)?;
    // Without it, the time is UTC, inside as outside.
    match closure.tree.find(Path::new("/etc/localtime")) {
        Ok(_) => closure.named_any(Path::new("/etc/localtime")).map(drop),
        Err(_) => Ok(()),
    }
}

pub(super) fn put_shell(closure: &mut Closure<'_>) -> Result<()> {
    let hint = "apt install busybox-static";
    let found = BUSYBOX.iter().find_map(|path| {
        closure.tree.find(Path::new(path)).ok().filter(|found| found.kind == Kind::File).map(|found| found.real)
    });
    let Some(path) = found else {
        let cause = format!("no shell is found: {}", BUSYBOX.join(", "));
        return Err(closure.missing_errno(cause).with_path(BUSYBOX[0]).with_hint(hint));
    };
    let needs = closure.tree.read(&path).map_err(|_| Flaw::NotElf).and_then(elf::needs_of);
    if !needs.is_ok_and(|needs| needs.interpreter.is_none()) {
        let cause = format!("{} is not linked statically", shown(&path));
        return Err(closure.invalid(cause).with_path(path).with_hint(hint));
    }
    closure.listing.put("/busybox/busybox", Node::Copy(path));
    for applet in APPLETS {
        closure.listing.put(format!("/busybox/{applet}"), Node::Link("busybox".into()));
    }
    Ok(())
}
