//! "CODE message" → return_error(CODE, message); without a code: 400
#[path = "../../../examples/sdk/atmo.rs"]
mod atmo;
atmo::runnable!(run);

fn run(input: &[u8]) -> atmo::Answer {
    let text = String::from_utf8_lossy(input);
    let (code, message) = text.split_once(' ').unwrap_or((&text, ""));
    match code.parse() {
        Ok(code) => Err((code, message.to_string())),
        Err(_) => Err((400, "the input has no code".to_string())),
    }
}
