//! Images made by hand: what no tool would write.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::temp_dir;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) fn sha256(content: &[u8]) -> String {
    let digits: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// This machine's, in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A configuration with these settings, of an image with these layers.
pub(crate) fn config(settings: &Value, layers: &[&[u8]]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| sha256(layer)).collect();
    json!({
        "architecture": architecture(), "os": "linux", "config": settings,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// An OCI layout in a directory that is gone with it.
pub(crate) struct Layout(tempfile::TempDir);

impl Layout {
    pub(crate) fn new() -> Self {
        let dir = temp_dir();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(dir)
    }

    /// A layout with one image.
    pub(crate) fn of(settings: &Value) -> Self {
        let layout = Self::new();
        let image = layout.image(&config(settings, &[b"layer"]), &[b"layer"]);
        layout.index(&json!([image]));
        layout
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file_of(&self, digest: &str) -> PathBuf {
        self.path().join("blobs").join(digest.replace(':', "/"))
    }

    /// Writes a blob, and returns its descriptor.
    pub(crate) fn blob(&self, media_type: &str, content: &[u8]) -> Value {
        let digest = sha256(content);
        fs::write(self.file_of(&digest), content).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    }

    pub(crate) fn json(&self, media_type: &str, content: &Value) -> Value {
        self.blob(media_type, content.to_string().as_bytes())
    }

    /// Writes an image, and returns the descriptor of its manifest.
    pub(crate) fn image(&self, config: &Value, layers: &[&[u8]]) -> Value {
        let layers: Vec<_> = layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        let config = self.json(CONFIG, config);
        self.json(MANIFEST, &json!({ "schemaVersion": 2, "config": config, "layers": layers }))
    }

    pub(crate) fn index(&self, manifests: &Value) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}

/// Sets fields of an object.
pub(crate) fn with(mut object: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        object[name] = value.clone();
    }
    object
}

/// A name for an image in an index.
pub(crate) fn named(image: Value, name: &str) -> Value {
    with(image, &json!({ "annotations": { "org.opencontainers.image.ref.name": name } }))
}

/// An archive of these files.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
    let mut archive = tar::Builder::new(tempfile::NamedTempFile::new().unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}
