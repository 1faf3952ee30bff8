//! What has been found out about one item.

use std::fmt;

use crate::error::Result;

/// Whether something works, what there is, and what helps if it does not.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    verdict: Verdict,
    found: String,
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Yes,
    No,
    /// It is not looked for: something better is there.
    Unneeded,
}

impl Finding {
    pub(super) fn yes(found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Yes, found: found.into(), remedy: None }
    }

    pub(super) fn no(found: impl Into<String>) -> Self {
        Self { verdict: Verdict::No, found: found.into(), remedy: None }
    }

    pub(super) fn unneeded(found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unneeded, found: found.into(), remedy: None }
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// What a trial comes to: an error brings its own remedy.
    pub(super) fn of(trial: Result<()>, found: &str) -> Self {
        match trial {
            Ok(()) => Self::yes(found),
            Err(error) => Self { remedy: error.hint(), ..Self::no(error.to_string()) },
        }
    }

    pub(super) fn works(&self) -> bool {
        self.verdict != Verdict::No
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Yes => "yes",
            Verdict::No => "no",
            Verdict::Unneeded => "-",
        };
        match (self.found.as_str(), &self.remedy) {
            ("", None) => f.write_str(verdict),
            (found, None) => write!(f, "{verdict:<3}  {found}"),
            (found, Some(remedy)) => write!(f, "{verdict:<3}  {found}; {remedy}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line() {
        assert_eq!(Finding::yes("").to_string(), "yes");
        assert_eq!(Finding::yes("ABI 7").to_string(), "yes  ABI 7");
        assert_eq!(Finding::no("not installed").remedy("install it").to_string(), "no   not installed; install it");
        assert_eq!(Finding::unneeded("root").to_string(), "-    root");
        assert!(Finding::unneeded("root").works() && !Finding::no("").works());
    }
}
