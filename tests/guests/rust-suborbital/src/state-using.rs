//! "NAME" → the state's value of that name; "NAME=VALUE" → sets it for the steps that follow and answers VALUE
use suborbital::req;
use suborbital::runnable::{use_runnable, RunErr, Runnable};

struct StateUsing;

impl Runnable for StateUsing {
    fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        let text = String::from_utf8_lossy(&input);
        match text.split_once('=') {
            // The crate fetches the (empty) result of setting a field: a host that leaves none pending fails here.
            Some((name, value)) => match req::set_state(name, value) {
                Ok(()) => Ok(value.as_bytes().to_vec()),
                Err(error) => Err(RunErr::new(500, &error.message)),
            },
            None => Ok(req::state_raw(&text).unwrap_or_default()),
        }
    }
}

#[no_mangle]
pub extern "C" fn init() {
    use_runnable(&StateUsing);
}
