//! Blocks, an empty line between two: "KIND NAME", then a variable on each line → the queries' JSON, joined by newlines.
//! An error of a query → error 500 with its text, or "! " and the text in place of JSON after "try KIND NAME". A last
//! line "fail" → then error 422, "trap" → then a trap, "loop" → then an endless loop.
use suborbital::db::{self, query::QueryArg};
use suborbital::runnable::{use_runnable, HostErr, RunErr, Runnable};

struct Querying;

fn query(block: &str) -> Result<Vec<u8>, HostErr> {
    let mut lines = block.split('\n').filter(|line| !line.is_empty());
    let (kind, name) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or_default();
    let variables = lines.map(|line| QueryArg::new("value", line)).collect();
    match kind {
        "insert" => db::insert(name, variables),
        "select" => db::select(name, variables),
        "update" => db::update(name, variables),
        _ => db::delete(name, variables),
    }
}

impl Runnable for Querying {
    fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, RunErr> {
        let text = String::from_utf8_lossy(&input);
        let (rest, last) = text.rsplit_once('\n').unwrap_or(("", &text));
        let blocks = if matches!(last, "fail" | "trap" | "loop") { rest } else { &text };
        let mut results = Vec::new();
        for block in blocks.split("\n\n").filter(|block| !block.trim().is_empty()) {
            let tries = block.strip_prefix("try ");
            match query(tries.unwrap_or(block)) {
                Err(error) if tries.is_some() => results.push(format!("! {}", error.message).into_bytes()),
                rows => results.push(rows.map_err(|error| RunErr::new(500, &error.message))?),
            }
        }
        match last {
            "fail" => Err(RunErr::new(422, "told to fail")),
            "trap" => panic!(),
            "loop" => loop {},
            _ => Ok(results.join(&b'\n')),
        }
    }
}

#[no_mangle]
pub extern "C" fn init() {
    use_runnable(&Querying);
}
