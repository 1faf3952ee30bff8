//! Profiles of container engines: the `seccomp` object of the OCI runtime specification, and the engines' dialect of it
//! with `archMap`, `includes` and `excludes`.

use nix::sys::utsname::uname;
use serde::Deserialize;

use super::{Action, Rule, Seccomp, SyscallArg, check};
use crate::error::{Error, Layer, Result};

/// This processor, as libseccomp and as Go call it.
#[cfg(target_arch = "x86_64")]
const ARCH: [&str; 2] = ["SCMP_ARCH_X86_64", "amd64"];
#[cfg(target_arch = "aarch64")]
const ARCH: [&str; 2] = ["SCMP_ARCH_AARCH64", "arm64"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: ActionName,
    default_errno_ret: Option<u16>,
    default_errno: Option<String>,
    arch_map: Option<Vec<Architectures>>,
    architectures: Option<Vec<String>>,
    syscalls: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Architectures {
    architecture: String,
}

/// An action for some system calls. Lists may be null, as Go writes empty ones.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: ActionName,
    errno_ret: Option<u16>,
    errno: Option<String>,
    args: Option<Vec<Condition>>,
    includes: Option<Circumstances>,
    excludes: Option<Circumstances>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    index: u8,
    value: u64,
    value_two: Option<u64>,
    op: OperatorName,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Circumstances {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Not SCMP_ACT_TRACE and SCMP_ACT_NOTIFY: both need somebody outside who decides.
#[derive(Clone, Copy, Deserialize)]
enum ActionName {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    // What is left of a process that lost a thread is no use to anybody.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS", alias = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    Kill,
}

#[derive(Clone, Copy, Deserialize)]
enum OperatorName {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

impl Seccomp {
    /// Reads the profile of a container engine: the `seccomp` object of the OCI runtime specification, or a file as
    /// `/usr/share/containers/seccomp.json`, whose `includes` and `excludes` are decided for a program on this processor
    /// and kernel that has no capability. It takes the feature `oci`.
    ///
    /// It means what container engines and libseccomp make of it: system calls that this processor does not have are
    /// ignored; a rule that does as the default does is ignored; of several rules for one system call the first without
    /// conditions counts, whatever the others say; two conditions on one argument are two rules. Where the conditions of
    /// two rules hold at once and their actions differ, the stricter action counts: killing, trapping, an error number,
    /// logging, allowing.
    ///
    /// Other than there, system calls of other processor modes fail with ENOSYS even if the profile names the modes; and
    /// what would kill a thread kills its process. Rules can be added to the result, and win over those of the profile.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy) for what is no such profile, names none of its architectures as
    /// this one, or has an action or an operator that is unknown; `SCMP_ACT_TRACE` and `SCMP_ACT_NOTIFY`, which need a
    /// supervisor, count as unknown.
    ///
    /// # Examples
    ///
    /// ```
    /// # use belljar::Seccomp;
    /// let profile = r#"{
    ///     "defaultAction": "SCMP_ACT_ALLOW",
    ///     "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    /// }"#;
    /// let seccomp = Seccomp::from_oci_json(profile)?.deny(["bpf"]);
    /// # Ok::<(), belljar::Error>(())
    /// ```
    pub fn from_oci_json(json: &str) -> Result<Self> {
        let profile: Profile = serde_json::from_str(json).map_err(|error| invalid(error.to_string()))?;
        profile.is_for_this_processor()?;
        let default = action(profile.default_action, profile.default_errno_ret, profile.default_errno.as_deref())?;
        let mut rules = Vec::new();
        for entry in profile.syscalls.iter().flatten() {
            rules.extend(entry.rules(default)?);
        }
        Ok(Self { default: Some(default), rules: in_order(rules), raw: Vec::new() })
    }
}

impl Profile {
    fn is_for_this_processor(&self) -> Result<()> {
        let named = self.arch_map.iter().flatten().map(|map| &map.architecture);
        let mut named = named.chain(self.architectures.iter().flatten()).peekable();
        if named.peek().is_none() || named.any(|arch| arch == ARCH[0]) {
            return Ok(());
        }
        Err(invalid(format!("the profile is not for {}", ARCH[0])))
    }
}

impl Entry {
    /// The rules that the entry comes to here.
    fn rules(&self, default: Action) -> Result<Vec<Rule>> {
        let action = action(self.action, self.errno_ret, self.errno.as_deref())?;
        let conditions: Vec<SyscallArg> = self.args.iter().flatten().map(Condition::lower).collect();
        let mut rules = Vec::new();
        for name in self.names.iter().flatten().chain(&self.name) {
            for args in alternatives(&conditions) {
                let rule = Rule { name: name.clone(), args, action, lenient: true };
                check(&rule)?;
                rules.push(rule);
            }
        }
        // What is decided before, so that a mistake is one everywhere.
        let applies = included(self.includes.as_ref())? && !excluded(self.excludes.as_ref())?;
        Ok(if applies && action != default { rules } else { Vec::new() })
    }
}

impl Condition {
    fn lower(&self) -> SyscallArg {
        let Self { index, value, value_two, op } = *self;
        match op {
            OperatorName::Ne => SyscallArg::ne(index, value),
            OperatorName::Lt => SyscallArg::lt(index, value),
            OperatorName::Le => SyscallArg::le(index, value),
            OperatorName::Eq => SyscallArg::eq(index, value),
            OperatorName::Ge => SyscallArg::ge(index, value),
            OperatorName::Gt => SyscallArg::gt(index, value),
            // libseccomp masks both sides.
            OperatorName::MaskedEq => SyscallArg::masked_eq(index, value, value_two.unwrap_or(0) & value),
        }
    }
}

/// Conditions of which all hold; or one each, if two are on one argument.
fn alternatives(conditions: &[SyscallArg]) -> Vec<Vec<SyscallArg>> {
    let on = |index| conditions.iter().filter(|arg| arg.index == index).count();
    if conditions.iter().any(|arg| on(arg.index) > 1) {
        return conditions.iter().map(|arg| vec![*arg]).collect();
    }
    vec![conditions.to_vec()]
}

/// Puts the rules in an order where the one that counts is the last, as [`Seccomp`] takes them.
fn in_order(mut rules: Vec<Rule>) -> Vec<Rule> {
    // Of the same strictness the first counts, and without conditions too.
    rules.reverse();
    let strictness = |action| match action {
        Action::Allow => 0,
        Action::Log => 1,
        Action::Errno(_) => 2,
        Action::Trap => 3,
        Action::KillProcess => 4,
    };
    rules.sort_by_key(|rule| match rule.args[..] {
        [] => 5,
        _ => strictness(rule.action),
    });
    rules
}

fn action(name: ActionName, errno_ret: Option<u16>, errno: Option<&str>) -> Result<Action> {
    Ok(match name {
        ActionName::Allow => Action::Allow,
        ActionName::Log => Action::Log,
        ActionName::Trap => Action::Trap,
        ActionName::Kill => Action::KillProcess,
        ActionName::Errno => match (errno_ret, errno) {
            // MAX_ERRNO: the kernel would make it that.
            (Some(4096..), _) => return Err(invalid("there is no error number above 4095")),
            (Some(number), _) => Action::Errno(number),
            (None, Some(name)) => {
                return Err(invalid(format!("the error {name} is named without its number, errnoRet")));
            }
            (None, None) => Action::Errno(libc::EPERM as u16),
        },
    })
}

/// Whether all of the circumstances are given.
fn included(circumstances: Option<&Circumstances>) -> Result<bool> {
    let Some(Circumstances { caps, arches, min_kernel }) = circumstances else { return Ok(true) };
    let capable = caps.as_ref().is_none_or(Vec::is_empty);
    let arch = arches.as_ref().is_none_or(|arches| arches.is_empty() || has_this(arches));
    let kernel = min_kernel.as_deref().map(kernel_is_at_least).transpose()?;
    Ok(capable && arch && kernel.unwrap_or(true))
}

/// Whether any of the circumstances is given; no capability is.
fn excluded(circumstances: Option<&Circumstances>) -> Result<bool> {
    let Some(Circumstances { arches, min_kernel, .. }) = circumstances else { return Ok(false) };
    let kernel = min_kernel.as_deref().map(kernel_is_at_least).transpose()?;
    Ok(arches.as_ref().is_some_and(|arches| has_this(arches)) || kernel.unwrap_or(false))
}

fn has_this(arches: &[String]) -> bool {
    arches.iter().any(|arch| arch == ARCH[1])
}

fn kernel_is_at_least(minimum: &str) -> Result<bool> {
    let minimum = version(minimum).ok_or_else(|| invalid(format!("{minimum:?} is no version of a kernel")))?;
    let names = uname().map_err(|errno| Error::os(Layer::Seccomp, "uname", errno as i32))?;
    Ok(names.release().to_str().and_then(version).is_some_and(|release| release >= minimum))
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|char: char| !char.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn invalid(cause: impl Into<String>) -> Error {
    Error::invalid(Layer::Seccomp, "oci profile", cause)
}
