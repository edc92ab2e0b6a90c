//! Tells the linker which functions lie together (`hot.ld` says why).

fn main() {
    let here = format!("{}/layout/hot.ld", env!("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed={here}");
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{here}");
}
