//! Blocks, an empty line between two: "KIND NAME", then a variable on each line → the queries' JSON, joined by newlines.
//! An error of a query → error 500 with its text, or "! " and the text in place of JSON after "try KIND NAME". A last
//! line "fail" → then error 422, "trap" → then a trap, "loop" → then an endless loop.
#[path = "../../../examples/sdk/atmo.rs"]
mod atmo;
use atmo::Query;
atmo::runnable!(run);

fn query(block: &str) -> Result<Vec<u8>, String> {
    let mut lines = block.split('\n').filter(|line| !line.is_empty());
    let (kind, name) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or_default();
    let kind = match kind {
        "insert" => Query::Insert,
        "select" => Query::Select,
        "update" => Query::Update,
        _ => Query::Delete,
    };
    let variables: Vec<(&str, &str)> = lines.map(|line| ("value", line)).collect();
    atmo::db_exec(kind, name, &variables)
}

fn run(input: &[u8]) -> atmo::Answer {
    let text = String::from_utf8_lossy(input);
    let (rest, last) = text.rsplit_once('\n').unwrap_or(("", &text));
    let blocks = if matches!(last, "fail" | "trap" | "loop") { rest } else { &text };
    let mut results = Vec::new();
    for block in blocks.split("\n\n").filter(|block| !block.trim().is_empty()) {
        let tries = block.strip_prefix("try ");
        match query(tries.unwrap_or(block)) {
            Err(error) if tries.is_some() => results.push(format!("! {error}").into_bytes()),
            rows => results.push(rows.map_err(|error| (500, error))?),
        }
    }
    match last {
        "fail" => Err((422, "told to fail".to_string())),
        "trap" => panic!(),
        "loop" => loop {},
        _ => Ok(results.join(&b'\n')),
    }
}
