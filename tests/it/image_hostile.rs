//! U22: an image whose papers lie. Nothing is opened, nothing is written, and the error says what is wrong.

use std::fs;
use std::os::unix::fs::symlink;

use belljar::{Error, ErrorKind, Image, Layer};
use serde_json::{Value, json};

use crate::image_made::{CONFIG, INDEX, LAYER, Layout, MANIFEST, archive, config, sha256, with};

#[track_caller]
fn assert_refused(what: &str, result: Result<Image, Error>, cause: &str) {
    let error = result.map(|image| format!("{image:?}")).expect_err(what);
    assert_eq!((error.layer(), error.kind()), (Layer::Image, ErrorKind::InvalidImage), "{what}: {error}");
    assert!(error.to_string().contains(cause), "{what}: {error}: not {cause}");
    assert!(error.path().is_some(), "{what}: {error}");
    assert!(error.to_string().len() < 2000, "{what}: a long error");
}

/// A layout with one image, whose manifest has these fields instead.
fn manifest_with(fields: &Value) -> Layout {
    changed(fields, &json!({}))
}

/// The same for the manifest and its descriptor.
fn changed(fields: &Value, descriptor: &Value) -> Layout {
    let layout = Layout::new();
    let layer = layout.blob(LAYER, b"layer");
    let config = layout.json(CONFIG, &config(&json!({}), &[b"layer"]));
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let image = layout.json(MANIFEST, &with(manifest, fields));
    layout.index(&json!([with(image, descriptor)]));
    layout
}

#[test]
fn u22_images_of_more_layers_than_can_be_stacked_are_refused() {
    for (count, opens) in [(499, true), (500, false)] {
        let layout = Layout::new();
        let layers = vec![&b"layer"[..]; count];
        let image = layout.image(&config(&json!({}), &layers), &layers);
        layout.index(&json!([image]));
        let image = Image::open(layout.path());
        match opens {
            true => assert_eq!(image.unwrap().layers().len(), count),
            false => assert_refused("500 layers", image, "500 layers"),
        }
    }
}

#[test]
fn u22_manifests_that_lie_are_refused() {
    let layer = |digest: &str| json!([{ "mediaType": LAYER, "digest": digest, "size": 5 }]);
    let good = sha256(b"layer");
    let one = &layer(&good)[0];
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let absent = format!("sha256:{}", "0".repeat(64));
    let other_config = json!({ "mediaType": CONFIG, "digest": good, "size": 5 });
    let huge = json!({ "mediaType": CONFIG, "digest": good, "size": 1_u64 << 40 });
    let nothing = json!({});
    let cases = [
        ("a digest that is a path", json!({ "layers": layer("sha256:../../x") }), nothing.clone(), "is not sha256:"),
        (
            "a digest of a MiB",
            json!({ "layers": layer(&format!("sha256:{}", "0".repeat(1 << 20))) }),
            nothing.clone(),
            "is not sha256:",
        ),
        ("an absolute digest", json!({ "layers": layer("/etc/passwd") }), nothing.clone(), "is not sha256:"),
        ("an unknown function", json!({ "layers": layer("md5:00") }), nothing.clone(), "is not sha256:"),
        ("upper case", json!({ "layers": layer(&good.to_uppercase()) }), nothing.clone(), "is not sha256:"),
        ("a layer that is not there", json!({ "layers": layer(&absent) }), nothing.clone(), "no such blob"),
        ("another size", json!({ "layers": [with(one.clone(), &json!({ "size": 6 }))] }), nothing.clone(), "not 6"),
        (
            "a negative size",
            json!({ "layers": [with(one.clone(), &json!({ "size": -1 }))] }),
            nothing.clone(),
            "invalid value",
        ),
        ("no diff_id for a layer", json!({ "layers": [one, one] }), nothing.clone(), "2 layers, and 1 diff_ids"),
        ("no layer for a diff_id", json!({ "layers": [] }), nothing.clone(), "0 layers, and 1 diff_ids"),
        ("null for layers", json!({ "layers": null }), nothing.clone(), "0 layers, and 1 diff_ids"),
        ("1e4 layers", json!({ "layers": vec![one; 10_000] }), nothing.clone(), "has 499 at most"),
        ("1e5 layers", json!({ "layers": vec![one; 100_000] }), nothing.clone(), "4194304 at most"),
        (
            "a layer that is elsewhere",
            json!({ "layers": [{ "mediaType": foreign, "digest": absent, "size": 5, "urls": ["http://127.0.0.1:9/x"] }] }),
            nothing.clone(),
            "no such blob",
        ),
        (
            "a layer of an unknown type",
            json!({ "layers": [with(one.clone(), &json!({ "mediaType": format!("{LAYER}+encrypted") }))] }),
            nothing.clone(),
            "is not supported",
        ),
        ("a manifest that is an index too", json!({ "manifests": [] }), nothing.clone(), "a manifest has no manifests"),
        (
            "a manifest with layers of version 1",
            json!({ "fsLayers": [] }),
            nothing.clone(),
            "a manifest has no manifests",
        ),
        ("a manifest that calls itself an index", json!({ "mediaType": INDEX }), nothing.clone(), "calls itself"),
        (
            "a manifest that is named as an index",
            json!({}),
            json!({ "mediaType": INDEX }),
            "an index has neither layers",
        ),
        ("version 1", json!({ "schemaVersion": 1 }), nothing.clone(), "schemaVersion is 1"),
        ("no version", json!({ "schemaVersion": null }), nothing.clone(), "invalid type"),
        ("a configuration that is no JSON", json!({ "config": other_config }), nothing.clone(), "expected value"),
        ("a configuration of a TiB", json!({ "config": huge }), nothing.clone(), "bytes, not 1099511627776"),
        ("no configuration", json!({ "config": null }), nothing.clone(), "a manifest has a configuration"),
        ("text for layers", json!({ "layers": "all" }), nothing.clone(), "invalid type"),
        ("a path for a manifest", json!({}), json!({ "digest": "sha256:../../x" }), "is not sha256:"),
        ("another size for a manifest", json!({}), json!({ "size": 1 }), "bytes, not 1"),
        ("another digest for a manifest", json!({}), json!({ "digest": good, "size": 5 }), "expected value"),
    ];
    Image::open(manifest_with(&json!({})).path()).unwrap();
    for (what, fields, descriptor, cause) in cases {
        assert_refused(what, Image::open(changed(&fields, &descriptor).path()), cause);
    }
}

#[test]
fn u22_blobs_that_differ_from_their_digest_are_refused() {
    for target in ["manifest", "config"] {
        let layout = manifest_with(&json!({}));
        let image = Image::open(layout.path()).unwrap();
        let manifest: Value = serde_json::from_slice(&fs::read(layout.file_of(image.digest())).unwrap()).unwrap();
        let digest = if target == "manifest" { image.digest() } else { manifest["config"]["digest"].as_str().unwrap() };
        let file = layout.file_of(digest);
        let text = fs::read_to_string(&file).unwrap();
        // The same length, and still JSON.
        fs::write(&file, text.replace("linux", "linus").replace("layers\":[", "layerz\":[")).unwrap();
        assert_refused(target, Image::open(layout.path()), "the content has another digest");
    }
}

#[test]
fn u22_links_in_a_layout_are_refused() {
    let outside = crate::harness::temp_dir();
    for (name, cause) in [
        ("index.json", "symbolic link"),
        ("oci-layout", "symbolic link"),
        ("blobs", "symbolic link"),
        ("blobs/sha256", "symbolic link"),
    ] {
        let layout = manifest_with(&json!({}));
        let (inside, moved) = (layout.path().join(name), outside.path().join(name.replace('/', "-")));
        fs::rename(&inside, &moved).unwrap();
        symlink(&moved, &inside).unwrap();
        assert_refused(name, Image::open(layout.path()), cause);
        // Within the layout too: who may say where it will lead tomorrow?
        fs::remove_file(&inside).unwrap();
        fs::rename(&moved, inside.with_extension("real")).unwrap();
        symlink(inside.with_extension("real").file_name().unwrap(), &inside).unwrap();
        assert_refused(name, Image::open(layout.path()), cause);
    }
    let layout = manifest_with(&json!({}));
    let image = Image::open(layout.path()).unwrap();
    let blob = layout.file_of(image.layers()[0].digest());
    fs::rename(&blob, outside.path().join("blob")).unwrap();
    symlink(outside.path().join("blob"), &blob).unwrap();
    assert_refused("a layer", Image::open(layout.path()), "symbolic link");
    fs::remove_file(&blob).unwrap();
    fs::create_dir(&blob).unwrap();
    assert_refused("a layer", Image::open(layout.path()), "no regular file");
}

#[test]
fn u22_indexes_without_end_are_refused() {
    // An index can't have its own digest in it: whoever tries, has a wrong one.
    let layout = Layout::new();
    let circle =
        json!({ "schemaVersion": 2, "manifests": [{ "mediaType": INDEX, "digest": sha256(b"x"), "size": 200 }] });
    let mut inner = layout.json(INDEX, &circle);
    fs::write(layout.file_of(&sha256(b"x")), with(circle, &json!({ "pad": "" })).to_string()).unwrap();
    let size = fs::metadata(layout.file_of(&sha256(b"x"))).unwrap().len();
    layout.index(&json!([{ "mediaType": INDEX, "digest": sha256(b"x"), "size": size }]));
    assert_refused("a circle", Image::open(layout.path()), "another digest");
    for _ in 0..10 {
        inner = layout.json(INDEX, &json!({ "schemaVersion": 2, "manifests": [inner] }));
    }
    layout.index(&json!([inner]));
    assert_refused("a chain", Image::open(layout.path()), "more than 4 indexes");
    // Every image in it would have the name.
    let long = json!({ "annotations": { "org.opencontainers.image.ref.name": "n".repeat(1 << 20) } });
    layout.index(&json!([with(inner, &long)]));
    assert_refused("a long name", Image::open(layout.path()), "a name has 1024 bytes at most");
    // Ten of ten of ten.
    let mut tree = layout.image(&config(&json!({}), &[]), &[]);
    for _ in 0..3 {
        tree = layout.json(INDEX, &json!({ "schemaVersion": 2, "manifests": vec![&tree; 10] }));
    }
    layout.index(&json!([tree]));
    assert_refused("a tree", Image::open(layout.path()), "more than 256");
    layout.index(&json!(vec![&tree; 100_000]));
    assert_refused("a long index", Image::open(layout.path()), "4194304 at most");
}

#[test]
fn u22_documents_that_are_no_documents_are_refused() {
    let deep = format!("{{\"schemaVersion\":2,\"manifests\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let ignored = format!("{{\"schemaVersion\":2,\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (what, text, cause) in [
        ("nothing", "", "EOF"),
        ("no JSON", "\u{1b}[31m", "expected value"),
        ("more than JSON", "{\"schemaVersion\":2} x", "trailing"),
        ("a field twice", "{\"schemaVersion\":2,\"schemaVersion\":2}", "duplicate"),
        ("deep", &deep, "invalid type"),
        ("deep where nobody looks", &ignored, "it has no image"),
        ("layers in an index", "{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}", "an index has neither layers"),
        (
            "an index that calls itself a manifest",
            &format!("{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\"}}"),
            "calls itself",
        ),
    ] {
        let layout = manifest_with(&json!({}));
        fs::write(layout.path().join("index.json"), text).unwrap();
        assert_refused(what, Image::open(layout.path()), cause);
    }
    let layout = manifest_with(&json!({}));
    fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert_refused("a layout of another version", Image::open(layout.path()), "version is not 1");
    fs::remove_file(layout.path().join("oci-layout")).unwrap();
    assert_refused("no layout", Image::open(layout.path()), "no oci-layout");
}

#[test]
fn u22_docker_archives_that_lie_are_refused() {
    let good = config(&json!({}), &[b"layer"]).to_string();
    let list = |config: &str, layers: Value| json!([{ "Config": config, "Layers": layers }]).to_string();
    let named = format!("{}.json", "0".repeat(64));
    for (what, list, cause) in [
        ("a configuration that is a path", list("../config.json", json!(["layer.tar"])), "no such file"),
        ("a configuration that is not there", list("none.json", json!(["layer.tar"])), "no such file"),
        ("a configuration with another digest", list(&named, json!(["layer.tar"])), "not the digest"),
        ("a configuration that is a link", list("link", json!(["layer.tar"])), "it is a link"),
        ("a layer of the host's", list("config.json", json!(["/etc/passwd"])), "absolute"),
        ("a layer that leads out", list("config.json", json!(["../../etc/passwd"])), "leads out"),
        ("a layer that is not there", list("config.json", json!(["none"])), "no such file"),
        ("a layer that is a circle", list("config.json", json!(["loop"])), "more than 8 links"),
        ("no layer", list("config.json", json!([])), "0 layers, and 1 diff_ids"),
        ("1e5 layers", list("config.json", json!(vec!["layer.tar"; 100_000])), "has 499 at most"),
        ("null", "null".into(), "invalid type"),
        ("no image", "[]".into(), "it has no image"),
        ("257 images", format!("[{}]", vec![r#"{"Config":""}"#; 257].join(",")), "more than 256"),
    ] {
        let files: [(&str, &[u8]); 4] = [
            ("config.json", good.as_bytes()),
            (&named, good.as_bytes()),
            ("layer.tar", b"layer"),
            ("manifest.json", list.as_bytes()),
        ];
        let mut builder = tar::Builder::new(tempfile::NamedTempFile::new().unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content).unwrap();
        }
        for (name, target) in [("link", "config.json"), ("loop", "loop")] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        }
        assert_refused(what, Image::open(builder.into_inner().unwrap().path()), cause);
    }
    let double = archive(&[("manifest.json", b"[]"), ("a", b"1"), ("manifest.json", b"[]")]);
    assert_refused("two lists", Image::open(double.path()), "there is a second \"manifest.json\"");
}

#[test]
fn u22_configurations_that_lie_are_refused() {
    let layers: &[&[u8]] = &[b"layer"];
    for (what, fields, cause) in [
        ("no rootfs", json!({ "rootfs": null }), "invalid type"),
        ("no architecture", json!({ "architecture": "" }), "lacks the architecture"),
        ("diff_ids that are paths", json!({ "rootfs": { "diff_ids": ["../x"] } }), "is not sha256:"),
        (
            "diff_ids that nobody verifies",
            json!({ "rootfs": { "diff_ids": [format!("sha512:{}", "0".repeat(128))] } }),
            "only known by its sha256",
        ),
        ("text for an entry point", json!({ "config": { "Entrypoint": "sh" } }), "invalid type"),
        ("numbers in Env", json!({ "config": { "Env": [1] } }), "invalid type"),
        ("no name in Env", json!({ "config": { "Env": ["=value"] } }), "Env: \"=value\" is not a name"),
        ("no value in Env", json!({ "config": { "Env": ["\u{1b}NAME"] } }), "Env: \"\\u{1b}NAME\" is not a name"),
        ("a zero byte in Env", json!({ "config": { "Env": ["A=\u{0}"] } }), "has a zero byte"),
        ("no signal", json!({ "config": { "StopSignal": "SIGFOO" } }), "\"SIGFOO\" is no signal"),
    ] {
        let layout = Layout::new();
        let image = layout.image(&with(config(&json!({}), layers), &fields), layers);
        layout.index(&json!([image]));
        assert_refused(what, Image::open(layout.path()), cause);
    }
}
