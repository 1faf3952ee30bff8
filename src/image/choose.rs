//! The choice of one image among those that a file has.

use std::collections::HashSet;

use super::load::{Candidate, Content, Loaded};
use super::platform::Platform;
use super::source::Source;
use super::{invalid, shown};
use crate::error::{Error, Result};

/// How many images an error lists.
const LISTED: usize = 20;

/// What the caller wants.
pub(super) struct Asked<'a> {
    reference: Option<&'a str>,
    platform: Platform,
}

impl<'a> Asked<'a> {
    pub(super) fn new(reference: Option<&'a str>, platform: Option<&str>) -> Result<Self> {
        let platform = platform.map_or_else(|| Ok(Platform::machine()), str::parse)?;
        Ok(Self { reference, platform })
    }
}

/// A candidate whose platform is known, read where that took it.
struct Known {
    candidate: Candidate,
    platform: Platform,
    loaded: Option<Loaded>,
}

/// The one image that is asked for, and its name.
pub(super) fn choose(source: &Source, all: Vec<Candidate>, asked: &Asked<'_>) -> Result<(Loaded, Option<String>)> {
    let is_named = |candidate: &Candidate| asked.reference.is_none_or(|reference| candidate.is_named(reference));
    let (named, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_named);
    let mut known = Vec::new();
    for candidate in named {
        known.extend(identify(source, candidate)?);
    }
    if known.is_empty() {
        return Err(undecided("no", others.iter().map(|candidate| describe(candidate, None)), asked));
    }
    let accepts = |known: &Known| asked.platform.accepts(&known.platform);
    let (mut fit, others): (Vec<_>, Vec<_>) = known.into_iter().partition(accepts);
    // Where no variant is asked for, one that every processor runs goes before those that only newer ones do.
    if fit.iter().any(|known| known.platform.is_baseline()) {
        fit.retain(|known| known.platform.is_baseline());
    }
    // An image with two names is one.
    let mut seen = HashSet::new();
    fit.retain(|known| seen.insert(known.candidate.identity().to_owned()));
    match (fit.pop(), fit.as_slice()) {
        (Some(only), []) => finish(source, only, asked),
        (None, _) => Err(undecided("no", others.iter().map(Known::describe), asked)),
        (Some(last), first) => Err(undecided("more than one", first.iter().chain([&last]).map(Known::describe), asked)),
    }
}

/// Finds out what a candidate is for. None if it is no image at all.
fn identify(source: &Source, candidate: Candidate) -> Result<Option<Known>> {
    if let Some(platform) = candidate.platform.clone() {
        return Ok(Some(Known { candidate, platform, loaded: None }));
    }
    let loaded = candidate.load(source)?;
    Ok(loaded.map(|loaded| Known { candidate, platform: loaded.config.platform.clone(), loaded: Some(loaded) }))
}

fn finish(source: &Source, known: Known, asked: &Asked<'_>) -> Result<(Loaded, Option<String>)> {
    let Known { candidate, loaded, .. } = known;
    let loaded = loaded.map_or_else(|| candidate.load(source), |loaded| Ok(Some(loaded)))?;
    let loaded = loaded.ok_or_else(|| invalid("manifest", "its configuration is not that of an image"))?;
    let by_name = asked.reference.and_then(|asked| candidate.names.iter().find(|name| same_name(asked, name)));
    Ok((loaded, by_name.or(candidate.names.first()).cloned()))
}

impl Candidate {
    /// What tells it from others.
    fn identity(&self) -> &str {
        match &self.content {
            Content::Manifest { digest, .. } => digest.as_str(),
            Content::Docker(image) => &image.config,
        }
    }

    fn is_named(&self, reference: &str) -> bool {
        self.identity() == reference || self.names.iter().any(|name| same_name(reference, name))
    }
}

impl Known {
    fn describe(&self) -> String {
        describe(&self.candidate, Some(&self.platform))
    }
}

fn describe(candidate: &Candidate, platform: Option<&Platform>) -> String {
    let name = candidate.names.first().map_or("(no name)", String::as_str);
    let platform = platform
        .or(candidate.platform.as_ref())
        .map(|platform| format!(" {}", shown(platform.to_string())))
        .unwrap_or_default();
    format!("{}{platform} {}", shown(name), shown(candidate.identity()))
}

/// Whether two names are the same, with what docker leaves out.
fn same_name(a: &str, b: &str) -> bool {
    a == b || full_name(a) == full_name(b)
}

/// A name with its registry and its tag.
fn full_name(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let is_host = first == "localhost" || first.contains(['.', ':']);
    let place = match (is_host, first.is_empty()) {
        (true, _) => "",
        (false, false) => "docker.io/",
        (false, true) => "docker.io/library/",
    };
    let tagged = rest.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    format!("{place}{name}{}", if tagged { "" } else { ":latest" })
}

/// Says what there is to choose from.
fn undecided(how_many: &str, found: impl Iterator<Item = String>, asked: &Asked<'_>) -> Error {
    let mut list: Vec<_> = found.collect();
    let more = list.len().saturating_sub(LISTED);
    list.truncate(LISTED);
    if more > 0 {
        list.push(format!("and {more} more"));
    }
    let named = asked.reference.map(|reference| format!(" named \"{}\"", shown(reference)));
    let wanted = format!("{}{}", asked.platform, named.unwrap_or_default());
    let cause = match list.is_empty() {
        true => "it has no image".to_owned(),
        false => format!("{how_many} image for {wanted} among: {}", list.join(", ")),
    };
    invalid("choose", cause).with_hint("choose with Image::options().reference(..).platform(..).open(..)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_with_what_docker_leaves_out() {
        assert_eq!(full_name("debian"), "docker.io/library/debian:latest");
        assert_eq!(full_name("example/app:2"), "docker.io/example/app:2");
        assert_eq!(full_name("localhost/app"), "localhost/app:latest");
        assert_eq!(full_name("host:5000/app"), "host:5000/app:latest");
        assert!(same_name("docker.io/library/debian:latest", "debian"));
        assert!(!same_name("debian:12", "debian:13") && !same_name("localhost/app", "app"));
    }
}
