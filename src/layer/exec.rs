//! The program: its arguments, its environment, and where it is looked for.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use crate::error::{Error, Layer, Result};
use crate::plan::{Content, Escaped, Step};
use crate::sys::CStringArray;

/// The longest argument or `NAME=value`, with its zero byte: the kernel's `MAX_ARG_STRLEN`.
const STRING_MAX: usize = 131_072;

/// All strings and pointers together: a quarter of the default stack limit.
const TOTAL_MAX: usize = 2 << 20;

/// The environment, unless the caller sets it: what a shell of a bare system would have, and nothing of the host's.
pub(crate) const DEFAULT_ENV: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/tmp")];

/// The step that makes a process the agent. It sees no argument and no environment of the host's.
pub(crate) fn lower_agent(image: Arc<[u8]>, steps: &mut Vec<Step>) {
    let argv = CStringArray::new(vec![c"belljar-agent".into()]);
    steps.push(Step::ExecAgent { image: Content(image), argv, envp: CStringArray::new(Vec::new()) });
}

/// What a command executes.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) program: &'a OsStr,
    pub(crate) args: &'a [OsString],
    pub(crate) env: BTreeMap<OsString, OsString>,
    /// The name it is told, if that is another.
    pub(crate) arg0: Option<&'a OsStr>,
    /// The directories it may start in, one of which PWD is to name; none to leave that out.
    pub(crate) pwd: Vec<CString>,
}

impl Program<'_> {
    /// The look at what is to be executed, in a root where that may be a link of /proc.
    pub(crate) fn lower_look(&self, directory: &CStr, steps: &mut Vec<Step>) -> Result<()> {
        let (program, candidates) = (self.name()?, self.candidates()?);
        steps.push(Step::Look { program, directory: directory.to_owned(), candidates });
        Ok(())
    }

    /// The one step that does not return.
    pub(crate) fn lower(self, steps: &mut Vec<Step>) -> Result<()> {
        let program = self.name()?;
        let candidates = self.candidates()?;
        let mut argv = vec![self.arg0.map_or(Ok(program.clone()), |arg0| string("argument 0", arg0))?];
        for (index, arg) in self.args.iter().enumerate() {
            argv.push(string(&format!("argument {}", index + 1), arg)?);
        }
        let mut envp = Vec::new();
        for (name, value) in &self.env {
            if name == "PWD" && !self.pwd.is_empty() {
                continue;
            }
            let shown = Escaped(name.as_bytes());
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                let cause = format!("\"{shown}\" can't be the name of a variable");
                return Err(Error::invalid(Layer::Exec, "environment", cause));
            }
            let variable = [name.as_bytes(), b"=", value.as_bytes()].concat();
            envp.push(string(&format!("the variable {shown}"), OsStr::from_bytes(&variable))?);
        }
        check_total(&argv, &envp, &candidates)?;
        let pwd = |path: &CString| string("the variable PWD", OsStr::from_bytes(&[b"PWD=", path.as_bytes()].concat()));
        let argv = CStringArray::new(argv);
        let envp = match self.pwd.as_slice() {
            [] => CStringArray::new(envp),
            paths => CStringArray::with_variants(envp, paths.iter().map(pwd).collect::<Result<_>>()?),
        };
        steps.push(Step::Exec { program, candidates, argv, envp });
        Ok(())
    }

    fn name(&self) -> Result<CString> {
        match self.program.is_empty() {
            false => string("the program", self.program),
            true => Err(Error::invalid(Layer::Exec, "execve", "the program has no name").with_errno(libc::ENOENT)),
        }
    }

    /// Where the program may be: a name without a slash is looked for in the program's own PATH, inside.
    fn candidates(&self) -> Result<Vec<CString>> {
        if self.program.as_bytes().contains(&b'/') {
            return Ok(vec![string("the program", self.program)?]);
        }
        let path = self.env.get(OsStr::new("PATH")).map(OsString::as_os_str);
        let path = path.unwrap_or(OsStr::new(DEFAULT_ENV[0].1));
        let dirs = path.as_bytes().split(|byte| *byte == b':').filter(|dir| !dir.is_empty());
        dirs.map(|dir| string("the program", &OsString::from_vec([dir, b"/", self.program.as_bytes()].concat())))
            .collect()
    }
}

fn string(what: &str, value: &OsStr) -> Result<CString> {
    let invalid = |cause: String| Error::invalid(Layer::Exec, "execve", cause);
    if value.len() >= STRING_MAX {
        let cause = format!("{what} has {} bytes: the kernel takes {}", value.len(), STRING_MAX - 1);
        return Err(invalid(cause).with_errno(libc::E2BIG));
    }
    CString::new(value.as_bytes()).map_err(|_| invalid(format!("{what} has a zero byte")))
}

/// Refuses what the kernel can't take whichever candidate is executed: it counts the path of that one too.
fn check_total(argv: &[CString], envp: &[CString], candidates: &[CString]) -> Result<()> {
    let size = |string: &CString| string.as_bytes_with_nul().len() + size_of::<usize>();
    let path = candidates.iter().map(|path| path.as_bytes_with_nul().len()).min().unwrap_or(0);
    let total = argv.iter().chain(envp).map(size).sum::<usize>() + path;
    if total > TOTAL_MAX {
        let cause = format!("arguments and environment take {total} bytes: the kernel takes {TOTAL_MAX}");
        return Err(Error::invalid(Layer::Exec, "execve", cause).with_errno(libc::E2BIG));
    }
    Ok(())
}
