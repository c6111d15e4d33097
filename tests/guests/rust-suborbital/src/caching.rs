//! Lines "get KEY" and "set KEY TTL VALUE" → the value, "ok", or "! " and why not, joined by newlines.
use suborbital::cache;
use suborbital::runnable::{use_runnable, RunErr, Runnable};

struct Caching;

fn asked(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    match words[..] {
        ["set", key, ttl, value] => {
            cache::set(key, value.as_bytes().to_vec(), ttl.parse().unwrap_or(0)); // the crate does not say whether it was
            b"ok".to_vec()
        }
        ["get", key] => cache::get(key).unwrap_or_else(|error| format!("! {}", error.message).into_bytes()),
        _ => b"! neither get nor set".to_vec(),
    }
}

impl Runnable for Caching {
    fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        let answers: Vec<Vec<u8>> = String::from_utf8_lossy(&input).lines().map(asked).collect();
        Ok(answers.join(&b'\n'))
    }
}

#[no_mangle]
pub extern "C" fn init() {
    use_runnable(&Caching);
}
