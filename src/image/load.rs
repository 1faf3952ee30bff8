//! From the files of an image to what it is made of.

use super::config::ImageConfig;
use super::digest::{self, Digest};
use super::document::{self, Descriptor, DockerImage};
use super::platform::Platform;
use super::source::{Section, Source, blob_name};
use super::{LayerInfo, invalid, shown};
use crate::error::Result;

/// The most layers: what the kernel's overlay takes, `OVL_MAX_STACK`, less the one that a sandbox makes places on.
const LAYERS_MAX: usize = 499;

/// How deep indexes are nested: tools write two.
const DEPTH_MAX: usize = 4;

/// How many indexes there are, and how many images.
const DOCUMENTS_MAX: usize = 256;

/// An image that a file has, before it is read.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) names: Vec<String>,
    /// None if only the image itself tells.
    pub(super) platform: Option<Platform>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Manifest { digest: Digest, size: u64, media_type: String },
    Docker(DockerImage),
}

/// An image that has been read, and proven but for its layers.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) digest: Digest,
    pub(super) config: ImageConfig,
    /// The configuration as it is in the file.
    pub(super) document: Vec<u8>,
    pub(super) layers: Vec<LayerInfo>,
}

/// The images that a source has. What is of both kinds is read as an OCI layout, which has more digests.
pub(super) fn candidates(source: &Source) -> Result<Vec<Candidate>> {
    if let Some(layout) = source.file("oci-layout")? {
        document::check_layout(&layout.document("oci-layout")?)?;
        let index = source.file("index.json")?.ok_or_else(|| invalid("index.json", "there is none"))?;
        let index = document::index("index.json", &index.document("index.json")?, None)?;
        let mut walk = Walk { source, found: Vec::new(), documents: 0 };
        walk.index(index, &[], DEPTH_MAX)?;
        return Ok(walk.found);
    }
    match source.file("manifest.json")?.filter(|_| source.is_archive()) {
        Some(list) => docker_candidates(list),
        None if source.is_archive() => Err(invalid("archive", "it has neither oci-layout nor manifest.json")
            .with_hint("make one with `skopeo copy SOURCE oci-archive:FILE`, or with `docker save`")),
        None => Err(invalid("directory", "it has no oci-layout").with_hint(
            "make one with `skopeo copy SOURCE oci:DIRECTORY`; a plain root file system is for Rootfs::dir",
        )),
    }
}

fn docker_candidates(list: Section) -> Result<Vec<Candidate>> {
    let images: Vec<DockerImage> = document::json("manifest.json", &list.document("manifest.json")?)?;
    if images.len() > DOCUMENTS_MAX {
        return Err(too_many());
    }
    let candidate = |image: DockerImage| {
        let names = image.repo_tags.clone().unwrap_or_default();
        Candidate { names, platform: None, content: Content::Docker(image) }
    };
    Ok(images.into_iter().map(candidate).collect())
}

fn too_many() -> crate::Error {
    invalid("index.json", format!("there are more than {DOCUMENTS_MAX} images and indexes"))
}

/// The way through nested indexes.
struct Walk<'a> {
    source: &'a Source,
    found: Vec<Candidate>,
    documents: usize,
}

impl Walk<'_> {
    /// Takes the images of an index. One without a name has that of the index. What is neither an image nor an index
    /// is passed over, as the specification wants it.
    fn index(&mut self, index: Vec<Descriptor>, names: &[String], depth: usize) -> Result<()> {
        for descriptor in index {
            if !descriptor.is_index() && !descriptor.is_manifest() {
                continue;
            }
            self.documents += 1;
            if self.documents > DOCUMENTS_MAX {
                return Err(too_many());
            }
            let digest: Digest = descriptor.digest.parse()?;
            let own = descriptor.names()?;
            let names = if own.is_empty() { names } else { &own };
            if descriptor.is_index() {
                // A circle would need an index that has its own digest in it; but a chain can be of any length.
                if depth == 0 {
                    return Err(invalid(digest.as_str(), format!("more than {DEPTH_MAX} indexes within another")));
                }
                let content = self.source.document(&digest, descriptor.size)?;
                let inner = document::index(digest.as_str(), &content, Some(&descriptor.media_type))?;
                self.index(inner, names, depth - 1)?;
                continue;
            }
            let Descriptor { size, media_type, platform, .. } = descriptor;
            let platform = platform.filter(Platform::is_known);
            let content = Content::Manifest { digest, size, media_type };
            self.found.push(Candidate { names: names.to_vec(), platform, content });
        }
        Ok(())
    }
}

impl Candidate {
    /// Reads the image; none if it is something else that is kept in the form of one, like a signature.
    pub(super) fn load(&self, source: &Source) -> Result<Option<Loaded>> {
        match &self.content {
            Content::Manifest { digest, size, media_type } => load_manifest(source, digest, *size, media_type),
            Content::Docker(image) => load_docker(source, image).map(Some),
        }
    }
}

fn load_manifest(source: &Source, digest: &Digest, size: u64, media_type: &str) -> Result<Option<Loaded>> {
    let manifest = document::manifest(digest.as_str(), &source.document(digest, size)?, media_type)?;
    if !manifest.config.is_config() {
        return Ok(None);
    }
    let config_digest: Digest = manifest.config.digest.parse()?;
    let content = source.document(&config_digest, manifest.config.size)?;
    let config = ImageConfig::parse(config_digest.as_str(), &content)?;
    check_layers(digest.as_str(), manifest.layers.len(), &config)?;
    let layers = manifest.layers.into_iter().zip(&config.diff_ids);
    let layers = layers.map(|(layer, diff_id)| oci_layer(source, layer, diff_id)).collect::<Result<_>>()?;
    Ok(Some(Loaded { digest: digest.clone(), config, document: content, layers }))
}

fn oci_layer(source: &Source, layer: Descriptor, diff_id: &Digest) -> Result<LayerInfo> {
    let digest: Digest = layer.digest.parse()?;
    if !layer.is_layer() {
        let cause = format!("a layer of type \"{}\" is not supported", shown(layer.media_type));
        return Err(invalid(digest.to_string(), cause));
    }
    source.blob(&digest, layer.size)?;
    let (name, diff_id) = (blob_name(&digest), diff_id.clone());
    Ok(LayerInfo { name, digest, diff_id, size: layer.size, media_type: layer.media_type })
}

/// An image of a docker archive, where names of files stand in place of digests.
fn load_docker(source: &Source, image: &DockerImage) -> Result<Loaded> {
    let name = shown(&image.config);
    let section = source.file(&image.config)?.ok_or_else(|| invalid(name.as_str(), "there is no such file"))?;
    let content = section.document(&image.config)?;
    let digest = digest_in(&image.config).unwrap_or_else(|| Digest::of(&content));
    if !digest.names(&content) {
        return Err(invalid(name, "the content has not the digest that it is named by"));
    }
    let config = ImageConfig::parse(&name, &content)?;
    let files = image.layers.as_deref().unwrap_or_default();
    check_layers("manifest.json", files.len(), &config)?;
    let layers = files.iter().zip(&config.diff_ids);
    let layers = layers.map(|(file, diff_id)| docker_layer(source, file, diff_id)).collect::<Result<_>>()?;
    Ok(Loaded { digest, config, document: content, layers })
}

/// The digest in the name of a configuration: `<digits>.json`, `sha256:<digits>` or `blobs/sha256/<digits>`.
fn digest_in(name: &str) -> Option<Digest> {
    let file = name.rsplit('/').next().unwrap_or(name);
    let digits = file.strip_suffix(".json").unwrap_or(file);
    format!("sha256:{}", digits.strip_prefix("sha256:").unwrap_or(digits)).parse().ok()
}

/// A layer of a docker archive. Engines store it plain, and so it has the digest of its content. Other tools compress it:
/// then it has to be read once for its digest.
fn docker_layer(source: &Source, file: &str, diff_id: &Digest) -> Result<LayerInfo> {
    let missing = || invalid(shown(file), "there is no such file");
    let name = source.follow(file)?.ok_or_else(missing)?;
    let section = source.file(&name)?.ok_or_else(missing)?;
    let size = section.size();
    let compressed = section.starts_with(b"\x1f\x8b") || section.starts_with(b"\x28\xb5\x2f\xfd");
    let digest = match compressed {
        true => source.digest(&name, section).map_err(|error| digest::error(shown(file), error))?,
        false => diff_id.clone(),
    };
    Ok(LayerInfo { name, digest, diff_id: diff_id.clone(), size, media_type: String::new() })
}

fn check_layers(name: &str, count: usize, config: &ImageConfig) -> Result<()> {
    if count > LAYERS_MAX {
        return Err(invalid(name, format!("{count} layers: a root has {LAYERS_MAX} at most")));
    }
    match config.diff_ids.len() == count {
        true => Ok(()),
        false => Err(invalid(name, format!("{count} layers, and {} diff_ids", config.diff_ids.len()))),
    }
}
