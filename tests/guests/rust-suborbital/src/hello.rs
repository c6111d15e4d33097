//! input → "hello, " + input
use suborbital::runnable::{use_runnable, RunErr, Runnable};

struct Hello;

impl Runnable for Hello {
    fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        Ok([b"hello, ".to_vec(), input].concat())
    }
}

#[no_mangle]
pub extern "C" fn init() {
    use_runnable(&Hello);
}
