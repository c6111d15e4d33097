//! input → "hello, " + input
#[path = "../../../examples/sdk/atmo.rs"]
mod atmo;
atmo::runnable!(run);

fn run(input: &[u8]) -> atmo::Answer {
    Ok([b"hello, ", input].concat())
}
