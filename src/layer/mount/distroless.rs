//! What a root for one program is to hold: the values.

use std::path::{Path, PathBuf};

/// The smallest root that runs one program: the program itself, its loader and libraries, and a handful of small files, as
/// in the distroless base image.
///
/// It is made by [`Rootfs::distroless`](crate::Rootfs::distroless), and goes where a root goes. Nothing is copied: each
/// file is bound read-only at its own path. [`write_to`](Distroless::write_to) makes a directory of it instead.
///
/// What is in it:
///
/// - The ELF closure, as the program's own loader finds it: the loader, and the needed libraries over DT_RPATH, DT_RUNPATH,
///   `$ORIGIN`, `$LIB` and `$PLATFORM`, for glibc over /etc/ld.so.cache (or /etc/ld.so.conf, where there is no cache) and the
///   default directories, for musl over its path file. `LD_LIBRARY_PATH` counts for nothing. A static program needs
///   nothing; of a script, the interpreter is taken, and with `#!/usr/bin/env` the one that it looks for. Symbolic links on
///   the way are there too. For glibc, also what libc itself opens: `libgcc_s.so.1` and the modules for names, if they
///   are there.
/// - /etc/passwd and /etc/group with root, nobody (65534) and nonroot (65532); /etc/nsswitch.conf and /etc/hosts;
///   /etc/os-release; /root and the user's home. With [`Network::Host`](crate::Network::Host) also the host's
///   `resolv.conf` and `hosts`. There is no shell.
///
/// What the program opens by its own will, such as plugins or a standard library, can't be seen from outside: name it by
/// [`with`](Distroless::with). Nor can what a packed program holds, but for the packer's own part. Libraries that are
/// built anew for some processors (glibc-hwcaps) are left out: their plain build is there. The loader's cache inside
/// lists the libraries of the root and no others.
///
/// What is not protected: the program's own file says which files it needs, and every ELF file that the caller can read is
/// brought in if it says so. Whoever can write the program, or a library of it, chooses.
///
/// # Errors
///
/// The setters never fail. Whoever starts a command, or asks for [`files`](Distroless::files), is told, before any process
/// exists, which library is missing and what needs it, where it was looked for, and that a program is for another machine:
/// `mount: distroless /opt/app: libfoo.so.1 (needed by /opt/libbar.so.2) is not found`. A symbolic link to the program, or to
/// what is named by `with`, is refused unless the system has made it, as for [`Sandbox::bind`](crate::Sandbox::bind).
///
/// # Examples
///
/// ```no_run
/// use belljar::{Rootfs, Sandbox};
///
/// let root = Rootfs::distroless("/usr/bin/python3").with("/usr/lib/python3.11").with_ca_certificates().with_tzdata();
/// let output = Sandbox::new().rootfs(root).command("python3").args(["-c", "import ssl"]).output()?;
/// # Ok::<(), belljar::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Distroless {
    pub(crate) program: PathBuf,
    pub(crate) from: PathBuf,
    pub(crate) extras: Vec<PathBuf>,
    pub(crate) user: (String, u32),
    pub(crate) certificates: bool,
    pub(crate) tzdata: bool,
    pub(crate) shell: bool,
}

impl Distroless {
    pub(crate) fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            from: PathBuf::from("/"),
            extras: Vec::new(),
            user: ("nonroot".to_owned(), 65532),
            certificates: false,
            tzdata: false,
            shell: false,
        }
    }

    /// Adds the certificates that the host trusts, as one file: /etc/ssl/certs/ca-certificates.crt.
    ///
    /// That is where Go and curl look, and links to it are where OpenSSL looks as Debian, Fedora and its authors build
    /// it: so `SSL_CERT_FILE` need not be set.
    pub fn with_ca_certificates(mut self) -> Self {
        self.certificates = true;
        self
    }

    /// Adds the time zones, /usr/share/zoneinfo, and the host's own: /etc/localtime.
    pub fn with_tzdata(mut self) -> Self {
        self.tzdata = true;
        self
    }

    /// Sets the user beside root and nobody, whose group has the same name and number. The default is `nonroot`, 65532.
    ///
    /// The home is `/home/NAME`, in memory and for the program's user. What the program runs as is not changed: say
    /// [`Sandbox::user(65532, 65532)`](crate::Sandbox::user) for that, and set `HOME` in the command.
    pub fn with_user(mut self, name: impl Into<String>, id: u32) -> Self {
        self.user = (name.into(), id);
        self
    }

    /// Adds a file or a directory, at the same path inside. If it is an ELF file, what that needs is added too; for a
    /// directory, what the files in it need that have `.so` in their names. Links in the directory are not followed.
    ///
    /// What a directory has at a path of the small files is kept.
    pub fn with(mut self, path: impl AsRef<Path>) -> Self {
        self.extras.push(path.as_ref().to_owned());
        self
    }

    /// Adds a shell and its tools for looking around: the host's static busybox, in /busybox. The shell is `/busybox/sh`;
    /// with /busybox in the command's `PATH` it finds its tools.
    pub fn with_shell(mut self) -> Self {
        self.shell = true;
        self
    }

    /// Takes everything from another tree than the host's, such as an unpacked distribution: paths are paths in it, and
    /// its links lead nowhere but inside. The path of the tree is as for [`Rootfs::dir`](crate::Rootfs::dir). The loader
    /// and the libraries are the tree's, and so they need not be those of the host's release.
    pub fn from_root(mut self, dir: impl AsRef<Path>) -> Self {
        self.from = dir.as_ref().to_owned();
        self
    }
}
