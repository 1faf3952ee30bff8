//! Users by name: passwd(5) and group(5) of an image, read by us. The C library would load code for that, and the
//! host's at best.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use super::{digest, invalid, shown, stacked};
use crate::error::{Error, Layer, Result};
use crate::sys::Errno;

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
    passwd: Vec<u8>,
    group: Vec<u8>,
}

/// Who a program runs as.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) ids: (u32, u32),
    /// The home directory, if passwd(5) knows the user and has one.
    pub(super) home: Option<OsString>,
}

impl Accounts {
    /// Reads them in a root file system, made of layers that may have been made to lead elsewhere: the uppermost first.
    ///
    /// group(5) only for a `user` that names a group.
    pub(super) fn read(layers: &[impl AsFd], user: &str) -> Result<Self> {
        let named = user.split_once(':').is_some_and(|(_, group)| !group.bytes().all(|byte| byte.is_ascii_digit()));
        let group = if named { read(layers, "etc/group")? } else { Vec::new() };
        Ok(Self { passwd: read(layers, "etc/passwd")?, group })
    }

    /// The ids of `user`: `""` (root), `user` or `user:group`, each a number or a name.
    ///
    /// Without a group it is that of the user in passwd(5), or 0 for a number that is not there: as engines have it.
    pub(super) fn resolve(&self, user: &str) -> Result<User> {
        if user.is_empty() {
            return Ok(self.known((0, 0)));
        }
        let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
        let unknown = |what: &str, name: &str| {
            let cause = format!("the image's /etc/{what} has no \"{}\"", shown(name));
            Err(invalid("User", cause).with_path(format!("/etc/{what}")))
        };
        let (uid, own_gid, home) = match id(name)? {
            Id::Number(uid) => match self.users().find(|(entry, _)| entry.id == uid) {
                Some((entry, gid)) => (uid, gid, entry.home()),
                None => (uid, 0, None),
            },
            Id::Name(name) => match self.users().find(|(entry, _)| entry.name == name.as_bytes()) {
                Some((entry, gid)) => (entry.id, gid, entry.home()),
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
        Ok(User { ids: (uid, gid), home })
    }

    /// The user with these ids.
    pub(super) fn known(&self, ids: (u32, u32)) -> User {
        let home = self.users().find(|(entry, _)| entry.id == ids.0).and_then(|(entry, _)| entry.home());
        User { ids, home }
    }

    /// The lines of passwd(5), and their groups.
    fn users(&self) -> impl Iterator<Item = (Entry<'_>, u32)> {
        entries(&self.passwd).filter_map(|entry| entry.group.map(|gid| (entry, gid)))
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

/// A line of either file: `name:password:id`, and in passwd(5) the id of the group, a comment and the home directory. Lines
/// without that are passed over, as the C library does.
#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a [u8],
    id: u32,
    group: Option<u32>,
    home: &'a [u8],
}

impl Entry<'_> {
    /// A relative one is nobody's home.
    fn home(self) -> Option<OsString> {
        let whole = self.home.starts_with(b"/") && !self.home.contains(&0);
        whole.then(|| OsString::from_vec(self.home.to_vec()))
    }
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
        let (id, group) = (number(1)?, number(0));
        Some(Entry { name, id, group, home: fields.nth(1).unwrap_or_default() })
    })
}

fn read(layers: &[impl AsFd], path: &str) -> Result<Vec<u8>> {
    let step = || format!("read /{path}");
    let opened = stacked::open(layers, path).map_err(|Errno(errno)| Error::os(Layer::Image, step(), errno))?;
    let Some(file) = opened else { return Ok(Vec::new()) };
    let file = File::from(file);
    let metadata = file.metadata().map_err(|error| digest::error(step(), error))?;
    if !metadata.is_file() {
        return Err(invalid(step(), "it is no regular file"));
    }
    let mut content = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut content).map_err(|error| digest::error(step(), error))?;
    match content.len() as u64 > FILE_MAX {
        true => Err(invalid(step(), format!("it has more than {FILE_MAX} bytes"))),
        false => Ok(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
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
            assert_eq!(accounts.resolve(user).unwrap().ids, ids, "{user}");
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
    fn a_home_is_that_of_the_name_or_the_number() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\none:x:5:5::/one:/bin/sh\nother:x:5:6::/other\nnone:x:7:7::\n\
            here:x:8:8::here:\nshort:x:9:9";
        let accounts = Accounts { passwd: passwd.to_vec(), group: Vec::new() };
        let home = |user| accounts.resolve(user).unwrap().home.map(|home| home.into_string().unwrap());
        let homes = ["", "root", "5", "other:0", "6", "none", "here", "short"].map(home);
        let expected = ["/root", "/root", "/one", "/other"].map(|home| Some(home.to_owned()));
        assert_eq!(homes[..4], expected);
        assert_eq!(homes[4..], [const { None }; 4]);
        assert_eq!(accounts.known((5, 9)), User { ids: (5, 9), home: Some("/one".into()) });
    }

    #[test]
    fn the_files_are_those_of_the_root_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let root: OwnedFd = File::open(dir.path()).unwrap().into();
        let read = || Accounts::read(&[root.as_fd()], "0:name");
        assert!(read().unwrap().passwd.is_empty());
        let (etc, passwd) = (dir.path().join("etc"), dir.path().join("etc/passwd"));
        std::fs::create_dir(&etc).unwrap();
        // A link that leads to the host's file elsewhere leads to the root's own here.
        symlink("/../../../etc/real", &passwd).unwrap();
        assert!(read().unwrap().passwd.is_empty());
        std::fs::write(etc.join("real"), "me:x:5:6:::\n").unwrap();
        assert_eq!(read().unwrap().resolve("me").unwrap().ids, (5, 6));
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
