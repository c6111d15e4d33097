//! Takes and touches as many MiB as the input says and answers "N MiB"; without a number, until the allocator gives up
#[path = "../../../examples/sdk/atmo.rs"]
mod atmo;
atmo::runnable!(run);

fn run(input: &[u8]) -> atmo::Answer {
    let until: usize = std::str::from_utf8(input).ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    while blocks.len() < until {
        blocks.push(vec![1; 1 << 20]);
    }
    Ok(format!("{} MiB", blocks.len()).into_bytes())
}
