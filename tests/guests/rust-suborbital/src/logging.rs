//! Lines "LEVEL text" (error, warn, info, debug) are logged; answers how many there were
use suborbital::log;
use suborbital::runnable::{use_runnable, RunErr, Runnable};

struct Logging;

impl Runnable for Logging {
    fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        let text = String::from_utf8_lossy(&input);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        for line in &lines {
            match line.split_once(' ') {
                Some(("error", message)) => log::error(message),
                Some(("warn", message)) => log::warn(message),
                Some(("info", message)) => log::info(message),
                Some(("debug", message)) => log::debug(message),
                _ => (),
            }
        }
        Ok(lines.len().to_string().into_bytes())
    }
}

#[no_mangle]
pub extern "C" fn init() {
    use_runnable(&Logging);
}
