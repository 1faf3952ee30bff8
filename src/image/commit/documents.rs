//! The papers of the new image: configuration, manifest, index, and docker's list.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Digest, Image, failed, invalid};
use crate::error::Result;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A part of the image, as a file that is named by its digest.
pub(super) struct Blob {
    pub(super) media_type: &'static str,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Blob {
    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest.as_str(), "size": self.size})
    }

    fn name(&self) -> String {
        let (algorithm, digits) = self.digest.parts();
        format!("blobs/{algorithm}/{digits}")
    }
}

/// What is known of the image.
pub(super) struct Documents {
    base: Image,
    reference: String,
    created: String,
    /// The layers, the lowest first.
    pub(super) layers: Vec<Blob>,
    /// The names of the other files, in the order that they are archived in.
    names: Vec<String>,
}

/// The type of a layer that starts with these bytes.
pub(super) fn layer_type(start: &[u8]) -> &'static str {
    match start {
        [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => "application/vnd.oci.image.layer.v1.tar",
    }
}

impl Documents {
    pub(super) fn new(base: &Image, reference: &str, created: SystemTime) -> Self {
        let (reference, created) = (reference.to_owned(), rfc3339(created));
        Self { base: base.clone(), reference, created, layers: Vec::new(), names: Vec::new() }
    }

    /// Writes them to a layout whose layers are there. `diff_id` is that of the last.
    pub(super) fn write(&mut self, dir: &Path, diff_id: &Digest) -> Result<()> {
        let config = self.blob(dir, CONFIG, &self.config(diff_id)?)?;
        let layers: Vec<_> = self.layers.iter().map(Blob::descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers,
        });
        let manifest = self.blob(dir, MANIFEST, &manifest)?;
        let mut descriptor = manifest.descriptor();
        let annotations = json!({
            "io.containerd.image.name": self.full_name(),
            "org.opencontainers.image.ref.name": self.reference,
        });
        let platform = platform(self.base.platform());
        if let Some(descriptor) = descriptor.as_object_mut() {
            descriptor.extend([("annotations".to_owned(), annotations), ("platform".to_owned(), platform)]);
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]});
        let files: Vec<_> = self.layers.iter().map(Blob::name).collect();
        let docker = json!([{"Config": config.name(), "RepoTags": [self.tagged()], "Layers": files}]);
        self.document(dir, "index.json", &index)?;
        self.document(dir, "manifest.json", &docker)?;
        self.document(dir, "oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))
    }

    /// Packs a layout up.
    pub(super) fn archive(&self, dir: &Path, output: &mut impl Write) -> Result<()> {
        let wrong = |error: io::Error| failed("write the archive", &error);
        let mut layers: Vec<_> = self.layers.iter().map(Blob::name).collect();
        layers.sort();
        layers.dedup();
        let mut archive = tar::Builder::new(output);
        for name in layers.iter().chain(&self.names) {
            let mut file = File::open(dir.join(name)).map_err(wrong)?;
            let mut header = tar::Header::new_ustar();
            header.set_size(file.metadata().map_err(wrong)?.len());
            header.set_mode(0o644);
            archive.append_data(&mut header, name, &mut file).map_err(wrong)?;
        }
        archive.into_inner().map(drop).map_err(wrong)
    }

    /// That of the base, with one more layer.
    fn config(&self, diff_id: &Digest) -> Result<Value> {
        let mut config: Value = super::super::document::json("configuration", self.base.document())?;
        let wrong = || invalid("configuration", "it is no object with a list of layers");
        let below = self.base.layers().len();
        let fields = config.as_object_mut().ok_or_else(wrong)?;
        fields.insert("created".to_owned(), json!(self.created));
        let ids = fields.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids"));
        match ids.ok_or_else(wrong)? {
            Value::Array(ids) => ids.push(json!(diff_id.as_str())),
            // Go writes null for an empty list.
            ids => *ids = json!([diff_id.as_str()]),
        }
        let history = fields.entry("history").or_insert(Value::Null);
        if !history.is_array() {
            // Where there is a history it has to be one of every layer.
            *history = Value::Array(vec![json!({}); below]);
        }
        if let Some(history) = history.as_array_mut() {
            history.push(json!({"created": self.created, "created_by": "belljar"}));
        }
        Ok(config)
    }

    fn blob(&mut self, dir: &Path, media_type: &'static str, document: &Value) -> Result<Blob> {
        let content = document.to_string();
        let blob = Blob { media_type, digest: Digest::of(content.as_bytes()), size: content.len() as u64 };
        self.document(dir, &blob.name(), document)?;
        Ok(blob)
    }

    fn document(&mut self, dir: &Path, name: &str, document: &Value) -> Result<()> {
        fs::write(dir.join(name), document.to_string()).map_err(|error| failed("write the image", &error))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// With a tag.
    fn tagged(&self) -> String {
        let last = self.reference.rsplit('/').next().unwrap_or_default();
        if last.contains(':') { self.reference.clone() } else { format!("{}:latest", self.reference) }
    }

    /// With the registry that docker takes it to be from.
    fn full_name(&self) -> String {
        let tagged = self.tagged();
        match tagged.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => tagged,
            Some(_) => format!("docker.io/{tagged}"),
            None => format!("docker.io/library/{tagged}"),
        }
    }
}

/// `linux/arm/v7` in the form of a descriptor.
fn platform(text: &str) -> Value {
    let mut parts = text.splitn(3, '/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match parts.next() {
        Some(variant) => json!({"os": os, "architecture": architecture, "variant": variant}),
        None => json!({"os": os, "architecture": architecture}),
    }
}

/// A time in the form that configurations have: RFC 3339, in seconds. What was before 1970 is 1970.
fn rfc3339(time: SystemTime) -> String {
    const DAY: u64 = 86_400;
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / DAY, seconds % DAY);
    // Years that begin in March, so that a leap day is the last of one; 400 of them have 146,097 days, from 0000-03-01 on,
    // which is 719,468 days before 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, five months have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let year = year + era * 400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_told_as_date_tells_it() {
        // `date -u -d @N +%FT%TZ`
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
