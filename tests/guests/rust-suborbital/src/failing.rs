//! "CODE message" → return_error(CODE, message); without a code: 400
use suborbital::runnable::{use_runnable, RunErr, Runnable};

struct Failing;

impl Runnable for Failing {
    fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        let text = String::from_utf8_lossy(&input);
        let (code, message) = text.split_once(' ').unwrap_or((&text, ""));
        match code.parse() {
            Ok(code) => Err(RunErr::new(code, message)),
            Err(_) => Err(RunErr::new(400, "the input has no code")),
        }
    }
}

#[no_mangle]
pub extern "C" fn init() {
    use_runnable(&Failing);
}
