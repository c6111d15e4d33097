//! input → the same with ASCII letters in upper case. Says `_start`, as subo's template for Atmo 0.4 does; the others say `init`
use suborbital::runnable::{use_runnable, RunErr, Runnable};

struct UpperCase;

impl Runnable for UpperCase {
    fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        Ok(input.to_ascii_uppercase())
    }
}

#[no_mangle]
pub extern "C" fn _start() {
    use_runnable(&UpperCase);
}
