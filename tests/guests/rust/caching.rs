//! Lines "get KEY" and "set KEY TTL VALUE" → the value, "ok", or "! " and why not, joined by newlines
#[path = "../../../examples/sdk/atmo.rs"]
mod atmo;
atmo::runnable!(run);

fn asked(line: &str) -> Result<Vec<u8>, String> {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    match words[..] {
        ["set", key, ttl, value] => {
            atmo::cache_set(key, value.as_bytes(), ttl.parse().unwrap_or(0)).map(|_| b"ok".to_vec())
        }
        ["get", key] => atmo::cache_get(key),
        _ => Err("neither get nor set".to_string()),
    }
}

fn run(input: &[u8]) -> atmo::Answer {
    let text = String::from_utf8_lossy(input);
    let answers = text.lines().map(|line| asked(line).unwrap_or_else(|error| format!("! {error}").into_bytes()));
    Ok(answers.collect::<Vec<_>>().join(&b'\n'))
}
