//! The command line.

#[cfg(feature = "tokio")]
mod asynchronous;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::child::{Child, Output};
use crate::compile::compile;
use crate::enter;
use crate::error::{Error, Layer, Result};
use crate::layer::exec::DEFAULT_ENV;
use crate::layer::fds::{Passed, Stdio};
use crate::layer::terminal::PtySize;
use crate::outcome::Outcome;
use crate::plan::{Hook, Plan, Template};
use crate::pool;
use crate::sandbox::Sandbox;
use crate::spawn::spawn;

/// A program to run in a sandbox, with its arguments, environment, directory and descriptors.
///
/// It speaks [`std::process::Command`]. What differs: the environment starts from a documented minimum instead of the
/// host's (`PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin` and `HOME=/tmp`); the program is
/// looked for inside; and a program that can't be executed is an error of [`spawn`](Command::spawn), never an exit code.
///
/// A command can be started any number of times.
#[derive(Clone)]
pub struct Command {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: BTreeMap<OsString, OsString>,
    /// Whether HOME is left to the image: neither its Env nor the caller has a say in it.
    pub(crate) home_of_image: bool,
    pub(crate) directory: Option<PathBuf>,
    /// Where to go instead.
    pub(crate) fallbacks: Vec<PathBuf>,
    /// Whether PWD is to name the directory.
    pub(crate) names_directory: bool,
    pub(crate) arg0: Option<OsString>,
    pub(crate) hook: Option<Hook>,
    stdin: Option<Stdio>,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
    /// The size of the program's own terminal, if it gets one.
    pub(crate) pty: Option<PtySize>,
    pub(crate) passed: Vec<Passed>,
    /// The image of an agent, which runs in place of a program.
    pub(crate) agent: Option<Arc<[u8]>>,
    /// Whether the agent is to put on a filter of the caller's own, at its end: that may not allow what the agent does.
    pub(crate) filters_itself: bool,
    /// What its start goes on from.
    pub(crate) template: Option<Arc<Template>>,
    /// Where a sandbox may be ready for it.
    pool: Option<Arc<pool::Shared>>,
    /// The sandbox in use that it is for.
    entry: Option<Arc<enter::Entry>>,
}

impl Command {
    pub(crate) fn new(sandbox: Arc<Sandbox>, program: &OsStr) -> Self {
        #[cfg_attr(not(feature = "image"), expect(unused_mut, reason = "an image has more"))]
        let mut home_of_image = false;
        #[cfg_attr(not(feature = "image"), expect(unused_mut, reason = "an image has more"))]
        let mut env: BTreeMap<OsString, OsString> =
            DEFAULT_ENV.iter().map(|(name, value)| (name.into(), value.into())).collect();
        #[cfg(feature = "image")]
        if let Some(image) = &sandbox.image {
            home_of_image = image.config().env().all(|(name, _)| name != "HOME");
            env.extend(image.config().env().map(|(name, value)| (name.into(), value.into())));
        }
        Self {
            sandbox,
            program: program.to_owned(),
            args: Vec::new(),
            env,
            home_of_image,
            directory: None,
            fallbacks: Vec::new(),
            names_directory: false,
            arg0: None,
            hook: None,
            stdin: None,
            stdout: None,
            stderr: None,
            pty: None,
            passed: Vec::new(),
            agent: None,
            filters_itself: false,
            template: None,
            pool: None,
            entry: None,
        }
    }

    pub(crate) fn pooled(self, pool: Arc<pool::Shared>) -> Self {
        Self { pool: Some(pool), ..self }
    }

    pub(crate) fn entering(sandbox: Arc<Sandbox>, program: &OsStr, entry: Arc<enter::Entry>) -> Self {
        Self { entry: Some(entry), ..Self::new(sandbox, program) }
    }

    /// Adds an argument: at most 131,071 bytes, none of them 0.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment; a later value replaces an earlier one.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.home_of_image &= name.as_ref() != "HOME";
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Sets variables of the environment.
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(&mut self, vars: impl IntoIterator<Item = (K, V)>) -> &mut Self {
        for (name, value) in vars {
            self.env(name, value);
        }
        self
    }

    /// Removes a variable of the environment.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.home_of_image &= name.as_ref() != "HOME";
        self.env.remove(name.as_ref());
        self
    }

    /// Removes every variable, those of the minimum included. A program named without a slash is still looked for in
    /// the default `PATH`.
    pub fn env_clear(&mut self) -> &mut Self {
        self.home_of_image = false;
        self.env.clear();
        self
    }

    /// Sets the working directory, an absolute path inside. The default is `/`. Links of /proc do not lead there.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Adds a directory to start in where the one before does not exist inside, or can't be entered.
    pub fn current_dir_or(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.fallbacks.push(directory.as_ref().to_owned());
        self
    }

    /// Sets the variable PWD to the directory that the program starts in, as it was given. By default it is no other
    /// variable than any.
    pub fn env_pwd(&mut self) -> &mut Self {
        self.names_directory = true;
        self
    }

    /// Sets the name that the program is told as its own, argument 0. The default is the program as it was given.
    pub fn arg0(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.arg0 = Some(arg.as_ref().to_owned());
        self
    }

    /// Runs `hook` in the host process when the sandbox is set up, and holds the program back until it returns: to set up
    /// a network inside, say. It gets the id of the process that becomes the program, for `/proc/ID/ns` and the like.
    ///
    /// It runs on a thread of its own, while [`spawn`](Command::spawn) waits. If it fails, so does the start. A command with
    /// a hook is never started from a [`Pool`](crate::Pool)'s ready sandboxes.
    ///
    /// What is not protected: the process still has the capabilities that set the sandbox up, but no program runs in it.
    pub fn before_exec(&mut self, hook: impl Fn(u32) -> std::io::Result<()> + Send + Sync + 'static) -> &mut Self {
        self.hook = Some(Hook::new(hook));
        self
    }

    /// Sets standard input. The default is inherited for [`spawn`](Command::spawn) and [`status`](Command::status),
    /// and null for [`output`](Command::output).
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdin = Some(stdio.into());
        self
    }

    /// Sets standard output. The default is inherited for [`spawn`](Command::spawn) and [`status`](Command::status),
    /// and piped for [`output`](Command::output).
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdout = Some(stdio.into());
        self
    }

    /// Sets standard error. The default is inherited for [`spawn`](Command::spawn) and [`status`](Command::status),
    /// and piped for [`output`](Command::output).
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stderr = Some(stdio.into());
        self
    }

    /// Gives the program a terminal of its own, in the sandbox: the default is none. It is the program's controlling
    /// terminal, and each of its streams that is not set otherwise. The host's end is [`Child::pty`]. The caller's own
    /// terminal has no part in it: who wants to pass that through sets it to raw mode, copies both ways, and sets it
    /// back.
    ///
    /// Somebody has to read what is shown, else the program waits once some 64 KiB are: [`output`](Command::output)
    /// and [`Child::wait_with_output`] do, and [`status`](Command::status) reads and forgets it. All three type an
    /// end of file (Ctrl-D) at the start, as they close a pipe.
    ///
    /// It is made through /dev/ptmx: inside, or the host's without [`Namespaces::MOUNT`](crate::Namespaces::MOUNT).
    /// A command of a [`Pool`](crate::Pool) that has one gets a sandbox that is built for it.
    ///
    /// What is not protected: what the program shows is the program's. To copy it to a terminal lets it change that
    /// one's title, colours and modes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Read;
    /// use belljar::{PtySize, Rootfs, Sandbox};
    ///
    /// let mut child = Sandbox::new().rootfs(Rootfs::host()).command("tty").pty(PtySize::new(24, 80)).spawn()?;
    /// let mut shown = String::new();
    /// child.pty.as_mut().expect("it has one").read_to_string(&mut shown)?;
    /// assert_eq!(shown, "/dev/pts/0\r\n");
    /// assert!(child.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pty(&mut self, size: PtySize) -> &mut Self {
        self.pty = Some(size);
        self
    }

    /// Passes a descriptor under `number`, from 3 on. Nothing else but the three streams arrives.
    ///
    /// What is not protected: what the descriptor gives. A directory leads to all that is around it in the host's file
    /// system, where only Landlock keeps files from being opened; a socket reaches whoever listens.
    pub fn fd(&mut self, number: i32, fd: impl Into<OwnedFd>) -> &mut Self {
        self.passed.push(Passed { number, fd: Arc::new(fd.into()) });
        self
    }

    /// Tells every step that [`spawn`](Command::spawn) would take, in order, and runs nothing.
    ///
    /// # Errors
    ///
    /// As for `spawn`, as far as the policy and the files of the host show it.
    pub fn plan(&self) -> Result<Plan> {
        let (plan, _) = compile(self, self.streams(&Stdio::inherit(), &Stdio::inherit()))?;
        Ok(plan)
    }

    /// Starts the program. `Ok` means that it is executing, inside, fully confined.
    ///
    /// # Errors
    ///
    /// - [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy): the policy or the command contradicts itself. Nothing was
    ///   started.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported): the host lacks what the policy asks for.
    /// - [`Os`](crate::ErrorKind::Os): a step failed, the execution of the program included. Everything is undone.
    ///
    /// # Kernel
    ///
    /// Linux 5.15 or later.
    pub fn spawn(&mut self) -> Result<Child> {
        self.spawn_with(&Stdio::inherit(), &Stdio::inherit())
    }

    /// Runs the program to its end, and waits for the whole sandbox to be gone.
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Command::spawn) and [`Child::wait`].
    pub fn status(&mut self) -> Result<Outcome> {
        match self.pty {
            None => self.spawn()?.wait(),
            // Nobody else reads what is shown.
            Some(_) => Ok(self.spawn()?.wait_with_output()?.outcome),
        }
    }

    /// Runs the program to its end, and collects what it writes: of each stream at most 32 MiB, or what
    /// [`Limits::output`](crate::Limits::output) says, as [`Child::wait_with_output`] does.
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Command::spawn) and [`Child::wait_with_output`].
    pub fn output(&mut self) -> Result<Output> {
        self.spawn_with(&Stdio::null(), &Stdio::piped())?.wait_with_output()
    }

    fn spawn_with(&self, input: &Stdio, output: &Stdio) -> Result<Child> {
        let mut child = self.start(input, output)?;
        child.set_stop_signal(self.stop_signal());
        child.set_output_limit(self.sandbox.limits.output_limit());
        Ok(child)
    }

    /// What the image says, if the sandbox is made of one.
    #[cfg(feature = "image")]
    fn stop_signal(&self) -> i32 {
        self.sandbox.image.as_ref().and_then(|image| image.config().stop_signal()).unwrap_or(libc::SIGTERM)
    }

    #[cfg(not(feature = "image"))]
    fn stop_signal(&self) -> i32 {
        libc::SIGTERM
    }

    fn start(&self, input: &Stdio, output: &Stdio) -> Result<Child> {
        let started = std::time::Instant::now();
        let streams = self.streams(input, output);
        if let Some(pool) = self.pool.as_ref().filter(|_| self.is_plain()) {
            if let Some(child) = pool::start(pool, self, streams, started)? {
                return Ok(child);
            }
        }
        if let Some(entry) = &self.entry {
            if !self.is_plain() {
                let cause =
                    "a command in a sandbox that is in use has no terminal, no hook, no arg0, and no other directory";
                return Err(Error::invalid(Layer::Process, "enter", cause));
            }
            return enter::start(entry, self, streams, started);
        }
        let (plan, report) = compile(self, streams)?;
        let mut child = match &self.hook {
            Some(hook) => hook.around(plan, |plan| spawn(plan, report, started))?,
            None => spawn(&plan, report, started)?,
        };
        child.policy = Some(self.sandbox.clone());
        Ok(child)
    }

    /// Whether it says nothing that the agent of a pool, which has no terminal either, does not know.
    fn is_plain(&self) -> bool {
        let plain = self.hook.is_none() && self.fallbacks.is_empty() && self.pty.is_none();
        plain && !self.names_directory && self.arg0.is_none()
    }

    fn streams<'a>(&'a self, input: &'a Stdio, output: &'a Stdio) -> [&'a Stdio; 3] {
        let [input, output] = if self.pty.is_some() { [&Stdio::PTY; 2] } else { [input, output] };
        [
            self.stdin.as_ref().unwrap_or(input),
            self.stdout.as_ref().unwrap_or(output),
            self.stderr.as_ref().unwrap_or(output),
        ]
    }
}

impl fmt::Debug for Command {
    /// Leaves the values of the environment out: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &self.env.keys())
            .field("current_dir", &self.directory)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}
