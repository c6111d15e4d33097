//! "header:NAME params:NAME state:NAME query:NAME body:NAME …" →
//! {"method":"…","url":"…","id":"…","fields":{"header:NAME":"…",…}}
use suborbital::req;
use suborbital::runnable::{use_runnable, RunErr, Runnable};

struct RequestReading;

fn field(name: &str) -> String {
    match name.split_once(':') {
        Some(("body", key)) => req::body_field(key),
        Some(("header", key)) => req::header(key),
        Some(("params", key)) => req::url_param(key),
        Some(("state", key)) => req::state(key).unwrap_or_default(),
        Some(("query", key)) => req::query_param(key),
        _ => String::new(),
    }
}

fn json(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\0'..='\x1f' => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            _ => quoted.push(c),
        }
    }
    quoted + "\""
}

impl Runnable for RequestReading {
    fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        let text = String::from_utf8_lossy(&input);
        let fields: Vec<String> =
            text.split_whitespace().map(|name| format!("{}:{}", json(name), json(&field(name)))).collect();
        let answer = format!(
            "{{\"method\":{},\"url\":{},\"id\":{},\"fields\":{{{}}}}}",
            json(&req::method()),
            json(&req::url()),
            json(&req::id()),
            fields.join(",")
        );
        Ok(answer.into_bytes())
    }
}

#[no_mangle]
pub extern "C" fn init() {
    use_runnable(&RequestReading);
}
