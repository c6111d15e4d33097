//! Lines "Name: value" become headers of the outgoing message; answers how many there were
use suborbital::resp;
use suborbital::runnable::{use_runnable, RunErr, Runnable};

struct HeaderSetting;

impl Runnable for HeaderSetting {
    fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        let text = String::from_utf8_lossy(&input);
        let headers: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(':')).collect();
        for (name, value) in &headers {
            resp::set_header(name.trim(), value.trim());
        }
        Ok(headers.len().to_string().into_bytes())
    }
}

#[no_mangle]
pub extern "C" fn init() {
    use_runnable(&HeaderSetting);
}
