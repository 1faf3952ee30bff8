//! Opening images in every form that tools write, and choosing among several.

use std::path::Path;
use std::process::Command;

use belljar::{ErrorKind, Image, Layer};
use serde_json::{Value, json};

use crate::harness::open_fds;
use crate::image_made::{INDEX, Layout, MANIFEST, architecture, archive, config, named, sha256, with};
use crate::{images, skip};

/// What skopeo reads, as it is.
fn skopeo(image: &str, flags: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo").args(["--insecure-policy", "inspect", "--raw"]).args(flags).arg(image).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{image}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn strings<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    value[key].as_array().into_iter().flatten().map(|item| item.as_str().unwrap()).collect()
}

/// Compares the configuration with what skopeo reads.
fn assert_config(image: &Image, raw: &[u8]) {
    let document: Value = serde_json::from_slice(raw).unwrap();
    let settings = &document["config"];
    let env: Vec<_> = image.config().env().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, strings(settings, "Env"));
    assert_eq!(image.config().entrypoint(), strings(settings, "Entrypoint"));
    assert_eq!(image.config().cmd(), strings(settings, "Cmd"));
    assert_eq!(image.config().user(), settings["User"].as_str().unwrap_or_default());
    assert_eq!(image.config().created(), document["created"].as_str());
    let working_dir = image.config().working_dir().map(|dir| dir.to_str().unwrap());
    assert_eq!(working_dir, settings["WorkingDir"].as_str().filter(|dir| !dir.is_empty()));
    let diff_ids: Vec<_> = image.layers().iter().map(|layer| layer.diff_id()).collect();
    assert_eq!(diff_ids, strings(&document["rootfs"], "diff_ids"));
}

#[test]
fn an_oci_image_is_what_skopeo_reads() {
    let images = images!();
    for (file, kind, tag) in [
        ("layout", "oci", "base"),
        ("layout", "oci", "app"),
        ("layout", "oci", "nonroot"),
        ("layout", "oci", "user-group"),
        ("oci-plain", "oci", "third"),
        ("oci.tar", "oci-archive", "third"),
        ("oci-zstd.tar", "oci-archive", "third"),
        ("oci-buildah.tar", "oci-archive", "built"),
    ] {
        let path = images.join(file);
        let image = Image::options().reference(tag).open(&path).unwrap();
        let source = format!("{kind}:{}:{tag}", path.display());
        let manifest = skopeo(&source, &[]);
        assert_eq!(image.digest(), sha256(&manifest), "{source}");
        assert_eq!(image.reference(), Some(tag));
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        let layers: Vec<_> = layers.map(|layer| (layer["digest"].as_str(), layer["size"].as_u64())).collect();
        let ours: Vec<_> = image.layers().iter().map(|layer| (Some(layer.digest()), Some(layer.size()))).collect();
        assert_eq!(ours, layers, "{source}");
        assert_eq!(image.size(), layers.iter().filter_map(|(_, size)| *size).sum::<u64>());
        assert_config(&image, &skopeo(&source, &["--config"]));
    }
}

#[test]
fn a_docker_archive_is_what_skopeo_reads() {
    let images = images!();
    for (file, name) in
        [("docker-legacy.tar", "docker.io/example/third:1"), ("docker-buildah.tar", "docker.io/example/built:1")]
    {
        let path = images.join(file);
        let image = Image::open(&path).unwrap();
        let raw = skopeo(&format!("docker-archive:{}", path.display()), &["--config"]);
        assert_eq!(image.digest(), sha256(&raw), "{file}");
        assert_config(&image, &raw);
        assert_eq!(image.reference(), Some(name));
        for layer in image.layers() {
            assert_eq!((layer.digest(), layer.media_type()), (layer.diff_id(), ""));
        }
        // Docker leaves its own registry out.
        Image::options().reference(name.trim_start_matches("docker.io/")).open(&path).unwrap();
    }
}

#[test]
fn what_docker_saves_now_is_read_as_an_oci_layout() {
    let images = images!();
    let path = images.join("docker-hybrid.tar");
    if !path.exists() {
        skip!("there is no {}", path.display());
    }
    let image = Image::open(&path).unwrap();
    let manifest = skopeo(&format!("oci-archive:{}", path.display()), &[]);
    assert_eq!(image.digest(), sha256(&manifest));
    assert_config(&image, &skopeo(&format!("docker-archive:{}", path.display()), &["--config"]));
    for name in ["example/hybrid:1", "docker.io/example/hybrid:1", "1", image.digest()] {
        Image::options().reference(name).open(&path).unwrap();
    }
    Image::options().reference("example/hybrid").open(&path).unwrap_err();
}

#[test]
fn the_machine_s_platform_is_chosen_or_the_one_that_is_named() {
    let images = images!();
    let path = images.join("multi-platform");
    let arm = Image::options().platform("linux/arm64/v8").open(&path).unwrap();
    assert!(arm.config().env().any(|variable| variable == ("PROCESSOR", "arm64")));
    assert_eq!((arm.platform(), arm.reference()), ("linux/arm64", Some("both")));
    let amd = Image::options().platform("linux/amd64").reference("both").open(&path).unwrap();
    assert!(!amd.config().env().any(|(name, _)| name == "PROCESSOR"));
    let own = Image::open(&path).unwrap();
    assert_eq!(own.platform(), format!("linux/{}", architecture()));
    let error = Image::options().platform("linux/riscv64").open(&path).unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Image, ErrorKind::InvalidImage));
    let text = error.to_string();
    assert!(text.contains("both linux/arm64/v8 sha256:") && text.contains("both linux/amd64 sha256:"), "{text}");
}

#[test]
fn several_images_and_no_choice_is_an_error_that_lists_them() {
    let layout = Layout::new();
    let image = |name: &str| named(layout.image(&config(&json!({ "User": name }), &[]), &[]), name);
    let first = image("first");
    layout.index(&json!([first, image("\u{1b}[31msecond"), named(first.clone(), "again")]));
    let error = Image::open(layout.path()).unwrap_err();
    assert_eq!(
        (error.layer(), error.kind(), error.path()),
        (Layer::Image, ErrorKind::InvalidImage, Some(layout.path()))
    );
    let text = error.to_string();
    assert!(text.contains("more than one image"), "{text}");
    assert!(text.contains("first linux/") && text.contains("\\u{1b}[31msecond linux/"), "{text}");
    assert!(error.hint().unwrap().contains("Image::options()"), "{error:?}");
    // Two names of one image are one image.
    for name in ["first", "again", first["digest"].as_str().unwrap()] {
        let image = Image::options().reference(name).open(layout.path()).unwrap();
        assert_eq!(
            (image.config().user(), image.reference()),
            ("first", Some(if name == "again" { name } else { "first" }))
        );
    }
    let error = Image::options().reference("third").open(layout.path()).unwrap_err().to_string();
    assert!(error.contains("named \"third\"") && error.contains("again sha256:"), "{error}");
    let error = Image::options().platform("linux").open(layout.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPolicy);
}

#[test]
fn what_is_no_image_is_passed_over() {
    let layout = Layout::new();
    let image = layout.image(&config(&json!({}), &[]), &[]);
    let empty = layout.json("application/vnd.oci.empty.v1+json", &json!({}));
    let signature = json!({ "schemaVersion": 2, "config": empty, "layers": [] });
    let attested = with(image.clone(), &json!({ "platform": { "architecture": "unknown", "os": "unknown" } }));
    let others = json!([
        layout.json("application/vnd.example+json", &json!({})),
        { "mediaType": "text/plain", "digest": "blake3:00", "size": 1 },
        layout.json(MANIFEST, &signature),
        attested,
        image,
    ]);
    // In an index in the index.
    let inner = layout.json(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": others }));
    layout.index(&json!([named(inner, "all")]));
    assert_eq!(Image::open(layout.path()).unwrap().reference(), Some("all"));
    layout.index(&json!([layout.json(MANIFEST, &signature)]));
    assert!(Image::open(layout.path()).unwrap_err().to_string().ends_with("it has no image"));
}

#[test]
fn the_plain_variant_goes_before_those_for_newer_processors() {
    let layout = Layout::new();
    let image = |variant: Option<&str>| {
        let image = layout.image(&config(&json!({ "User": variant }), &[]), &[]);
        with(image, &json!({ "platform": { "architecture": architecture(), "os": "linux", "variant": variant } }))
    };
    layout.index(&json!([image(Some("v9")), image(None)]));
    assert_eq!(Image::open(layout.path()).unwrap().config().user(), "");
    let platform = format!("linux/{}/v9", architecture());
    assert_eq!(Image::options().platform(platform).open(layout.path()).unwrap().config().user(), "v9");
}

/// The files of a docker archive with one layer.
fn docker<'a>(list: &'a [u8], config: &'a [u8], layer: (&'a str, &'a [u8])) -> [(&'a str, &'a [u8]); 3] {
    [("config.json", config), layer, ("manifest.json", list)]
}

#[test]
fn layers_of_docker_archives_may_be_compressed_and_be_links() {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(b"layer").unwrap();
    let gzip = gzip.finish().unwrap();
    let config = config(&json!({}), &[b"layer"]).to_string();
    let list = json!([{ "Config": "config.json", "RepoTags": null, "Layers": ["id/layer.tar"] }]).to_string();
    let file = archive(&docker(list.as_bytes(), config.as_bytes(), ("id/layer.tar", &gzip)));
    let image = Image::open(file.path()).unwrap();
    let layer = &image.layers()[0];
    assert_eq!((layer.digest(), layer.diff_id()), (sha256(&gzip).as_str(), sha256(b"layer").as_str()));
    assert_eq!((image.digest(), image.reference()), (sha256(config.as_bytes()).as_str(), None));

    let mut archive = tar::Builder::new(tempfile::NamedTempFile::new().unwrap());
    for (name, content) in docker(list.as_bytes(), config.as_bytes(), ("other/layer.tar", b"layer")) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content).unwrap();
    }
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    archive.append_link(&mut link, "id/layer.tar", "../other/layer.tar").unwrap();
    let file = archive.into_inner().unwrap();
    let image = Image::open(file.path()).unwrap();
    assert_eq!((image.layers()[0].size(), image.layers()[0].digest()), (5, sha256(b"layer").as_str()));
}

#[test]
fn what_is_no_image_is_told_with_a_remedy() {
    let dir = crate::harness::temp_dir();
    let error = |path: &Path| Image::open(path).unwrap_err();
    let missing = error(&dir.path().join("none"));
    assert_eq!((missing.kind(), missing.raw_os_error()), (ErrorKind::Os, Some(libc::ENOENT)));
    assert!(missing.to_string().starts_with(&format!("image: open {}", dir.path().display())), "{missing}");
    assert!(error(dir.path()).hint().unwrap().contains("Rootfs::dir"));
    assert_eq!(error(Path::new("/dev/null")).kind(), ErrorKind::InvalidImage);
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert_eq!(error(&fifo).kind(), ErrorKind::InvalidImage);
    let file = |content: &[u8]| {
        let path = dir.path().join("file");
        std::fs::write(&path, content).unwrap();
        error(&path)
    };
    assert!(file(b"\x1f\x8b\x08 compressed").hint().unwrap().contains("gunzip"));
    assert!(file(b"\x28\xb5\x2f\xfd compressed").hint().unwrap().contains("unzstd"));
    assert!(file(b"").hint().unwrap().contains("skopeo"));
    assert_eq!(file(&[b'x'; 2000]).kind(), ErrorKind::InvalidImage);
}

#[test]
fn an_image_is_a_value_that_threads_share() {
    fn is_value<T: Clone + std::fmt::Debug + Send + Sync + 'static>() {}
    is_value::<Image>();
    is_value::<belljar::ImageConfig>();
    is_value::<belljar::ImageOptions>();
    is_value::<belljar::LayerInfo>();
}

#[test]
fn an_image_holds_its_file_and_nothing_else() {
    let layout = Layout::of(&json!({}));
    let before = open_fds();
    let image = Image::open(layout.path()).unwrap();
    let clone = image.clone();
    let held: Vec<_> = open_fds().difference(&before).cloned().collect();
    drop(image);
    assert_eq!(clone.reference(), None);
    assert!(format!("{clone:?}").contains(clone.digest()));
    drop(clone);
    // Others of this program may have opened and closed files meanwhile; what is held leads to the layout.
    assert_eq!(held.iter().filter(|fd| fd.ends_with(layout.path().to_str().unwrap())).count(), 1, "{held:?}");
    assert!(!open_fds().iter().any(|fd| fd.contains(layout.path().to_str().unwrap())));
}
