//! What the fuzzers in `fuzz/` run. It is there for them alone, with `cfg(fuzzing)`, and no part of the crate's interface.

#![allow(missing_docs, reason = "nobody else sees it")]

use std::io::Cursor;
use std::path::Path;

use crate::distroless::elf;
pub use crate::image::Applier;
use crate::image::{Kind, LayerReader};
use crate::{Image, UnpackLimits};

/// Small, so that the fuzzer can reach them.
pub fn limits() -> UnpackLimits {
    UnpackLimits::new().bytes(4 << 20).entries(2_000).depth(40).file_bytes(2 << 20)
}

pub fn read_layer(layer: &[u8]) {
    let Ok(mut reader) = LayerReader::new(Cursor::new(layer.to_vec()), &limits()) else { return };
    let mut bytes = 0;
    loop {
        // After an error it is not read on.
        let Ok(entry) = reader.next_entry() else { return };
        let Some(entry) = entry else { break };
        for part in entry.path.components() {
            assert!(!part.is_empty() && part.len() <= 255 && part != b"." && part != b"..", "{:?}", entry.path);
            assert!(!part.contains(&b'/') && !part.contains(&0), "{:?}", entry.path);
        }
        assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000);
        let Kind::File { size } = entry.kind else { continue };
        let mut left = size;
        while left > 0 {
            let Ok(data) = reader.data() else { return };
            left = left.checked_sub(data.len() as u64).filter(|_| !data.is_empty()).expect("as long as it was told");
        }
        assert!(reader.data().is_ok_and(<[u8]>::is_empty), "a file ends where it was told");
        bytes += size;
        assert!(bytes <= 4 << 20);
    }
    let _ = reader.finish();
}

pub fn read_program(program: &[u8]) {
    let Ok(needs) = elf::needs(program) else { return };
    let texts = [&needs.interpreter, &needs.soname, &needs.rpath, &needs.runpath].into_iter().flatten();
    for text in texts.chain(&needs.needed) {
        assert!(text.len() <= program.len() && !text.as_encoded_bytes().contains(&0), "{text:?}");
    }
}

/// Opens an archive, and asks for everything that an image tells.
pub fn open_image(path: &Path) {
    for platform in [None, Some("linux/arm64")] {
        let options = platform.into_iter().fold(Image::options(), crate::ImageOptions::platform);
        let Ok(image) = options.open(path) else { continue };
        assert!(image.layers().len() <= 500);
        let config = image.config();
        assert!(
            config.env().all(|(name, value)| !name.is_empty() && !name.contains(['\0', '=']) && !value.contains('\0'))
        );
        let sandbox = crate::Sandbox::from_image(&image).rootfs(crate::Rootfs::empty());
        let _ = sandbox.command("true").plan();
    }
}
