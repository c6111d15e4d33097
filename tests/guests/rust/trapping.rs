//! "unreachable" panics; any other input comes back as it is
#[path = "../../../examples/sdk/atmo.rs"]
mod atmo;
atmo::runnable!(run);

fn run(input: &[u8]) -> atmo::Answer {
    if input.starts_with(b"unreachable") {
        panic!("asked to");
    }
    Ok(input.to_vec())
}
