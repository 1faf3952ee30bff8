//! The host of one attack: files, listeners and a process to be attacked, made for it and gone with it.

use std::ffi::{CString, c_long};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::checks::Judge;
use super::jail::Output;
use crate::harness::{real, temp_dir, token};

/// The files and listeners of one attack.
pub(super) struct Stage {
    dir: tempfile::TempDir,
    name: String,
    tcp: TcpListener,
    udp: UdpSocket,
    unix: UnixListener,
    abstract_unix: UnixListener,
    datagram: UnixDatagram,
    fifo: File,
    channel: (UnixStream, UnixStream),
    victim: Option<Victim>,
    objects: Option<Objects>,
    before: Vec<String>,
}

/// A process of the caller's, which tells what is done to it.
struct Victim {
    child: Child,
    told: BufReader<std::process::ChildStdout>,
    address: String,
    fd: String,
}

/// Shared memory, a message queue and a key.
struct Objects {
    shm: i32,
    number: i32,
    mq: CString,
    queue: i32,
    key: c_long,
}

/// What nobody inside may know.
fn secret() -> String {
    std::env::var(super::SECRET).unwrap_or_else(|_| token())
}

pub(super) fn landlock_version() -> c_long {
    let none: *const u8 = std::ptr::null();
    // SAFETY: Without a structure the call only tells the version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, 1_u32) }
}

/// Opens a file with the secret that a program started carelessly inherits.
pub(super) fn leave_open() -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(secret().as_bytes()).unwrap();
    // SAFETY: No pointers: the call makes a new descriptor.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 200) };
    assert!(fd >= 200);
    // SAFETY: The kernel has just made this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Stage {
    /// `attack` tells what of it is needed.
    pub(super) fn new(attack: &[&str]) -> Self {
        let dir = temp_dir();
        let root = real(dir.path());
        for name in ["secret", "ro", "ro/dir", "rw"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        for name in ["secret/canary", "ro/dir/file"] {
            fs::write(root.join(name), secret()).unwrap();
        }
        fs::write(root.join("ro/file"), "bound").unwrap();
        let fifo = root.join("ro/fifo");
        make_fifo(&fifo);
        let name = token();
        let listen = |kind: &str| SocketAddr::from_abstract_name(format!("{name}{kind}")).unwrap();
        let unix = UnixListener::bind(root.join("secret/socket")).unwrap();
        fs::hard_link(root.join("secret/socket"), root.join("ro/socket")).unwrap();
        let needs = |words: &[&str]| attack.iter().any(|arg| words.contains(arg));
        let stage = Self {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            unix,
            abstract_unix: UnixListener::bind_addr(&listen("s")).unwrap(),
            datagram: UnixDatagram::bind_addr(&listen("d")).unwrap(),
            fifo: File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(fifo).unwrap(),
            channel: UnixStream::pair().unwrap(),
            victim: (attack.iter().any(|arg| arg.contains("{victim}"))).then(Victim::new),
            objects: needs(&["{shm}", "{mq}", "{key}"]).then(|| Objects::new(&name)),
            before: Vec::new(),
            name,
            dir,
        };
        stage.set_nonblocking();
        Self { before: stage.files(), ..stage }
    }

    fn set_nonblocking(&self) {
        self.tcp.set_nonblocking(true).unwrap();
        self.udp.set_nonblocking(true).unwrap();
        self.unix.set_nonblocking(true).unwrap();
        self.abstract_unix.set_nonblocking(true).unwrap();
        self.datagram.set_nonblocking(true).unwrap();
        self.channel.0.set_nonblocking(true).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        real(self.dir.path()).join(name)
    }

    /// What is bound into a sandbox: at `/ro` to be read only, and at `/rw`.
    pub(super) fn bound(&self) -> [PathBuf; 2] {
        [self.path("ro"), self.path("rw")]
    }

    /// What the probe has as standard input.
    pub(super) fn channel(&self) -> UnixStream {
        self.channel.1.try_clone().unwrap()
    }

    /// The words of an attack with the names of this stage, as who sees the host's files has to name them, or not.
    pub(super) fn fill(&self, attack: &[&str], sees_host: bool) -> Vec<String> {
        let mut names = vec![
            ("{abstract}", format!("{}s", self.name)),
            ("{datagram}", format!("{}d", self.name)),
            ("{name}", self.name.clone()),
            ("{tcp}", self.tcp.local_addr().unwrap().port().to_string()),
            ("{udp}", self.udp.local_addr().unwrap().port().to_string()),
        ];
        let host = |name: &str| self.path(name).to_str().unwrap().to_owned();
        names.push(("{secret}", host("secret")));
        for (name, dir, inside) in [("{ro}", "ro", "/ro"), ("{rw}", "rw", "/rw")] {
            names.push((name, if sees_host { host(dir) } else { inside.to_owned() }));
        }
        if let Some(victim) = &self.victim {
            names.push(("{victim}", victim.child.id().to_string()));
            names.push(("{address}", victim.address.clone()));
            names.push(("{fd}", victim.fd.clone()));
        }
        if let Some(objects) = &self.objects {
            names.push(("{shm}", objects.number.to_string()));
            names.push(("{mq}", objects.mq.to_str().unwrap().to_owned()));
            names.push(("{key}", self.name.clone()));
        }
        let fill = |arg: &&str| names.iter().fold((*arg).to_owned(), |arg, (name, value)| arg.replace(name, value));
        attack.iter().map(fill).collect()
    }

    /// What of the host's files an attack could change.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for dir in ["secret", "ro", "ro/dir"].map(|name| self.path(name)) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let stat = fs::symlink_metadata(&path).unwrap();
                let content = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                let changed = (stat.ctime(), stat.ctime_nsec(), stat.mode(), stat.nlink());
                files.push(format!("{} {changed:?} {content:?}", path.display()));
            }
        }
        files.sort();
        files
    }

    /// Whether the attack has worked, as the host sees it.
    pub(super) fn is_breached(&mut self, judge: Judge, output: &Output) -> bool {
        match judge {
            Judge::Prints => contains(&output.told, &secret()),
            Judge::Changed => self.files() != self.before,
            Judge::Made => fs::read_dir(self.path("rw")).unwrap().count() != 0,
            Judge::Reached => self.reached(),
            Judge::Handed => self.handed(),
            Judge::Harmed => self.victim.take().expect("the attack has a victim").harmed(),
            Judge::Key => take_key(&self.name),
            Judge::Told => output.success,
        }
    }

    fn reached(&mut self) -> bool {
        let mut data = [0; 64];
        let connected = [self.tcp.accept().is_ok(), self.unix.accept().is_ok(), self.abstract_unix.accept().is_ok()];
        let received = [self.udp.recv(&mut data), self.datagram.recv(&mut data), self.fifo.read(&mut data)];
        connected.contains(&true) || received.iter().any(Result::is_ok)
    }

    /// Whether a descriptor has come: its bytes are not looked at, but that it is there.
    fn handed(&self) -> bool {
        let mut byte = [0_u8; 1];
        let mut control = [0_u64; 8];
        let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        // SAFETY: All zeroes is a value of this plain structure.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: All that the message points to outlives the call, with the lengths given.
        let received = unsafe { libc::recvmsg(self.channel.0.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if received != 1 || message.msg_controllen == 0 {
            return false;
        }
        // SAFETY: The kernel has filled the message, and it has a header.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: The header that the kernel has written is followed by the descriptors.
        let data = unsafe { libc::CMSG_DATA(header) }.cast::<i32>();
        // SAFETY: One descriptor was sent.
        let fd = unsafe { data.read_unaligned() };
        // SAFETY: The kernel has just made this descriptor, and nobody else knows it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        true
    }
}

fn contains(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|window| window == word.as_bytes())
}

fn make_fifo(path: &Path) {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: The path ends in a zero byte, and is only read.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

impl Victim {
    fn new() -> Self {
        let mut command = Command::new(super::probe());
        let mut child =
            command.arg("victim").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut memory = secret().into_bytes();
        memory.resize(64, 0);
        child.stdin.as_mut().unwrap().write_all(&memory).unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, address, fd] = words[..] else { panic!("the victim says {line:?}") };
        Self { address: address.to_owned(), fd: fd.to_owned(), child, told }
    }

    /// Whether it has got a signal, or its memory, limits or priority are others.
    fn harmed(mut self) -> bool {
        let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let nice = |pid: &str| stat(pid).rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().to_owned();
        let limits = |pid: &str| fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let pid = self.child.id().to_string();
        let other = nice(&pid) != nice("self") || limits(&pid) != limits("self");
        // It ends with its input, after all signals that are on their way.
        drop(self.child.stdin.take());
        let mut told = String::new();
        self.told.read_to_string(&mut told).unwrap();
        other || !told.is_empty()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Objects {
    fn new(name: &str) -> Self {
        let number = i32::from_str_radix(&name[name.len() - 7..], 16).unwrap();
        let mut data = secret().into_bytes();
        data.resize(64, 0);
        let mq = CString::new(name).unwrap();
        let flags = libc::O_CREAT | libc::O_RDWR;
        let none: *const u8 = std::ptr::null();
        // SAFETY: No pointers.
        let shm = unsafe { libc::shmget(number, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) };
        // SAFETY: The kernel chooses a free address.
        let memory = unsafe { libc::shmat(shm, std::ptr::null(), 0) };
        assert_ne!(memory as isize, -1, "{}", io::Error::last_os_error());
        // SAFETY: The memory has a page, of which nobody else knows.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), memory.cast(), data.len()) };
        // SAFETY: Nothing refers to the memory any more.
        unsafe { libc::shmdt(memory) };
        // SAFETY: The name ends in a zero byte; without attributes the queue has the default ones.
        let queue = unsafe { libc::syscall(libc::SYS_mq_open, mq.as_ptr(), flags, 0o600, none) } as i32;
        // SAFETY: The data has the length given, and is only read.
        let sent = unsafe { libc::syscall(libc::SYS_mq_timedsend, queue, data.as_ptr(), data.len(), 0_u32, none) };
        assert_eq!(sent, 0, "{}", io::Error::last_os_error());
        // SAFETY: Without a name this joins a new session's keyring.
        let joined = unsafe { libc::syscall(libc::SYS_keyctl, 1, none) };
        assert!(joined > 0, "{}", io::Error::last_os_error());
        let (kind, name, secret) = (c"user".as_ptr(), mq.as_ptr(), data.as_ptr());
        // SAFETY: Both strings end in a zero byte, and the data has the length given.
        let key = unsafe { libc::syscall(libc::SYS_add_key, kind, name, secret, data.len(), SESSION_KEYRING) };
        assert!(key > 0, "{}", io::Error::last_os_error());
        Self { shm, number, mq, queue, key }
    }
}

/// keyctl(2): special keyrings.
const SESSION_KEYRING: c_long = -3;
const USER_KEYRING: c_long = -4;

/// Takes a key out of the caller's keyring, if it is there.
fn take_key(name: &str) -> bool {
    let name = CString::new(name).unwrap();
    // SAFETY: Both strings end in a zero byte, and are only read.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, 10, USER_KEYRING, c"user".as_ptr(), name.as_ptr(), 0) };
    // SAFETY: No pointers.
    unsafe { libc::syscall(libc::SYS_keyctl, 9, key, USER_KEYRING) };
    key > 0
}

impl Drop for Objects {
    fn drop(&mut self) {
        // SAFETY: The object is this stage's own; the call takes no other pointer.
        unsafe { libc::shmctl(self.shm, libc::IPC_RMID, std::ptr::null_mut()) };
        // SAFETY: The name ends in a zero byte.
        unsafe { libc::syscall(libc::SYS_mq_unlink, self.mq.as_ptr()) };
        // SAFETY: The descriptor is this stage's own.
        unsafe { libc::close(self.queue) };
        // SAFETY: No pointers.
        unsafe { libc::syscall(libc::SYS_keyctl, 9, self.key, SESSION_KEYRING) };
    }
}
