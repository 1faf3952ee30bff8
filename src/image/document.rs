//! The papers of an image: index, manifest, and docker's own list. Unknown fields are passed over; the types of known
//! ones are strict.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::platform::Platform;
use super::{invalid, shown};
use crate::error::Result;

const INDEX: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

const MANIFEST: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

const CONFIG: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// What layers are called, without how they are compressed. Those that were not to be distributed may be there all
/// the same; where they are not, nothing fetches them.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

const COMPRESSIONS: [&str; 5] = ["", "+gzip", "+zstd", ".gzip", ".zstd"];

/// The names that an image goes by: the one with the registry first.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// The longest name: registries take less than half of that.
const NAME_MAX: usize = 1024;

/// The name of a blob, and what it is said to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    pub(super) annotations: Option<HashMap<String, String>>,
}

impl Descriptor {
    pub(super) fn is_index(&self) -> bool {
        INDEX.contains(&self.media_type.as_str())
    }

    pub(super) fn is_manifest(&self) -> bool {
        MANIFEST.contains(&self.media_type.as_str())
    }

    pub(super) fn is_config(&self) -> bool {
        CONFIG.contains(&self.media_type.as_str())
    }

    pub(super) fn is_layer(&self) -> bool {
        let rest = LAYERS.iter().find_map(|name| self.media_type.strip_prefix(name));
        rest.is_some_and(|compression| COMPRESSIONS.contains(&compression))
    }

    /// The names that the image goes by. All images of an index have its names, so that they can't be long.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let annotations = self.annotations.iter();
        let names = annotations.flat_map(|all| NAMES.iter().filter_map(|name| all.get(*name)));
        let checked = names.map(|name| match name.len() > NAME_MAX {
            true => Err(invalid(shown(name), format!("a name has {NAME_MAX} bytes at most"))),
            false => Ok(name.clone()),
        });
        checked.collect()
    }
}

/// An index or a manifest: which of the two, is told by what it has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    fs_layers: Option<IgnoredAny>,
}

/// What an image is made of.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// One image of `manifest.json`, which `docker save` writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Option<Vec<String>>,
}

/// `oci-layout`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// Parses a document; `name` is for the words of an error.
pub(super) fn json<T: DeserializeOwned>(name: &str, content: &[u8]) -> Result<T> {
    serde_json::from_slice(content).map_err(|error| {
        // What is cited in it is the document's.
        invalid(shown(name), shown(error.to_string()))
    })
}

/// Checks `oci-layout`.
pub(super) fn check_layout(content: &[u8]) -> Result<()> {
    let LayoutFile { image_layout_version } = json("oci-layout", content)?;
    match image_layout_version.starts_with("1.") {
        true => Ok(()),
        false => Err(invalid("oci-layout", "its version is not 1")),
    }
}

/// An index. Whoever names it as something says by `media_type` what it has to be.
pub(super) fn index(name: &str, content: &[u8], media_type: Option<&str>) -> Result<Vec<Descriptor>> {
    let document: Document = json(name, content)?;
    document.check(name, media_type, &INDEX)?;
    let foreign = document.config.is_some() || document.layers.is_some() || document.fs_layers.is_some();
    match document.manifests {
        _ if foreign => Err(invalid(name, "an index has neither layers nor a configuration")),
        manifests => Ok(manifests.unwrap_or_default()),
    }
}

/// A manifest.
pub(super) fn manifest(name: &str, content: &[u8], media_type: &str) -> Result<Manifest> {
    let document: Document = json(name, content)?;
    document.check(name, Some(media_type), &MANIFEST)?;
    if document.manifests.is_some() || document.fs_layers.is_some() {
        return Err(invalid(name, "a manifest has no manifests, and its layers under one name"));
    }
    let config = document.config.ok_or_else(|| invalid(name, "a manifest has a configuration"))?;
    Ok(Manifest { config, layers: document.layers.unwrap_or_default() })
}

impl Document {
    /// What two programs take for different things is neither: CVE-2021-41190.
    fn check(&self, name: &str, said: Option<&str>, known: &[&str]) -> Result<()> {
        if self.schema_version != 2 {
            return Err(invalid(name, format!("its schemaVersion is {}, not 2", self.schema_version)));
        }
        let own = self.media_type.as_deref().filter(|own| !own.is_empty());
        let agrees = |own: &str| said.map_or(known.contains(&own), |said| said == own);
        match own {
            Some(own) if !agrees(own) => {
                let cause = format!("it calls itself \"{}\", and is named as another type", shown(own));
                Err(invalid(name, cause))
            }
            _ => Ok(()),
        }
    }
}
