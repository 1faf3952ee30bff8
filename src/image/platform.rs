//! Platforms: the operating system and the processor that an image is for, in the words of Go.

use std::fmt;
use std::str::FromStr;

use super::shown;
use crate::error::{Error, Layer, Result};
use crate::plan::Escaped;

/// An operating system and a processor.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    /// Empty where an architecture has but one, or the first is meant.
    #[serde(default, deserialize_with = "or_empty")]
    pub(super) variant: String,
}

/// A field that Go leaves out or sets to null.
fn or_empty<'de, D: serde::Deserializer<'de>>(input: D) -> std::result::Result<String, D::Error> {
    serde::Deserialize::deserialize(input).map(|text: Option<String>| text.unwrap_or_default())
}

impl Platform {
    /// This machine's.
    pub(super) fn machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: String::new() }
    }

    pub(super) fn is_known(&self) -> bool {
        !self.os.is_empty() && !self.architecture.is_empty()
    }

    /// Whether what is for `other` is for this one too: any variant will do where none is asked for.
    pub(super) fn accepts(&self, other: &Platform) -> bool {
        let variant = self.variant.is_empty() || self.named_variant() == other.named_variant();
        self.os == other.os && self.architecture == other.architecture && variant
    }

    /// Whether every processor of the architecture runs it.
    pub(super) fn is_baseline(&self) -> bool {
        self.named_variant() == Self { variant: String::new(), ..self.clone() }.named_variant()
    }

    /// The variant, where one goes without saying.
    fn named_variant(&self) -> &str {
        match (self.architecture.as_str(), self.variant.as_str()) {
            ("arm64", "") => "v8",
            ("arm", "") => "v7",
            ("amd64", "") => "v1",
            (_, variant) => variant,
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] if !variant.is_empty() => (*os, *architecture, *variant),
            _ => ("", "", ""),
        };
        if os.is_empty() || architecture.is_empty() {
            let cause = format!("\"{}\" is not os/architecture or os/architecture/variant", shown(text));
            return Err(Error::invalid(Layer::Image, "platform", cause)
                .with_hint("for example linux/amd64, linux/arm64 or linux/arm/v7"));
        }
        Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.into() })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { os, architecture, variant } = self;
        write!(f, "{}/{}", Escaped(os.as_bytes()), Escaped(architecture.as_bytes()))?;
        match variant.is_empty() {
            true => Ok(()),
            false => write!(f, "/{}", Escaped(variant.as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_reads_as_it_prints() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x"] {
            text.parse::<Platform>().unwrap_err();
        }
    }

    #[test]
    fn the_variant_counts_where_it_is_asked_for() {
        let accepts = |wanted: &str, found: &str| {
            wanted.parse::<Platform>().unwrap().accepts(&found.parse::<Platform>().unwrap())
        };
        assert!(accepts("linux/arm64", "linux/arm64/v8") && accepts("linux/arm64/v8", "linux/arm64"));
        assert!(accepts("linux/arm", "linux/arm/v6") && !accepts("linux/arm/v6", "linux/arm"));
        assert!(!accepts("linux/amd64", "linux/arm64") && !accepts("linux/amd64", "windows/amd64"));
        assert!("linux/amd64".parse::<Platform>().unwrap().is_baseline());
        assert!(!"linux/amd64/v3".parse::<Platform>().unwrap().is_baseline());
    }
}
