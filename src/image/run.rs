//! From what an image says to a policy: only what the caller has left open.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::config::ImageConfig;
use super::users::Accounts;
use super::{Image, Ownership, Store, Stored, digest, invalid, shown};
use crate::command::Command;
use crate::error::{Error, Layer, Result};
use crate::layer::mount::{Mount, Source, Tmpfs};
use crate::layer::namespaces::Namespaces;
use crate::rootfs::Rootfs;
use crate::sandbox::Sandbox;

/// How many volumes are mounted: images have a few.
const VOLUMES_MAX: usize = 64;

/// Where an image has no say: these file systems are the sandbox's own.
const RESERVED: [&str; 3] = ["/proc", "/dev", "/sys"];

impl Sandbox {
    /// The default policy, with what the image says about how it is run. Whatever the caller sets goes before that.
    ///
    /// - **Root**: its layers, read-only: [`Rootfs::image`]. To let the program write there, set
    ///   [`rootfs`](Sandbox::rootfs) to [`Rootfs::image`] with [`ephemeral`](Rootfs::ephemeral), for example.
    /// - **Env**: every [`command`](Sandbox::command) has it, over the documented minimum. Where it has no `HOME`, that is
    ///   the home directory of the user in the image's own /etc/passwd, if there is one.
    /// - **Entrypoint** and **Cmd**: [`default_command`](Sandbox::default_command) and
    ///   [`entrypoint`](Sandbox::entrypoint) run them; `command` runs something else.
    /// - **WorkingDir**: where a command starts, unless it has a [`current_dir`](Command::current_dir). It is made if
    ///   it is missing.
    /// - **User**: the ids that the program runs as, unless [`user`](Sandbox::user) sets them; root if the image names
    ///   none. They are mapped to the caller, unless there is a map, or its files belong to ids of their own
    ///   ([`Ownership::Root`], [`Ownership::Subordinate`]): then a user other than root is mapped to whom its files belong
    ///   to, like all others. Names are read from the image's own /etc/passwd and /etc/group. Supplementary groups of
    ///   the image's are not set.
    /// - **StopSignal**: [`Child::terminate`](crate::Child::terminate) sends it.
    /// - **Volumes**: each is a [`Tmpfs`], empty, unless something else is mounted there.
    ///
    /// What is not protected: the values are the image author's. A variable like `LD_PRELOAD` has its effect, inside.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use belljar::{Image, Sandbox};
    ///
    /// let image = Image::open("app.tar")?;
    /// let outcome = Sandbox::from_image(&image).default_command()?.status()?;
    /// # Ok::<(), belljar::Error>(())
    /// ```
    pub fn from_image(image: &Image) -> Self {
        Self { image: Some(image.clone()), ..Self::default() }
    }

    /// The command of the image itself: Entrypoint, then Cmd.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy): the sandbox is not of an image, or the image has neither.
    pub fn default_command(&self) -> Result<Command> {
        let config = self.image_config()?;
        self.command_line(config.entrypoint().iter().chain(config.cmd()))
    }

    /// The Entrypoint of the image, with these arguments in place of Cmd: what `docker run IMAGE ARGS..` runs. For an
    /// image without an Entrypoint, the first argument is the program.
    ///
    /// # Errors
    ///
    /// As for [`default_command`](Sandbox::default_command).
    pub fn entrypoint(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Command> {
        let own = self.image_config()?.entrypoint().iter().map(|word| Cow::Borrowed(OsStr::new(word)));
        self.command_line(own.chain(args.into_iter().map(|word| Cow::Owned(word.as_ref().to_owned()))))
    }

    fn image_config(&self) -> Result<&ImageConfig> {
        let none = || Error::invalid(Layer::Image, "command", "the sandbox is not made of an image");
        Ok(self.image.as_ref().ok_or_else(none)?.config())
    }

    fn command_line(&self, mut words: impl Iterator<Item = impl AsRef<OsStr>>) -> Result<Command> {
        let none = || {
            Error::invalid(Layer::Image, "command", "the image has neither Entrypoint nor Cmd")
                .with_hint("name a program: sandbox.command(..)")
        };
        let mut command = self.command(words.next().ok_or_else(none)?);
        command.args(words);
        Ok(command)
    }
}

/// What is known of a command once the images in its policy are looked at.
pub(crate) struct Settled {
    pub(crate) command: Command,
    /// What keeps the layers where they are.
    pub(crate) stored: Option<Arc<Stored>>,
}

/// A command with all that its image says filled in where the caller has said nothing, and with the layers of its root.
/// None without an image.
pub(crate) fn settle(command: &Command) -> Result<Option<Settled>> {
    let Sandbox { image, rootfs, .. } = &*command.sandbox;
    let own = || image.as_ref().map(Rootfs::image);
    let Some(rootfs) = rootfs.clone().or_else(own) else { return Ok(None) };
    if image.is_none() && rootfs.image.is_none() {
        return Ok(None);
    }
    let mut command = command.clone();
    let (root, stored) = layers(rootfs)?;
    let image = Arc::make_mut(&mut command.sandbox).image.take();
    if let Some(image) = image {
        fill(&mut command, image.config(), &root.root.source)?;
        if let Some(stored) = &stored {
            map(Arc::make_mut(&mut command.sandbox), stored);
        }
    }
    Arc::make_mut(&mut command.sandbox).rootfs = Some(root);
    Ok(Some(Settled { command, stored }))
}

/// A root with directories in place of an image.
fn layers(mut root: Rootfs) -> Result<(Rootfs, Option<Arc<Stored>>)> {
    let Some(image) = root.image.take() else { return Ok((root, None)) };
    let image = match image.stored() {
        Some(_) => image,
        None => Store::open_default()?.unpack(&image)?,
    };
    let stored = image.stored().cloned();
    root.root.source = Source::Layers(stored.iter().flat_map(|stored| stored.dirs.clone()).collect());
    Ok((root, stored))
}

/// Fills in what the caller has left open.
fn fill(command: &mut Command, config: &ImageConfig, root: &Source) -> Result<()> {
    identify(command, config, root)?;
    let sandbox = Arc::make_mut(&mut command.sandbox);
    let mut mounts = volumes(config, &sandbox.mounts)?;
    mounts.append(&mut sandbox.mounts);
    if command.directory.is_none() {
        command.directory = working_dir(config)?;
        // Last, so that it is made in what is mounted above it.
        mounts.extend(command.directory.clone().filter(|dir| dir != Path::new("/")).map(Mount::Dir));
    }
    Arc::make_mut(&mut command.sandbox).mounts = mounts;
    Ok(())
}

/// Fills in the ids of the image's user, and the home directory of whoever it is. Files are only looked at for that.
fn identify(command: &mut Command, config: &ImageConfig, root: &Source) -> Result<()> {
    let asked = command.sandbox.ids.user;
    let named = asked.is_none() && !config.user().is_empty();
    let accounts = match named || command.home_of_image {
        true => accounts(config, root),
        false => Ok(Accounts::default()),
    };
    // A home is nothing that anybody has asked for.
    let accounts = if named { accounts? } else { accounts.unwrap_or_default() };
    let user = match asked {
        Some(ids) => accounts.known(ids),
        None => accounts.resolve(config.user())?,
    };
    Arc::make_mut(&mut command.sandbox).ids.user = Some(user.ids);
    if let Some(home) = user.home.filter(|_| command.home_of_image) {
        command.env.insert("HOME".into(), home);
    }
    Ok(())
}

/// Lets a user of the image's be whoever its files belong to, where they belong to several. Its root is the caller in any
/// case, which takes one id and less time.
fn map(sandbox: &mut Sandbox, stored: &Stored) {
    let ids = &mut sandbox.ids;
    let mapped = !ids.uid_map.is_empty() || !ids.gid_map.is_empty();
    let own = sandbox.namespaces.unwrap_or_default().contains(Namespaces::USER);
    if own && !mapped && ids.user != Some((0, 0)) && stored.ownership != Ownership::Caller {
        [ids.uid_map, ids.gid_map] = stored.maps.clone();
    }
}

fn accounts(config: &ImageConfig, root: &Source) -> Result<Accounts> {
    let dirs: &[PathBuf] = match root {
        Source::Dir(dir) => std::slice::from_ref(dir),
        Source::Layers(dirs) => dirs,
        // The host's accounts are not the image's.
        Source::Empty | Source::Bare | Source::Host | Source::Distroless(_) => &[],
    };
    let open = |dir: &PathBuf| {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir);
        opened.map_err(|error| digest::error("User", error).with_path(dir))
    };
    // The uppermost has the last word.
    let dirs = dirs.iter().rev().map(open).collect::<Result<Vec<_>>>()?;
    Accounts::read(&dirs, config.user())
}

fn volumes(config: &ImageConfig, mounts: &[Mount]) -> Result<Vec<Mount>> {
    // Sorted, what is below comes after what is above it.
    let mut places = BTreeSet::new();
    for path in config.volumes() {
        let place = place("Volumes", path)?;
        if place == Path::new("/") {
            return Err(invalid("Volumes", "\"/\" is the root itself"));
        }
        places.insert(place);
        if places.len() > VOLUMES_MAX {
            return Err(invalid("Volumes", format!("there are more than {VOLUMES_MAX}")));
        }
    }
    let is_free = |path: &PathBuf| !mounts.iter().any(|mount| mount.target() == path);
    Ok(places.into_iter().filter(is_free).map(|path| Mount::Tmpfs(Tmpfs::new(path))).collect())
}

fn working_dir(config: &ImageConfig) -> Result<Option<PathBuf>> {
    config.working_dir().map(|path| place("WorkingDir", path)).transpose()
}

/// A path that an image gives: absolute, without "..", and nowhere that leads out. A link of /proc could be one of the
/// host's directories: CVE-2024-21626.
fn place(field: &str, path: &Path) -> Result<PathBuf> {
    let wrong = |cause: &str| {
        let cause = format!("\"{}\" {cause}", shown(path.as_os_str().as_bytes()));
        Err(invalid(field, cause).with_path(path))
    };
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return wrong("is not an absolute path without \"..\"");
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return wrong("has a zero byte");
    }
    match RESERVED.iter().any(|reserved| path.starts_with(reserved)) {
        true => wrong("is in a file system of the sandbox's own"),
        false => Ok(path.components().collect()),
    }
}
