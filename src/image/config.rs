//! What an image says about how it is run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::digest::Digest;
use super::platform::Platform;
use super::{document, invalid, shown, signal};
use crate::error::Result;

/// The configuration of an image: what its author has set for whoever runs it.
///
/// All of it comes from the image, and is as trustworthy as that. It is only put to use by
/// [`Sandbox::from_image`](crate::Sandbox::from_image), which refuses what leads elsewhere.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    pub(super) platform: Platform,
    pub(super) diff_ids: Vec<Digest>,
    created: Option<String>,
    env: Vec<(String, String)>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    working_dir: String,
    user: String,
    volumes: Vec<String>,
    stop_signal: Option<i32>,
    labels: BTreeMap<String, String>,
}

impl ImageConfig {
    /// The environment, as names and values, in the image's order. Of a name that is there twice the last one counts.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The program, and arguments that come before those of [`cmd`](ImageConfig::cmd) or the caller. Often empty.
    pub fn entrypoint(&self) -> &[String] {
        &self.entrypoint
    }

    /// The arguments, or the whole command line where there is no entrypoint.
    pub fn cmd(&self) -> &[String] {
        &self.cmd
    }

    /// The working directory, if the image has one. It has not been checked.
    pub fn working_dir(&self) -> Option<&Path> {
        (!self.working_dir.is_empty()).then(|| Path::new(&self.working_dir))
    }

    /// The user: empty, `user` or `user:group`, by number or by a name that the image's own files know.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The directories that are meant for data. They have not been checked.
    pub fn volumes(&self) -> impl Iterator<Item = &Path> {
        self.volumes.iter().map(Path::new)
    }

    /// The signal that asks the program to end, if the image names one.
    pub fn stop_signal(&self) -> Option<i32> {
        self.stop_signal
    }

    /// The labels: text for people and tools, which nothing here acts on.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// When the image was made, as it says: RFC 3339, unchecked.
    pub fn created(&self) -> Option<&str> {
        self.created.as_deref()
    }

    pub(super) fn parse(name: &str, content: &[u8]) -> Result<Self> {
        let File { architecture, os, variant, created, config, rootfs } = document::json(name, content)?;
        let platform = Platform { os, architecture, variant: variant.unwrap_or_default() };
        let settings = config.unwrap_or_default();
        if !platform.is_known() {
            return Err(invalid(name, "it lacks the architecture or the os"));
        }
        let env = settings.env.unwrap_or_default().into_iter().map(|line| variable(name, &line));
        let stop_signal = settings.stop_signal.filter(|text| !text.is_empty());
        let stop_signal = stop_signal.map(|text| {
            let cause = || format!("StopSignal: \"{}\" is no signal", shown(text.as_bytes()));
            signal::parse(&text).ok_or_else(|| invalid(name, cause()))
        });
        Ok(Self {
            platform,
            diff_ids: rootfs.diff_ids.unwrap_or_default().iter().map(|id| diff_id(id)).collect::<Result<_>>()?,
            created,
            env: env.collect::<Result<_>>()?,
            entrypoint: settings.entrypoint.unwrap_or_default(),
            cmd: settings.cmd.unwrap_or_default(),
            working_dir: settings.working_dir.unwrap_or_default(),
            user: settings.user.unwrap_or_default(),
            volumes: settings.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: stop_signal.transpose()?,
            labels: settings.labels.unwrap_or_default(),
        })
    }
}

/// A line of Env.
fn variable(file: &str, line: &str) -> Result<(String, String)> {
    let wrong = |cause: &str| Err(invalid(file, format!("Env: \"{}\" {cause}", shown(line))));
    match line.split_once('=') {
        _ if line.contains('\0') => wrong("has a zero byte"),
        Some(("", _)) | None => wrong("is not a name, =, and a value"),
        Some((name, value)) => Ok((name.into(), value.into())),
    }
}

/// The document. Go writes null for what is empty.
#[derive(Deserialize)]
struct File {
    architecture: String,
    os: String,
    variant: Option<String>,
    created: Option<String>,
    config: Option<Settings>,
    rootfs: Layers,
}

#[derive(Deserialize)]
struct Layers {
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}
/// The digest of a layer's content.
fn diff_id(text: &str) -> Result<Digest> {
    let digest: Digest = text.parse()?;
    match digest.parts().0 {
        "sha256" => Ok(digest),
        other => Err(invalid("diff_ids", format!("content is only known by its sha256, and not by its {other}"))),
    }
}
