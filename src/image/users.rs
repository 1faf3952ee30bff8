//! Users by name: passwd(5) and group(5) of an image, read by us. The C library would load code for that, and the
//! host's at best.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{digest, invalid, shown};
use crate::error::{Error, Layer, Result};
use crate::sys::{self, Errno};

/// The most that is read of either file. A line can't be longer.
const FILE_MAX: u64 = 1 << 20;

/// A user or group, as an image writes it.
#[derive(Debug, PartialEq, Eq)]
enum Id<'a> {
    Number(u32),
    Name(&'a str),
}

/// The files that know names. A file that is missing is empty.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub(super) passwd: Vec<u8>,
    pub(super) group: Vec<u8>,
}

impl Accounts {
    /// Reads them in a root file system, made of layers that may have been made to lead elsewhere: the uppermost first.
    pub(super) fn read(layers: &[impl AsFd]) -> Result<Self> {
        Ok(Self { passwd: read_first(layers, c"etc/passwd")?, group: read_first(layers, c"etc/group")? })
    }

    /// The ids of `user`: `""` (root), `user` or `user:group`, each a number or a name.
    ///
    /// Without a group it is that of the user in passwd(5), or 0 for a number that is not there: as engines have it.
    pub(super) fn resolve(&self, user: &str) -> Result<(u32, u32)> {
        if user.is_empty() {
            return Ok((0, 0));
        }
        let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
        let unknown = |what: &str, name: &str| {
            let cause = format!("the image's /etc/{what} has no \"{}\"", shown(name));
            Err(invalid("User", cause).with_path(format!("/etc/{what}")))
        };
        let (uid, own_gid) = match id(name)? {
            Id::Number(uid) => (uid, self.group_of(uid).unwrap_or(0)),
            Id::Name(name) => match self.user(name) {
                Some(ids) => ids,
                None => return unknown("passwd", name),
            },
        };
        let gid = match group.map(id).transpose()? {
            None => own_gid,
            Some(Id::Number(gid)) => gid,
            Some(Id::Name(name)) => match entries(&self.group).find(|entry| entry.name == name.as_bytes()) {
                Some(entry) => entry.id,
                None => return unknown("group", name),
            },
        };
        Ok((uid, gid))
    }

    fn user(&self, name: &str) -> Option<(u32, u32)> {
        let mut users = entries(&self.passwd).filter_map(|entry| Some((entry.name, entry.id, entry.group?)));
        users.find(|(known, ..)| *known == name.as_bytes()).map(|(_, uid, gid)| (uid, gid))
    }

    fn group_of(&self, uid: u32) -> Option<u32> {
        entries(&self.passwd).filter(|entry| entry.id == uid).find_map(|entry| entry.group)
    }
}

fn id(text: &str) -> Result<Id<'_>> {
    if text.is_empty() || text.contains(|char: char| char == ':' || char.is_control()) {
        return Err(invalid("User", format!("\"{}\" is neither a number nor a name", shown(text))));
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Id::Name(text));
    }
    // The last number of 32 bits stands for "no id" in system calls.
    let number = text.parse().ok().filter(|number| *number != u32::MAX);
    number
        .map(Id::Number)
        .ok_or_else(|| invalid("User", format!("{} is not an id: they end at 4294967294", shown(text))))
}

/// A line of either file: `name:password:id`, and in passwd(5) the id of the group. Lines without that are passed over,
/// as the C library does.
struct Entry<'a> {
    name: &'a [u8],
    id: u32,
    group: Option<u32>,
}

fn entries(content: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    content.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let mut number = |skipped| {
            let digits = std::str::from_utf8(fields.nth(skipped)?).ok()?;
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|number| plain && *number != u32::MAX)
        };
        Some(Entry { name, id: number(1)?, group: number(0) })
    })
}

/// The file of the uppermost layer that has one, or has the mark of one that is removed.
fn read_first(layers: &[impl AsFd], path: &CStr) -> Result<Vec<u8>> {
    for layer in layers {
        if let Some(content) = read_file(layer.as_fd(), path)? {
            return Ok(content);
        }
    }
    Ok(Vec::new())
}

fn read_file(root: BorrowedFd<'_>, path: &CStr) -> Result<Option<Vec<u8>>> {
    let step = || format!("read /{}", shown(path.to_bytes()));
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let file: OwnedFd = match sys::openat2(root, path, flags, 0, resolve) {
        Ok(file) => file.into(),
        Err(Errno(libc::ENOENT | libc::ENOTDIR)) => return Ok(None),
        // A device 0/0 has no driver.
        Err(Errno(libc::ENXIO)) => return Ok(Some(Vec::new())),
        Err(Errno(errno)) => return Err(Error::os(Layer::Image, step(), errno)),
    };
    let file = File::from(file);
    let metadata = file.metadata().map_err(|error| digest::error(step(), error))?;
    if !metadata.is_file() {
        return Err(invalid(step(), "it is no regular file"));
    }
    let mut content = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut content).map_err(|error| digest::error(step(), error))?;
    match content.len() as u64 > FILE_MAX {
        true => Err(invalid(step(), format!("it has more than {FILE_MAX} bytes"))),
        false => Ok(Some(content)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    fn accounts() -> Accounts {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken\n:x:3:3::/:\nnobody:x:65534:65533:::\n\
            twice:x:7:8:::\ntwice:x:9:9:::\nshort:x:5\nbad:x:-1:1:::\nbad:x:4294967295:1:::\nlast:x:11:12";
        let group = b"root:x:0:\nbroken:x\nstaff:x:50:nobody,last\nhex:x:0x10:\n";
        Accounts { passwd: passwd.to_vec(), group: group.to_vec() }
    }

    #[test]
    fn users_and_groups_are_numbers_or_known_names() {
        let accounts = accounts();
        for (user, ids) in [
            ("", (0, 0)),
            ("0", (0, 0)),
            ("1000", (1000, 0)),
            ("65534", (65534, 65533)),
            ("1000:100", (1000, 100)),
            ("0010:0", (10, 0)),
            ("4294967294:4294967294", (u32::MAX - 1, u32::MAX - 1)),
            ("nobody", (65534, 65533)),
            ("nobody:staff", (65534, 50)),
            ("1000:staff", (1000, 50)),
            ("twice:0", (7, 0)),
            ("last", (11, 12)),
        ] {
            assert_eq!(accounts.resolve(user).unwrap(), ids, "{user}");
        }
        for user in [
            "0x0",
            "-1",
            "+1",
            " 0",
            "4294967295",
            "4294967296",
            "1000:4294967295",
            "99999999999999999999",
            "nobody:",
            ":50",
            ":",
            "a:b:c",
            "unknown",
            "nobody:unknown",
            "short",
            "bad",
            "nobody:hex",
            "nobody\n",
            "\0",
            "x",
        ] {
            let error = accounts.resolve(user).unwrap_err();
            assert_eq!((error.layer(), error.step()), (Layer::Image, "User"), "{user:?}");
        }
    }

    #[test]
    fn the_files_are_those_of_the_root_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let root: OwnedFd = File::open(dir.path()).unwrap().into();
        let read = || Accounts::read(&[root.as_fd()]);
        assert!(read().unwrap().passwd.is_empty());
        let (etc, passwd) = (dir.path().join("etc"), dir.path().join("etc/passwd"));
        std::fs::create_dir(&etc).unwrap();
        // A link that leads to the host's file elsewhere leads to the root's own here.
        symlink("/../../../etc/real", &passwd).unwrap();
        assert!(read().unwrap().passwd.is_empty());
        std::fs::write(etc.join("real"), "me:x:5:6:::\n").unwrap();
        assert_eq!(read().unwrap().resolve("me").unwrap(), (5, 6));
        std::fs::remove_file(&passwd).unwrap();
        symlink("/proc/self/environ", &passwd).unwrap();
        assert!(read().unwrap().passwd.is_empty());
        std::fs::remove_file(&passwd).unwrap();
        std::fs::write(&passwd, vec![b'\n'; FILE_MAX as usize]).unwrap();
        read().unwrap();
        std::fs::write(&passwd, vec![b'\n'; FILE_MAX as usize + 1]).unwrap();
        assert!(read().unwrap_err().to_string().contains("more than 1048576 bytes"));
        std::fs::remove_file(&passwd).unwrap();
        std::fs::create_dir(&passwd).unwrap();
        read().unwrap_err();
        nix::unistd::mkfifo(&etc.join("group"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::fs::remove_dir(&passwd).unwrap();
        read().unwrap_err();
    }
}
