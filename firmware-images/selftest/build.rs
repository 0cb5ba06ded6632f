//! Links the guest as one flat file that brings its own PE header; see `image.ld`.
//!
//! Where the linker is the C compiler (x86-64), it gets its arguments through `-Wl`; where it is
//! lld itself (aarch64, see `scripts/build-firmware-images`), it gets them directly.

use std::env;

fn main() {
    let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=image.ld");

    let through_compiler = architecture == "x86_64";
    if through_compiler {
        for argument in ["-nostartfiles", "-nostdlib", "-static-pie"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
    let script = format!("{directory}/image.ld");
    for argument in [
        &["-T", &script][..],
        &["--gc-sections"],
        &["--build-id=none"],
        &["--oformat=binary"],
        &["-z", "norelro"],
        &["-z", "max-page-size=4096"],
    ] {
        if through_compiler {
            println!("cargo:rustc-link-arg-bins=-Wl,{}", argument.join(","));
        } else {
            for word in argument {
                println!("cargo:rustc-link-arg-bins={word}");
            }
        }
    }
}
